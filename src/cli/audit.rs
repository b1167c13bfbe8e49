//! `outboxd audit`: what operators did to events.

use clap::Args as ClapArgs;

use super::config::load;
use super::output::{Output, Screen, show};
use super::selection::inspect_by;
use super::table::{Cell, table};
use crate::config::{MongodbConfig, Sources};
use crate::error::Result;
use crate::mongodb::act::{Act, AuditFilter};
use crate::operator::audit::Record;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// How many records to show, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let config = load(sources)?;
    let MongodbConfig { database, collection, .. } = &config.mongodb;
    let client = config.mongodb.client("operator").await?;
    inspect_by(&config, &client).await?;

    let database = client.database(database);
    let act = Act::new(database, collection, config.event.layout.clone());
    let records = Record::newest(&act, &AuditFilter::default(), 0, args.limit).await?;

    let screen = Screen::of(sources);
    show(args.output, &records, || {
        let rows = records.iter().map(|record| {
            let Record { at, who, action, events, selection, reason, .. } = record;
            let reason = reason.clone().unwrap_or_default();
            let events = events.map_or_else(|| "unknown".to_owned(), |events| events.to_string());
            let at = at.get(..19).unwrap_or(at);
            [at, who, action, &events, selection, &reason].map(Cell::from).to_vec()
        });
        table(screen, &["AT (UTC)", "WHO", "ACTION", "EVENTS", "SELECTION", "REASON"], rows)
    })
}

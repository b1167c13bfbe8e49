//! `outboxd audit`: what operators did to events.

use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::load;
use super::output::{Output, show, table};
use super::selection::inspect_by;
use crate::config::{MongodbConfig, Sources};
use crate::error::{MongodbContext, Result};
use crate::mongodb::act::{Act, AuditRecord};
use crate::mongodb::inspect::text;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// How many records to show, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Record {
    at: String,
    who: String,
    action: String,
    /// `None` when the command was interrupted or lost its database: some, or none.
    events: Option<u64>,
    /// How many events it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<i64>,
    selection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    ids: Vec<String>,
}

impl Record {
    fn read(AuditRecord { request: record, events }: &AuditRecord) -> Self {
        let plain = |name| text(record, name).unwrap_or_default();
        let ids = record.get_array("ids").map(Vec::as_slice).unwrap_or_default();
        Self {
            at: record
                .get_datetime("at")
                .ok()
                .and_then(|at| at.try_to_rfc3339_string().ok())
                .unwrap_or_default(),
            who: plain("who"),
            action: plain("action"),
            events: *events,
            requested: record.get_i64("requested").ok(),
            selection: plain("selection"),
            reason: text(record, "reason"),
            ids: ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
        }
    }
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let config = load(sources)?;
    let MongodbConfig { database, collection, .. } = &config.mongodb;
    let client = config.mongodb.client("operator").await?;
    inspect_by(&config, &client).await?;

    let database = client.database(database);
    let act = Act::new(database, collection, config.event.layout.clone());
    let records = act.audit(args.limit).await.during("reading outboxd_audit")?;
    let records: Vec<_> = records.iter().map(Record::read).collect();

    show(args.output, &records, || {
        let rows = records.iter().map(|record| {
            let Record { at, who, action, events, selection, reason, .. } = record;
            let reason = reason.clone().unwrap_or_default();
            vec![
                at.clone(),
                who.clone(),
                action.clone(),
                events.map_or_else(|| "unknown".to_owned(), |events| events.to_string()),
                selection.clone(),
                reason,
            ]
        });
        table(&["AT", "WHO", "ACTION", "EVENTS", "SELECTION", "REASON"], rows)
    })
}

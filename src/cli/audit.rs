//! `outboxd audit`: what operators did to events.

use bson::Bson;
use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::load;
use super::output::{Output, Screen, show};
use super::selection::inspect_by;
use super::table::{Cell, table};
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
    /// What an edit replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<serde_json::Value>,
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
            before: record
                .get_document("before")
                .ok()
                .map(|before| Bson::Document(before.clone()).into_relaxed_extjson()),
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

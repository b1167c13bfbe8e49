//! Several outboxes at once: opens them, and shows them in one table, the worst first.

use std::cmp::Reverse;

use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::output::{Colour, Screen, age, colour_of};
use super::selection::inspect_by;
use super::table::{Cell, table};
use crate::config::{Config, Fleet, Sources};
use crate::document::state::State;
use crate::error::{Error, ErrorKind, MongodbContext as _, Result};
use crate::mongodb::discovery;
use crate::mongodb::inspect::Inspect;
use crate::mongodb::stats::Stats;
use crate::operator::clients::Clients;

/// Outboxes that are asked about at once.
const AT_ONCE: usize = 8;

/// One outbox of several, and how it is looked at.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) inspect: Result<Inspect>,
}

/// The numbers of one outbox of several.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) outbox: String,
    pub(super) stream: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<Stats>,
    /// Why there are no numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// The sources with the outboxes that `outboxes.discover` finds, if it is set.
///
/// # Errors
/// As [`Fleet::load`], and [`ErrorKind::Mongodb`] when the databases can't be listed.
pub(super) async fn found(mut sources: Sources) -> Result<Sources> {
    // A mistake is the verb's to report.
    let Ok(fleet) = Fleet::load(&sources) else { return Ok(sources) };
    let Some((patterns, settings)) = fleet.discovers() else { return Ok(sources) };

    let client = settings.mongodb.client("operator").await?;
    let found = discovery::look(&client).await.during("looking for outboxes")?;
    for database in &found.unread {
        eprintln!("outboxd: warning: no right to look for outboxes in the database {database}");
    }

    let found = patterns.news(found.outboxes, &[], |_| false);
    let names: Vec<_> = fleet.outboxes().iter().map(Config::outbox).collect();
    let is_new = |(database, collection): &(String, String)| {
        !names.contains(&format!("{database}.{collection}"))
    };
    sources.found = found.into_iter().filter(is_new).collect();
    Ok(sources)
}

/// Opens every outbox. Those of one deployment share a client.
pub(super) async fn open(fleet: &Fleet) -> Vec<Opened> {
    let mut clients = Clients::default();
    let mut opened = Vec::with_capacity(fleet.outboxes().len());

    for config in fleet.outboxes() {
        let inspect = match clients.of(config).await {
            Ok(client) => inspect_by(config, &client).await,
            Err(error) => Err(error),
        };
        opened.push(Opened { config: config.clone(), inspect });
    }
    opened
}

/// The numbers of each outbox, the worst first: those that can't be read, then those with dead
/// events, then by failed events and by age.
pub(super) async fn rows(opened: &[Opened]) -> Vec<Row> {
    let asked = opened.iter().map(|Opened { config, inspect }| async move {
        let stats = match inspect {
            Ok(inspect) => inspect.stats().await.during("reading the outbox"),
            Err(error) => Err(Error::new(error.kind(), error.report().to_string())),
        };
        let (stats, error) = match stats {
            Ok(stats) => (Some(stats), None),
            Err(error) => (None, Some(error.report().to_string())),
        };
        Row { outbox: config.outbox(), stream: config.stream.name.clone(), stats, error }
    });

    let mut rows: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    rows.sort_by_key(|row| {
        let stats = row.stats.as_ref();
        let number = |of: fn(&Stats) -> u64| Reverse(stats.map_or(0, of));
        let is_led = stats.is_some_and(is_relayed);
        let oldest = number(|stats| stats.oldest_seconds.unwrap_or(0));
        (
            row.error.is_none(),
            number(|stats| stats.dead),
            is_led,
            number(|stats| stats.failed),
            oldest,
            row.outbox.clone(),
        )
    });
    rows
}

/// The error of a verb that could not read each outbox.
pub(super) fn all_read(rows: &[Row]) -> Result<()> {
    match rows.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        unread => {
            let message = format!("{unread} of {} outboxes can't be read; see above", rows.len());
            Err(Error::new(ErrorKind::NotFound, message))
        }
    }
}

fn is_relayed(stats: &Stats) -> bool {
    let lease = stats.lease.as_ref();
    lease.is_some_and(|lease| lease.is_a_relays() && lease.expires_in_seconds >= 0)
}

/// One line for each outbox.
pub(super) fn overview(screen: Screen, rows: &[Row]) -> String {
    let counted = |events: u64, state: State| match events {
        0 => Cell::from("0"),
        events => Cell::coloured(&events.to_string(), colour_of(state)),
    };
    let lines = rows.iter().map(|row| {
        let Some(stats) = &row.stats else {
            let error = row.error.clone().unwrap_or_default();
            let mut line = vec![Cell::from(&row.outbox)];
            line.extend(["-"; 5].map(Cell::from));
            line.push(Cell::coloured(&error, Colour::Red));
            return line;
        };

        let relay = match &stats.lease {
            Some(lease) if is_relayed(stats) => Cell::from(&lease.holder),
            _ => Cell::coloured("NO RELAY", Colour::Red),
        };
        vec![
            Cell::from(&row.outbox),
            Cell::from(stats.backlog.to_string()),
            counted(stats.failed, State::Failed),
            counted(stats.parked, State::Parked),
            counted(stats.dead, State::Dead),
            stats.oldest_seconds.map_or_else(|| "-".to_owned(), age).into(),
            relay,
        ]
    });

    let header = ["OUTBOX", "BACKLOG", "FAILED", "PARKED", "DEAD", "OLDEST", "RELAYED BY"];
    table(screen, &header, lines)
}

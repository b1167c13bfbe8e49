//! The result: a table for people, the same as JSON, and whether it is as promised.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use ticketing::failure::Failure;

use crate::check::{Counts, Found};
use crate::events::Held;
use crate::load::Amount;

/// Where the JSON goes.
pub(crate) const PATH: &str = "target/demo-report.json";

/// Everything that was found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tickets: usize,
    orders: usize,
    /// In both databases; so are `replica_differences` and `outbox_left`.
    tickets_at_10: usize,
    replica_differences: usize,
    outbox_left: u64,
    events_published: u64,
    duplicates: u64,
    reordered: u64,
    missing: usize,
    foreign: u64,
    refused_edits: u64,
    interrupted_requests: u64,
    /// Under the load.
    latency_ms: Latency,
    /// One change at a time.
    unhurried_latency_ms: Latency,
    load_seconds: f64,
    databases: Databases,
    /// What is not as promised.
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Databases {
    tickets: Counts,
    orders: Counts,
}

/// Commit to consumer, in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    samples: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    /// `micros` is in microseconds.
    fn of(micros: &Histogram<u64>) -> Self {
        let milliseconds = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
        let at = |quantile| milliseconds(micros.value_at_quantile(quantile));
        Self {
            samples: micros.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: milliseconds(micros.max()),
        }
    }
}

/// A row of the table with a number for each database.
type Row = (&'static str, fn(&Counts) -> u64);

/// What was measured, before it is judged.
pub(crate) struct Measured {
    pub(crate) amount: Amount,
    pub(crate) took: Duration,
    pub(crate) refused: u64,
    pub(crate) interrupted: u64,
    pub(crate) found: Found,
    pub(crate) held: Held,
    pub(crate) loaded: Histogram<u64>,
    pub(crate) unhurried: Histogram<u64>,
}

impl Report {
    /// Judges what was measured.
    pub(crate) fn new(measured: Measured) -> Self {
        let Measured { amount, took, refused, interrupted, found, held, loaded, unhurried } =
            measured;
        let mut report = Self {
            tickets: found.tickets.tickets,
            orders: found.orders.orders,
            tickets_at_10: found.tickets.tickets_at_10 + found.orders.tickets_at_10,
            replica_differences: found.differences,
            outbox_left: found.outbox_left(),
            events_published: held.events,
            duplicates: held.duplicates,
            reordered: held.reordered,
            missing: held.missing(&found.versions),
            foreign: held.foreign,
            refused_edits: refused,
            interrupted_requests: interrupted,
            latency_ms: Latency::of(&loaded),
            unhurried_latency_ms: Latency::of(&unhurried),
            load_seconds: took.as_secs_f64(),
            databases: Databases { tickets: found.tickets, orders: found.orders },
            failures: found.examples,
        };
        report.judge(amount);

        report
    }

    fn judge(&mut self, amount: Amount) {
        let zero = [
            (self.tickets_at_10 as u64, "tickets are at price 10"),
            (self.replica_differences as u64, "records differ between the databases"),
            (self.outbox_left, "events are still in an outbox"),
            (self.duplicates, "messages are in the stream twice"),
            (self.reordered, "messages are out of order"),
            (self.missing as u64, "events are missing from the stream"),
            (self.foreign, "messages are no event of ours"),
        ];
        self.failures
            .extend(zero.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));

        if self.latency_ms.samples == 0 {
            self.failures.push("no event's latency was measured".to_owned());
        }

        let Amount::Tickets(wanted) = amount else { return };
        for (name, counts) in
            [("tickets", &self.databases.tickets), ("orders", &self.databases.orders)]
        {
            if counts.tickets_at_15 as u64 != wanted || counts.lowest_version < 2 {
                self.failures.push(format!(
                    "database {name} has {} tickets at price 15, the lowest version is {}; there should be {wanted} from \
                     version 2 up",
                    counts.tickets_at_15, counts.lowest_version
                ));
            }
        }

        if self.refused_edits != self.orders as u64 {
            self.failures
                .push(format!("{} edits were refused, not one for each order", self.refused_edits));
        }
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// # Errors
    /// Something is not as promised.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        match self.failures.len() {
            0 => Ok(()),
            count => Err(format!("{count} findings are not as promised").into()),
        }
    }
}

/// The table, and what is not as promised.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Databases { tickets, orders } = &self.databases;
        writeln!(f, "\n  {:<28}{:>9}{:>9}", "in the database of", "tickets", "orders")?;

        let rows: [Row; 7] = [
            ("tickets", |counts| counts.tickets as u64),
            ("  at price 15", |counts| counts.tickets_at_15 as u64),
            ("  at price 10", |counts| counts.tickets_at_10 as u64),
            ("  reserved", |counts| counts.reserved as u64),
            ("orders", |counts| counts.orders as u64),
            ("  cancelled", |counts| counts.cancelled as u64),
            ("events left in the outbox", |counts| counts.outbox_left),
        ];

        for (name, of) in rows {
            writeln!(f, "  {name:<28}{:>9}{:>9}", of(tickets), of(orders))?;
        }

        writeln!(f)?;
        for (name, value) in [
            ("replica differences", self.replica_differences as u64),
            ("refused edits", self.refused_edits),
            ("events published", self.events_published),
            ("  duplicates", self.duplicates),
            ("  out of order", self.reordered),
            ("  missing", self.missing as u64),
        ] {
            writeln!(f, "  {name:<28}{value:>18}")?;
        }

        writeln!(f, "\n  {:<28}{:>9}{:>9}", "commit to consumer, in ms", "p50", "p99")?;
        let latencies = [
            ("under the load", &self.latency_ms),
            ("one change at a time", &self.unhurried_latency_ms),
        ];
        for (name, latency) in latencies {
            writeln!(f, "  {name:<28}{:>9.1}{:>9.1}", latency.p50, latency.p99)?;
        }

        writeln!(
            f,
            "\n  From the commit, as MongoDB dates it (in whole ms, rounded down), to the arrival of the event at a consumer.\n  \
             The load took {:.1} s; {} of its events were measured. All processes and servers share this machine.",
            self.load_seconds, self.latency_ms.samples
        )?;

        if self.interrupted_requests > 0 {
            writeln!(
                f,
                "  {} requests got no answer and were sent again.",
                self.interrupted_requests
            )?;
        }

        self.failures.iter().try_for_each(|failure| writeln!(f, "  NOT AS PROMISED: {failure}"))
    }
}

//! The result: a table for people, the same as JSON, and whether it is as promised.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use ticketing::failure::Failure;

use crate::amount::{Amount, Fate};
use crate::cast::SERVICES;
use crate::check::Found;
use crate::events::Held;
use crate::load::USERS;
use crate::records::{Charges, Counts, Orders, Tickets};

/// Where the JSON goes.
pub(crate) const PATH: &str = "target/demo-report.json";

/// Everything that was found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    users: usize,
    tickets: usize,
    orders: usize,
    orders_complete: usize,
    orders_cancelled: usize,
    /// Of the cancelled ones, those whose time was over.
    orders_expired: usize,
    charges_taken: usize,
    charges_refunded: usize,
    provider_took: usize,
    /// In all databases; so are `replica_differences` and `outbox_left`.
    tickets_at_10: usize,
    replica_differences: usize,
    outbox_left: u64,
    events_published: u64,
    duplicates: u64,
    reordered: u64,
    missing: usize,
    foreign: u64,
    refused_edits: u64,
    refused_payments: u64,
    double_payments: u64,
    interrupted_requests: u64,
    /// What was killed (-9) and started again under the load.
    killed: Vec<String>,
    /// Under the load.
    latency_ms: Latency,
    /// One change at a time.
    unhurried_latency_ms: Latency,
    load_seconds: f64,
    databases: BTreeMap<&'static str, Counts>,
    /// What is not as promised.
    failures: Vec<String>,
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

/// What was measured, before it is judged.
pub(crate) struct Measured {
    pub(crate) amount: Amount,
    pub(crate) took: Duration,
    pub(crate) refused_edits: u64,
    pub(crate) refused_payments: u64,
    pub(crate) double_payments: u64,
    pub(crate) interrupted: u64,
    pub(crate) killed: Vec<String>,
    pub(crate) found: Found,
    pub(crate) held: Held,
    pub(crate) loaded: Histogram<u64>,
    pub(crate) unhurried: Histogram<u64>,
}

impl Report {
    /// Judges what was measured.
    pub(crate) fn new(measured: Measured) -> Self {
        let Measured { found, held, .. } = measured;
        let outbox_left = found.outbox_left();
        let counts = found.counts;
        let ticket = |service: &str, of: fn(&Tickets) -> usize| {
            counts.get(service).and_then(|counts| counts.tickets.as_ref()).map_or(0, of)
        };
        let order = |of: fn(&Orders) -> usize| {
            counts.get("orders").and_then(|counts| counts.orders.as_ref()).map_or(0, of)
        };
        let charge = |of: fn(&Charges) -> usize| {
            counts.get("payments").and_then(|counts| counts.charges.as_ref()).map_or(0, of)
        };
        let at_10 = |tickets: &Tickets| tickets.tickets_at_10;

        let mut report = Self {
            users: counts.get("auth").and_then(|counts| counts.users).unwrap_or_default(),
            tickets: ticket("tickets", |tickets| tickets.tickets),
            orders: order(|orders| orders.orders),
            orders_complete: order(|orders| orders.complete),
            orders_cancelled: order(|orders| orders.cancelled),
            orders_expired: counts
                .get("expiration")
                .and_then(|counts| counts.expired)
                .unwrap_or_default(),
            charges_taken: charge(|charges| charges.charges_taken),
            charges_refunded: charge(|charges| charges.charges_refunded),
            provider_took: charge(|charges| charges.provider_took),
            tickets_at_10: ticket("tickets", at_10) + ticket("orders", at_10),
            replica_differences: found.differences,
            outbox_left,
            events_published: held.events,
            duplicates: held.duplicates,
            reordered: held.reordered,
            missing: held.missing(&found.versions),
            foreign: held.foreign,
            refused_edits: measured.refused_edits,
            refused_payments: measured.refused_payments,
            double_payments: measured.double_payments,
            interrupted_requests: measured.interrupted,
            killed: measured.killed,
            latency_ms: Latency::of(&measured.loaded),
            unhurried_latency_ms: Latency::of(&measured.unhurried),
            load_seconds: measured.took.as_secs_f64(),
            databases: counts,
            failures: found.examples,
        };
        report.judge(measured.amount);

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

        let open = self.orders - self.orders_complete - self.orders_cancelled;
        let mut equal = vec![
            (open, 0, "orders are neither complete nor cancelled"),
            (self.charges_taken, self.orders_complete, "charges are taken, for complete orders:"),
            (self.provider_took, self.orders_complete, "times the provider took money, not"),
        ];
        if let Amount::Tickets(wanted) = amount {
            let fate = |fate: Fate| fate.among(wanted) as usize;
            let (paid, expired) = (fate(Fate::Paid), fate(Fate::Expires));
            let cancelled = fate(Fate::Cancelled) + expired;
            equal.extend([
                (self.users, USERS as usize, "users signed up, not"),
                (self.tickets, wanted as usize, "tickets were created, not"),
                (self.orders, paid + cancelled, "orders were placed, not"),
                (self.orders_complete, paid, "orders are complete, not"),
                (self.orders_cancelled, cancelled, "orders are cancelled, not"),
                (self.orders_expired, expired, "orders have expired, not"),
                (self.refused_edits as usize, paid + cancelled, "edits were refused, not"),
                (self.refused_payments as usize, cancelled, "payments were refused, not"),
                (self.double_payments as usize, paid, "payments were sent twice, not"),
            ]);
            self.prices(wanted);
        }
        let wrong = equal.iter().filter(|(found, expected, _)| found != expected);
        self.failures
            .extend(wrong.map(|(found, expected, what)| format!("{found} {what} {expected}")));

        if self.latency_ms.samples == 0 {
            self.failures.push("no event's latency was measured".to_owned());
        }
    }

    fn prices(&mut self, wanted: u64) {
        for (name, counts) in &self.databases {
            if let Some(counts) = &counts.tickets
                && (counts.tickets_at_15 as u64 != wanted || counts.lowest_version < 2)
            {
                self.failures.push(format!(
                    "database {name} has {} tickets at price 15, the lowest version is {}; there should be {wanted} from \
                     version 2 up",
                    counts.tickets_at_15, counts.lowest_version
                ));
            }
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

    /// A row for each count, a column for each database.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {:<27}", "in the database of")?;
        SERVICES.iter().try_for_each(|service| write!(f, "{service:>11}"))?;
        writeln!(f)?;

        for (name, of) in ROWS {
            write!(f, "  {name:<27}")?;
            for service in SERVICES {
                match self.databases.get(service).and_then(of) {
                    Some(count) => write!(f, "{count:>11}")?,
                    None => write!(f, "{:>11}", "")?,
                }
            }
            writeln!(f)?;
        }

        writeln!(f)
    }
}

/// A row of the table; a database without such records has no number.
type Row = (&'static str, fn(&Counts) -> Option<usize>);

const ROWS: [Row; 14] = [
    ("users", |counts| counts.users),
    ("tickets", |counts| Some(counts.tickets.as_ref()?.tickets)),
    ("  at price 15", |counts| Some(counts.tickets.as_ref()?.tickets_at_15)),
    ("  at price 10", |counts| Some(counts.tickets.as_ref()?.tickets_at_10)),
    ("  reserved or sold", |counts| Some(counts.tickets.as_ref()?.reserved)),
    ("orders", |counts| Some(counts.orders.as_ref()?.orders)),
    ("  not settled", |counts| counts.orders.is_some().then(|| counts.open_orders())),
    ("  complete", |counts| Some(counts.orders.as_ref()?.complete)),
    ("  cancelled", |counts| Some(counts.orders.as_ref()?.cancelled)),
    ("    because they expired", |counts| counts.expired),
    ("charges taken", |counts| Some(counts.charges.as_ref()?.charges_taken)),
    ("  refunded", |counts| Some(counts.charges.as_ref()?.charges_refunded)),
    ("  by the provider's book", |counts| Some(counts.charges.as_ref()?.provider_took)),
    ("events left in the outbox", |counts| usize::try_from(counts.outbox_left).ok()),
];

/// The table, and what is not as promised.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(f)?;
        for (name, value) in [
            ("replica differences", self.replica_differences as u64),
            ("refused edits", self.refused_edits),
            ("refused payments", self.refused_payments),
            ("payments sent twice", self.double_payments),
            ("events published", self.events_published),
            ("  duplicates", self.duplicates),
            ("  out of order", self.reordered),
            ("  missing", self.missing as u64),
        ] {
            writeln!(f, "  {name:<27}{value:>11}")?;
        }

        writeln!(f, "\n  {:<27}{:>11}{:>11}", "commit to consumer, in ms", "p50", "p99")?;
        let latencies = [
            ("under the load", &self.latency_ms),
            ("one change at a time", &self.unhurried_latency_ms),
        ];
        for (name, latency) in latencies {
            writeln!(f, "  {name:<27}{:>11.1}{:>11.1}", latency.p50, latency.p99)?;
        }

        writeln!(
            f,
            "\n  From the commit, as MongoDB dates it (in whole ms, rounded down), to the arrival of the event at a consumer.\n  \
             The load took {:.1} s; {} of its events were measured. All processes and servers share this machine.",
            self.load_seconds, self.latency_ms.samples
        )?;

        if !self.killed.is_empty() {
            writeln!(f, "  Killed (-9) and started again meanwhile: {}.", self.killed.join(", "))?;
        }
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

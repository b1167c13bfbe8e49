//! What outboxd has to reach beside its peers, and what it reached in this run.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::drain::{drain_title, follow_title};
use super::peer::Peer;
use super::report::{Report, short};
use super::stage::{BYTES, KEYS};
use super::{idle, latency, outage, writers};

/// One thing to reach.
#[derive(Debug)]
pub(super) struct Ratio {
    what: &'static str,
    bound: Bound,
    /// `None` when a part of it wasn't measured in this run.
    reached: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Within(f64, f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Within(least, most) => (least..=most).contains(&value),
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {}", short(least)),
            Self::AtMost(most) => format!("≤ {}", short(most)),
            Self::Within(least, most) => format!("{} to {}", short(least), short(most)),
        }
    }
}

impl Ratio {
    pub(super) fn json(&self) -> Value {
        let holds = self.reached.map(|value| self.bound.holds(value));
        json!({ "what": self.what, "bound": self.bound.shown(), "reached": self.reached, "holds": holds })
    }
}

/// All of them.
pub(super) fn of(report: &Report) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost, Within};
    use Peer::{BareFind, BareOne, BareStream, Connector, Debezium, Naive, Nobody, Outboxd};
    let drain = drain_title(100_000, KEYS, BYTES);
    let (small, large) = (drain_title(10_000, KEYS, BYTES), drain_title(1_000_000, KEYS, BYTES));
    let (one_key, follow) = (drain_title(10_000, 1, BYTES), follow_title(100_000));
    let latency = latency::title(500);
    let outage = outage::title(60, 500);
    let value = |title: &str, column: &str| report.median(title, Outboxd, column);
    let beside = |title: &str, peer, column: &str| {
        Some(value(title, column)? / report.median(title, peer, column)?)
    };
    let (rate, cpu, mb) = ("events/s", "µs of processor/event", "peak MB");
    let line = |what, bound, reached| Ratio { what, bound, reached };
    vec![
        line("drain beside the bare loop from find", AtLeast(0.95), beside(&drain, BareFind, rate)),
        line(
            "drain beside the bare loop from the change stream",
            AtLeast(1.15),
            beside(&drain, BareStream, rate),
        ),
        line(
            "follow beside the bare loop from the change stream",
            AtLeast(0.95),
            beside(&follow, BareStream, rate),
        ),
        line(
            "drain of one key beside one publish at a time",
            AtLeast(0.9),
            beside(&one_key, BareOne, rate),
        ),
        line(
            "drain of 10,000 beside drain of 1,000,000",
            Within(0.85, 1.15),
            value(&small, rate).zip(value(&large, rate)).map(|(small, large)| small / large),
        ),
        line(
            "latency p50 beside the bare loop",
            AtMost(1.15),
            beside(&latency, BareStream, "p50 ms"),
        ),
        line(
            "latency p99 beside the bare loop",
            AtMost(1.3),
            beside(&latency, BareStream, "p99 ms"),
        ),
        line(
            "latency p50 after the commit's return, ms",
            AtMost(0.5),
            value(&latency, "p50 ms after return"),
        ),
        line("drain beside the naive relay", AtLeast(50.0), beside(&drain, Naive, rate)),
        line("memory beside the naive relay", AtMost(0.25), beside(&drain, Naive, mb)),
        line(
            "follow beside mongodb-nats-connector",
            AtLeast(10.0),
            beside(&follow, Connector, rate),
        ),
        line(
            "latency p99 beside mongodb-nats-connector",
            AtMost(1.0),
            beside(&latency, Connector, "p99 ms"),
        ),
        line("memory beside mongodb-nats-connector", AtMost(1.0), beside(&follow, Connector, mb)),
        line("follow beside Debezium Server", AtLeast(10.0), beside(&follow, Debezium, rate)),
        line(
            "latency p99 beside Debezium Server",
            AtMost(1.0),
            beside(&latency, Debezium, "p99 ms"),
        ),
        line("memory beside Debezium Server", AtMost(1.0), beside(&follow, Debezium, mb)),
        line("peak memory of a drain of 1,000,000, MB", AtMost(32.0), value(&large, mb)),
        line(
            "memory at the end of an outage beside half-way",
            AtMost(1.05),
            value(&outage, "MB at the end of it")
                .zip(value(&outage, "MB half-way"))
                .map(|(end, half_way)| end / half_way),
        ),
        line("processor per event, µs", AtMost(8.0), value(&drain, cpu)),
        line("idle, % of a core", AtMost(0.5), value(idle::TITLE, "% of a core")),
        line("idle, other commands/s", AtMost(0.0), value(idle::TITLE, "other commands/s")),
        line(
            "writers beside no relay",
            AtLeast(0.97),
            beside(writers::TITLE, Nobody, "transactions/s"),
        ),
    ]
}

/// As a table, on standard output.
pub(crate) fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "to reach", "reached", ""]);
    for Ratio { what, bound, reached } in of(report) {
        let Some(value) = reached else { continue };
        let verdict = if bound.holds(value) { "" } else { "missed" };
        table.add_row([what.to_owned(), bound.shown(), short(value), verdict.to_owned()]);
    }
    if !table.is_empty() {
        println!("\nratios\n{table}");
    }
}

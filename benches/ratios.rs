//! The bounds that outboxd must keep, alone or beside its peers, and what this run reached.

use super::drain::{drain_title, follow_title};
use super::peer::Peer::{
    self, BareFind, BareOne, BareStream, Connector, Debezium, Naive, NoRelay, Outboxd,
};
use super::report::{Report, short};
use super::stage::{BYTES, KEYS};
use super::{fleet, hot, idle, kept, latency, outage, scheduled, writers};

use Bound::{AtLeast, AtMost, Within};

/// One bound, and the value that this run reached.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) what: &'static str,
    pub(crate) bound: Bound,
    /// `None` if this run didn't measure everything that the value needs.
    pub(crate) reached: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Within(f64, f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(least) => value >= least,
            AtMost(most) => value <= most,
            Within(least, most) => (least..=most).contains(&value),
        }
    }

    pub(crate) fn shown(self) -> String {
        match self {
            AtLeast(least) => format!("≥ {}", short(least)),
            AtMost(most) => format!("≤ {}", short(most)),
            Within(least, most) => format!("{} to {}", short(least), short(most)),
        }
    }
}

/// All bounds, measured or not.
pub(crate) fn of(report: &Report) -> Vec<Ratio> {
    let measured = Measurements {
        report,
        drain: drain_title(100_000, KEYS, BYTES),
        small_drain: drain_title(10_000, KEYS, BYTES),
        large_drain: drain_title(1_000_000, KEYS, BYTES),
        one_key: drain_title(10_000, 1, BYTES),
        follow: follow_title(100_000),
        latency: latency::title(500),
        hot: hot::title(1_000_000, 200),
        outage: outage::title(60, 500),
    };

    let mut ratios = measured.beside_bare_loops();
    ratios.extend(measured.beside_other_relays());
    ratios.extend(measured.of_outboxd());
    ratios.extend(measured.of_kept_events());
    ratios.extend(measured.of_scheduled_events());
    ratios.extend(measured.of_a_fleet());
    ratios
}

const RATE: &str = "events/s";
const CPU: &str = "CPU µs/event";
const PEAK: &str = "peak MB";
const P50: &str = "p50 ms";
const P99: &str = "p99 ms";

/// A report, and the titles of the measurements that have bounds.
struct Measurements<'a> {
    report: &'a Report,
    drain: String,
    small_drain: String,
    large_drain: String,
    one_key: String,
    follow: String,
    latency: String,
    hot: String,
    outage: String,
}

impl Measurements<'_> {
    fn beside_bare_loops(&self) -> Vec<Ratio> {
        let Self { drain, one_key, follow, latency, .. } = self;
        vec![
            self.beside("drain / bare loop, find", AtLeast(0.95), drain, BareFind, RATE),
            self.beside("drain / bare loop, change stream", AtLeast(1.15), drain, BareStream, RATE),
            self.beside(
                "follow / bare loop, change stream",
                AtLeast(0.95),
                follow,
                BareStream,
                RATE,
            ),
            self.beside("drain of one key / bare loop", AtLeast(0.9), one_key, BareOne, RATE),
            self.beside("latency p50 / bare loop", AtMost(1.15), latency, BareStream, P50),
            self.beside("latency p99 / bare loop", AtMost(1.3), latency, BareStream, P99),
        ]
    }

    fn beside_other_relays(&self) -> Vec<Ratio> {
        let Self { drain, follow, latency, .. } = self;
        let writers = writers::TITLE;
        vec![
            self.beside("drain / naive relay", AtLeast(50.0), drain, Naive, RATE),
            self.beside("peak memory / naive relay", AtMost(0.25), drain, Naive, PEAK),
            self.beside("follow / mongodb-nats-connector", AtLeast(10.0), follow, Connector, RATE),
            self.beside(
                "latency p99 / mongodb-nats-connector",
                AtMost(1.0),
                latency,
                Connector,
                P99,
            ),
            self.beside(
                "peak memory / mongodb-nats-connector",
                AtMost(1.0),
                follow,
                Connector,
                PEAK,
            ),
            self.beside("follow / Debezium Server", AtLeast(10.0), follow, Debezium, RATE),
            self.beside("latency p99 / Debezium Server", AtMost(1.0), latency, Debezium, P99),
            self.beside("peak memory / Debezium Server", AtMost(1.0), follow, Debezium, PEAK),
            self.beside("writers / no relay", AtLeast(0.97), writers, NoRelay, "transactions/s"),
        ]
    }

    fn of_outboxd(&self) -> Vec<Ratio> {
        let Self { drain, small_drain, large_drain, latency, hot, outage, .. } = self;
        let (end, half_way) = ("MB at the end of it", "MB half-way");
        vec![
            Ratio {
                what: "drain of 10,000 / drain of 1,000,000",
                bound: Within(0.85, 1.15),
                reached: quotient(self.median(small_drain, RATE), self.median(large_drain, RATE)),
            },
            Ratio {
                what: "memory at the end of an outage / half-way",
                bound: AtMost(1.05),
                reached: quotient(self.median(outage, end), self.median(outage, half_way)),
            },
            self.alone("latency p50 after return, ms", AtMost(0.5), latency, "p50 ms after return"),
            self.alone(
                "latency p99 beside a hot key / alone",
                AtMost(2.0),
                hot,
                "p99 ratio after return",
            ),
            self.alone("peak memory of a drain of 1,000,000, MB", AtMost(32.0), large_drain, PEAK),
            self.alone("drain, CPU µs/event", AtMost(8.0), drain, CPU),
            self.alone("idle, % of a core", AtMost(0.5), idle::TITLE, "% of a core"),
            self.alone("idle, other commands/s", AtMost(0.0), idle::TITLE, "other commands/s"),
        ]
    }

    fn of_kept_events(&self) -> Vec<Ratio> {
        let kept = &kept::title(100_000);
        vec![
            self.alone("drain, kept / deleted", AtLeast(0.5), kept, "drain ratio"),
            self.alone("peak MB more, kept", AtMost(4.0), kept, "peak MB more"),
            self.alone("latency p50 ms more, kept", AtMost(0.2), kept, "p50 ms more"),
        ]
    }

    fn of_scheduled_events(&self) -> Vec<Ratio> {
        let late = &scheduled::late_title(100, 10_000);
        let later = &scheduled::later_title(1_000_000);
        vec![
            self.alone("scheduled, p50 ms late", AtMost(100.0), late, "p50 ms late"),
            self.alone("scheduled, p99 ms late", AtMost(500.0), late, "p99 ms late"),
            self.alone("scheduled, ms early", AtMost(0.0), late, "ms early"),
            self.alone("10,000 due at once, s", AtMost(2.0), late, "s for the crowd"),
            self.alone("drain beside 1,000,000 later", AtLeast(0.97), later, "drain ratio"),
            self.alone("start beside 1,000,000 later", AtMost(1.03), later, "start ratio"),
            self.alone("idle beside 1,000,000 later", AtMost(1.03), later, "CPU ratio when idle"),
            self.alone(
                "queries of the mover in 5 s",
                AtMost(1.0),
                later,
                "queries of the mover in 5 s",
            ),
        ]
    }

    fn of_a_fleet(&self) -> Vec<Ratio> {
        let (title, drain) = (&fleet::title(100, 150), &fleet::drain_title(100_000));
        let fleet = |title: &str, column: &str| self.report.median(title, Peer::Fleet, column);
        let beside = |what, bound, title: &str, column: &str| Ratio {
            what,
            bound,
            reached: quotient(fleet(title, column), self.median(title, column)),
        };
        let p50 = "p50 ms after return";

        vec![
            beside(
                "100 outboxes, mongod's CPU for a transaction / one sidecar",
                AtMost(1.15),
                title,
                "mongod CPU µs/transaction",
            ),
            beside(
                "100 outboxes idle, mongod / one",
                AtMost(2.0),
                title,
                "idle mongod % of a core",
            ),
            Ratio {
                what: "100 outboxes idle, % of a core",
                bound: AtMost(1.0),
                reached: fleet(title, "idle % of a core"),
            },
            Ratio { what: "100 outboxes, MB", bound: AtMost(100.0), reached: fleet(title, "MB") },
            Ratio {
                what: "100 outboxes, p50 ms more than one sidecar's",
                bound: AtMost(0.3),
                reached: fleet(title, p50).zip(self.median(title, p50)).map(|(of, one)| of - one),
            },
            beside("drain of 20 outboxes / one", AtLeast(1.0), drain, "events/s"),
        ]
    }

    /// A bound on a median of outboxd.
    fn alone(&self, what: &'static str, bound: Bound, title: &str, column: &str) -> Ratio {
        Ratio { what, bound, reached: self.median(title, column) }
    }

    /// A bound on a median of outboxd divided by that of a peer.
    fn beside(
        &self,
        what: &'static str,
        bound: Bound,
        title: &str,
        peer: Peer,
        column: &str,
    ) -> Ratio {
        let beside = self.report.median(title, peer, column);
        Ratio { what, bound, reached: quotient(self.median(title, column), beside) }
    }

    fn median(&self, title: &str, column: &str) -> Option<f64> {
        self.report.median(title, Outboxd, column)
    }
}

fn quotient(value: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(value? / other?)
}

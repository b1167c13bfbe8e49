//! Latency: the time from a service's commit until a consumer of the stream has the message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::load::{Committed, Service};
use super::peer::Peer;
use super::report::Report;
use super::stage::{Arrivals, Stage, epoch_seconds};

/// Milliseconds since the service sent the commit, or since it received the answer to it.
const COLUMNS: &[&str] = &[
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "p50 ms after return",
    "p99 ms after return",
    "missing",
];

/// The rate at which every peer is measured. Other rates are for outboxd and the bare loop.
const COMMON: u32 = 500;

/// How long the consumer waits for the next message.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first events aren't counted: caches are still empty.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) fn title(rate: u32) -> String {
    format!("latency at {rate} transactions/s")
}

/// Measures transactions at a steady rate, each with one event.
pub(crate) async fn latency(report: &mut Report, rate: u32, seconds: u32) {
    let title = title(rate);
    let peers: &[Peer] = match rate {
        COMMON => &[Peer::Outboxd, Peer::BareStream, Peer::Naive, Peer::Connector, Peer::Debezium],
        _ => &[Peer::Outboxd, Peer::BareStream],
    };

    for turn in report.begin(&title, COLUMNS, peers) {
        let figures = latency_once(turn.peer, &[], rate, seconds).await;
        report.add(&title, turn, &figures);
    }
}

pub(crate) async fn latency_once(
    peer: Peer,
    settings: &[(&'static str, &'static str)],
    rate: u32,
    seconds: u32,
) -> [f64; 7] {
    let mut stage = Stage::set_up().await;
    stage.settings = settings.to_vec();
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    stage.warm_up(&mut running).await;

    let service = Service::start(&stage).await;
    let mut arrivals = stage.consume().await;
    let during = Duration::from_secs(seconds.into()) + WARM_UP;
    let committed = service.at_rate(rate, during).await;

    let arrived = collect(&mut arrivals, committed.len(), |_| true).await;
    drop(running);
    stage.tear_down().await;

    let latencies = Latencies::after(WARM_UP, (&committed, rate), &arrived);
    [
        latencies.since_commit(0.5),
        latencies.since_commit(0.9),
        latencies.since_commit(0.99),
        latencies.since_commit(1.0),
        latencies.since_return(0.5),
        latencies.since_return(0.99),
        f64::from(latencies.missing),
    ]
}

/// Receives messages until so many events that count have arrived, or until none arrives for
/// [`PATIENCE`].
pub(crate) async fn collect(
    arrivals: &mut Arrivals,
    events: usize,
    counts: impl Fn(u32) -> bool,
) -> HashMap<u32, Instant> {
    let mut arrived = HashMap::with_capacity(events);
    let mut last = Instant::now();

    while arrived.len() < events
        && last.elapsed() < PATIENCE
        && let Ok(Some((number, at))) = tokio::time::timeout(PATIENCE, arrivals.recv()).await
    {
        // If an event arrives twice, the first counts.
        if counts(number) {
            arrived.entry(number).or_insert(at);
            last = Instant::now();
        }
    }
    arrived
}

/// What the events of one turn took, in milliseconds, sorted.
pub(crate) struct Latencies {
    from_start: Vec<f64>,
    from_return: Vec<f64>,
    missing: u32,
}

impl Latencies {
    /// Without those of the first `seconds`.
    pub(crate) fn after(
        seconds: Duration,
        (committed, rate): (&[Committed], u32),
        arrived: &HashMap<u32, Instant>,
    ) -> Self {
        let skipped = (seconds.as_secs_f64() * f64::from(rate)) as u32;
        let (mut from_start, mut from_return, mut missing) = (Vec::new(), Vec::new(), 0);

        for transaction in committed.iter().filter(|transaction| transaction.number >= skipped) {
            match arrived.get(&transaction.number) {
                Some(at) => {
                    from_start.push(millis(*at, transaction.began));
                    from_return.push(millis(*at, transaction.returned));
                }
                None => missing += 1,
            }
        }

        from_start.sort_by(f64::total_cmp);
        from_return.sort_by(f64::total_cmp);
        Self { from_start, from_return, missing }
    }

    /// Since the service sent the commit.
    pub(crate) fn since_commit(&self, part: f64) -> f64 {
        percentile(&self.from_start, part)
    }

    /// Since the service received the answer to the commit.
    pub(crate) fn since_return(&self, part: f64) -> f64 {
        percentile(&self.from_return, part)
    }

    /// Events that didn't arrive.
    pub(crate) fn missing(&self) -> u32 {
        self.missing
    }
}

/// Negative if `later` is before `earlier`: a message can arrive before the commit returns.
fn millis(later: Instant, earlier: Instant) -> f64 {
    match later.checked_duration_since(earlier) {
        Some(took) => took.as_secs_f64() * 1e3,
        None => -(earlier - later).as_secs_f64() * 1e3,
    }
}

/// NaN if there are no values.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

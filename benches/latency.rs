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
const WARM_UP: Duration = Duration::from_secs(1);

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
        let figures = latency_once(turn.peer, rate, seconds).await;
        report.add(&title, turn, &figures);
    }
}

async fn latency_once(peer: Peer, rate: u32, seconds: u32) -> [f64; 7] {
    let mut stage = Stage::set_up().await;
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    stage.warm_up(&mut running).await;

    let service = Service::start(&stage).await;
    let mut arrivals = stage.consume().await;
    let during = Duration::from_secs(seconds.into()) + WARM_UP;
    let committed = service.at_rate(rate, during).await;

    let arrived = collect(&mut arrivals, committed.len()).await;
    drop(running);
    stage.tear_down().await;

    let skipped = (WARM_UP.as_secs_f64() * f64::from(rate)) as u32;
    figures(committed.iter().filter(|transaction| transaction.number >= skipped), &arrived)
}

/// Receives messages until each event has arrived, or until none arrives for [`PATIENCE`].
async fn collect(arrivals: &mut Arrivals, events: usize) -> HashMap<u32, Instant> {
    let mut arrived = HashMap::with_capacity(events);
    while arrived.len() < events
        && let Ok(Some((number, at))) = tokio::time::timeout(PATIENCE, arrivals.recv()).await
    {
        // If an event arrives twice, the first counts.
        arrived.entry(number).or_insert(at);
    }
    arrived
}

/// The figures in the order of [`COLUMNS`].
fn figures<'a>(
    committed: impl Iterator<Item = &'a Committed>,
    arrived: &HashMap<u32, Instant>,
) -> [f64; 7] {
    let (mut from_start, mut from_return, mut missing) = (Vec::new(), Vec::new(), 0);
    for transaction in committed {
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
    [
        percentile(&from_start, 0.5),
        percentile(&from_start, 0.9),
        percentile(&from_start, 0.99),
        percentile(&from_start, 1.0),
        percentile(&from_return, 0.5),
        percentile(&from_return, 0.99),
        f64::from(missing),
    ]
}

/// Negative if `later` is before `earlier`: a message can arrive before the commit returns.
fn millis(later: Instant, earlier: Instant) -> f64 {
    match later.checked_duration_since(earlier) {
        Some(took) => took.as_secs_f64() * 1e3,
        None => -(earlier - later).as_secs_f64() * 1e3,
    }
}

/// NaN if there are no values.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

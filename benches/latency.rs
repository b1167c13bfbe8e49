//! From commit to consumer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::drain::now;
use super::load::Service;
use super::peer::Peer;
use super::report::Report;
use super::stage::{Arrivals, Stage};

/// What is in the report, in this order. In milliseconds, from the start of the commit, and from
/// its return.
const COLUMNS: &[&str] = &[
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "p50 ms after return",
    "p99 ms after return",
    "missing",
];
/// The rate at which all peers are measured; at the others those that surely keep up.
const COMMON: u32 = 500;
/// How long the consumer waits for what is missing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of the beginning isn't counted: caches fill.
const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) fn title(rate: u32) -> String {
    format!("latency at {rate} transactions/s")
}

/// A steady pace of transactions, each with its event.
pub(crate) async fn latency(report: &mut Report, rate: u32, seconds: u32) {
    let title = title(rate);
    let peers: &[Peer] = match rate {
        COMMON => &[Peer::Outboxd, Peer::BareStream, Peer::Naive, Peer::Connector, Peer::Debezium],
        _ => &[Peer::Outboxd, Peer::BareStream],
    };
    let peers = report.begin(&title, COLUMNS, peers);
    for round in 1..=report.rounds {
        for peer in &peers {
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let mut running = peer.start(&stage, now());
            stage.warm_up(&mut running).await;
            let service = Service::start(&stage).await;
            let mut arrivals = stage.consume().await;
            let committed =
                service.at_a_pace(rate, Duration::from_secs(seconds.into()) + WARM_UP).await;
            let arrived = collect(&mut arrivals, committed.len()).await;
            drop(running);

            let skipped = (WARM_UP.as_secs_f64() * f64::from(rate)) as u32;
            let (mut from_start, mut from_return, mut missing) = (Vec::new(), Vec::new(), 0);
            for one in committed.iter().filter(|one| one.number >= skipped) {
                match arrived.get(&one.number) {
                    Some(at) => {
                        from_start.push(millis(*at, one.began));
                        from_return.push(millis(*at, one.returned));
                    }
                    None => missing += 1,
                }
            }
            let figures = [
                percentile(&mut from_start, 0.5),
                percentile(&mut from_start, 0.9),
                percentile(&mut from_start, 0.99),
                percentile(&mut from_start, 1.0),
                percentile(&mut from_return, 0.5),
                percentile(&mut from_return, 0.99),
                f64::from(missing),
            ];
            report.add(&title, round, *peer, &figures);
            stage.tear_down().await;
        }
    }
}

/// Collects what came, until everything has or nothing more does.
async fn collect(arrivals: &mut Arrivals, events: usize) -> HashMap<u32, Instant> {
    let mut arrived = HashMap::with_capacity(events);
    while arrived.len() < events
        && let Ok(Some((number, at))) = tokio::time::timeout(PATIENCE, arrivals.recv()).await
    {
        // Of an event that comes twice, the first counts.
        arrived.entry(number).or_insert(at);
    }
    arrived
}

fn millis(later: Instant, earlier: Instant) -> f64 {
    // A message may well be there before the commit's own answer is.
    match later.checked_duration_since(earlier) {
        Some(took) => took.as_secs_f64() * 1e3,
        None => -(earlier - later).as_secs_f64() * 1e3,
    }
}

/// NaN of nothing.
fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

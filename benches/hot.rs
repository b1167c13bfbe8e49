//! Latency beside a hot key: the events of other keys, without and with a backlog of one key in the
//! outbox. NATS is 4 ms away, so that the backlog is still there when the measurement ends.

use std::time::Duration;

use super::latency::{Latencies, collect};
use super::load::Service;
use super::peer::Peer;
use super::proxy::{Proxy, Toxic};
use super::report::Report;
use super::stage::{BYTES, Stage, epoch_seconds};

/// Milliseconds since the service sent the commit, or since it received the answer to it. A million
/// documents that were just inserted make mongod's commits slow, so the ratio is of the latter.
const COLUMNS: &[&str] = &[
    "p50 ms alone",
    "p99 ms alone",
    "p50 ms beside",
    "p99 ms beside",
    "p99 ms after return, alone",
    "p99 ms after return, beside",
    "p99 ratio after return",
    "hot events left",
    "missing",
];

/// By then the relay has swept: its first sweep lists a million events in 2 s, and the tail that
/// brings the service's events follows it.
const SWEPT: Duration = Duration::from_secs(10);
/// The events of the hot key have numbers from here, and those of the service smaller ones.
const HOT: u32 = 1 << 30;

pub(crate) fn title(backlog: u32, rate: u32) -> String {
    format!("latency at {rate} transactions/s beside {backlog} events of one key")
}

/// Measures transactions at a steady rate, each with one event of one of many keys.
pub(crate) async fn hot(report: &mut Report, backlog: u32, rate: u32, seconds: u32) {
    let title = title(backlog, rate);
    let during = Duration::from_secs(seconds.into()) + SWEPT;

    for turn in report.begin(&title, COLUMNS, &[Peer::Outboxd]) {
        let (alone, _) = beside(turn.peer, 0, rate, during).await;
        let (hot, left) = beside(turn.peer, backlog, rate, during).await;
        let [p99_alone, p99_hot] = [&alone, &hot].map(|latencies| latencies.since_commit(0.99));
        let [return_alone, return_hot] =
            [&alone, &hot].map(|latencies| latencies.since_return(0.99));
        let figures = [
            alone.since_commit(0.5),
            p99_alone,
            hot.since_commit(0.5),
            p99_hot,
            return_alone,
            return_hot,
            return_hot / return_alone,
            left as f64,
            f64::from(alone.missing() + hot.missing()),
        ];
        report.add(&title, turn, &figures);
    }
}

/// Returns the latencies, and how many hot events were left at the end.
async fn beside(peer: Peer, backlog: u32, rate: u32, during: Duration) -> (Latencies, u64) {
    let mut stage = Stage::set_up().await;
    let proxy = Proxy::start(stage.nats_url.trim_start_matches("nats://")).await;
    proxy.set(Toxic::Far);
    stage.nats_url = format!("nats://{}", proxy.address);
    peer.prepare(&stage);
    stage.insert_with(HOT..HOT + backlog, |_| "hot".to_owned(), BYTES).await;

    let mut running = peer.start(&stage, epoch_seconds());
    match backlog {
        0 => drop(stage.warm_up(&mut running).await),
        _ => stage.begun(&mut running).await,
    }

    let service = Service::start(&stage).await;
    let mut arrivals = stage.consume().await;
    let committed = service.at_rate(rate, during).await;
    let arrived = collect(&mut arrivals, committed.len(), |number| number < HOT).await;
    let left = stage.waiting().await;
    drop(running);
    stage.tear_down().await;

    (Latencies::after(SWEPT, (&committed, rate), &arrived), left)
}

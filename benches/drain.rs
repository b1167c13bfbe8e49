//! Throughput: how many events per second a peer delivers, from a backlog and while events arrive.

use super::peer::Peer;
use super::report::Report;
use super::stage::{BYTES, KEYS, Stage, epoch_seconds};

const COLUMNS: &[&str] = &["events/s", "CPU µs/event", "peak MB", "copies"];

/// The backlog that every peer drains. Other backlogs are for outboxd and the bare loops.
const COMMON: u32 = 100_000;

pub(crate) fn drain_title(events: u32, keys: u32, bytes: usize) -> String {
    format!("drain {events} events, {keys} keys, {bytes} bytes")
}

pub(crate) fn follow_title(events: u32) -> String {
    format!("follow {events} events, {KEYS} keys, {BYTES} bytes")
}

/// Measures a backlog that exists before the peer starts.
pub(crate) async fn drain(report: &mut Report, events: u32, keys: u32, bytes: usize) {
    let title = drain_title(events, keys, bytes);
    let peers: &[Peer] = match (keys, events, bytes) {
        (1, ..) => &[Peer::Outboxd, Peer::BareOne],
        (KEYS, COMMON, BYTES) => {
            &[Peer::Outboxd, Peer::BareFind, Peer::BareStream, Peer::Naive, Peer::Debezium]
        }
        _ => &[Peer::Outboxd, Peer::BareFind, Peer::BareStream],
    };

    for turn in report.begin(&title, COLUMNS, peers) {
        let figures = drain_once(turn.peer, &[], turn.peer.limit(events), (keys, bytes)).await;
        report.add(&title, turn, &figures);
    }
}

pub(crate) async fn drain_once(
    peer: Peer,
    settings: &[(&'static str, &'static str)],
    events: u32,
    (keys, bytes): (u32, usize),
) -> [f64; 4] {
    let mut stage = Stage::set_up().await;
    stage.settings = settings.to_vec();
    peer.prepare(&stage);

    let since = epoch_seconds();
    stage.insert(0..events, keys, bytes).await;

    let mut running = peer.start(&stage, since);
    let end = stage.delivered(&mut running, events.into()).await;

    let processor_us = running.processor_us() / f64::from(events);
    let peak_mb = running.peak_mb();
    drop(running);

    let copies = stage.messages().await - u64::from(events);
    let rate = stage.rate(1, events.into(), end).await;
    stage.tear_down().await;

    [rate, processor_us, peak_mb, copies as f64]
}

/// Measures events that are inserted in bulk while the peer runs.
pub(crate) async fn follow(report: &mut Report, events: u32) {
    let title = follow_title(events);
    let peers = [Peer::Outboxd, Peer::BareStream, Peer::Naive, Peer::Connector, Peer::Debezium];

    for turn in report.begin(&title, COLUMNS, &peers) {
        let figures = follow_once(turn.peer, turn.peer.limit(events)).await;
        report.add(&title, turn, &figures);
    }
}

async fn follow_once(peer: Peer, events: u32) -> [f64; 4] {
    let mut stage = Stage::set_up().await;
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    let before = stage.warm_up(&mut running).await;
    let all = before + u64::from(events);

    let processor_before = running.processor_us();
    stage.insert(0..events, KEYS, BYTES).await;
    let end = stage.delivered(&mut running, all).await;

    let processor_us = (running.processor_us() - processor_before) / f64::from(events);
    let peak_mb = running.peak_mb();
    drop(running);

    let copies = stage.messages().await - all;
    let rate = stage.rate(before + 1, all, end).await;
    stage.tear_down().await;

    [rate, processor_us, peak_mb, copies as f64]
}

//! How many events a second a peer brings over: from a backlog, and while they come.

use std::time::{SystemTime, UNIX_EPOCH};

use super::peer::Peer;
use super::report::Report;
use super::stage::{BYTES, KEYS, Stage};

/// What is in the report, in this order.
const COLUMNS: &[&str] = &["events/s", "µs of processor/event", "peak MB", "copies"];

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

pub(crate) fn drain_title(events: u32, keys: u32, bytes: usize) -> String {
    format!("drain {events} events, {keys} keys, {bytes} bytes")
}

pub(crate) fn follow_title(events: u32) -> String {
    format!("follow {events} events, {KEYS} keys, {BYTES} bytes")
}

/// A backlog is there when the peer starts.
pub(crate) async fn drain(report: &mut Report, events: u32, keys: u32, bytes: usize) {
    let title = drain_title(events, keys, bytes);
    let peers: &[Peer] = match (keys, events, bytes) {
        (1, ..) => &[Peer::Outboxd, Peer::BareOne],
        (KEYS, 100_000, BYTES) => {
            &[Peer::Outboxd, Peer::BareFind, Peer::BareStream, Peer::Naive, Peer::Debezium]
        }
        _ => &[Peer::Outboxd, Peer::BareFind, Peer::BareStream],
    };
    let peers = report.begin(&title, COLUMNS, peers);
    for round in 1..=report.rounds {
        for peer in &peers {
            let events = peer.share(events);
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let since = now();
            stage.insert(events, keys, bytes).await;
            let mut running = peer.start(&stage, since);
            let end = stage.delivered(&mut running, events.into()).await;
            let (processor_us, peak_mb) =
                (running.processor_us() / f64::from(events), running.peak_mb());
            drop(running);
            let copies = stage.messages().await - u64::from(events);
            let rate = stage.rate(1, events.into(), end).await;
            report.add(&title, round, *peer, &[rate, processor_us, peak_mb, copies as f64]);
            stage.tear_down().await;
        }
    }
}

/// Events come while the peer runs, as fast as they can be inserted.
pub(crate) async fn follow(report: &mut Report, events: u32) {
    let title = follow_title(events);
    let peers = [Peer::Outboxd, Peer::BareStream, Peer::Naive, Peer::Connector, Peer::Debezium];
    let peers = report.begin(&title, COLUMNS, &peers);
    for round in 1..=report.rounds {
        for peer in &peers {
            let events = peer.share(events);
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let mut running = peer.start(&stage, now());
            let before = stage.warm_up(&mut running).await;
            let processor_before = running.processor_us();
            stage.insert(events, KEYS, BYTES).await;
            let end = stage.delivered(&mut running, before + u64::from(events)).await;
            let processor_us = (running.processor_us() - processor_before) / f64::from(events);
            let peak_mb = running.peak_mb();
            drop(running);
            let copies = stage.messages().await - before - u64::from(events);
            let rate = stage.rate(before + 1, before + u64::from(events), end).await;
            report.add(&title, round, *peer, &[rate, processor_us, peak_mb, copies as f64]);
            stage.tear_down().await;
        }
    }
}

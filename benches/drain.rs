//! How many events a second a peer brings over: from a backlog, and while they come.

use std::time::{SystemTime, UNIX_EPOCH};

use super::peer::Peer;
use super::report::{Figures, Report};
use super::stage::Stage;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

/// A backlog is there when the peer starts.
pub(crate) async fn drain(report: &mut Report, rounds: usize, events: u32, keys: u32, bytes: usize) {
    let title = format!("drain {events} events, {keys} keys, {bytes} bytes");
    let peers: &[Peer] = match keys {
        1 => &[Peer::Outboxd, Peer::BareOne],
        _ => &[Peer::Outboxd, Peer::BareFind, Peer::BareStream],
    };
    for round in 1..=rounds {
        for peer in peers {
            report.progress(&title, round, rounds, peer.name());
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let since = now();
            stage.insert(events, keys, bytes).await;
            let mut running = peer.start(&stage, since);
            stage.delivered(&mut running, events).await;
            let (processor_us, peak_mb) = (running.processor_us() / f64::from(events), running.peak_mb());
            drop(running);
            let (rate, copies) = (stage.rate(events).await, stage.copies(events).await);
            report.add(&title, *peer, Figures { rate, processor_us, peak_mb, copies });
            stage.tear_down().await;
        }
    }
}

/// Events come while the peer runs, as fast as they can be inserted.
pub(crate) async fn follow(report: &mut Report, rounds: usize, events: u32) {
    let title = format!("follow {events} events, 1000 keys, 380 bytes");
    for round in 1..=rounds {
        for peer in [Peer::Outboxd, Peer::BareStream] {
            report.progress(&title, round, rounds, peer.name());
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let mut running = peer.start(&stage, now());
            // Until one event is through, it may not be listening yet.
            stage.insert(1, 1, 380).await;
            stage.delivered(&mut running, 1).await;
            let before = running.processor_us();
            stage.insert(events - 1, 1000, 380).await;
            stage.delivered(&mut running, events).await;
            let processor_us = (running.processor_us() - before) / f64::from(events);
            let peak_mb = running.peak_mb();
            drop(running);
            let (rate, copies) = (stage.rate_from(2, events).await, stage.copies(events).await);
            report.add(&title, peer, Figures { rate, processor_us, peak_mb, copies });
            stage.tear_down().await;
        }
    }
}

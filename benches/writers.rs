//! How much throughput a service loses to a relay that shares the machine and the servers with it.

use std::time::Duration;

use super::load::Service;
use super::peer::Peer;
use super::report::Report;
use super::stage::{Stage, epoch_seconds};

pub(crate) const TITLE: &str = "writers flat out, 16 at once";

const COLUMNS: &[&str] = &["transactions/s"];

/// Concurrent writers.
const WRITERS: u32 = 16;

/// Measures transactions as fast as the writers can run them, with and without a relay.
pub(crate) async fn writers(report: &mut Report, seconds: u32) {
    for turn in report.begin(TITLE, COLUMNS, &[Peer::Outboxd, Peer::NoRelay, Peer::BareStream]) {
        let rate = writers_once(turn.peer, seconds).await;
        report.add(TITLE, turn, &[rate]);
    }
}

async fn writers_once(peer: Peer, seconds: u32) -> f64 {
    let mut stage = Stage::set_up().await;
    peer.prepare(&stage);

    let mut running = (peer != Peer::NoRelay).then(|| peer.start(&stage, epoch_seconds()));
    if let Some(running) = &mut running {
        stage.warm_up(running).await;
    }

    let service = Service::start(&stage).await;
    let rate = service.flat_out(WRITERS, Duration::from_secs(seconds.into())).await;

    drop(running);
    stage.tear_down().await;
    rate
}

//! What a service's own transactions lose by a relay beside them, on a machine where both and the
//! servers share two cores or however many there are.

use std::time::Duration;

use super::drain::now;
use super::load::Service;
use super::peer::Peer;
use super::report::Report;
use super::stage::Stage;

pub(crate) const TITLE: &str = "writers flat out, 16 at once";
pub(crate) const COLUMNS: &[&str] = &["transactions/s"];
const WRITERS: u32 = 16;

/// Transactions as fast as they go, with and without a relay.
pub(crate) async fn writers(report: &mut Report, seconds: u32) {
    let peers = report.begin(TITLE, COLUMNS, &[Peer::Outboxd, Peer::Nobody, Peer::BareStream]);
    for round in 1..=report.rounds {
        for peer in &peers {
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let mut running = None;
            if *peer != Peer::Nobody {
                let running = running.insert(peer.start(&stage, now()));
                stage.warm_up(running).await;
            }
            let service = Service::start(&stage).await;
            let rate = service.flat_out(WRITERS, Duration::from_secs(seconds.into())).await;
            drop(running);
            report.add(TITLE, round, *peer, &[rate]);
            stage.tear_down().await;
        }
    }
}

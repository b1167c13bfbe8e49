//! Finds unpublished events: a sweep, then a tail. After any error both start again.
//!
//! The tail begins where the sweep ends, so together they leave no gap and bring nothing twice.
//! There is no resume token to store, lose or outlive: the outbox itself shows what is unpublished.
//!
//! - `sweep`: what is in the outbox, in rounds
//! - `tail`: what commits after it
//! - `change`, `transaction`: a change, and what a transaction left of what it inserted
//! - [`found`]: what both hand over
//! - `fuzz`: arbitrary bytes in the place of what the server answers

mod change;
pub(crate) mod found;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod sweep;
mod tail;
mod transaction;

use std::time::Duration;

use outboxd_client::Key;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use self::found::{Closed, Found};
use super::clock;
use super::ports::{EventStore, StoreErrorKind, StoreResult};
use crate::backoff::Backoff;
use crate::telemetry::metrics::Metrics;

/// Waits before sweeping again after an error. They begin again once the tail has been reached.
const RESTARTS: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    .with_jitter(0.5..1.0, clock::chance);

/// Follows the outbox until the receiver is closed. Runs as a task of its own: a read that is
/// dropped half-way costs its connection.
///
/// A sweep leaves out the events of `resting` keys: dispatch has those read when it has room.
pub(crate) async fn follow(
    store: impl EventStore,
    found: mpsc::Sender<Found>,
    resting: watch::Receiver<Vec<Key>>,
    metrics: Metrics,
) {
    let restarts = metrics.stream_restarts(REASONS.map(|kind| (kind, reason(kind))));
    let mut backoff = RESTARTS;
    let mut numbers = 0..;

    loop {
        match sweep_then_tail(&store, &mut numbers, &found, &resting, &mut backoff).await {
            Ok(Closed) => return,
            Err(error) => {
                warn!(%error, "following the outbox failed; sweeping again");
                restarts.add(error.kind);
            }
        }

        tokio::select! {
            biased;
            () = found.closed() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn sweep_then_tail(
    store: &impl EventStore,
    numbers: &mut impl Iterator<Item = u64>,
    found: &mpsc::Sender<Found>,
    resting: &watch::Receiver<Vec<Key>>,
    backoff: &mut Backoff,
) -> StoreResult<Closed> {
    let swept = match sweep::sweep(store, numbers, found, resting).await? {
        Ok(swept) => swept,
        Err(closed) => return Ok(closed),
    };

    debug!(after = swept.after.time, "swept; tailing");
    tail::tail(store, swept, found, || backoff.reset()).await
}

/// Why a sweep or the tail can fail.
const REASONS: [StoreErrorKind; 6] = [
    StoreErrorKind::HistoryLost,
    StoreErrorKind::Behind,
    StoreErrorKind::TooLarge,
    StoreErrorKind::Refused,
    StoreErrorKind::Unexpected,
    StoreErrorKind::Connection,
];

/// The metric's label for the error.
fn reason(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::HistoryLost => "history_lost",
        StoreErrorKind::Behind => "behind",
        StoreErrorKind::TooLarge => "too_large",
        StoreErrorKind::Refused => "refused",
        StoreErrorKind::Unexpected => "ended",
        StoreErrorKind::Connection => "connection",
    }
}

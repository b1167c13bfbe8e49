//! Finds what is unpublished: sweep, then tail, and on any error both again.
//!
//! The sweep reads the outbox as of one cluster time and the tail begins just after it, so together
//! they neither leave a gap nor overlap. There is no resume token to store, lose or outlive: the
//! outbox itself says what is unpublished.

pub(crate) mod found;
mod sweep;
mod tail;

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::found::{Closed, Found};
use super::clock;
use super::ports::{EventStore, StoreErrorKind};
use crate::telemetry::metrics::Metrics;

/// Wait before sweeping again after an error; doubles up to [`MAX_WAIT`], starts over once the tail
/// has been reached.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Follows the outbox until the receiver is closed. Runs as a task of its own: a read that is
/// dropped half-way costs its connection.
pub(crate) async fn follow(store: impl EventStore, found: mpsc::Sender<Found>, metrics: Metrics) {
    let restarts = metrics.stream_restarts(REASONS.map(|kind| (kind, reason(kind))));
    let mut wait = FIRST_WAIT;
    for number in 0.. {
        let ended = match sweep::sweep(&store, number, &found).await {
            Ok(Ok(at)) => {
                debug!(sweep = number, at = at.time, "swept; tailing");
                tail::tail(&store, at, &found, || wait = FIRST_WAIT).await
            }
            Ok(Err(closed)) => Ok(closed),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Closed) => return,
            Err(error) => {
                warn!(%error, "following the outbox failed; sweeping again");
                restarts.add(error.kind);
            }
        }
        tokio::select! {
            biased;
            () = found.closed() => return,
            () = tokio::time::sleep(clock::jitter(wait, 0.5..1.0)) => {}
        }
        wait = (wait * 2).min(MAX_WAIT);
    }
}

/// Why the change stream can end.
const REASONS: [StoreErrorKind; 5] = [
    StoreErrorKind::HistoryLost,
    StoreErrorKind::TooLarge,
    StoreErrorKind::Refused,
    StoreErrorKind::Unexpected,
    StoreErrorKind::Connection,
];

/// The label of the metric.
fn reason(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::HistoryLost => "history_lost",
        StoreErrorKind::TooLarge => "too_large",
        StoreErrorKind::Refused => "refused",
        StoreErrorKind::Unexpected => "ended",
        StoreErrorKind::Connection => "connection",
    }
}

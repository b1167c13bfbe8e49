//! Follows what commits after the sweep, through a change stream.
//!
//! Reads raw replies: a typed stream skips changes that it can't parse, and copies each change
//! twice. Ends only with an error or when the receiver is closed. After an error the caller sweeps
//! again, so nothing depends on a resume token.

use std::time::Duration;

use bson::{RawDocument, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::found::{Closed, Found, as_document, hand_over};
use crate::relay::clock;
use crate::relay::dispatch::known::Origin;
use crate::relay::ports::{EventPage as _, EventStore, EventTail as _, StoreError, StoreResult};

/// Changes are counted over this time to measure their rate.
const WINDOW: Duration = Duration::from_millis(100);
/// With more changes in a window (a thousand a second), the stream is busy and is read at a pace.
const BUSY: usize = 100;
/// A reply with at least this many changes is followed at once by the next, because many changes
/// wait to be read.
const SMALL: usize = 32;
/// Pause between small replies of a busy stream. It costs the writers of a busy server less. They
/// were measured at 0.87 of their rate without a relay; without the pause, at 0.81.
const PAUSE: Duration = Duration::from_millis(5);

/// Tails from just after `at`. Calls `reached` with each reply of the stream.
pub(super) async fn tail(
    store: &impl EventStore,
    at: Timestamp,
    found: &mpsc::Sender<Found>,
    mut reached: impl FnMut(),
) -> StoreResult<Closed> {
    let mut stream = store.tail(at).await?;
    let mut pace = Pace::new();

    while !found.is_closed() {
        // Returns an empty page about once a second, so that a stop is noticed. Never dropped
        // half-way.
        let page = stream
            .next()
            .await?
            .ok_or_else(|| StoreError::unexpected("the change stream ended"))?;
        reached();

        let mut changes = 0;
        for change in page.documents()? {
            changes += 1;
            if let Err(closed) = take(store, as_document(change)?, found).await? {
                return Ok(closed);
            }
        }

        if pace.is_to_pause(changes) {
            sleep(PAUSE).await;
        }
    }

    Ok(Closed)
}

/// Hands over one change.
async fn take(
    store: &impl EventStore,
    change: &RawDocument,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<(), Closed>> {
    match change.get_str("operationType").map_err(StoreError::unexpected)? {
        "insert" => {
            let document = change.get_document("fullDocument").map_err(StoreError::unexpected)?;
            let now_ms = clock::now().timestamp_millis();
            let committed_ms =
                change.get_datetime("wallTime").ok().map(bson::DateTime::timestamp_millis);

            Ok(hand_over(store, document, Origin::Tail, now_ms, committed_ms, found).await)
        }
        "update" => Ok(found.send(Found::Requested).await.map_err(|_| Closed)),
        operation => {
            Err(StoreError::unexpected(format!("the outbox collection is gone: {operation}")))
        }
    }
}

/// The rate of changes. A stream replies as soon as there is one change, so on a busy server each
/// change would be a reply of its own.
struct Pace {
    /// When the current window began.
    since: Instant,
    /// Changes since then.
    changes: usize,
    /// Whether the last window had more than [`BUSY`].
    busy: bool,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), changes: 0, busy: false }
    }

    /// Counts the changes of a reply. Returns whether to pause before asking for the next.
    fn is_to_pause(&mut self, changes: usize) -> bool {
        self.changes += changes;
        if self.since.elapsed() >= WINDOW {
            self.busy = self.changes > BUSY;
            (self.since, self.changes) = (Instant::now(), 0);
        }
        self.busy && changes < SMALL
    }
}

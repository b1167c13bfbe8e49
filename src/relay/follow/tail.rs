//! Follows what commits after the sweep, through a change stream.
//!
//! Reads raw replies: a typed stream skips what it can't parse, and copies each change twice. Ends
//! only with an error or when nobody wants more; the caller sweeps again, so nothing depends on a
//! resume token.

use std::time::Duration;

use bson::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::found::{Closed, Found, as_document, hand_over};
use crate::relay::clock;
use crate::relay::dispatch::known::Origin;
use crate::relay::ports::{EventPage as _, EventStore, EventTail as _, StoreError, StoreResult};

/// How long changes are counted to know how fast they come.
const WINDOW: Duration = Duration::from_millis(100);
/// Changes in a window above which replies are asked for at a pace: a thousand a second.
const BUSY: usize = 100;
/// Changes of a reply from which the next is asked for at once: many wait to be read.
const SMALL: usize = 32;
/// Pause between small replies of a busy stream. It costs the writers of a busy server less: 0.87
/// of their rate without a relay were measured with it, 0.81 without.
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
        // Returns empty-handed about once a second, which is when a stop is seen. Never dropped
        // half-way.
        let page = stream
            .next()
            .await?
            .ok_or_else(|| StoreError::unexpected("the change stream ended"))?;
        reached();
        let mut count = 0;
        for change in page.documents()? {
            count += 1;
            let change = as_document(change)?;
            match change.get_str("operationType").map_err(StoreError::unexpected)? {
                "insert" => {
                    let document =
                        change.get_document("fullDocument").map_err(StoreError::unexpected)?;
                    let now_ms = clock::now().timestamp_millis();
                    let committed_ms =
                        change.get_datetime("wallTime").ok().map(bson::DateTime::timestamp_millis);
                    if let Err(closed) =
                        hand_over(store, document, Origin::Tail, now_ms, committed_ms, found).await
                    {
                        return Ok(closed);
                    }
                }
                "update" => {
                    if found.send(Found::Requested).await.is_err() {
                        return Ok(Closed);
                    }
                }
                operation => {
                    return Err(StoreError::unexpected(format!(
                        "the outbox collection is gone: {operation}"
                    )));
                }
            }
        }
        if pace.is_to_pause(count) {
            sleep(PAUSE).await;
        }
    }
    Ok(Closed)
}

/// How fast changes come. A stream answers as soon as there is one, so on a busy server each would
/// be a reply of its own.
struct Pace {
    /// When the present window began.
    since: Instant,
    /// Changes since then.
    seen: usize,
    /// Whether the last window had more than [`BUSY`].
    busy: bool,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), seen: 0, busy: false }
    }

    /// Counts the changes of a reply, and says whether to pause before the next is asked for.
    fn is_to_pause(&mut self, changes: usize) -> bool {
        self.seen += changes;
        if self.since.elapsed() >= WINDOW {
            self.busy = self.seen > BUSY;
            (self.since, self.seen) = (Instant::now(), 0);
        }
        self.busy && changes < SMALL
    }
}

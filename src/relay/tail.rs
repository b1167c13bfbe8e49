//! Follows what commits after the sweep, through a change stream.
//!
//! Reads raw replies: a typed stream skips what it can't parse, and copies each change twice. Ends only with an error or when
//! nobody wants more; the caller sweeps again, so nothing depends on a resume token.

use std::time::Duration;

use bson::Timestamp;
use mongodb::error::{Error, Result};
use tokio::sync::mpsc;

use super::clock;
use super::follow::{Closed, FIRST_WAIT, Found, as_document, hand_over};
use super::twins::Origin;
use super::world::{EventStore, EventTail as _};

/// Tails from just after `at`. Resets `wait` once the stream has been reached.
pub(super) async fn tail(
    store: &impl EventStore,
    at: Timestamp,
    found: &mpsc::Sender<Found>,
    wait: &mut Duration,
) -> Result<Closed> {
    let mut stream = store.tail(at).await?;
    while !found.is_closed() {
        // Returns empty-handed about once a second, which is when a stop is seen. Never dropped half-way.
        let changes = stream.next().await?.ok_or_else(|| Error::custom("the change stream ended"))?;
        *wait = FIRST_WAIT;
        for change in &changes {
            let change = as_document(change)?;
            match change.get_str("operationType")? {
                "insert" => {
                    let document = change.get_document("fullDocument")?;
                    let now_ms = clock::now().timestamp_millis();
                    let committed_ms = change.get_datetime("wallTime").ok().map(bson::DateTime::timestamp_millis);
                    if let Err(closed) = hand_over(store, document, Origin::Tail, now_ms, committed_ms, found).await {
                        return Ok(closed);
                    }
                }
                "update" => {
                    if found.send(Found::Requested).await.is_err() {
                        return Ok(Closed);
                    }
                }
                operation => {
                    return Err(Error::custom(format!("the outbox collection is gone: {operation}")));
                }
            }
        }
    }
    Ok(Closed)
}

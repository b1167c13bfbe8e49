//! Reads the whole outbox as of one moment, oldest first: everything that was committed before the
//! tail begins.

use bson::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::found::{Closed, Found, as_document, hand_over};
use crate::relay::dispatch::known::Origin;
use crate::relay::ports::{EventPage as _, EventStore, EventSweep as _, StoreResult};

/// Sweeps and returns the moment after which the tail begins. Waits while the relay has no room.
pub(super) async fn sweep(
    store: &impl EventStore,
    number: u64,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<Timestamp, Closed>> {
    let (taken, is_taken) = oneshot::channel();
    if found.send(Found::SweepBegan(number, taken)).await.is_err() || is_taken.await.is_err() {
        return Ok(Err(Closed));
    }

    let mut cursor = store.sweep().await?;
    // The server's clock decides whether an event is due. It counts whole seconds, so this is the
    // end of its second.
    let now_ms = i64::from(cursor.at().time) * 1000 + 999;

    while let Some(page) = cursor.next().await? {
        for document in page.documents()? {
            let document = as_document(document)?;
            if let Err(closed) =
                hand_over(store, document, Origin::Sweep(number), now_ms, None, found).await
            {
                return Ok(Err(closed));
            }
        }
    }

    let ended = found.send(Found::SweepEnded).await;
    Ok(ended.map(|()| cursor.at()).map_err(|_| Closed))
}

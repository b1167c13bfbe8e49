//! What sweep and tail find, and how they hand it over.

use bson::{RawBsonRef, RawDocument};
use tokio::sync::{mpsc, oneshot};

use crate::document::record::Malformed;
use crate::relay::dispatch::known::Origin;
use crate::relay::dispatch::pending::Pending;
use crate::relay::ports::{EventStore, StoreError, StoreResult};

/// Bytes from which a document waits until everything before it was taken: 64 smaller ones come to
/// 4 MiB.
const BIG: usize = 64 << 10;

/// What the reads hand to the relay, in the order they found it.
#[derive(Debug)]
pub(crate) enum Found {
    /// A sweep with this number begins as soon as this is answered: by then everything found before
    /// is taken, and whatever settles from now on may still be in the sweep.
    SweepBegan(u64, oneshot::Sender<()>),
    /// An event, and the server's time (ms since the epoch) by which it is due or not.
    Event(Pending, i64),
    /// A document that doesn't follow the contract.
    Malformed(Box<Malformed>),
    /// An operator wants events published or removed now.
    Requested,
    /// The sweep has handed over everything; what follows is the tail's.
    SweepEnded,
}

/// Nobody wants more.
#[derive(Debug)]
pub(super) struct Closed;

/// What stands in a page.
pub(super) fn as_document(value: bson::error::Result<RawBsonRef<'_>>) -> StoreResult<&RawDocument> {
    let document = value.map_err(StoreError::unexpected)?.as_document();
    document.ok_or_else(|| {
        StoreError::unexpected("a page of the server holds something other than documents")
    })
}

/// Hands over what was read. Big ones one at a time: the receiver's bound on bytes counts only what
/// it has taken.
pub(super) async fn hand_over(
    store: &impl EventStore,
    document: &RawDocument,
    origin: Origin,
    now_ms: i64,
    committed_ms: Option<i64>,
    found: &mpsc::Sender<Found>,
) -> Result<(), Closed> {
    let read = match store.parse(document) {
        Ok(record) => Found::Event(Pending { record: record.into(), origin, committed_ms }, now_ms),
        Err(malformed) => Found::Malformed(malformed),
    };
    if document.as_bytes().len() > BIG {
        drop(found.reserve_many(found.max_capacity()).await.map_err(|_| Closed)?);
    }
    found.send(read).await.map_err(|_| Closed)
}

//! What sweep and tail hand over, and how.

use bson::{RawBsonRef, RawDocument};
use outboxd_client::Key;
use tokio::sync::{mpsc, oneshot};

use crate::document::record::Malformed;
use crate::relay::dispatch::known::Origin;
use crate::relay::dispatch::pending::Pending;
use crate::relay::ports::{EventStore, StoreError, StoreResult};

/// A document of more bytes, or an event that takes more, waits until the receiver has taken
/// everything before it. The channel holds 64 smaller ones, which come to 1 MiB.
const BIG: usize = 16 << 10;

/// What sweep and tail hand to the relay, in the order they found it.
#[derive(Debug)]
pub(crate) enum Found {
    /// A round of a sweep, with this number, begins as soon as this is answered. By then the relay has taken
    /// everything found before. An event that settles afterwards may still be in the round.
    SweepBegan(u64, oneshot::Sender<()>),
    /// Keys that have unlocked events in the database.
    Held(Vec<Key>),
    /// An event, and the time (ms since the epoch) that decides whether it is due.
    Event(Pending, i64),
    /// A document that doesn't follow the contract.
    Malformed(Box<Malformed>),
    /// An operator wants events published or removed now.
    Requested,
    /// The sweep has handed over everything. The tail follows.
    SweepEnded,
}

/// The receiver is closed: the relay wants no more events.
#[derive(Debug)]
pub(super) struct Closed;

/// One value of a page, which must be a document.
pub(super) fn as_document(value: bson::error::Result<RawBsonRef<'_>>) -> StoreResult<&RawDocument> {
    let document = value.map_err(StoreError::unexpected)?.as_document();
    document.ok_or_else(|| {
        StoreError::unexpected("a page of the server holds something other than documents")
    })
}

/// Parses a document and hands it over. Big documents go one at a time, because the receiver's
/// bound on bytes counts only those it has taken.
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

    let bytes = match &read {
        Found::Event(pending, _) => pending.size(),
        _ => 0,
    };
    if document.as_bytes().len().max(bytes) > BIG {
        drop(found.reserve_many(found.max_capacity()).await.map_err(|_| Closed)?);
    }

    found.send(read).await.map_err(|_| Closed)
}

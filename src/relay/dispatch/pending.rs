//! An event on its way through dispatch: first it waits, then it is published.

use bytes::Bytes;

use super::known::Origin;
use crate::document::record::OutboxRecord;

/// Memory of an event besides what its record holds.
const OVERHEAD: usize = 256;

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Boxed: the record moves from queue to queue, and twice into its publish.
    pub(crate) record: Box<OutboxRecord>,
    pub(crate) origin: Origin,
    /// When the event was committed, by MongoDB's clock, if the change stream brought it.
    pub(crate) committed_ms: Option<i64>,
}

impl Pending {
    /// What the event counts against the bounds on bytes.
    pub(crate) fn size(&self) -> usize {
        self.record.bytes() + OVERHEAD
    }
}

/// An event that holds its lane and a place among those in flight. Only [`Dispatch::next`] makes
/// one. [`Dispatch::delivered`], [`Dispatch::given_back`], [`Dispatch::failed`] and
/// [`Dispatch::abandoned`] take it back.
///
/// [`Dispatch::next`]: super::Dispatch::next
/// [`Dispatch::delivered`]: super::Dispatch::delivered
/// [`Dispatch::given_back`]: super::Dispatch::given_back
/// [`Dispatch::failed`]: super::Dispatch::failed
/// [`Dispatch::abandoned`]: super::Dispatch::abandoned
#[derive(Debug)]
pub(crate) struct Dispatched {
    /// The record without its payload.
    pub(crate) record: Box<OutboxRecord>,
    pub(crate) payload: Bytes,
    pub(crate) origin: Origin,
    pub(crate) committed_ms: Option<i64>,
    /// What the event counts against the bound on bytes.
    pub(super) size: usize,
}

impl Dispatched {
    /// The event as it waited.
    pub(super) fn into_pending(self) -> Pending {
        let Self { mut record, payload, origin, committed_ms, .. } = self;
        record.payload = payload.into();
        Pending { record, origin, committed_ms }
    }
}

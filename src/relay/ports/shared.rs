//! What the shared stream needs of the world: one change stream with the changes of many
//! collections.

use std::future::Future;

use bson::{RawDocumentBuf, Timestamp, rawdoc};

use super::{EventTail, StoreResult};

/// A collection, and what is wanted of its changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watched {
    pub(crate) database: String,
    pub(crate) collection: String,
    pub(crate) wanted: Wanted,
}

/// What is wanted of the changes of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// What the tail of an outbox follows: see [`EventStore::tail`](super::EventStore::tail).
    Events,
    /// The due times that are written: see
    /// [`ScheduledStore::alarms`](super::scheduled::ScheduledStore::alarms).
    DueTimes,
}

impl Watched {
    /// The `ns` of its changes, to compare as bytes.
    pub(crate) fn namespace(&self) -> RawDocumentBuf {
        rawdoc! { "db": self.database.as_str(), "coll": self.collection.as_str() }
    }
}

/// Opens change streams of many collections.
pub(crate) trait ChangeSource: Send + Sync + 'static {
    /// A stream that is open.
    type Stream: ChangeStream;

    /// Opens a stream of what is wanted: from now on, or from where another stream is, which
    /// must want nothing else unless [`ChangeStream::may_drop`]. `None` if the user has no right to
    /// it.
    fn open(
        &self,
        watched: &[Watched],
        from: Option<&<Self::Stream as ChangeStream>::Place>,
    ) -> impl Future<Output = StoreResult<Option<Self::Stream>>> + Send;
}

/// The changes of many collections in one stream, each with its `ns`. A call of
/// [`EventTail::next`] may be dropped: the next call continues it.
pub(crate) trait ChangeStream: EventTail {
    /// Where a stream is: another one continues there without a gap.
    type Place: Send + Sync;

    /// The time after which it began. Nothing that was committed later is missing.
    fn began(&self) -> Timestamp;

    /// Behind the newest page.
    fn place(&self) -> Self::Place;

    /// Whether a stream that continues here may leave out collections of this one.
    fn may_drop(&self) -> bool;
}

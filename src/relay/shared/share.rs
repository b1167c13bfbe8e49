//! The follower's side of a shared stream.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawArray, RawArrayBuf, Timestamp};

use super::buffer::Buffer;
use crate::relay::ports::{self, EventPage, EventTail, StoreError, StoreResult};

/// How long a quiet share waits for a change: a stop is noticed after this long at most.
const WAIT: Duration = Duration::from_secs(1);

/// The changes of one collection in the shared stream. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Share {
    buffer: Arc<Buffer>,
    /// The time after which the stream began.
    began: Timestamp,
    /// What was committed up to this time is left out.
    after: Option<Timestamp>,
    /// Whether the newest page may end within a transaction.
    is_cut: bool,
}

impl Share {
    pub(super) fn new(buffer: Arc<Buffer>, began: Timestamp) -> Self {
        Self { buffer, began, after: None, is_cut: false }
    }

    /// Whether it has everything after this time, that of a list, that the list doesn't have. It has
    /// not if the buffer was too small, or the stream has ended. Or if a member that was no primary
    /// any more gave the time at which the stream began, later than that of the list.
    pub(super) fn covers(&self, after: Timestamp) -> bool {
        self.began <= after && !self.buffer.has_ended()
    }

    /// The next changes, without those that are to be left out; none if nothing changed for a while.
    pub(crate) async fn changes(&mut self) -> StoreResult<RawArrayBuf> {
        let Some(part) = self.buffer.take(WAIT).await? else { return Ok(RawArrayBuf::new()) };
        self.is_cut = part.is_cut;

        match self.after {
            None => Ok(part.changes),
            Some(after) => self.later(&part.changes, after),
        }
    }

    fn later(&mut self, changes: &RawArray, after: Timestamp) -> StoreResult<RawArrayBuf> {
        let mut later = RawArrayBuf::new();
        for change in changes {
            let change = change.map_err(StoreError::unexpected)?;
            let at =
                change.as_document().and_then(|change| change.get_timestamp("clusterTime").ok());
            let at = at.ok_or_else(|| StoreError::unexpected("a change without its time"))?;
            if at > after {
                // The stream is in the order of these times.
                self.after = None;
                later.push(change);
            }
        }

        Ok(later)
    }
}

/// What an outbox's tail can begin from.
#[derive(Debug)]
pub(crate) enum Joined {
    /// A stream of its own, which can begin at any time.
    Own,
    Shared(Share),
}

impl ports::Joined for Joined {
    fn covers(&self, after: Timestamp) -> bool {
        match self {
            Self::Own => true,
            Self::Shared(share) => share.covers(after),
        }
    }
}

/// The tail of an outbox: a stream of its own, or its share of one.
#[derive(Debug)]
pub(crate) enum Tail<T> {
    Own(T),
    Shared(Share),
}

impl<T> Tail<T> {
    /// What was committed after this time.
    pub(crate) fn shared(share: Share, after: Timestamp) -> Self {
        Self::Shared(Share { after: Some(after), ..share })
    }
}

/// A page of either.
#[derive(Debug)]
pub(crate) enum TailPage<P> {
    Own(P),
    Shared(RawArrayBuf),
}

impl<P: EventPage> EventPage for TailPage<P> {
    fn documents(&self) -> StoreResult<&RawArray> {
        match self {
            Self::Own(page) => page.documents(),
            Self::Shared(changes) => Ok(changes),
        }
    }
}

impl<T: EventTail> EventTail for Tail<T> {
    type Page = TailPage<T::Page>;

    async fn next(&mut self) -> StoreResult<Option<Self::Page>> {
        Ok(match self {
            Self::Own(stream) => stream.next().await?.map(TailPage::Own),
            Self::Shared(share) => Some(TailPage::Shared(share.changes().await?)),
        })
    }

    fn may_be_cut(&self, changes: usize, bytes: usize) -> bool {
        match self {
            Self::Own(stream) => stream.may_be_cut(changes, bytes),
            Self::Shared(share) => share.is_cut,
        }
    }
}

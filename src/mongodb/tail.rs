//! The change stream that the tail reads: its pipeline, and when one of its replies may end within
//! a transaction.
//!
//! The server evaluates the pipeline for each change of the collection, the relay's own deletes
//! included. 40,000 events and their deletes cost it 0.65 s of processor time with inserts alone,
//! and 0.70 s with all of this.

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use futures_util::StreamExt as _;
use mongodb::Collection;
use mongodb::action::Aggregate;
use mongodb::error::Result;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::pace::Pace;
use super::wanted::{requested, wanted};
use crate::relay::ports::{EventTail, StoreResult};

/// Changes per reply: typical events come to half a megabyte. Without it the server fills 16 MB, of
/// which the driver holds two copies for a moment.
const REPLY: u32 = 1000;
/// How long the server waits for something to happen before it answers a quiet tail: a stop is
/// noticed after this long at most.
const WAIT: Duration = Duration::from_secs(1);
/// A larger document isn't in the stream; the tail reads it from the outbox. The server ends a reply
/// before a change that doesn't fit, so without this bound any reply might be cut. Twice what a
/// nats-server takes unless it is configured.
const LARGE: i64 = 2 << 20;
/// The server ends a reply before the change that would bring it to 16 MiB. A reply of fewer bytes
/// than this has room for any change: for [`LARGE`] and as much again for ids and resume token.
const FULL: usize = (16 << 20) - 2 * LARGE as usize;

/// See the module.
pub(crate) struct TailCursor {
    cursor: RawBatchCursor,
    pace: Pace,
}

impl TailCursor {
    /// Follows `collection` from just after `at`.
    pub(super) async fn open<T: Send + Sync>(
        collection: &Collection<T>,
        at: Timestamp,
    ) -> Result<Self> {
        Self::of(collection.aggregate(pipeline(at))).await
    }

    /// The change stream of a pipeline.
    pub(super) async fn of(stream: Aggregate<'_>) -> Result<Self> {
        let cursor = stream.batch_size(REPLY).max_await_time(WAIT).batch().await?;
        Ok(Self { cursor, pace: Pace::new() })
    }
}

impl EventTail for TailCursor {
    type Page = RawBatch;

    async fn next(&mut self) -> StoreResult<Option<RawBatch>> {
        self.pace.pause().await;
        // The cursor keeps a request that is under way when this is dropped.
        let page = self.cursor.next().await.transpose()?;

        if let Some(page) = &page {
            self.pace.count(page.doc_slices()?.into_iter().count());
        }
        Ok(page)
    }

    fn may_be_cut(&self, changes: usize, bytes: usize) -> bool {
        changes >= REPLY as usize || bytes >= FULL
    }
}

fn pipeline(at: Timestamp) -> [Document; 3] {
    [
        // `startAtOperationTime` is inclusive.
        doc! { "$changeStream": { "startAtOperationTime": following(at) } },
        doc! { "$match": { "$or": wanted().to_vec() } },
        doc! { "$project": kept() },
    ]
}

/// What the tail reads of a change.
pub(super) fn kept() -> Document {
    let is_large = doc! { "$gte": [{ "$bsonSize": "$fullDocument" }, LARGE] };
    // `_id` is the resume token and must stay.
    let mut kept = doc! {
        "operationType": 1,
        "clusterTime": 1,
        "wallTime": 1,
        "documentKey": 1,
        "txnNumber": 1,
        "fullDocument": { "$cond": [is_large, "$$REMOVE", "$fullDocument"] },
    };
    kept.extend(requested().map(|field| (field, 1.into())));
    kept
}

/// The next cluster time after `at`.
pub(super) fn following(at: Timestamp) -> Timestamp {
    match at.increment.checked_add(1) {
        Some(increment) => Timestamp { time: at.time, increment },
        None => Timestamp { time: at.time.saturating_add(1), increment: 0 },
    }
}

//! Reads of the outbox as of one moment that is not from before the relay's own marks and parks.
//!
//! A primary that was just elected has everything a majority had, but may not know yet that a
//! majority had it: for a moment it shows snapshots from before writes that were acknowledged. In
//! those an event that is parked doesn't show as unlocked, and a later one of its key could pass
//! it. So the relay remembers when its newest write was and refuses what is older.

use std::sync::{Arc, Mutex, PoisonError};

use bson::{Document, Timestamp};
use futures_util::StreamExt as _;
use mongodb::error::{Error, Result};
use mongodb::raw_batch_cursor::{RawBatch, SessionRawBatchCursor};
use mongodb::{Client, ClientSession};

use crate::relay::ports::{EventSweep, StoreResult};

/// The cluster time of the newest write that a majority has, shared by all that read and write one
/// outbox.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(Arc<Mutex<Option<Timestamp>>>);

impl Written {
    /// Takes the time from the reply to a write with `w: majority`.
    pub(super) fn learn(&self, reply: &Document) {
        // `operationTime` is that of the server's newest write by any client: a majority may not
        // have that one yet. It is only used where there is nothing better, behind mongos.
        let precise = reply.get_document("opTime").and_then(|at| at.get_timestamp("ts"));
        let Ok(at) = precise.or_else(|_| reply.get_timestamp("operationTime")) else { return };
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = newest.max(Some(at));
    }

    fn newest(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One moment of the outbox, which the server picks with the first read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) session: ClientSession,
    /// What was written before the first read, and must be in it. What is written during it need
    /// not.
    written: Option<Timestamp>,
}

impl Snapshot {
    pub(super) async fn begin(client: &Client, written: &Written) -> Result<Self> {
        let written = written.newest();
        Ok(Self { session: client.start_session().snapshot(true).await?, written })
    }

    /// Whether the first read, once it is answered, shows what was committed at `at`.
    ///
    /// # Errors
    /// When it doesn't: the caller must repeat the read.
    pub(super) fn reaches(&self, at: Timestamp) -> Result<()> {
        let shown = self.time()?;
        if shown < at {
            let message = format!("the server showed the moment {shown}, before {at}");
            return Err(Error::custom(message));
        }
        Ok(())
    }

    /// The moment, once the first read is answered.
    ///
    /// # Errors
    /// When it is from before this relay's own writes: the caller must repeat the read.
    pub(super) fn time(&self) -> Result<Timestamp> {
        match (self.session.snapshot_time(), self.written) {
            (None, _) => Err(Error::custom("the server answered a snapshot read without its time")),
            (Some(at), Some(written)) if at < written => {
                let message = format!(
                    "the server showed the moment {at}, before this relay's own write at {written}"
                );
                Err(Error::custom(message))
            }
            (Some(at), _) => Ok(at),
        }
    }
}

/// The outbox as of one moment, oldest event first.
pub(crate) struct SweepCursor {
    snapshot: Snapshot,
    cursor: SessionRawBatchCursor,
    at: Timestamp,
}

impl SweepCursor {
    pub(super) fn new(snapshot: Snapshot, cursor: SessionRawBatchCursor) -> Result<Self> {
        Ok(Self { at: snapshot.time()?, snapshot, cursor })
    }
}

impl EventSweep for SweepCursor {
    type Page = RawBatch;

    fn at(&self) -> Timestamp {
        self.at
    }

    async fn next(&mut self) -> StoreResult<Option<RawBatch>> {
        Ok(self.cursor.stream(&mut self.snapshot.session).next().await.transpose()?)
    }
}

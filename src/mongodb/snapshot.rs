//! Reads of the outbox as of one moment that is not from before the relay's own marks and parks.
//!
//! Such a read is a transaction that writes nothing. MongoDB has snapshot reads outside of
//! transactions too, but it keeps their moment only for `minSnapshotHistoryWindowInSeconds`: a read
//! that takes longer fails, and with a short window so does any that yields, which is one of more
//! than a thousand documents. The snapshot of a transaction stays as long as the transaction does.
//!
//! A primary that was just elected has everything a majority had, but may not know yet that a
//! majority had it. So the relay remembers when its newest write was, and the transaction waits
//! until the primary has that. A transaction reads what the primary has, which a majority may not
//! have yet; so it counts only once it is committed with a majority.

use std::sync::{Arc, Mutex, PoisonError};

use bson::{Document, Timestamp};
use mongodb::error::Result;
use mongodb::options::{ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, ClientSession};

use super::clock;

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

    /// A session whose reads show all of these writes.
    pub(super) async fn session(&self, client: &Client) -> Result<ClientSession> {
        let newest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = client.start_session().causal_consistency(true).await?;
        if let Some(at) = newest {
            session.advance_operation_time(at);
        }
        Ok(session)
    }
}

/// One moment of the outbox, which the server picks with the first read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) session: ClientSession,
}

impl Snapshot {
    /// Begins a snapshot that has everything the session has seen so far.
    pub(super) async fn of(mut session: ClientSession) -> Result<Self> {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority())
            .selection_criteria(primary)
            .await?;

        Ok(Self { session })
    }

    /// The newest time that the session has seen: once a read is answered, that of the snapshot or
    /// a little later.
    pub(super) fn newest(&self) -> Result<Timestamp> {
        clock::seen(&self.session)
    }

    /// Ends the snapshot. Until then nothing that was read from it counts.
    ///
    /// # Errors
    /// When a majority may not have what was read.
    pub(super) async fn end(mut self) -> Result<ClientSession> {
        self.session.commit_transaction().await?;
        Ok(self.session)
    }
}

//! Writing events inside the service's own transaction.

use bson::{Document, RawDocumentBuf, Timestamp, doc};
use mongodb::error::ErrorKind;
use mongodb::{ClientSession, Collection, Database};

use crate::event::{DEFAULT_MAX_PAYLOAD_BYTES, Event, EventError, EventId};
use crate::field;
use crate::validator;

/// Why an event was not enqueued, scheduled, cancelled or rescheduled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The session has no transaction under way. Without one, the event could be written and the
    /// record not.
    #[error(
        "the outbox was called outside a transaction; start one on the session, write the record and the event in it, \
         and commit both"
    )]
    NotInTransaction,
    /// The event breaks the contract.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The collection's validator refused the event. The contract is checked before, so the
    /// validator is one that somebody changed, or of another version.
    #[error("the validator of the collection refuses the event: {reasons}")]
    Refused {
        /// What the validator demands, as far as it has words for it.
        reasons: String,
        /// The driver's error.
        #[source]
        error: mongodb::error::Error,
    },
    /// MongoDB refused the write or could not be reached. The error has the driver's labels, so
    /// that a transaction can be retried.
    #[error(transparent)]
    Mongodb(mongodb::error::Error),
}

impl From<mongodb::error::Error> for EnqueueError {
    fn from(error: mongodb::error::Error) -> Self {
        match validator::reasons(&error) {
            Some(reasons) => Self::Refused { reasons, error },
            None => Self::Mongodb(error),
        }
    }
}

/// Lets `?` carry the error out of the callback of `start_transaction().and_run(…)`, with the
/// labels the driver retries on.
impl From<EnqueueError> for mongodb::error::Error {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Mongodb(error) | EnqueueError::Refused { error, .. } => error,
            other => mongodb::error::Error::custom(other),
        }
    }
}

/// A service's outbox: the collection its events are written to.
///
/// Cheap to clone. `outboxd migrate` creates the collection and its validator.
#[derive(Debug, Clone)]
pub struct Outbox {
    collection: Collection<RawDocumentBuf>,
    /// Events that are published later: see `schedule`.
    pub(crate) scheduled: Collection<RawDocumentBuf>,
    max_payload_bytes: usize,
}

impl Outbox {
    /// The outbox in `database`, in the collection named `collection` (`outbox` unless the relay's
    /// config says otherwise).
    pub fn new(database: &Database, collection: &str) -> Self {
        Self {
            collection: database.collection(collection),
            scheduled: database.collection(&field::scheduled_collection(collection)),
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
        }
    }

    /// Sets the longest payload that is accepted, in bytes as published; the default is
    /// [`DEFAULT_MAX_PAYLOAD_BYTES`]. Raise it together with `max_payload` of nats-server, and keep
    /// it 32 KiB below that.
    #[must_use]
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// Writes one event in the transaction under way on `session`. It is published once that
    /// transaction has committed, and never if it rolls back.
    ///
    /// With the feature `opentelemetry`, the event carries the current span in the headers
    /// `traceparent` and `tracestate`, unless it has a `traceparent` of its own.
    ///
    /// # Errors
    /// [`EnqueueError`]. Nothing was written. Abort the transaction, or retry it if the error has
    /// the driver's label for that.
    pub async fn enqueue(
        &self,
        session: &mut ClientSession,
        event: Event,
    ) -> Result<EventId, EnqueueError> {
        require_transaction(session).await?;

        let id = event.id.clone();
        let document = raw(&self.document(event)?)?;
        self.collection.insert_one(document).session(session).await?;
        Ok(id)
    }

    /// Writes events in one command, in the transaction under way on `session`. Events of one key
    /// are published in the order given. An empty list writes nothing.
    ///
    /// # Errors
    /// As [`Outbox::enqueue`]; if one event is refused none is written.
    pub async fn enqueue_many(
        &self,
        session: &mut ClientSession,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Vec<EventId>, EnqueueError> {
        require_transaction(session).await?;

        let mut ids = Vec::new();
        let mut documents = Vec::new();
        for event in events {
            ids.push(event.id.clone());
            documents.push(raw(&self.document(event)?)?);
        }

        if !documents.is_empty() {
            self.collection.insert_many(documents).session(session).await?;
        }

        Ok(ids)
    }

    #[cfg_attr(not(feature = "opentelemetry"), allow(unused_mut, reason = "only a trace is added"))]
    pub(crate) fn document(&self, mut event: Event) -> Result<Document, EnqueueError> {
        if event.published_len > self.max_payload_bytes {
            let error = EventError::PayloadTooLong {
                bytes: event.published_len,
                limit: self.max_payload_bytes,
            };
            return Err(error.into());
        }

        #[cfg(feature = "opentelemetry")]
        crate::trace::carry(&mut event.headers, &crate::trace::current());

        let mut document = doc! {
            field::ID: event.id,
            // The server fills an empty Timestamp with its cluster time; that is the order within a
            // key.
            field::TS: Timestamp { time: 0, increment: 0 },
            field::SUBJECT: event.subject.as_str(),
        };

        if let Some(key) = &event.key {
            document.insert(field::KEY, key.as_str());
        }

        document.insert(field::PAYLOAD, event.payload);
        if !event.headers.is_empty() {
            let headers: Document =
                event.headers.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            document.insert(field::HEADERS, headers);
        }

        document.insert(field::IS_LOCKED, true);
        document.insert(field::FAILURES, bson::Array::new());
        Ok(document)
    }
}

pub(crate) fn raw(document: &Document) -> Result<RawDocumentBuf, EnqueueError> {
    Ok(RawDocumentBuf::try_from(document).map_err(mongodb::error::Error::from)?)
}

/// The driver has no call that reports whether a session is in a transaction. But it refuses to
/// start a second one, and to start and abort an unused one sends nothing to the server.
pub(crate) async fn require_transaction(session: &mut ClientSession) -> Result<(), EnqueueError> {
    match session.start_transaction().await {
        Ok(()) => {
            session.abort_transaction().await?;
            Err(EnqueueError::NotInTransaction)
        }
        Err(error) => match &*error.kind {
            ErrorKind::Transaction { message, .. } if message.contains("already in progress") => {
                Ok(())
            }
            _ => Err(error.into()),
        },
    }
}

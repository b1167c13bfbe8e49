//! What the core needs of the world, in the core's own types: an outbox, a stream and a lease.
//!
//! The adapters `mongodb` and `jetstream` implement these traits for the daemon; `simulation`
//! implements them over memory that loses, delays and repeats. Documents are BSON, because the
//! event contract is; no driver's type passes through here.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bson::{Bson, DateTime, RawArray, RawDocument, Timestamp};
use bytes::Bytes;
use outboxd_client::{EventId, Headers, Key, Subject};
use tokio::sync::watch;
use tokio::time::Instant;

use super::publish::outcome::Acked;
use crate::document::record::{Malformed, OutboxRecord};
use crate::failure::Rejection;

/// The outbox. Every write is durable once it returns, and repeating it does no harm. Reads that
/// decide about order show one moment, which is never older than the relay's own marks and parks.
pub(crate) trait EventStore: Clone + Send + Sync + 'static {
    /// See [`EventStore::sweep`].
    type Sweep: EventSweep;
    /// See [`EventStore::tail`].
    type Tail: EventTail;

    /// Parses a document of the outbox.
    fn parse(&self, document: &RawDocument) -> Parsed;

    /// Starts to read the whole outbox as of one moment, the oldest event of a key first.
    fn sweep(&self) -> impl Future<Output = StoreResult<Self::Sweep>> + Send;

    /// Follows what commits after `at`: inserts, and requests of operators. The relay's own marks
    /// and deletes are left out.
    fn tail(&self, at: Timestamp) -> impl Future<Output = StoreResult<Self::Tail>> + Send;

    /// Removes delivered events. Only an ack makes an [`Acked`].
    fn delete(&self, acked: &[Acked]) -> impl Future<Output = StoreResult<()>> + Send;

    /// Marks failed events. Returns those that can never be marked, such as one whose 16 MB have
    /// no room left for a failure.
    fn mark(&self, marks: &[Mark]) -> impl Future<Output = StoreResult<Vec<Refused>>> + Send;

    /// Hands events that wait behind a failed one to the retrier, in this order, up to the first
    /// one that the store refuses. Returns that one.
    fn park(&self, ids: &[EventId]) -> impl Future<Output = StoreResult<Option<Refused>>> + Send;

    /// Removes events unpublished, because an operator asked for it.
    fn discard(&self, ids: &[EventId]) -> impl Future<Output = StoreResult<()>> + Send;

    /// The unlocked events that are due: of each key only its oldest, and only if that one is
    /// neither dead nor waiting. Half of the room is for events without a key.
    fn due(&self, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The unlocked events that an operator asked to remove.
    fn discards(&self, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The locked events that are older than `age` by the server's clock, oldest first: those that
    /// no tail will bring.
    fn stray(&self, age: Duration, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The oldest unlocked events of one key, oldest first, waiting ones included; dead ones unless
    /// they are skipped.
    fn unlocked(&self, key: &Key, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;
}

/// Documents as they came, in one reply.
pub(crate) trait EventPage: Send + Sync {
    fn documents(&self) -> StoreResult<&RawArray>;
}

/// The outbox as of one moment.
pub(crate) trait EventSweep: Send {
    type Page: EventPage;

    /// The moment: everything committed up to and including this is in the sweep, everything after
    /// it in the tail.
    fn at(&self) -> Timestamp;

    /// The next page of documents, or `None` at the end.
    fn next(&mut self) -> impl Future<Output = StoreResult<Option<Self::Page>>> + Send;
}

/// A change stream.
pub(crate) trait EventTail: Send {
    type Page: EventPage;

    /// The next changes; an empty page when nothing changed for a while; `None` when the stream has
    /// ended.
    fn next(&mut self) -> impl Future<Output = StoreResult<Option<Self::Page>>> + Send;
}

/// At most how much a read brings. One event more than `bytes` allow, so that a big one gets its
/// turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) events: usize,
    /// Bytes of documents.
    pub(crate) bytes: usize,
}

impl Room {
    pub(crate) fn is_none(self) -> bool {
        self.events == 0 || self.bytes == 0
    }

    pub(crate) fn at_most(self, events: usize) -> Self {
        Self { events: self.events.min(events), ..self }
    }
}

/// An event, or why its document cannot be published.
pub(crate) type Parsed = Result<OutboxRecord, Box<Malformed>>;

/// What a bounded read brought.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<Parsed>,
    /// Whether there may be more than there was room for.
    pub(crate) more: bool,
}

/// The mark of a failed publish.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) id: Bson,
    pub(crate) at: DateTime,
    pub(crate) attempts: u32,
    pub(crate) class: &'static str,
    pub(crate) code: String,
    pub(crate) error: String,
    pub(crate) relay: String,
    pub(crate) next: Next,
}

/// What becomes of a failed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The retrier publishes it again after this long.
    RetryAfter(Duration),
    /// Only an operator moves it.
    Dead,
}

/// A mark or a park that the store will never write.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its place among those of the command.
    pub(crate) index: usize,
    pub(crate) error: String,
}

pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// Why the outbox or the lease could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreError {
    pub(crate) kind: StoreErrorKind,
    message: String,
}

/// What went wrong, as far as the core tells errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreErrorKind {
    /// The change stream's history no longer reaches back far enough.
    HistoryLost,
    /// A change is over the server's limit of 16 MB.
    TooLarge,
    /// The server refused the command.
    Refused,
    /// A reply was not what the command asks for, or a stream ended.
    Unexpected,
    /// The server could not be reached.
    Connection,
}

impl StoreError {
    pub(crate) fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// For a reply that breaks the protocol.
    pub(crate) fn unexpected(message: impl fmt::Display) -> Self {
        Self::new(StoreErrorKind::Unexpected, message.to_string())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// The stream that events are published to.
pub(crate) trait EventBus: Clone + Send + Sync + 'static {
    /// Publishes, and waits for the ack.
    fn publish(&self, message: Message<'_>) -> impl Future<Output = Result<Ack, Rejection>> + Send;

    /// Whether the connection is up.
    fn connected(&self) -> &watch::Receiver<bool>;

    /// Whether the server denied a publish to this subject after `since`.
    fn denied(&self, subject: &str, since: Instant) -> bool;

    /// Whether the stream takes this subject; `None` when its configuration is unknown.
    fn covers(&self, subject: &str) -> impl Future<Output = Option<bool>> + Send;
}

/// A message on its way to the stream.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    pub(crate) subject: &'a Subject,
    /// The headers of the event, those of its layout and its trace included.
    pub(crate) headers: &'a Headers,
    /// `Nats-Msg-Id`: the stream drops a second message with the same one.
    pub(crate) id: &'a str,
    /// `Nats-Expected-Stream`: another stream refuses the message.
    pub(crate) stream: &'a str,
    pub(crate) payload: Bytes,
}

/// The stream's answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The stream that has the message.
    pub(crate) stream: String,
    /// The message's sequence in it.
    pub(crate) sequence: u64,
    /// Whether the stream had a message with this id already.
    pub(crate) duplicate: bool,
}

/// The lease's document, as one holder sees it. The server's clock decides.
pub(crate) trait LeaseStore: Clone + Send + Sync + 'static {
    /// The name of this holder.
    fn holder(&self) -> &str;

    /// Takes the lease if it is free, expired or already this holder's. Returns the number of the
    /// new term.
    fn claim(&self, ttl: Duration) -> impl Future<Output = StoreResult<Option<i64>>> + Send;

    /// Extends this term. Returns false when another holder has the lease.
    fn renew(&self, term: i64, ttl: Duration) -> impl Future<Output = StoreResult<bool>> + Send;

    /// Ends this term now.
    fn release(&self, term: i64) -> impl Future<Output = StoreResult<()>> + Send;
}

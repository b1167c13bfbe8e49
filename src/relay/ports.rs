//! What the core needs from outside, in the core's own types: an outbox, a stream and a lease.
//!
//! The adapters `mongodb` and `jetstream` implement these traits for the daemon; `simulation`
//! implements them over memory that loses, delays and repeats. Documents are BSON, because the
//! event contract is. No driver's type passes through here.

mod message;
pub(crate) mod scheduled;
pub(crate) mod shared;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bson::{DateTime, RawArray, RawDocument, Timestamp};
use outboxd_client::{EventId, Key};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(crate) use self::message::{Ack, Burst, Message};
use super::listing::{IdSet, Listing, Moment, RawId};
use super::publish::outcome::{Acked, Held};
use super::watermark::{Compared, Epoch, Found, Rewound, Watermark};
use crate::document::record::{Malformed, OutboxRecord};
use crate::failure::Rejection;

/// The outbox. Every write is durable once it returns, and may be repeated without harm. A read that
/// decides about order shows one moment, never older than the relay's own marks and parks.
pub(crate) trait EventStore: Clone + Send + Sync + 'static {
    /// See [`EventStore::fetch`].
    type Page: EventPage;
    /// See [`EventStore::join`].
    type Joined: Joined;
    /// See [`EventStore::tail`].
    type Tail: EventTail;

    /// From now on, makes payloads up to so many bytes only. What is longer can't be published, and
    /// its JSON may be several times as long as the document.
    fn limit_payloads(&self, bytes: usize);

    /// Parses a document of the outbox.
    fn parse(&self, document: &RawDocument) -> Parsed;

    /// Lists the oldest locked events as of one moment, without those of some keys: at most so
    /// many, besides those in a set. Ends where the list has so many of the set that [`IdSet::is_full`].
    fn list(
        &self,
        most: usize,
        without: &[Key],
        before: &IdSet,
    ) -> impl Future<Output = StoreResult<Listing>> + Send;

    /// Begins to collect what commits from now on, if that is how the outbox is followed. A list
    /// that is read after this shows everything that is not collected.
    fn join(&self) -> impl Future<Output = StoreResult<Self::Joined>> + Send;

    /// Follows the inserts and the operators' requests that commit after `at`, and what else transactions
    /// do to events, but for the relay's own. `at` is the time of a list read after joining that it covers.
    fn tail(
        &self,
        joined: Self::Joined,
        at: Timestamp,
    ) -> impl Future<Output = StoreResult<Self::Tail>> + Send;

    /// Removes events published in this epoch, after keeping them if they are to be kept. Only an ack
    /// makes an [`Acked`]. Returns those that the store will never remove.
    fn delete(
        &self,
        acked: &[Acked],
        epoch: Epoch,
    ) -> impl Future<Output = StoreResult<Vec<Refused>>> + Send;

    /// Marks failed events. Returns those that can never be marked, such as one whose 16 MB have
    /// no room left for a failure.
    fn mark(&self, marks: &[Mark]) -> impl Future<Output = StoreResult<Vec<Refused>>> + Send;

    /// Hands events that wait behind a failed one to the retrier, in this order. Stops at the first
    /// event that the store refuses and returns it.
    fn park(&self, ids: &[EventId]) -> impl Future<Output = StoreResult<Option<Refused>>> + Send;

    /// Leaves events to the operator who asked to remove them, if the request still holds. Returns
    /// at most how many, and those of which the store will never write this. The operator's command
    /// deletes them, so it alone knows how many it has deleted.
    fn grant_discards(
        &self,
        ids: &[EventId],
    ) -> impl Future<Output = StoreResult<(u64, Vec<Refused>)>> + Send;

    /// The unlocked events that are due. Of each key it returns only the oldest one, if that is due
    /// and not dead; dead ones don't count if they are skipped. Without an order, every due event
    /// is returned. Half of the room is for events without a key. Leaves out some events.
    fn due(&self, room: Room, except: &[RawId]) -> impl Future<Output = StoreResult<Page>> + Send;

    /// Whether there is no event at all, in whatever state.
    fn is_empty(&self) -> impl Future<Output = StoreResult<bool>> + Send;

    /// The unlocked events that an operator asked to remove and has not been granted yet.
    fn discards(&self, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The oldest unlocked events of one key, oldest first. Events that are not due are included,
    /// and so are dead ones unless the configuration skips them.
    fn unlocked(&self, key: &Key, room: Room) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The locked events that are older than `age` by the server's clock, oldest first. Sweep and
    /// tail have passed them over, but the tail may still bring one. Leaves out those of some keys,
    /// and some events.
    fn passed_over(
        &self,
        age: Duration,
        room: Room,
        without: &[Key],
        except: &[RawId],
    ) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The oldest locked events of these keys, oldest first, whichever key they are of.
    fn locked(&self, of: &[RestOf], room: Room) -> impl Future<Output = StoreResult<Dated>> + Send;

    /// Sends the keys that have unlocked events which hold up later ones, as they are at `since` or
    /// later, a few at a time: there may be millions. Those of dead events may be left out if they
    /// were sent at `before`. A key may be sent twice.
    fn held(
        &self,
        since: Timestamp,
        before: Option<Timestamp>,
        keys: mpsc::Sender<Vec<Key>>,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// The documents with these ids in any order, none older than at `since`; not what is gone,
    /// and not those of some keys.
    fn fetch(
        &self,
        ids: &[&[u8]],
        since: Timestamp,
        without: &[Key],
    ) -> impl Future<Output = StoreResult<Fetched<Self::Page>>> + Send;
}

/// The documents of one reply, not parsed yet.
pub(crate) trait EventPage: Send + Sync {
    fn documents(&self) -> StoreResult<&RawArray>;
}

/// What [`EventStore::fetch`] read.
#[derive(Debug)]
pub(crate) struct Fetched<P> {
    pub(crate) page: P,
    /// Whether some documents didn't fit in the reply. One document always fits.
    pub(crate) is_cut: bool,
}

/// What a tail begins from.
pub(crate) trait Joined: Send + Sync {
    /// Whether a tail can begin after this time, that of a list, and miss nothing that the list
    /// doesn't have. If it can't, joining and listing again helps.
    fn covers(&self, after: Timestamp) -> bool;
}

/// A change stream.
pub(crate) trait EventTail: Send {
    type Page: EventPage;

    /// The next changes. The page is empty if nothing changed for a while. Returns `None` when the
    /// stream has ended.
    fn next(&mut self) -> impl Future<Output = StoreResult<Option<Self::Page>>> + Send;

    /// Whether a page of so many changes and bytes may end within a transaction, which the next
    /// page continues.
    fn may_be_cut(&self, changes: usize, bytes: usize) -> bool;
}

/// The most that a read may return. It may return one event more than `bytes` allows, so that a big
/// event gets its turn.
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

/// The locked events of a key that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestOf {
    pub(crate) key: Key,
    /// The first `ts`. From the time zero on, those without a `ts` are included; from others on, they
    /// may be.
    pub(crate) from: Timestamp,
}

/// An event, or why its document cannot be published.
pub(crate) type Parsed = Result<OutboxRecord, Box<Malformed>>;

/// The result of a bounded read.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<Parsed>,
    /// Whether there may be more than there was room for.
    pub(crate) more: bool,
    /// The moment that the read shows, by the server's clock, in ms since 1970. What is due is
    /// decided by it.
    pub(crate) at_ms: i64,
}

/// The result of a bounded read, and when that was.
#[derive(Debug)]
pub(crate) struct Dated {
    pub(crate) page: Page,
    pub(crate) moment: Moment,
}

/// The mark of a failed publish.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// As bytes: see [`Malformed::id`].
    pub(crate) id: RawId,
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

/// A write of one event that the store will never make, however often it is repeated.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its position in the command.
    pub(crate) index: usize,
    pub(crate) error: String,
}

pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// Why the outbox or the lease could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreError {
    pub(crate) kind: StoreErrorKind,
    /// Whether the server will refuse the same command again: a person has to act.
    pub(crate) is_lasting: bool,
    message: String,
}

/// The kinds of error that the core tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreErrorKind {
    /// The change stream's history no longer reaches back far enough.
    HistoryLost,
    /// The outbox is read more slowly than it is written, so its part of a shared change stream
    /// doesn't fit in memory.
    Behind,
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
        Self { kind, is_lasting: false, message: message.into() }
    }

    /// For a refusal that does not pass by itself.
    pub(crate) fn lasting(self) -> Self {
        Self { is_lasting: true, ..self }
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
    /// Publishes, and waits for the ack of that very stream: nobody else's reply counts. What can't
    /// be the stream's ack is compared with the stream. Messages leave in the order in which their
    /// futures are first polled.
    fn publish(&self, message: Message<'_>) -> impl Future<Output = Result<Ack, Rejection>> + Send;

    /// What the stream has at the sequence that it named in the ack of a duplicate of `message`.
    /// Bounded in number and time: after a crash, a thousand duplicates are ordinary.
    fn holds(
        &self,
        sequence: u64,
        message: Message<'_>,
    ) -> impl Future<Output = Result<Held, Rejection>> + Send;

    /// Whether the stream could store this message if it were empty, or `None` if its
    /// configuration is unknown.
    fn fits(&self, message: Message<'_>) -> impl Future<Output = Option<bool>> + Send;

    /// The largest message that the server takes, in bytes.
    fn max_payload(&self) -> usize;

    /// Whether publishes may leave: the connection is up, and acks can arrive.
    fn connected(&self) -> &watch::Receiver<bool>;

    /// How events may leave together, so that the stream never has one without those before it.
    /// `None` if it can't promise that, or its acks can't be believed as they are.
    fn bursts(&self) -> Option<Burst>;

    /// Publishes messages of which the stream stores all, directly behind each other, or none.
    /// Returns the ack of the last. Any error may mean that all are stored.
    fn publish_batch(
        &self,
        messages: &[Message<'_>],
    ) -> impl Future<Output = Result<Ack, Rejection>> + Send;

    /// The number of the connection that is up; 0 if publishes may not leave.
    fn connection(&self) -> u64;

    /// Why no ack can arrive, if that is why publishes may not leave.
    fn unheard(&self) -> Option<Rejection>;

    /// Whether the server denied a publish to this subject after `since`.
    fn denied(&self, subject: &str, since: Instant) -> bool;

    /// Whether the stream itself bears out acks of up to this sequence: it has reached the sequence,
    /// and nothing was seen that contradicts one of them. `None` if it gave no answer.
    fn bears_out(&self, newest: u64) -> impl Future<Output = Option<bool>> + Send;

    /// Compares the stream with what it had acked: the stream itself, not a copy that lags behind.
    fn compare(
        &self,
        watermark: Option<&Watermark>,
    ) -> impl Future<Output = Result<Compared, Rejection>> + Send;

    /// Whether the stream has lost what it acked. While it has, it bears out no ack. What was acked
    /// before is settled or given up when that ends.
    fn set_hurt(&self, is_hurt: bool);

    /// The message at this sequence, by its id: the stream's own, not that of a copy that lags behind.
    fn found(&self, sequence: u64) -> impl Future<Output = Result<Found, Rejection>> + Send;

    /// A message that the stream has acked, of the stream as it last described itself.
    fn watermark(&self, sequence: u64, message_id: &str) -> Option<Watermark>;

    /// Whether the stream has gone back since the last call.
    fn rewound(&self) -> Option<Rewound>;

    /// The signs of forged acks since the last call.
    fn forged(&self) -> Option<Forged>;

    /// Whether the stream takes this subject, or `None` if its configuration is unknown.
    fn covers(&self, subject: &str) -> impl Future<Output = Option<bool>> + Send;
}

/// Signs that somebody other than the stream answers publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forged {
    /// How many there were.
    pub(crate) signs: u64,
    /// The first of them, for people.
    pub(crate) first: String,
    /// Whether there was none for long before these.
    pub(crate) begins: bool,
}

/// The lease's document, as one holder uses it. The server's clock decides whether it has expired.
pub(crate) trait LeaseStore: Clone + Send + Sync + 'static {
    /// The name of this holder.
    fn holder(&self) -> &str;

    /// Takes the lease if it is free, expired or already this holder's.
    fn claim(&self, ttl: Duration) -> impl Future<Output = StoreResult<Option<Claimed>>> + Send;

    /// As [`LeaseStore::claim`], for a command that holds the lease for a moment and is no relay.
    fn claim_briefly(
        &self,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<Option<Claimed>>> + Send {
        self.claim(ttl)
    }

    /// Extends this term, and stores the watermark. Returns false when another holder has the lease.
    fn renew(
        &self,
        term: i64,
        ttl: Duration,
        watermark: Option<Watermark>,
    ) -> impl Future<Output = StoreResult<bool>> + Send;

    /// Ends this term now, and stores the watermark.
    fn release(
        &self,
        term: i64,
        watermark: Option<Watermark>,
    ) -> impl Future<Output = StoreResult<()>> + Send;
}

/// A lease that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The number of the new term.
    pub(crate) term: i64,
    /// As the last holder stored it.
    pub(crate) watermark: Option<Watermark>,
}

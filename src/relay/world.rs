//! What a leadership needs of the world outside: an outbox, a bus and a lease. MongoDB and NATS in
//! the daemon; in the simulation (`relay/simulation`) memory that loses, delays and repeats.

use std::future::Future;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::publish::PublishAck;
use bson::{RawArray, RawDocument, Timestamp};
use bytes::Bytes;
use mongodb::error::Result;
use tokio::sync::watch;
use tokio::time::Instant;

use super::publish::Acked;
use crate::outbox::mark::{Mark, Refused};
use crate::outbox::store::{Page, Parsed, Room};
use crate::outbox::{EventId, Key};

/// The outbox. What is written stays written, and writing it again does no harm. Reads that decide
/// about order show one moment, which is not from before the relay's own marks and parks.
pub(crate) trait EventStore: Clone + Send + Sync + 'static {
    /// See [`EventStore::sweep`].
    type Sweep: EventSweep;
    /// See [`EventStore::tail`].
    type Tail: EventTail;

    /// Reads an event.
    fn parse(&self, document: &RawDocument) -> Parsed;

    /// Starts to read everything there is, as of one moment, the oldest of a key first.
    fn sweep(&self) -> impl Future<Output = Result<Self::Sweep>> + Send;

    /// Follows what commits after `at`: inserts, and what operators request. The relay's own marks
    /// and deletes don't come back.
    fn tail(&self, at: Timestamp) -> impl Future<Output = Result<Self::Tail>> + Send;

    /// Removes delivered events. Only an ack makes an [`Acked`].
    fn delete(&self, acked: &[Acked]) -> impl Future<Output = Result<()>> + Send;

    /// Marks failed events. Returns those that can never be marked, such as one that has no room
    /// left for a failure in its 16 MB.
    fn mark(&self, marks: &[Mark]) -> impl Future<Output = Result<Vec<Refused>>> + Send;

    /// Hands events that wait behind a failed one to the retrier, in this order, up to the first
    /// that is refused, which is returned.
    fn park(&self, ids: &[EventId]) -> impl Future<Output = Result<Option<Refused>>> + Send;

    /// Removes events unpublished, because an operator wants it so.
    fn discard(&self, ids: &[EventId]) -> impl Future<Output = Result<()>> + Send;

    /// The unlocked events that are due: of each key only its oldest, and only if that one is
    /// neither dead nor waiting. Half of the room is for those without a key.
    fn due(&self, room: Room) -> impl Future<Output = Result<Page>> + Send;

    /// The unlocked events that an operator wants removed.
    fn discards(&self, room: Room) -> impl Future<Output = Result<Page>> + Send;

    /// The locked events that are older than `age` by the server's clock, oldest first: those that
    /// no tail will bring.
    fn stray(&self, age: Duration, room: Room) -> impl Future<Output = Result<Page>> + Send;

    /// The oldest unlocked events of one key, oldest first, waiting ones too; dead ones unless they
    /// are skipped.
    fn unlocked(&self, key: &Key, room: Room) -> impl Future<Output = Result<Page>> + Send;
}

/// Documents as they came, in one reply.
pub(crate) trait EventPage: Send + Sync {
    fn documents(&self) -> Result<&RawArray>;
}

/// The outbox as of one moment.
pub(crate) trait EventSweep: Send {
    type Page: EventPage;

    /// The moment: everything committed up to and including this is in the sweep, everything after
    /// it in the tail.
    fn at(&self) -> Timestamp;

    /// The next page of documents, or `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Page>>> + Send;
}

/// A change stream.
pub(crate) trait EventTail: Send {
    type Page: EventPage;

    /// The next changes, none of them when there are none for a while, or `None` when the stream
    /// has ended.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Page>>> + Send;
}

/// The stream that events are published to.
pub(crate) trait EventBus: Clone + Send + Sync + 'static {
    /// Publishes, and waits for the ack.
    fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> impl Future<Output = std::result::Result<PublishAck, PublishError>> + Send;

    /// Whether the connection stands.
    fn connected(&self) -> &watch::Receiver<bool>;

    /// Whether the server denied a publish to this subject after `since`.
    fn denied(&self, subject: &str, since: Instant) -> bool;

    /// Whether the stream takes this subject; `None` when it doesn't say.
    fn covers(&self, subject: &str) -> impl Future<Output = Option<bool>> + Send;
}

/// The lease's document, as one holder sees it. The server's clock decides.
pub(crate) trait LeaseStore: Clone + Send + Sync + 'static {
    /// Who asks.
    fn holder(&self) -> &str;

    /// Takes the lease if it is free or expired; one's own begins anew. Returns the new term's
    /// number.
    fn claim(&self, ttl: Duration) -> impl Future<Output = Result<Option<i64>>> + Send;

    /// Puts the end of this term off. False when the lease is another's.
    fn renew(&self, term: i64, ttl: Duration) -> impl Future<Output = Result<bool>> + Send;

    /// Ends this term now.
    fn release(&self, term: i64) -> impl Future<Output = Result<()>> + Send;
}

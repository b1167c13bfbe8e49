//! The lease: of all relays on one outbox, one publishes and the others stand by.
//!
//! ```text
//!            acquire: free or expired by the server's clock
//!  standby ───────────────────────────────────────────────▶ holder (term n + 1)
//!     ▲                                                        │ renew every ttl / 3
//!     │   resigned (clean stop: free at once)                  │
//!     ├────────────────────────────────────────────────────────┤
//!     │   lost: another holder, or no renewal before the       │
//!     └────────────────────────────────────────────────────────┘ trust deadline
//! ```
//!
//! One document `{_id: <collection>, holder, term, expiresAt}` in `outboxd_lease` of the outbox's database. Only the
//! server's clock decides (`$$NOW` in an update pipeline). The holder trusts its lease up to a deadline on its own
//! monotonic clock, counted from before the renewal was sent, less a margin, and checks it before each publish: a process
//! that was paused publishes nothing when it wakes.
//!
//! The lease makes duplicates rare. It is not what makes the relay safe: an event is deleted only on its own ack, and
//! message ids are the same from every relay.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::error::Result;
use mongodb::options::ReturnDocument;
use mongodb::{Client, Collection};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::clock;
use super::world::LeaseStore;
use crate::admin::Health;
use crate::error::mongodb_says;

/// Collection of the leases.
pub const COLLECTION: &str = "outboxd_lease";

/// Part of the ttl by which a holder stops early: clocks run at different speeds, and a publish takes a moment.
const MARGIN: u32 = 5;
/// Renewals per ttl: two may fail.
const RENEWALS: u32 = 3;
/// Shortest wait between two renewals, however late the last one was.
const SOONEST: Duration = Duration::from_millis(50);
/// Longest a standby takes to see that the lease is free.
const STANDBY_POLL: Duration = Duration::from_secs(1);

/// A relay's claim on one outbox.
#[derive(Debug, Clone)]
pub(crate) struct Lease<L = LeaseDocument> {
    document: L,
    ttl: Duration,
    health: Arc<Health>,
}

/// The document that says who holds the lease.
#[derive(Debug, Clone)]
pub(crate) struct LeaseDocument {
    collection: Collection<Document>,
    outbox: String,
    holder: String,
}

/// Proof of holding the lease, for as long as it is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    /// Rises with each change of holder.
    pub(crate) number: i64,
    trusted_until: watch::Receiver<Instant>,
}

impl Term {
    /// Whether nobody else can hold the lease right now.
    pub(crate) fn is_trusted(&self) -> bool {
        Instant::now() < *self.trusted_until.borrow()
    }
}

/// A lease that is held and renewed until dropped or lost.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) term: Term,
    /// Cancelled when the lease is lost.
    pub(crate) lost: CancellationToken,
    stop: CancellationToken,
}

impl Lease {
    /// `client` is the lease's own: renewals must not wait for a connection behind the outbox's queries.
    pub(crate) fn new(client: &Client, database: &str, outbox: &str, holder: String, ttl: Duration) -> Self {
        let collection = client.database(database).collection(COLLECTION);
        Self::of(LeaseDocument { collection, outbox: outbox.to_owned(), holder }, ttl)
    }

    /// Whether another relay holds it now.
    pub(crate) async fn is_anothers(&self) -> Result<bool> {
        let LeaseDocument { collection, outbox, holder } = &self.document;
        let held = doc! { "_id": outbox, "holder": { "$ne": holder }, "$expr": { "$gt": ["$expiresAt", "$$NOW"] } };
        Ok(collection.find_one(held).await?.is_some())
    }
}

impl<L: LeaseStore> Lease<L> {
    /// On this document.
    pub(super) fn of(document: L, ttl: Duration) -> Self {
        Self { document, ttl, health: Arc::default() }
    }

    /// Says how it goes to `health`: asking for the lease, or renewing it, is what is done all the time.
    pub(crate) fn watched(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// Waits until the lease is this relay's, or `stop`.
    pub(crate) async fn acquire(self: &Arc<Self>, stop: &CancellationToken) -> Option<Held> {
        let mut said = false;
        while !stop.is_cancelled() {
            let sent = Instant::now();
            let asked = self.document.claim(self.ttl).await;
            self.health.turned();
            self.health.mongodb(asked.is_ok());
            if matches!(asked, Ok(None)) {
                self.health.lease(None);
            }
            match asked {
                Ok(Some(number)) => return Some(self.hold(number, sent)),
                Ok(None) if !said => {
                    info!(relay = self.document.holder(), "another relay holds the lease; standing by");
                    said = true;
                }
                Ok(None) => {}
                Err(error) => warn!(error = mongodb_says(&error), "could not ask for the lease"),
            }
            let poll = clock::jitter(STANDBY_POLL.min(self.ttl / RENEWALS), 0.8..1.2);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
        None
    }

    /// The lease, if it is free now.
    pub(crate) async fn acquire_now(self: &Arc<Self>) -> Result<Option<Held>> {
        let sent = Instant::now();
        Ok(self.document.claim(self.ttl).await?.map(|number| self.hold(number, sent)))
    }

    fn hold(self: &Arc<Self>, number: i64, sent: Instant) -> Held {
        let (trust, trusted_until) = watch::channel(self.trust_deadline(sent));
        let held = Held {
            term: Term { number, trusted_until },
            lost: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let (lease, lost, stop) = (self.clone(), held.lost.clone(), held.stop.clone());
        tokio::spawn(async move {
            let mut next = sent + lease.ttl / RENEWALS;
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep_until(next) => {}
                }
                let sent = Instant::now();
                // Never dropped half-way: a command whose future is dropped costs its connection and may still happen.
                let renewal = tokio::spawn({
                    let lease = lease.clone();
                    async move { lease.document.renew(number, lease.ttl).await }
                });
                let deadline = *trust.borrow();
                let renewed = tokio::time::timeout_at(deadline, renewal).await;
                lease.health.mongodb(matches!(renewed, Ok(Ok(Ok(_)))));
                match renewed {
                    Ok(Ok(Ok(true))) => drop(trust.send_replace(lease.trust_deadline(sent))),
                    Ok(Ok(Ok(false))) => {
                        warn!(term = number, "the lease has gone to another relay");
                        trust.send_replace(Instant::now());
                    }
                    Ok(Ok(Err(error))) => {
                        warn!(error = mongodb_says(&error), term = number, "could not renew the lease")
                    }
                    Ok(Err(_)) | Err(_) => warn!(term = number, "renewing the lease took too long"),
                }
                let deadline = *trust.borrow();
                if Instant::now() >= deadline {
                    lost.cancel();
                    return;
                }
                next = (sent + lease.ttl / RENEWALS).min(deadline).max(Instant::now() + SOONEST);
            }
        });
        held
    }

    fn trust_deadline(&self, sent: Instant) -> Instant {
        sent + self.ttl - self.ttl / MARGIN
    }

    /// Lets a standby take over at once. Call it when nothing is under way any more.
    pub(crate) async fn resign(&self, held: Held) -> Result<()> {
        held.stop.cancel();
        self.document.release(held.term.number).await
    }
}

impl LeaseStore for LeaseDocument {
    fn holder(&self) -> &str {
        &self.holder
    }

    async fn claim(&self, ttl: Duration) -> Result<Option<i64>> {
        let expired = doc! { "$lte": [{ "$ifNull": ["$expiresAt", "$$NOW"] }, "$$NOW"] };
        // One's own lease, after it was not trusted any more, begins anew: another term, another expiry.
        let free = doc! { "$or": [expired, { "$eq": ["$holder", { "$literal": &self.holder }] }] };
        let if_free = |then: Bson, field: &str| doc! { "$cond": [free.clone(), then, field] };
        let claim = doc! { "$set": {
            "holder": if_free(doc! { "$literal": &self.holder }.into(), "$holder"),
            "term": if_free(doc! { "$add": [{ "$ifNull": ["$term", 0] }, 1] }.into(), "$term"),
            "expiresAt": if_free(doc! { "$add": ["$$NOW", millis(ttl)] }.into(), "$expiresAt"),
        } };
        let lease = self
            .collection
            .find_one_and_update(doc! { "_id": &self.outbox }, vec![claim])
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await?;
        let mine = lease.filter(|lease| lease.get_str("holder").is_ok_and(|holder| holder == self.holder));
        Ok(mine.and_then(|lease| match lease.get("term") {
            Some(Bson::Int32(term)) => Some(i64::from(*term)),
            Some(Bson::Int64(term)) => Some(*term),
            _ => None,
        }))
    }

    async fn renew(&self, term: i64, ttl: Duration) -> Result<bool> {
        let extend = doc! { "$set": { "expiresAt": { "$add": ["$$NOW", millis(ttl)] } } };
        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        Ok(self.collection.update_one(mine, vec![extend]).await?.matched_count == 1)
    }

    async fn release(&self, term: i64) -> Result<()> {
        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        self.collection.update_one(mine, vec![doc! { "$set": { "expiresAt": "$$NOW" } }]).await?;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

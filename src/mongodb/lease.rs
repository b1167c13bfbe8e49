//! The lease's document: who holds the lease on an outbox, by the server's clock.
//!
//! The server's clock may be set back, or a primary take over whose clock is behind. A lease whose
//! holder has died would then seem held for as long. So a standby also watches the document by its
//! own monotonic clock: a lease that nobody has renewed for its whole ttl is free.
//!
//! Whoever may update the document can write anything into it. What is no date is no expiry, and an
//! expiry that no relay's could be is none either, once it has stood still for a few ttls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Client, Collection};
use tokio::time::Instant;
use tracing::warn;

use super::collation::simple;
use super::collections::LEASE;
use crate::printable::printable;
use crate::relay::ports::{Claimed, LeaseStore, StoreResult};
use crate::relay::watermark::{Epoch, Watermark};

/// Longest ttl that a relay may have: it counts for a lease that does not name its own.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(300);
/// For how many ttls of the standby an expiry that no relay's could be must stand still.
const IMPLAUSIBLE_TTLS: u32 = 3;
/// The holder's ttl in the document, in milliseconds.
const TTL: &str = "ttlMs";
/// In the document: the holder took it although it had not expired, or had no expiry.
const TAKEN: &str = "taken";
/// In the document, while a command has the lease and until a relay takes it: the last relay, as it
/// stood there. Empty if there was none.
pub(super) const LAST_RELAY: &str = "relay";
/// In the document: the newest message that the stream has acked.
pub(super) const WATERMARK: &str = "watermark";
/// In the document: the session in which the leader moves scheduled events.
pub(super) const MOVER: &str = "mover";
/// What a lease is compared by, to see whether its holder renews it.
const RENEWED: [&str; 3] = ["holder", "term", "expiresAt"];

/// One holder's view of the document.
#[derive(Debug, Clone)]
pub(crate) struct LeaseDocument {
    collection: Collection<Document>,
    outbox: String,
    holder: String,
    /// Another holder's lease, when it was last found changed.
    seen: Arc<Mutex<Option<Seen>>>,
}

/// Another holder's lease, as it has stood since.
#[derive(Debug)]
struct Seen {
    lease: Document,
    since: Instant,
}

impl Seen {
    /// Whether its holder has not renewed it for its whole ttl, and trusts it no longer.
    fn is_overdue(&self) -> bool {
        self.since.elapsed() > self.ttl().unwrap_or(LONGEST_TTL)
    }

    /// The holder's ttl, if the lease names one that a relay may have.
    fn ttl(&self) -> Option<Duration> {
        let ttl = match self.lease.get(TTL) {
            Some(Bson::Int32(ttl)) => i64::from(*ttl),
            ttl => ttl.and_then(Bson::as_i64)?,
        };
        let ttl = Duration::from_millis(u64::try_from(ttl).ok()?);
        (!ttl.is_zero() && ttl <= LONGEST_TTL).then_some(ttl)
    }
}

impl LeaseDocument {
    /// `client` is the lease's own: a renewal must not wait for a connection behind the outbox's
    /// queries.
    pub(crate) fn new(client: &Client, database: &str, outbox: &str, holder: String) -> Self {
        let collection = client.database(database).collection(LEASE);
        Self { collection, outbox: outbox.to_owned(), holder, seen: Arc::default() }
    }

    /// In a pipeline: whether the document is a lease that its holder has let go by, as seen by a
    /// standby with this ttl.
    fn is_overdue(&self, own_ttl: Duration) -> Option<Document> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.as_ref()?;

        let is_as = |name: &str| {
            let was = seen.lease.get(name).cloned().unwrap_or(Bson::Null);
            doc! { "$eq": [{ "$ifNull": [format!("${name}"), Bson::Null] }, { "$literal": was }] }
        };
        let mut is_overdue = RENEWED.map(is_as).to_vec();

        if !seen.is_overdue() {
            // A lease with a ttl is waited for. One without is an older relay's, or nobody's.
            let stands_still = seen.since.elapsed() > own_ttl * IMPLAUSIBLE_TTLS;
            if seen.ttl().is_some() || !stands_still {
                return None;
            }
            let latest = doc! { "$add": ["$$NOW", millis(LONGEST_TTL)] };
            is_overdue.push(doc! { "$gt": ["$expiresAt", latest] });
        }

        Some(doc! { "$and": is_overdue })
    }

    /// Remembers another holder's lease if it has changed. Returns whether it is overdue.
    fn observe(&self, lease: Document) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_renewed = seen.as_ref().is_none_or(|seen| {
            // As texts: a number that is none differs from itself.
            let as_text = |lease: &Document, name: &str| format!("{:?}", lease.get(name));
            RENEWED.iter().any(|name| as_text(&seen.lease, name) != as_text(&lease, name))
        });
        if is_renewed {
            *seen = Some(Seen { lease, since: Instant::now() });
        }
        seen.as_ref().is_some_and(Seen::is_overdue)
    }

    /// Forgets another holder's lease. Returns what it was.
    fn forget(&self) -> Option<Document> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take().map(|seen| seen.lease)
    }

    /// Claims the lease with further fields in its document.
    async fn claim_with(&self, ttl: Duration, further: Document) -> StoreResult<Option<Claimed>> {
        let is_none = doc! { "$not": [is_date()] };
        let expired = doc! { "$lte": ["$expiresAt", "$$NOW"] };
        // A holder that no longer trusts its own lease claims it again: a new term, a new expiry.
        let own = doc! { "$eq": ["$holder", { "$literal": &self.holder }] };
        let taken = doc! { "$and": [
            { "$ne": [{ "$type": "$holder" }, "missing"] },
            { "$not": [own.clone()] },
            { "$or": [is_none.clone(), { "$gt": ["$expiresAt", "$$NOW"] }] },
        ] };
        let free = [is_none, expired, own].into_iter().chain(self.is_overdue(ttl));

        let mut claimed = doc! {
            "_id": "$_id",
            "holder": { "$literal": &self.holder },
            "term": next_term(),
            "expiresAt": { "$add": ["$$NOW", millis(ttl)] },
            TTL: millis(ttl),
            TAKEN: { "$cond": [taken, true, "$$REMOVE"] },
            WATERMARK: format!("${WATERMARK}"),
            // The one of the last leader, until this one has its own.
            MOVER: format!("${MOVER}"),
        };
        claimed.extend(further);
        let is_free = doc! { "$or": free.collect::<Vec<_>>() };
        let claim = doc! { "$replaceWith": { "$cond": [is_free, claimed, "$$ROOT"] } };

        let lease = self
            .collection
            .find_one_and_update(doc! { "_id": &self.outbox }, vec![claim])
            .upsert(true)
            .projection(shown())
            .collation(simple())
            .return_document(ReturnDocument::After)
            .await?;

        let Some(lease) = lease else { return Ok(None) };
        if !lease.get_str("holder").is_ok_and(|holder| holder == self.holder) {
            self.observe(lease);
            return Ok(None);
        }

        let was = self.forget();
        if lease.contains_key(TAKEN) {
            let of = was.as_ref().and_then(|was| was.get_str("holder").ok());
            warn!(
                holder = of.map(printable),
                expires_at = was.and_then(|was| was.get("expiresAt").map(Bson::to_string)),
                "took a lease that was not renewed, although it had not expired; check who may \
                 update outboxd_lease, and the clocks of MongoDB's hosts"
            );
        }

        let term = match lease.get("term") {
            Some(Bson::Int32(term)) => Some(i64::from(*term)),
            Some(Bson::Int64(term)) => Some(*term),
            _ => None,
        };

        let watermark = lease.get_document(WATERMARK).ok().and_then(read_watermark);
        Ok(term.map(|term| Claimed { term, watermark }))
    }

    /// The newest message that the stream is known to have acked.
    pub(crate) async fn watermark(&self) -> mongodb::error::Result<Option<Watermark>> {
        let lease = self.collection.find_one(doc! { "_id": &self.outbox });
        let lease = lease.projection(doc! { WATERMARK: 1 }).collation(simple()).await?;
        Ok(lease.and_then(|lease| read_watermark(lease.get_document(WATERMARK).ok()?)))
    }

    /// Whether another holder has the lease now, and renews it. An expiry alone says nothing: it may
    /// be years ahead.
    pub(crate) async fn is_anothers(&self) -> mongodb::error::Result<bool> {
        let held = doc! {
            "_id": &self.outbox,
            "holder": { "$ne": &self.holder },
            "$expr": { "$and": [is_date(), { "$gt": ["$expiresAt", "$$NOW"] }] },
        };
        let held = self.collection.find_one(held).projection(shown()).collation(simple()).await?;
        Ok(held.is_some_and(|lease| !self.observe(lease)))
    }
}

impl LeaseStore for LeaseDocument {
    fn holder(&self) -> &str {
        &self.holder
    }

    async fn claim(&self, ttl: Duration) -> StoreResult<Option<Claimed>> {
        self.claim_with(ttl, doc! {}).await
    }

    async fn claim_briefly(&self, ttl: Duration) -> StoreResult<Option<Claimed>> {
        let last = doc! { "holder": "$holder", "term": "$term", "expiresAt": "$expiresAt" };
        let remembered = doc! { "$ifNull": [format!("${LAST_RELAY}"), last] };
        self.claim_with(ttl, doc! { LAST_RELAY: remembered }).await
    }

    async fn renew(
        &self,
        term: i64,
        ttl: Duration,
        watermark: Option<Watermark>,
    ) -> StoreResult<bool> {
        let mut set = doc! { "expiresAt": { "$add": ["$$NOW", millis(ttl)] } };
        set.extend(watermark.map(written_watermark).unwrap_or_default());
        let extend = doc! { "$set": set };

        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        let renewed = self.collection.update_one(mine, vec![extend]).collation(simple()).await?;
        Ok(renewed.matched_count == 1)
    }

    async fn release(&self, term: i64, watermark: Option<Watermark>) -> StoreResult<()> {
        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        let mut set = doc! { "expiresAt": "$$NOW" };
        set.extend(watermark.map(written_watermark).unwrap_or_default());
        let expire = vec![doc! { "$set": set }];
        self.collection.update_one(mine, expire).collation(simple()).await?;
        Ok(())
    }
}

/// In a pipeline: whether the expiry is one.
fn is_date() -> Document {
    doc! { "$eq": [{ "$type": "$expiresAt" }, "date"] }
}

/// In a pipeline: the number of the next term. What can't be counted on begins anew; a term is only
/// compared with that of the same holder.
fn next_term() -> Document {
    let is_term = doc! { "$and": [
        { "$isNumber": "$term" },
        { "$gte": ["$term", 0] },
        { "$lt": ["$term", i64::MAX / 2] },
    ] };
    doc! { "$add": [{ "$cond": [is_term, { "$toLong": "$term" }, 0_i64] }, 1_i64] }
}

/// In a pipeline: the watermark as the document has it.
fn written_watermark(watermark: Watermark) -> Document {
    let Watermark { stream, created_ms, sequence, message_id, epoch } = watermark;
    let mut written = doc! {
        "stream": stream,
        "created": DateTime::from_millis(created_ms),
        "seq": i64::try_from(sequence).unwrap_or(i64::MAX),
        "epoch": epoch.number,
        "since": i64::try_from(epoch.since).unwrap_or(i64::MAX),
    };

    written.extend(message_id.map(|id| ("messageId".to_owned(), id.into())));
    doc! { WATERMARK: { "$literal": written } }
}

/// A watermark that is none is left out: anybody may have written it.
fn read_watermark(written: &Document) -> Option<Watermark> {
    Some(Watermark {
        stream: written.get_str("stream").ok()?.to_owned(),
        created_ms: written.get_datetime("created").ok()?.timestamp_millis(),
        sequence: u64::try_from(written.get_i64("seq").ok()?).ok()?,
        message_id: written.get_str("messageId").ok().map(str::to_owned),
        epoch: Epoch {
            number: written.get_i64("epoch").unwrap_or(0),
            since: written.get_i64("since").map_or(0, |since| u64::try_from(since).unwrap_or(0)),
        },
    })
}

/// What a holder reads of the document.
fn shown() -> Document {
    let shown = RENEWED.iter().chain([&TTL, &TAKEN, &WATERMARK]);
    shown.map(|name| ((*name).to_owned(), Bson::from(1))).collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

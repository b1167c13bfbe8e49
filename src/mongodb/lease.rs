//! The lease's document: who holds the lease on an outbox, by the server's clock.
//!
//! The server's clock may be set back, or a primary take over whose clock is behind. A lease whose
//! holder has died would then seem held for as long. So a standby also watches the document by its
//! own monotonic clock: a lease that nobody has renewed for its whole ttl is free.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Client, Collection};
use tokio::time::Instant;

use super::collation::simple;
use super::collections::LEASE;
use crate::relay::ports::{LeaseStore, StoreResult};

/// Longest ttl that a relay may have: it counts for a lease that does not name its own.
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// The holder's ttl in the document, in milliseconds.
const TTL: &str = "ttlMs";

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
        let ttl = self.lease.get_i64(TTL).ok().and_then(|ttl| u64::try_from(ttl).ok());
        self.since.elapsed() > ttl.map_or(LONGEST_TTL, Duration::from_millis)
    }
}

impl LeaseDocument {
    /// `client` is the lease's own: a renewal must not wait for a connection behind the outbox's
    /// queries.
    pub(crate) fn new(client: &Client, database: &str, outbox: &str, holder: String) -> Self {
        let collection = client.database(database).collection(LEASE);
        Self { collection, outbox: outbox.to_owned(), holder, seen: Arc::default() }
    }

    /// In a pipeline: whether the document is a lease that its holder has let go by.
    fn is_overdue(&self) -> Option<Document> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = seen.as_ref().filter(|seen| seen.is_overdue())?;
        let is_as = |name: &str| {
            let was = overdue.lease.get(name).cloned().unwrap_or(Bson::Null);
            doc! { "$eq": [format!("${name}"), { "$literal": was }] }
        };
        let is_unchanged = ["holder", "term", "expiresAt"].map(is_as).to_vec();
        Some(doc! { "$and": is_unchanged })
    }

    /// Remembers another holder's lease if it has changed.
    fn observe(&self, lease: Document) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_none_or(|seen| seen.lease != lease) {
            *seen = Some(Seen { lease, since: Instant::now() });
        }
    }

    /// Whether another holder has the lease now.
    pub(crate) async fn is_anothers(&self) -> mongodb::error::Result<bool> {
        let held = doc! {
            "_id": &self.outbox,
            "holder": { "$ne": &self.holder },
            "$expr": { "$gt": ["$expiresAt", "$$NOW"] },
        };
        Ok(self.collection.find_one(held).collation(simple()).await?.is_some())
    }
}

impl LeaseStore for LeaseDocument {
    fn holder(&self) -> &str {
        &self.holder
    }

    async fn claim(&self, ttl: Duration) -> StoreResult<Option<i64>> {
        let expired = doc! { "$lte": [{ "$ifNull": ["$expiresAt", "$$NOW"] }, "$$NOW"] };
        // A holder that no longer trusts its own lease claims it again: a new term, a new expiry.
        let own = doc! { "$eq": ["$holder", { "$literal": &self.holder }] };
        let free: Vec<_> = [expired, own].into_iter().chain(self.is_overdue()).collect();
        let free = doc! { "$or": free };
        let if_free = |then: Bson, field: &str| doc! { "$cond": [free.clone(), then, field] };
        let claim = doc! { "$set": {
            "holder": if_free(doc! { "$literal": &self.holder }.into(), "$holder"),
            "term": if_free(doc! { "$add": [{ "$ifNull": ["$term", 0] }, 1] }.into(), "$term"),
            "expiresAt": if_free(doc! { "$add": ["$$NOW", millis(ttl)] }.into(), "$expiresAt"),
            TTL: if_free(millis(ttl).into(), "$ttlMs"),
        } };

        let lease = self
            .collection
            .find_one_and_update(doc! { "_id": &self.outbox }, vec![claim])
            .upsert(true)
            .collation(simple())
            .return_document(ReturnDocument::After)
            .await?;

        let Some(lease) = lease else { return Ok(None) };
        if !lease.get_str("holder").is_ok_and(|holder| holder == self.holder) {
            self.observe(lease);
            return Ok(None);
        }

        Ok(match lease.get("term") {
            Some(Bson::Int32(term)) => Some(i64::from(*term)),
            Some(Bson::Int64(term)) => Some(*term),
            _ => None,
        })
    }

    async fn renew(&self, term: i64, ttl: Duration) -> StoreResult<bool> {
        let extend = doc! { "$set": { "expiresAt": { "$add": ["$$NOW", millis(ttl)] } } };
        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        let renewed = self.collection.update_one(mine, vec![extend]).collation(simple()).await?;
        Ok(renewed.matched_count == 1)
    }

    async fn release(&self, term: i64) -> StoreResult<()> {
        let mine = doc! { "_id": &self.outbox, "holder": &self.holder, "term": term };
        let expire = vec![doc! { "$set": { "expiresAt": "$$NOW" } }];
        self.collection.update_one(mine, expire).collation(simple()).await?;
        Ok(())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

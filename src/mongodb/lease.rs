//! The lease's document: who holds the lease on an outbox, by the server's clock.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Client, Collection};

use super::collation::simple;
use super::collections::LEASE;
use crate::relay::ports::{LeaseStore, StoreResult};

/// One holder's view of the document.
#[derive(Debug, Clone)]
pub(crate) struct LeaseDocument {
    collection: Collection<Document>,
    outbox: String,
    holder: String,
}

impl LeaseDocument {
    /// `client` is the lease's own: a renewal must not wait for a connection behind the outbox's
    /// queries.
    pub(crate) fn new(client: &Client, database: &str, outbox: &str, holder: String) -> Self {
        let collection = client.database(database).collection(LEASE);
        Self { collection, outbox: outbox.to_owned(), holder }
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
            .collation(simple())
            .return_document(ReturnDocument::After)
            .await?;

        let mine =
            lease.filter(|lease| lease.get_str("holder").is_ok_and(|holder| holder == self.holder));
        Ok(mine.and_then(|lease| match lease.get("term") {
            Some(Bson::Int32(term)) => Some(i64::from(*term)),
            Some(Bson::Int64(term)) => Some(*term),
            _ => None,
        }))
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

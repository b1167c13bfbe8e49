//! What an operator does to events, and the record of it. Needs MongoDB alone, whether a relay runs
//! or not.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use mongodb::{Client, Collection};

use super::collections::AUDIT;
use super::inspect::Inspect;
use super::selection::Selection;
use crate::config::Config;
use crate::document::record::shown_id;
use outboxd_client::field;

/// Ids kept in one record.
const IDS_KEPT: usize = 100;

/// An outbox whose events are acted on.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) inspect: Inspect,
    events: Collection<Document>,
    audit: Collection<Document>,
}

/// Who did what.
#[derive(Debug, Clone)]
pub(crate) struct Deed<'a> {
    pub(crate) who: &'a str,
    pub(crate) action: &'static str,
    /// The filter as it was given.
    pub(crate) selection: &'a str,
    pub(crate) reason: Option<&'a str>,
}

impl Act {
    pub(crate) fn new(client: &Client, config: &Config) -> Self {
        let inspect = Inspect::new(client, config);
        let audit = client.database(&config.mongodb.database).collection(AUDIT);
        Self { events: inspect.events.clone(), inspect, audit }
    }

    /// Ids of the selected events, oldest first.
    pub(crate) async fn ids(&self, selection: &Selection) -> Result<Vec<Bson>> {
        let filter = selection.filter(self.inspect.layout(), self.inspect.now().await?);
        let found = self.events.find(filter).sort(doc! { field::TS: 1, field::ID: 1 });
        let found = found.projection(doc! { field::ID: 1 }).allow_disk_use(true).await?;
        found.try_filter_map(async |mut event| Ok(event.remove(field::ID))).try_collect().await
    }

    /// Of the selected, how many got no answer when they were last tried, longer ago than the
    /// stream remembers message ids: they may be in it already, and a retry would put them there
    /// twice.
    pub(crate) async fn may_come_twice(
        &self,
        selection: &Selection,
        window: Duration,
    ) -> Result<u64> {
        let now = self.inspect.now().await?;
        let millis = now.timestamp_millis() - i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let unanswered = Selection { class: Some("unknown".to_owned()), ..selection.clone() };
        let mut filter = unanswered.filter(self.inspect.layout(), now);
        filter.insert(
            "failures",
            doc! { "$not": { "$elemMatch": { "at": { "$gt": DateTime::from_millis(millis) } } } },
        );
        self.events.count_documents(filter).await
    }

    /// Makes unlocked events due now, dead ones included. A relay that runs hears of it through the
    /// change stream. Returns how many.
    pub(crate) async fn retry_now(&self, ids: &[Bson]) -> Result<u64> {
        let unlocked = doc! { field::ID: { "$in": ids }, field::IS_LOCKED: false };
        let due = [
            // A dead event begins anew; a failed one goes on counting.
            doc! { "$set": {
                field::ATTEMPTS: { "$cond": [{ "$gt": ["$deadAt", Bson::Null] }, 0_i64, { "$ifNull": ["$attempts", 0_i64] }] },
                field::NEXT_ATTEMPT_AT: "$$NOW",
                field::RETRY_REQUESTED_AT: "$$NOW",
            } },
            doc! { "$unset": field::DEAD_AT },
        ];
        Ok(self.events.update_many(unlocked, due.to_vec()).await?.modified_count)
    }

    /// Removes dead events for good: those are never in a relay's hands. Returns how many.
    pub(crate) async fn discard_dead(&self, ids: &[Bson]) -> Result<u64> {
        let dead = doc! { field::ID: { "$in": ids }, field::IS_LOCKED: false, field::DEAD_AT: { "$type": "date" } };
        Ok(self.events.delete_many(dead).await?.deleted_count)
    }

    /// Asks the relay to remove unlocked events: it alone knows which of them it is publishing.
    /// Returns how many.
    pub(crate) async fn request_discard(&self, ids: &[Bson]) -> Result<u64> {
        let unlocked = doc! { field::ID: { "$in": ids }, field::IS_LOCKED: false };
        let request = vec![doc! { "$set": { field::DISCARD_REQUESTED_AT: "$$NOW" } }];
        Ok(self.events.update_many(unlocked, request).await?.modified_count)
    }

    /// Removes what was asked to be removed. Only for who holds the lease. Returns how many.
    pub(crate) async fn discard_requested(&self, ids: &[Bson]) -> Result<u64> {
        let requested =
            doc! { field::ID: { "$in": ids }, field::DISCARD_REQUESTED_AT: { "$type": "date" } };
        Ok(self.events.delete_many(requested).await?.deleted_count)
    }

    /// How many of these are still there.
    pub(crate) async fn left(&self, ids: &[Bson]) -> Result<u64> {
        self.events.count_documents(doc! { field::ID: { "$in": ids } }).await
    }

    /// Writes down what was done.
    pub(crate) async fn record(&self, deed: &Deed<'_>, ids: &[Bson], events: u64) -> Result<()> {
        let mut record = doc! {
            "outbox": self.events.name(),
            "at": DateTime::now(),
            "who": deed.who,
            "action": deed.action,
            "selection": deed.selection,
            "events": i64::try_from(events).unwrap_or(i64::MAX),
            "ids": ids.iter().take(IDS_KEPT).map(shown_id).collect::<Vec<_>>(),
        };
        if let Some(reason) = deed.reason {
            record.insert("reason", reason);
        }
        self.audit.insert_one(record).await?;
        Ok(())
    }

    /// What was done to this outbox, the newest first.
    pub(crate) async fn audit(&self, limit: i64) -> Result<Vec<Document>> {
        let records = self
            .audit
            .find(doc! { "outbox": self.events.name() })
            .sort(doc! { "at": -1, "_id": -1 });
        records.limit(limit).await?.try_collect().await
    }
}

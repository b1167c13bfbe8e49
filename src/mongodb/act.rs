//! What an operator does to events, and the record of it. Needs MongoDB alone: a relay may run or
//! not.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use mongodb::{Collection, Database};
use outboxd_client::field;

use super::clock;
use super::collation::simple;
use super::collections::AUDIT;
use super::selection::Selection;
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};

/// Most ids kept in one entry of the audit.
const IDS_KEPT: usize = 100;

/// An outbox whose events are acted on.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    database: Database,
    events: Collection<Document>,
    audit: Collection<Document>,
    layout: Arc<Layout>,
}

/// An entry of the audit: who did what.
#[derive(Debug, Clone)]
pub(crate) struct AuditEntry<'a> {
    pub(crate) who: &'a str,
    pub(crate) action: &'static str,
    /// The filter as it was given.
    pub(crate) selection: &'a str,
    pub(crate) reason: Option<&'a str>,
}

impl Act {
    /// On the outbox in `collection` of `database`.
    pub(crate) fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self {
            events: database.collection(collection),
            audit: database.collection(AUDIT),
            database,
            layout,
        }
    }

    /// Ids of the selected events, oldest first.
    pub(crate) async fn ids(&self, selection: &Selection) -> Result<Vec<Bson>> {
        let filter = selection.filter(&self.layout, clock::now(&self.database).await?);

        let found = self.events.find(filter).sort(doc! { field::TS: 1, field::ID: 1 });
        let found = found.projection(doc! { field::ID: 1 }).allow_disk_use(true);
        let found = found.collation(simple()).await?;
        found.try_filter_map(async |mut event| Ok(event.remove(field::ID))).try_collect().await
    }

    /// How many of the selected events got no answer when they were last tried, longer ago than the
    /// stream remembers message ids. Those may be in the stream already, and a retry would put them
    /// there twice.
    pub(crate) async fn may_come_twice(
        &self,
        selection: &Selection,
        window: Duration,
    ) -> Result<u64> {
        let now = clock::now(&self.database).await?;
        let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let remembered = DateTime::from_millis(now.timestamp_millis().saturating_sub(window));

        let unanswered = Selection { class: Some("unknown".to_owned()), ..selection.clone() };
        let mut filter = unanswered.filter(&self.layout, now);
        let tried_since = doc! { "$elemMatch": { "at": { "$gt": remembered } } };

        filter.insert(field::FAILURES, doc! { "$not": tried_since });
        self.events.count_documents(filter).collation(simple()).await
    }

    /// Makes stuck events due now, dead ones included. A relay that runs sees it in its change
    /// stream. Returns how many.
    pub(crate) async fn retry_now(&self, ids: &[Bson]) -> Result<u64> {
        // A dead event starts again at no attempts; a failed one keeps its count.
        let counted = doc! { "$ifNull": [format!("${}", field::ATTEMPTS), 0_i64] };
        let attempts = doc! { "$cond": [State::Dead.expression(), 0_i64, counted] };
        let due = vec![
            doc! { "$set": {
                field::ATTEMPTS: attempts,
                field::NEXT_ATTEMPT_AT: "$$NOW",
                field::RETRY_REQUESTED_AT: "$$NOW",
            } },
            doc! { "$unset": field::DEAD_AT },
        ];

        let retry = self.events.update_many(self.among(ids, State::UNLOCKED), due);
        Ok(retry.collation(simple()).await?.modified_count)
    }

    /// Removes dead events for good: no relay is publishing those. Returns how many.
    pub(crate) async fn discard_dead(&self, ids: &[Bson]) -> Result<u64> {
        let dead = self.among(ids, &[State::Dead]);
        Ok(self.events.delete_many(dead).collation(simple()).await?.deleted_count)
    }

    /// Asks the relay to remove stuck events: it alone knows which of them it is publishing.
    /// Returns how many.
    pub(crate) async fn request_discard(&self, ids: &[Bson]) -> Result<u64> {
        let request = vec![doc! { "$set": { field::DISCARD_REQUESTED_AT: "$$NOW" } }];
        let request = self.events.update_many(self.among(ids, State::UNLOCKED), request);
        Ok(request.collation(simple()).await?.modified_count)
    }

    /// Removes the events for which that was requested. The caller holds the lease. Returns how
    /// many.
    pub(crate) async fn discard_requested(&self, ids: &[Bson]) -> Result<u64> {
        let mut requested = doc! { field::ID: { "$in": ids } };
        requested.extend(state::discard_requested());
        Ok(self.events.delete_many(requested).collation(simple()).await?.deleted_count)
    }

    /// In a query: those of these events that are in one of these states.
    fn among(&self, ids: &[Bson], states: &[State]) -> Document {
        let mut filter = state::filter(states, &self.layout);
        filter.insert(field::ID, doc! { "$in": ids });
        filter
    }

    /// How many of these are still there.
    pub(crate) async fn left(&self, ids: &[Bson]) -> Result<u64> {
        let those = self.events.count_documents(doc! { field::ID: { "$in": ids } });
        those.collation(simple()).await
    }

    /// Adds an entry to the audit.
    pub(crate) async fn record(
        &self,
        entry: &AuditEntry<'_>,
        ids: &[Bson],
        events: u64,
    ) -> Result<()> {
        let mut record = doc! {
            "outbox": self.events.name(),
            "at": DateTime::now(),
            "who": entry.who,
            "action": entry.action,
            "selection": entry.selection,
            "events": i64::try_from(events).unwrap_or(i64::MAX),
            "ids": ids.iter().take(IDS_KEPT).map(shown_id).collect::<Vec<_>>(),
        };

        if let Some(reason) = entry.reason {
            record.insert("reason", reason);
        }

        self.audit.insert_one(record).await?;
        Ok(())
    }

    /// The audit of this outbox, newest entry first.
    pub(crate) async fn audit(&self, limit: i64) -> Result<Vec<Document>> {
        let of_this = doc! { "outbox": self.events.name() };
        let entries = self.audit.find(of_this).sort(doc! { "at": -1, "_id": -1 });
        entries.limit(limit).collation(simple()).await?.try_collect().await
    }
}

//! What an operator does to events, and the record of it. Needs MongoDB alone: a relay may run or
//! not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use mongodb::{Collection, Database};
use outboxd_client::field;

use super::bounded::QUERY_TIME;
use super::clock;
use super::collation::simple;
use super::collections::AUDIT;
use super::inspect::count;
use super::selection::Selection;
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};

/// Most ids kept in one entry of the audit.
const IDS_KEPT: usize = 100;
/// In an outcome: the request that it is of.
const OUTCOME_OF: &str = "outcomeOf";
/// How long a request to discard is used. The relay holds back the event for longer.
const REQUEST_USED: Duration = Duration::from_secs(20);
const _: () = assert!(REQUEST_USED.as_secs() < state::DISCARD_HOLDS.as_secs());

/// An outbox whose events are acted on.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    database: Database,
    events: Collection<Document>,
    audit: Collection<Document>,
    layout: Arc<Layout>,
}

/// A request of the audit, and how many events it was carried out on.
#[derive(Debug)]
pub(crate) struct AuditRecord {
    pub(crate) request: Document,
    /// `None` when no outcome was recorded.
    pub(crate) events: Option<u64>,
}

/// An entry of the audit: who does what.
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
        let found = found.max_time(QUERY_TIME);
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
        let tried = self.events.count_documents(filter).max_time(QUERY_TIME);
        tried.collation(simple()).await
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
            // The last word of an operator holds.
            state::discard_withdrawn(),
        ];

        let retry = self.events.update_many(self.among(ids, State::UNLOCKED), due);
        Ok(retry.collation(simple()).await?.modified_count)
    }

    /// Asks the relay to let go of stuck events, in the name of the command `by`: the relay alone
    /// knows which of them it is publishing. Takes the place of an earlier command's request.
    pub(crate) async fn request_discard(&self, ids: &[Bson], by: ObjectId) -> Result<()> {
        let request = vec![doc! { "$set": {
            field::DISCARD_REQUESTED_AT: "$$NOW",
            field::DISCARD_REQUESTED_BY: by,
        } }];
        let request = self.events.update_many(self.among(ids, State::UNLOCKED), request);
        request.collation(simple()).await?;
        Ok(())
    }

    /// Removes those events for good that no relay holds: the dead ones, and those that the relay
    /// has granted. Returns how many.
    pub(crate) async fn discard_granted(&self, ids: &[Bson], by: ObjectId) -> Result<u64> {
        let mut granted = self.requested_by(ids, by);
        granted.insert(
            "$or",
            [
                state::filter(&[State::Dead], &self.layout),
                doc! {
                    field::DISCARD_GRANTED_TO: by,
                },
            ],
        );
        self.discard(granted).await
    }

    /// Removes every event that is still requested. The caller holds the lease, so no relay holds
    /// any. Returns how many.
    pub(crate) async fn discard_requested(&self, ids: &[Bson], by: ObjectId) -> Result<u64> {
        self.discard(self.requested_by(ids, by)).await
    }

    /// The request holds a while longer for the relay than it does here. So the relay never
    /// publishes what is removed here.
    async fn discard(&self, mut filter: Document) -> Result<u64> {
        filter.extend(state::discard_requested(REQUEST_USED));
        Ok(self.events.delete_many(filter).collation(simple()).await?.deleted_count)
    }

    /// Takes the command's request back: nothing of it comes true later.
    pub(crate) async fn withdraw_discard(&self, ids: &[Bson], by: ObjectId) -> Result<()> {
        let withdraw = vec![state::discard_withdrawn()];
        let withdraw = self.events.update_many(self.requested_by(ids, by), withdraw);
        withdraw.collation(simple()).await?;
        Ok(())
    }

    /// How many of these events carry the command's request. Whatever else becomes of an event, it
    /// carries the request no more.
    pub(crate) async fn left(&self, ids: &[Bson], by: ObjectId) -> Result<u64> {
        self.events.count_documents(self.requested_by(ids, by)).collation(simple()).await
    }

    fn requested_by(&self, ids: &[Bson], by: ObjectId) -> Document {
        let mut requested = self.among(ids, State::UNLOCKED);
        requested.insert(field::DISCARD_REQUESTED_BY, by);
        requested
    }

    /// Has the relay look for what waited behind removed events.
    pub(crate) async fn wake_relay(&self) -> Result<()> {
        let waiting = state::by_index(state::filter(State::WAITING, &self.layout), &self.layout);
        let wake = vec![doc! { "$set": { field::RETRY_REQUESTED_AT: "$$NOW" } }];
        self.events.update_one(waiting, wake).collation(simple()).await?;
        Ok(())
    }

    /// In a query: those of these events that are in one of these states.
    fn among(&self, ids: &[Bson], states: &[State]) -> Document {
        let mut filter = state::filter(states, &self.layout);
        filter.insert(field::ID, doc! { "$in": ids });
        filter
    }

    /// Records what is about to be done to these events. Returns the record's id.
    pub(crate) async fn record_request(
        &self,
        entry: &AuditEntry<'_>,
        ids: &[Bson],
    ) -> Result<ObjectId> {
        let id = ObjectId::new();
        let mut record = self.record(entry, 0);
        record.insert("_id", id);
        record.insert("requested", i64::try_from(ids.len()).unwrap_or(i64::MAX));
        record.insert("ids", ids.iter().take(IDS_KEPT).map(shown_id).collect::<Vec<_>>());

        self.audit.insert_one(record).await?;
        Ok(id)
    }

    /// Records what came of a request: the number of events. The audit is only added to.
    pub(crate) async fn record_outcome(
        &self,
        entry: &AuditEntry<'_>,
        request: ObjectId,
        events: u64,
    ) -> Result<()> {
        let mut record = self.record(entry, events);
        record.insert(OUTCOME_OF, request);
        self.audit.insert_one(record).await?;
        Ok(())
    }

    fn record(&self, entry: &AuditEntry<'_>, events: u64) -> Document {
        let mut record = doc! {
            "outbox": self.events.name(),
            "at": DateTime::now(),
            "who": entry.who,
            "action": entry.action,
            "selection": entry.selection,
            "events": i64::try_from(events).unwrap_or(i64::MAX),
        };
        if let Some(reason) = entry.reason {
            record.insert("reason", reason);
        }
        record
    }

    /// The requests in the audit of this outbox, newest first, each with what came of it. A request
    /// without an outcome was interrupted. An earlier release recorded the outcome alone.
    pub(crate) async fn audit(&self, limit: i64) -> Result<Vec<AuditRecord>> {
        let requests = doc! { "outbox": self.events.name(), OUTCOME_OF: { "$exists": false } };
        let requests = self
            .audit
            .find(requests)
            .sort(doc! { "at": -1, "_id": -1 })
            .limit(limit)
            .max_time(QUERY_TIME);
        let requests: Vec<Document> = requests.collation(simple()).await?.try_collect().await?;

        let ids: Vec<Bson> =
            requests.iter().filter_map(|found| found.get("_id").cloned()).collect();
        let outcomes = self.audit.find(doc! { OUTCOME_OF: { "$in": ids } });
        let outcomes =
            outcomes.max_time(QUERY_TIME).projection(doc! { OUTCOME_OF: 1, "events": 1 });
        let mut outcomes = outcomes.collation(simple()).await?;
        let mut events = HashMap::new();
        while let Some(outcome) = outcomes.try_next().await? {
            if let Ok(request) = outcome.get_object_id(OUTCOME_OF) {
                events.insert(request, count(&outcome, "events"));
            }
        }

        Ok(requests
            .into_iter()
            .map(|request| AuditRecord {
                events: match request.contains_key("requested") {
                    true => request.get_object_id("_id").ok().and_then(|id| events.remove(&id)),
                    false => Some(count(&request, "events")),
                },
                request,
            })
            .collect())
    }
}

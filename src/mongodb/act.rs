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
use outboxd_client::{field, scheduled_collection};

use super::bounded::QUERY_TIME;
use super::collation::{simple, simple_document};
use super::collections::AUDIT;
use super::inspect::count;
use super::selection::escape;
use super::write::{self, Order, Write, is_of_documents, raw};
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};
use crate::relay::ports::Refused;

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
    scheduled: Collection<Document>,
    audit: Collection<Document>,
    layout: Arc<Layout>,
}

/// Where the events of an action are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Outbox,
    /// The collection of scheduled events.
    Scheduled,
}

/// What a command did to events.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) events: u64,
    pub(crate) refused: Vec<RefusedEvent>,
}

/// An event whose update MongoDB refuses.
#[derive(Debug)]
pub(crate) struct RefusedEvent {
    pub(crate) id: String,
    pub(crate) error: String,
}

/// Fields that an edit gives other values, and those that it removes.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct FieldEdits {
    pub(crate) set: Document,
    pub(crate) unset: Vec<String>,
}

/// A request of the audit, and how many events it was carried out on.
#[derive(Debug)]
pub(crate) struct AuditRecord {
    pub(crate) request: Document,
    /// `None` when no outcome was recorded.
    pub(crate) events: Option<u64>,
}

/// Which entries of the audit are wanted.
#[derive(Debug, Default, Clone)]
pub(crate) struct AuditFilter {
    pub(crate) action: Option<String>,
    /// A name, with or without what is behind its `@`.
    pub(crate) who: Option<String>,
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
            scheduled: database.collection(&scheduled_collection(collection)),
            audit: database.collection(AUDIT),
            database,
            layout,
        }
    }

    /// Makes stuck or scheduled events due now, dead ones included. A relay that runs sees it in its
    /// change stream.
    pub(crate) async fn retry_now(&self, place: Place, ids: &[Bson]) -> Result<Done> {
        self.update_each((place, ids), doc! {}, &due_now(place)).await
    }

    /// Gives a dead event other content and makes it due. Nothing happens to an event that has left
    /// this state since `dead_at`.
    pub(crate) async fn edit(
        &self,
        (place, id): (Place, &Bson),
        dead_at: DateTime,
        edit: &FieldEdits,
    ) -> Result<Done> {
        let mut update = Vec::new();
        if !edit.set.is_empty() {
            let literals = edit.set.iter();
            let literals: Document = literals
                .map(|(name, value)| (name.clone(), doc! { "$literal": value.clone() }.into()))
                .collect();
            update.push(doc! { "$set": literals });
        }

        if !edit.unset.is_empty() {
            update.push(doc! { "$unset": edit.unset.clone() });
        }
        update.extend(due_now(place));
        let one = (place, std::slice::from_ref(id));
        self.update_each(one, doc! { field::DEAD_AT: dead_at }, &update).await
    }

    /// Updates each of these events that is unlocked and `also` so. An event whose update the
    /// server refuses, for an index or a validator of somebody else's, stops no other.
    async fn update_each(
        &self,
        (place, ids): (Place, &[Bson]),
        also: Document,
        update: &[Document],
    ) -> Result<Done> {
        let (events, states) = match place {
            Place::Outbox => (&self.events, state::filter(State::UNLOCKED, &self.layout)),
            Place::Scheduled => (&self.scheduled, Document::new()),
        };
        let statement = |id: &Bson| {
            let mut wanted = states.clone();
            wanted.insert(field::ID, id);
            wanted.extend(also.clone());
            raw(doc! { "q": wanted, "u": update.to_vec(), "collation": simple_document() })
        };
        let statements: Vec<_> = ids.iter().map(statement).collect::<Result<_>>()?;

        let (collection, order) = (events.name(), Order::None);
        let mut events = 0;
        let learn = |reply: &Document| events += count(reply, "nModified");
        let refused =
            write::all(&self.database, collection, Write::Update, &statements, order, learn);

        let refused = refused.await?.into_iter().filter_map(|Refused { index, error }| {
            Some(RefusedEvent { id: shown_id(ids.get(index)?), error })
        });
        Ok(Done { refused: refused.collect(), events })
    }

    /// Asks the relay to let go of stuck events, in the name of the command `by`: the relay alone
    /// knows which of them it is publishing. Takes the place of an earlier command's request.
    pub(crate) async fn request_discard(&self, ids: &[Bson], by: ObjectId) -> Result<Done> {
        let request = doc! { "$set": {
            field::DISCARD_REQUESTED_AT: "$$NOW",
            field::DISCARD_REQUESTED_BY: by,
        } };
        self.update_each((Place::Outbox, ids), doc! {}, &[request]).await
    }

    /// Removes scheduled events for good. Nobody has one in memory, and the relay moves it in a
    /// transaction: so what this removes is never delivered, and what it doesn't find was moved.
    pub(crate) async fn discard_scheduled(&self, ids: &[Bson]) -> Result<Done> {
        let events = doc! { field::ID: { "$in": ids } };
        let deleted = self.scheduled.delete_many(events).collation(simple()).await?;
        Ok(Done { events: deleted.deleted_count, refused: Vec::new() })
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

    /// Takes the command's request back: nothing of it comes true later. A request that the server
    /// does not let go lapses.
    pub(crate) async fn withdraw_discard(&self, ids: &[Bson], by: ObjectId) -> Result<Done> {
        let requested = doc! { field::DISCARD_REQUESTED_BY: by };
        self.update_each((Place::Outbox, ids), requested, &[state::discard_withdrawn()]).await
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

    /// Has the relay look for what waited behind removed events. Without it, the relay does so at
    /// its next retry; so a refusal is no error.
    pub(crate) async fn wake_relay(&self) -> Result<()> {
        let waiting = state::by_index(state::filter(State::WAITING, &self.layout), &self.layout);
        let wake = vec![doc! { "$set": { field::RETRY_REQUESTED_AT: "$$NOW" } }];
        match self.events.update_one(waiting, wake).collation(simple()).await {
            Err(error) if is_of_documents(&error) => Ok(()),
            woken => woken.map(|_| ()),
        }
    }

    /// In a query: those of these events that are in one of these states.
    fn among(&self, ids: &[Bson], states: &[State]) -> Document {
        let mut filter = state::filter(states, &self.layout);
        filter.insert(field::ID, doc! { "$in": ids });
        filter
    }

    /// Records what is about to be done to so many events, some of which have these ids, and for an edit what was there `before`.
    /// Returns the record's id.
    pub(crate) async fn record_request(
        &self,
        entry: &AuditEntry<'_>,
        (ids, events): (&[Bson], u64),
        before: Option<Document>,
    ) -> Result<ObjectId> {
        let id = ObjectId::new();
        let mut record = self.record(entry, 0);
        record.insert("_id", id);
        record.insert("requested", i64::try_from(events).unwrap_or(i64::MAX));
        record.insert("ids", ids.iter().take(IDS_KEPT).map(shown_id).collect::<Vec<_>>());
        if let Some(before) = before {
            record.insert("before", before);
        }

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
    pub(crate) async fn audit(
        &self,
        wanted: &AuditFilter,
        skip: u64,
        limit: i64,
    ) -> Result<Vec<AuditRecord>> {
        let mut requests = doc! { "outbox": self.events.name(), OUTCOME_OF: { "$exists": false } };
        if let Some(action) = &wanted.action {
            requests.insert("action", action);
        }
        if let Some(who) = &wanted.who {
            // With the machine or console, or without it.
            let name = format!("^{}(@|\\z)", escape(who));
            requests.insert("who", doc! { "$regex": name });
        }

        let requests = self
            .audit
            .find(requests)
            .sort(doc! { "at": -1, "_id": -1 })
            .skip(skip)
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

/// In an update with a pipeline: an event is due now.
fn due_now(place: Place) -> Vec<Document> {
    match place {
        Place::Outbox => retry(),
        Place::Scheduled => deliver(),
    }
}

/// A scheduled event is due now. One that was due already keeps its place in the order of its key.
fn deliver() -> Vec<Document> {
    let at = format!("${}", field::DELIVER_AT);
    let was_due = doc! { "$and": [
        { "$eq": [{ "$type": &at }, "date"] },
        { "$lt": [&at, "$$NOW"] },
        { "$ne": [{ "$type": format!("${}", field::DEAD_AT) }, "date"] },
    ] };
    vec![
        doc! { "$set": {
            field::DELIVER_AT: { "$cond": [was_due, at, "$$NOW"] },
            field::IS_LOCKED: true,
            field::RETRY_REQUESTED_AT: "$$NOW",
        } },
        doc! { "$unset": [field::DEAD_AT, field::NEXT_ATTEMPT_AT, field::ATTEMPTS] },
    ]
}

/// A dead event of the outbox starts again at no attempts; a failed one keeps its count.
fn retry() -> Vec<Document> {
    let counted = doc! { "$ifNull": [format!("${}", field::ATTEMPTS), 0_i64] };
    let attempts = doc! { "$cond": [State::Dead.expression(), 0_i64, counted] };
    vec![
        doc! { "$set": {
            field::ATTEMPTS: attempts,
            field::NEXT_ATTEMPT_AT: "$$NOW",
            field::RETRY_REQUESTED_AT: "$$NOW",
        } },
        doc! { "$unset": field::DEAD_AT },
        // The last word of an operator holds.
        state::discard_withdrawn(),
    ]
}

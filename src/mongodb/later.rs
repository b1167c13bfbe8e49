//! The scheduled events in a few numbers, cheap enough to ask for all the time: one query, that reads
//! an index within bounds.

use std::sync::Arc;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{ErrorKind, Result};
use mongodb::options::Hint;
use mongodb::{Collection, Database};
use outboxd_client::{field, scheduled_collection};
use serde::Serialize;

use super::backlog::is_empty;
use super::bounded::{QUERY_TIME, small};
use super::collation::simple;
use super::index::lacks_index;
use super::{clock, code};
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::State;

/// The index of migration 0009, by `deadAt` and `deliverAt`.
const DUE: &str = "outboxd_due";
/// Most events of a kind that are counted one by one.
const MAX_COUNTED: u64 = 10_000;

/// The events beside an outbox that are published later.
#[derive(Debug, Clone)]
pub(crate) struct LaterStore {
    database: Database,
    events: Collection<Document>,
    layout: Arc<Layout>,
}

/// The scheduled events at one time.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Later {
    /// Those that wait for their time; above [`MAX_COUNTED`] by the collection's metadata.
    pub(crate) events: u64,
    /// Those that wait for an operator; counted up to [`MAX_COUNTED`].
    pub(crate) dead: u64,
    /// Seconds until the next of those is due that are not due yet.
    pub(crate) next_due_in_seconds: Option<u64>,
    /// Those that are due and not moved into the outbox yet; counted up to [`MAX_COUNTED`].
    pub(crate) overdue: u64,
    /// For how long the first of those has been due.
    pub(crate) overdue_seconds: u64,
    /// Its id.
    #[serde(skip)]
    pub(crate) most_overdue: Option<String>,
    /// Whether the index is gone that the relay finds due events with. Then nothing is known but
    /// how many events there are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lacks_index: bool,
}

impl LaterStore {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(database: &Database, collection: &str, layout: Arc<Layout>) -> Self {
        let events = database.collection(&scheduled_collection(collection));
        Self { database: database.clone(), events, layout }
    }

    /// Whether there is no event.
    pub(crate) async fn is_empty(&self) -> Result<bool> {
        is_empty(&self.events).await
    }

    /// The numbers now.
    pub(crate) async fn numbers_now(&self) -> Result<Option<Later>> {
        let now = clock::now(&self.database).await?;

        self.numbers(now).await
    }

    /// The numbers at `now`, which is the server's time. `None` where the user may not read
    /// scheduled events.
    pub(crate) async fn numbers(&self, now: DateTime) -> Result<Option<Later>> {
        let numbers = self.events.aggregate(self.pipeline(now));
        let numbers = numbers.hint(Hint::Name(DUE.to_owned())).max_time(QUERY_TIME);
        let parts: Vec<Document> = match numbers.collation(simple()).await {
            Ok(parts) => parts.try_collect().await?,
            Err(error) if lacks_index(&error) => {
                let events = self.events.estimated_document_count().await?;
                return Ok(Some(Later { events, lacks_index: events > 0, ..Later::default() }));
            }
            Err(error) => match &*error.kind {
                ErrorKind::Command(refused) if code::WITHHELD.contains(&refused.code) => {
                    return Ok(None);
                }
                _ => return Err(error),
            },
        };

        let mut later = Later::default();

        for part in parts {
            later.add(&part, now);
        }

        if later.events >= MAX_COUNTED {
            let all = self.events.estimated_document_count().await?;
            later.events = all.saturating_sub(later.dead).max(MAX_COUNTED);
        }

        Ok(Some(later))
    }

    /// One document for each number. Each part reads a range of the index and ends at its bound.
    fn pipeline(&self, now: DateTime) -> Vec<Document> {
        let most = i64::try_from(MAX_COUNTED).unwrap_or(i64::MAX);
        let waiting = State::Scheduled.filter(&self.layout);
        let due = |condition: Document| {
            let mut due = waiting.clone();
            due.insert(field::DELIVER_AT, condition);
            due
        };
        let first = |filter: Document, name: &str| {
            let id = small(format!("${}", field::ID), "$$REMOVE");
            vec![
                doc! { "$match": filter },
                doc! { "$sort": { field::DELIVER_AT: 1, field::ID: 1 } },
                doc! { "$limit": 1 },
                doc! { "$project": {
                    field::ID: 0, name: format!("${}", field::DELIVER_AT), "id": id,
                } },
            ]
        };
        let count = |filter: Document, name: &str| {
            vec![doc! { "$match": filter }, doc! { "$limit": most }, doc! { "$count": name }]
        };

        let mut pipeline = first(due(doc! { "$lte": now }), "overdueSince");

        for part in [
            first(due(doc! { "$gt": now }), "nextAt"),
            count(due(doc! { "$lte": now }), "overdue"),
            count(waiting.clone(), "events"),
            count(State::Dead.filter(&self.layout), "dead"),
        ] {
            pipeline.push(doc! { "$unionWith": { "coll": self.events.name(), "pipeline": part } });
        }
        pipeline
    }
}

impl Later {
    fn add(&mut self, part: &Document, now: DateTime) {
        let seconds = |name: &str, from: fn(i64, i64) -> i64| {
            let at = part.get_datetime(name).ok()?.timestamp_millis();
            u64::try_from(from(at, now.timestamp_millis()) / 1000).ok()
        };

        if let Some(ago) = seconds("overdueSince", |at, now| now.saturating_sub(at)) {
            self.overdue_seconds = ago;
            self.most_overdue = part.get("id").map(shown_id);
        }

        if let Some(ahead) = seconds("nextAt", |at, now| at.saturating_sub(now)) {
            self.next_due_in_seconds = Some(ahead);
        }

        for (name, number) in
            [("overdue", &mut self.overdue), ("events", &mut self.events), ("dead", &mut self.dead)]
        {
            let counted = part.get(name).and_then(|count| match count {
                bson::Bson::Int32(count) => u64::try_from(*count).ok(),
                bson::Bson::Int64(count) => u64::try_from(*count).ok(),
                _ => None,
            });
            *number = counted.unwrap_or(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_answer_are_put_together() {
        let at = DateTime::from_millis;
        let mut later = Later::default();

        for part in [
            doc! { "overdueSince": at(1_000), "id": "most" },
            doc! { "nextAt": at(95_500) },
            doc! { "overdue": 2 },
            doc! { "events": 10_i64 },
            doc! { "dead": 1 },
        ] {
            later.add(&part, at(62_000));
        }
        assert_eq!((later.events, later.dead, later.overdue), (10, 1, 2));
        assert_eq!((later.overdue_seconds, later.next_due_in_seconds), (61, Some(33)));
        assert_eq!(later.most_overdue.as_deref(), Some("most"));
    }
}

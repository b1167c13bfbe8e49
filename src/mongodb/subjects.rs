//! The subjects of the events in the outbox.

use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use outboxd_client::event::Subject;

use super::collation::simple;
use crate::document::layout::Layout;
use crate::failure::{NO_PERMISSION, NOT_COVERED};

/// Longest time that the server looks at events.
const MAX_TIME: Duration = Duration::from_secs(10);

/// What the first events of the outbox have, in the collection's own order.
pub(crate) struct Subjects {
    pub(crate) events: usize,
    /// Distinct and valid subjects.
    pub(crate) all: Vec<String>,
    /// Those of events that failed because the stream does not take them.
    pub(crate) refused: Vec<String>,
    /// Those of events whose last publish NATS denied.
    pub(crate) denied: Vec<String>,
}

impl Subjects {
    /// Looks at so many events, which needs no sort.
    pub(crate) async fn look(
        database: &Database,
        collection: &str,
        layout: &Layout,
        most: i64,
    ) -> mongodb::error::Result<Self> {
        // A document may hold anything here: groups are of strings only, and of limited size.
        let subject = layout.subject_of_document();
        let subject =
            doc! { "$cond": [{ "$eq": [{ "$type": &subject }, "string"] }, subject, Bson::Null] };
        let is_refused = doc! { "$in": [NOT_COVERED, "$failures.code"] };
        let is_refused = doc! { "$cond": [{ "$isArray": "$failures.code" }, is_refused, false] };

        let is_denied = doc! { "$eq": [NO_PERMISSION, { "$last": "$failures.code" }] };
        let is_denied = doc! { "$cond": [{ "$isArray": "$failures.code" }, is_denied, false] };

        let each = [
            doc! { "$limit": most },
            doc! { "$group": {
                "_id": subject,
                "events": { "$sum": 1 },
                "refused": { "$max": is_refused },
                "denied": { "$max": is_denied },
            } },
            doc! { "$match": { "$expr": { "$lt": [{ "$bsonSize": "$$ROOT" }, 1024] } } },
        ];

        let events = database.collection::<Document>(collection);
        let groups: Vec<Document> = events
            .aggregate(each)
            .max_time(MAX_TIME)
            .collation(simple())
            .await?
            .try_collect()
            .await?;

        let count = |group: &Document| {
            group.get_i32("events").ok().and_then(|events| usize::try_from(events).ok())
        };
        let is = |group: &Document, what: &str| group.get_bool(what).unwrap_or(false);
        let mut all: Vec<_> = groups
            .iter()
            .filter_map(|group| Some((group.get_str("_id").ok()?.to_owned(), group)))
            .filter(|(text, _)| Subject::new(text.as_str()).is_ok())
            .collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));

        let those = |what: &str| -> Vec<String> {
            let those = all.iter().filter(|(_, group)| is(group, what));
            those.map(|(text, _)| text.clone()).collect()
        };
        Ok(Self {
            events: groups.iter().filter_map(count).sum(),
            refused: those("refused"),
            denied: those("denied"),
            all: all.into_iter().map(|(text, _)| text).collect(),
        })
    }

    /// Adds those of other events.
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        for (all, more) in [(&mut self.all, other.all), (&mut self.refused, other.refused)] {
            all.extend(more);
            all.sort_unstable();
            all.dedup();
        }
    }
}

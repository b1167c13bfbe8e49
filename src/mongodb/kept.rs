//! Kept events as an operator asks for them: those that match, in the order of the stream.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Database;
use mongodb::error::Result;
use mongodb::options::Hint;
use serde::Serialize;

use super::clock;
use super::collation::simple;
use super::collections::published;
use super::inspect::{date, text};
use super::outbox::Store;
use super::published::{INDEX, MESSAGE_ID, PLACE, PUBLISHED_AT, SEQUENCE, STREAM};
use super::selection::Selection;
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::relay::kept::Kept;
use crate::relay::ports::Room;

/// How far the clocks of two primaries may be apart: events of before a time may have come later.
const SKEW_MS: i64 = 60_000;

/// A time, as an operator gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// So long ago, by the server's clock.
    Ago(Duration),
    At(DateTime),
}

impl Time {
    fn by(self, now: DateTime) -> DateTime {
        match self {
            Self::Ago(age) => {
                let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                DateTime::from_millis(now.timestamp_millis().saturating_sub(age))
            }
            Self::At(at) => at,
        }
    }
}

/// Which kept events an operator means: every condition holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptSelection {
    pub(crate) ids: Option<Vec<Bson>>,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    /// Published then or later.
    pub(crate) since: Option<Time>,
    /// Published before.
    pub(crate) until: Option<Time>,
}

/// A kept event, as a line of a list.
#[derive(Debug, Serialize)]
pub(crate) struct KeptEntry {
    pub(crate) id: String,
    pub(crate) published_at: Option<String>,
    pub(crate) stream: Option<String>,
    /// `None` if the stream has lost it and refuses to take it again.
    pub(crate) seq: Option<i64>,
    pub(crate) message_id: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
}

impl KeptEntry {
    pub(crate) fn read(event: &Document, layout: &Layout) -> Self {
        let get = |name: &str| event.get(name).cloned();
        Self {
            id: event.get("_id").map(shown_id).unwrap_or_default(),
            published_at: date(event, PUBLISHED_AT),
            stream: text(event, STREAM),
            seq: event.get_i64(SEQUENCE).ok(),
            message_id: text(event, MESSAGE_ID),
            subject: layout.shown_subject(get),
            key: layout.shown_key(get),
        }
    }
}

impl Store {
    /// These kept events as a filter, as of now: what is kept later does not match.
    pub(crate) async fn kept_filter(&self, selection: &KeptSelection) -> Result<Document> {
        let now = clock::now(&self.database()).await?;
        let KeptSelection { ids, subject, key, since, until } = selection.clone();
        let mut filter =
            Selection { ids, subject, key, ..Selection::default() }.of_kept(&self.layout, now);

        let mut published = doc! { "$lt": until.map_or(now, |until| until.by(now)) };
        let mut first = i64::MIN;
        if let Some(since) = since {
            let since = since.by(now);
            published.insert("$gte", since);
            first = self.place_of(since).await?;
        }
        filter.insert(PUBLISHED_AT, published);
        filter.insert(PLACE, doc! { "$gte": first });

        Ok(filter)
    }

    /// A place before those of all events that were published at this time or later. The server
    /// reads the newer ones to find it.
    async fn place_of(&self, since: DateTime) -> Result<i64> {
        let before = DateTime::from_millis(since.timestamp_millis().saturating_sub(SKEW_MS));
        let older = doc! { PLACE: { "$gte": i64::MIN }, PUBLISHED_AT: { "$lt": before } };
        let published = self.published();
        let newest = published.find_one(older).sort(doc! { PLACE: -1 });
        let newest = newest.projection(doc! { PLACE: 1 }).collation(simple()).await?;

        let place = newest.and_then(|newest| newest.get_i64(PLACE).ok());
        Ok(place.unwrap_or(i64::MIN))
    }

    /// How many kept events match.
    pub(crate) async fn count_matching(&self, filter: &Document) -> Result<u64> {
        let index = Hint::Name(INDEX.to_owned());
        let published = self.published();
        published.count_documents(filter.clone()).hint(index).collation(simple()).await
    }

    /// The next kept events that match, behind this place.
    pub(crate) async fn matching(
        &self,
        filter: &Document,
        behind: Option<i64>,
        room: Room,
    ) -> Result<Vec<Kept>> {
        let behind = behind.map(|place| doc! { PLACE: { "$gt": place } });
        let all: Vec<_> = std::iter::once(filter.clone()).chain(behind).collect();
        self.read_kept(doc! { "$and": all }, false, room).await
    }

    /// Kept events that match, the newest first, without what is large.
    pub(crate) async fn newest_matching(
        &self,
        filter: &Document,
        skip: u64,
        most: i64,
    ) -> Result<Vec<KeptEntry>> {
        let mut shown = doc! { PUBLISHED_AT: 1, STREAM: 1, SEQUENCE: 1, MESSAGE_ID: 1 };
        self.layout.project(&mut shown);

        let published = self.database().collection::<Document>(self.published().name());
        let found = published.find(filter.clone()).sort(doc! { PLACE: -1 }).skip(skip);
        let found = found.limit(most).projection(shown).collation(simple()).await?;
        let found: Vec<Document> = found.try_collect().await?;

        Ok(found.iter().map(|event| KeptEntry::read(event, &self.layout)).collect())
    }

    /// One kept event, whole.
    pub(crate) async fn kept_with(&self, ids: &[Bson]) -> Result<Option<Document>> {
        let published = self.database().collection::<Document>(self.published().name());
        let wanted = doc! { "_id": { "$in": ids } };
        published.find_one(wanted).collation(simple()).await
    }
}

/// Kept events in numbers.
#[derive(Debug, Default)]
pub(crate) struct KeptNumbers {
    pub(crate) events: u64,
    /// Of all their documents, judged by the newest.
    pub(crate) bytes: u64,
    /// How long the oldest has been kept.
    pub(crate) oldest_seconds: Option<u64>,
}

/// Kept events that are looked at for their size.
const SAMPLE: i64 = 100;

impl KeptNumbers {
    /// Those beside this outbox. Reads a hundred of them.
    pub(crate) async fn now(database: &Database, outbox: &str) -> Result<Self> {
        let kept = database.collection::<Document>(&published(outbox));
        let events = kept.estimated_document_count().await?;

        let size = [
            doc! { "$sort": { PLACE: -1 } },
            doc! { "$limit": SAMPLE },
            doc! { "$group": { "_id": null, "bytes": { "$avg": { "$bsonSize": "$$ROOT" } } } },
        ];
        let size = kept.aggregate(size).collation(simple()).await?.try_next().await?;
        let each = size.map_or(0.0, |size| size.get_f64("bytes").unwrap_or(0.0));

        let now = clock::now(database).await?;
        let oldest =
            kept.find_one(doc! {}).sort(doc! { PLACE: 1 }).projection(doc! { PUBLISHED_AT: 1 });
        let oldest = oldest.collation(simple()).await?;
        let oldest = oldest.and_then(|oldest| oldest.get_datetime(PUBLISHED_AT).ok().copied());

        Ok(Self {
            events,
            bytes: (each as u64).saturating_mul(events),
            oldest_seconds: oldest
                .and_then(|at| clock::age(Some(at.timestamp_millis() / 1000), now)),
        })
    }
}

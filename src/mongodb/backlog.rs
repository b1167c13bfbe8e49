//! What waits in an outbox, in a few numbers that are cheap enough to ask for all the time.
//!
//! The metrics, the alerts, `outboxd stats` and `/status` all take the age of the oldest event from
//! [`BacklogStore::oldest`], so they show the same one.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::action::Find;
use mongodb::error::Result;
use mongodb::options::Hint;
use mongodb::{Collection, Database};
use outboxd_client::field;

use super::bounded::QUERY_TIME;
use super::clock;
use super::collation::simple;
use super::index::{LOCKED, WAITING, lacks_index};
use crate::document::layout::Layout;
use crate::document::record::{MAX_ANY_ID_BYTES, shown_id, size_of_value};
use crate::document::state::{self, State};
use crate::document::written::{has_no_time, has_time, written_at};

/// Events of each kind among which the oldest is looked for.
const FIRST: i64 = 20;
/// Most events counted to say how many are dead, or stuck.
const MAX_COUNTED: u64 = 10_000;
/// Characters shown of a text that any client may have written.
const MAX_SHOWN: usize = 255;

/// An outbox whose backlog is watched.
#[derive(Debug, Clone)]
pub(crate) struct BacklogStore {
    database: Database,
    events: Collection<RawDocumentBuf>,
    layout: Arc<Layout>,
}

/// The backlog at one time.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Every event; from the collection's metadata.
    pub(crate) events: u64,
    /// Those that are dead; counted up to [`MAX_COUNTED`].
    pub(crate) dead: u64,
    pub(crate) oldest: Option<Oldest>,
    /// The server's time of it.
    pub(crate) at: DateTime,
}

/// The oldest event that is not dead.
#[derive(Debug)]
pub(crate) struct Oldest {
    /// `None` when it is not UTF-8.
    pub(crate) id: Option<Bson>,
    /// `None` when neither `ts` nor the id has a time.
    pub(crate) age_seconds: Option<u64>,
}

/// An event, for people.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) id: String,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) attempts: u32,
    /// The error of its newest failure.
    pub(crate) last_failure: Option<String>,
}

impl BacklogStore {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self { events: database.collection(collection), database, layout }
    }

    /// Whether there is no event.
    pub(crate) async fn is_empty(&self) -> Result<bool> {
        is_empty(&self.events).await
    }

    /// The numbers now.
    pub(crate) async fn numbers(&self) -> Result<Numbers> {
        let (dead, at) = (State::Dead.filter(&self.layout), clock::now(&self.database).await?);
        Ok(Numbers {
            events: self.size().await?,
            dead: self.count(dead, WAITING).await?,
            oldest: self.oldest(at).await?,
            at,
        })
    }

    /// How many events there are, from the collection's metadata.
    pub(super) async fn size(&self) -> Result<u64> {
        self.events.estimated_document_count().await
    }

    /// The oldest event that is not dead, by its `ts` or the time in an ObjectId `_id`. An event of
    /// unknown age is returned only if there is no other.
    ///
    /// Reads the first [`FIRST`] of those that are locked and of those that wait, by their `ts`, and
    /// as many without a time there. So it neither sorts nor scans, and dead events cost nothing.
    /// Without the indexes it reads the first [`FIRST`] in the order in which MongoDB stores them,
    /// and the dead ones before those: the age is a lower bound then.
    pub(super) async fn oldest(&self, now: DateTime) -> Result<Option<Oldest>> {
        let first = match self.first_by_time().await {
            Err(error) if lacks_index(&error) => self.first_stored().await?,
            first => first?,
        };

        let ages = first.into_iter().map(|First { id, written_at }| Oldest {
            id,
            age_seconds: clock::age(written_at, now),
        });

        // Of several, the first.
        Ok(ages.reduce(|old, new| if new.age_seconds > old.age_seconds { new } else { old }))
    }

    async fn first_by_time(&self) -> Result<Vec<First>> {
        let mut first = Vec::new();
        for (states, index) in self.not_dead() {
            for times in [has_time(), has_no_time()] {
                let events = states.clone().into_iter().chain(times).collect();
                let events = self.first(events).sort(doc! { field::TS: 1, field::ID: 1 });
                let events = events.hint(Hint::Name(index.to_owned())).await?;
                first.extend(events.map_ok(First::read).try_collect::<Vec<_>>().await?);
            }
        }
        Ok(first)
    }

    async fn first_stored(&self) -> Result<Vec<First>> {
        let stored = self.first(state::filter(State::NOT_DEAD, &self.layout)).await?;
        stored.map_ok(First::read).try_collect().await
    }

    fn first(&self, states: Document) -> Find<'_, RawDocumentBuf> {
        let first = self.events.find(states).limit(FIRST).projection(doc! { field::TS: 1 });
        first.max_time(QUERY_TIME).collation(simple())
    }

    /// The events that are not dead: those that are locked and those that wait, each with the index
    /// that has them.
    fn not_dead(&self) -> [(Document, &'static str); 2] {
        let waiting = state::filter(State::WAITING, &self.layout);
        [(State::Locked.filter(&self.layout), LOCKED), (waiting, WAITING)]
    }

    /// How many events that are not dead are older than `age`, counted up to [`MAX_COUNTED`] of
    /// each kind.
    pub(crate) async fn older_than(&self, age: Duration) -> Result<u64> {
        let before = clock::before(clock::now(&self.database).await?, age);
        let mut older = 0;
        for (mut states, index) in self.not_dead() {
            self.layout.before(&mut states, before);
            older += self.count(states, index).await?;
        }
        Ok(older.min(MAX_COUNTED))
    }

    /// How many events these are, counted up to [`MAX_COUNTED`].
    async fn count(&self, events: Document, index: &str) -> Result<u64> {
        let count = || {
            let count = self.events.count_documents(events.clone()).limit(MAX_COUNTED);
            count.max_time(QUERY_TIME).collation(simple())
        };
        match count().hint(Hint::Name(index.to_owned())).await {
            Err(error) if lacks_index(&error) => count().await,
            counted => counted,
        }
    }

    /// An event in words. What of it can't be read is left out.
    pub(crate) async fn describe(&self, oldest: &Oldest) -> Result<Described> {
        let mut described = Described {
            id: oldest.id.as_ref().map_or_else(|| "(unreadable)".to_owned(), shown_id),
            subject: None,
            key: None,
            attempts: 0,
            last_failure: None,
        };

        let Some(id) = &oldest.id else { return Ok(described) };

        let mut shown = doc! { field::ATTEMPTS: 1, field::FAILURES: { "$slice": -1 } };
        self.layout.project(&mut shown);

        let event = self.events.find_one(doc! { field::ID: id }).projection(shown);
        let event = event.max_time(QUERY_TIME).collation(simple()).await?;
        // It was published meanwhile.
        let Some(event) = event else { return Ok(described) };

        let get = |name: &str| get(&event, name);
        let cut = |text: String| text.chars().take(MAX_SHOWN).collect();
        described.subject = self.layout.shown_subject(get).map(cut);
        described.key = self.layout.shown_key(get).map(cut);

        let attempts = get(field::ATTEMPTS).and_then(|count| count.as_i64());
        described.attempts = attempts.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        described.last_failure = get(field::FAILURES).and_then(|all| newest_error(&all));

        Ok(described)
    }
}

/// Whether a collection has no document, or doesn't exist.
pub(super) async fn is_empty<T: Send + Sync>(collection: &Collection<T>) -> Result<bool> {
    // An id may have megabytes.
    let any = doc! { field::ID: 0, "any": { "$literal": true } };
    let documents = collection.clone_with_type::<Document>();
    let any = documents.find_one(doc! {}).projection(any);
    Ok(any.max_time(QUERY_TIME).collation(simple()).await?.is_none())
}

/// What is kept of a document: any client may have written megabytes of `_id`.
struct First {
    id: Option<Bson>,
    written_at: Option<i64>,
}

impl First {
    fn read(event: RawDocumentBuf) -> Self {
        let written_at = written_at(|name| get(&event, name)).map(i64::from);
        Self { id: get(&event, field::ID), written_at }
    }
}

/// A value, unless it is too large: as a value it may be a hundred times as big as in its document.
fn get(event: &RawDocumentBuf, name: &str) -> Option<Bson> {
    let value = event.get(name).ok().flatten()?;
    if size_of_value(value) > MAX_ANY_ID_BYTES {
        return None;
    }
    Bson::try_from(value).ok()
}

fn newest_error(failures: &Bson) -> Option<String> {
    let newest: &Document = failures.as_array()?.last()?.as_document()?;
    newest.get_str("error").ok().map(|error| error.chars().take(MAX_SHOWN).collect())
}

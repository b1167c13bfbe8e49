//! The outbox collection as the relay uses it, and reads of it from one moment.

use std::sync::Arc;
use std::sync::atomic::{self, AtomicUsize};
use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::action::Find;
use mongodb::error::Result;
use mongodb::{Client, ClientSession, Collection, Database, Namespace};
use outboxd_client::{field, scheduled_collection};

use super::clock;
use super::collation::simple;
use super::shared::Changes;
use super::snapshot::{Snapshot, Written};
use crate::config::{Config, OnDead, Ordering};
use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;
use crate::document::state::{self, State};
use crate::relay::listing::RawId;
use crate::relay::ports::shared::{Wanted, Watched};
use crate::relay::ports::{Page, Parsed, Room};

/// Documents that the server puts into a first reply by itself.
const FIRST_REPLY: usize = 101;
/// Bytes of an event of which more than that are asked for at once.
const SMALL: usize = 2048;

/// The outbox collection, as the relay uses it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    pub(super) collection: Collection<RawDocumentBuf>,
    pub(super) layout: Arc<Layout>,
    pub(super) ordering: Ordering,
    pub(super) on_dead: OnDead,
    /// The longest wait between two attempts.
    pub(super) longest_wait: Duration,
    /// Payloads are made up to so many bytes.
    pub(super) max_payload: Arc<AtomicUsize>,
    /// The name of the stream.
    pub(super) stream: Arc<str>,
    /// Whether acked events are kept.
    pub(super) is_kept: bool,
    /// The cluster time of this relay's newest mark or park.
    pub(super) written: Written,
    /// Where its changes come from.
    pub(super) changes: Changes,
}

impl Store {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(
        database: &Database,
        collection: &str,
        layout: Arc<Layout>,
        config: &Config,
    ) -> Self {
        Self {
            client: database.client().clone(),
            collection: database.collection(collection),
            layout,
            ordering: config.dispatch.ordering,
            on_dead: config.dispatch.on_dead,
            longest_wait: config.retry.max_delay,
            max_payload: Arc::new(AtomicUsize::new(usize::MAX)),
            stream: config.stream.name.as_str().into(),
            is_kept: config.keep.is_on(),
            written: Written::default(),
            changes: Changes::Own,
        }
    }

    /// The same outbox over other connections, with the changes that come over those.
    pub(crate) fn through(&self, client: Client, changes: Changes) -> Self {
        let database = client.database(&self.collection.namespace().db);
        let collection = database.collection(self.collection.name());
        Self { client, collection, changes, ..self.clone() }
    }

    /// The outbox, or its scheduled events, in a stream that others share.
    pub(super) fn watched(&self, wanted: Wanted) -> Watched {
        let Namespace { db, coll } = self.collection.namespace();
        let collection = match wanted {
            Wanted::Events => coll,
            Wanted::DueTimes => scheduled_collection(&coll),
        };
        Watched { database: db, collection, wanted }
    }

    pub(super) fn database(&self) -> Database {
        self.client.database(&self.collection.namespace().db)
    }

    /// A session whose reads show everything that the relay has written so far.
    pub(super) async fn session(&self) -> Result<ClientSession> {
        self.written.session(&self.client).await
    }

    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of(self.session().await?).await
    }

    /// Reads an event of this outbox.
    pub(super) fn record(&self, document: &RawDocument) -> Parsed {
        let max_payload = self.max_payload.load(atomic::Ordering::Relaxed);
        let mut parsed = OutboxRecord::parse_within(document, &self.layout, max_payload);
        if self.ordering == Ordering::None {
            match &mut parsed {
                Ok(record) => record.key = None,
                Err(malformed) => malformed.key = None,
            }
        }

        parsed
    }

    /// Reads from a snapshot of its own.
    pub(super) async fn read_once(
        &self,
        find: Find<'_, RawDocumentBuf>,
        room: Room,
    ) -> Result<Page> {
        let mut snapshot = self.snapshot().await?;
        let page = self.read(find, room, &mut snapshot).await?;
        snapshot.end().await?;
        Ok(page)
    }

    /// Parses while it reads, so that no more is in memory than was asked for, and one reply.
    pub(super) async fn read(
        &self,
        find: Find<'_, RawDocumentBuf>,
        room: Room,
        snapshot: &mut Snapshot,
    ) -> Result<Page> {
        let one_more = room.events + 1;
        // A page of small events comes in one reply. Of large ones, most of such a reply would be for
        // nothing.
        let reply = one_more.min((room.bytes / SMALL).max(FIRST_REPLY));
        let find = find.limit(limit(one_more)).projection(without_most_failures());
        let find = find.batch_size(u32::try_from(reply).unwrap_or(0));
        let mut cursor = find.collation(simple()).session(&mut snapshot.session).await?;

        let at_ms = clock::end_of_second(snapshot.newest()?);
        let (mut page, mut bytes) = (Page { at_ms, ..Page::default() }, 0);
        while cursor.advance(&mut snapshot.session).await? {
            if page.events.len() >= room.events || bytes >= room.bytes {
                page.more = true;
                break;
            }

            let document = cursor.current();
            let parsed = self.record(document);
            // JSON may be several times as long as BSON.
            let held = parsed.as_ref().map_or(0, OutboxRecord::bytes);
            bytes += document.as_bytes().len().max(held);
            page.events.push(parsed);
        }

        Ok(page)
    }

    /// In a query: the unlocked events that hold up later ones of their key. Dead ones do, unless
    /// they are skipped.
    pub(super) fn unlocked_in_order(&self) -> Document {
        let states = match self.on_dead {
            OnDead::Hold => State::UNLOCKED,
            OnDead::Skip => State::WAITING,
        };
        state::filter(states, &self.layout)
    }
}

/// In a query: not these events.
pub(super) fn except(ids: &[RawId]) -> Result<Document> {
    if ids.is_empty() {
        return Ok(Document::new());
    }

    let ids: Vec<_> = ids.iter().map(RawId::to_bson).collect::<bson::error::Result<_>>()?;
    Ok(doc! { field::ID: { "$nin": ids } })
}

/// One failure is enough to tell a failed event from a parked one.
fn without_most_failures() -> Document {
    doc! { field::FAILURES: { "$slice": 1 } }
}

pub(super) fn limit(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}

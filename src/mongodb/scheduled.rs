//! The scheduled events of an outbox: what is due by the server's clock, the transaction that moves
//! it, and the change stream of the due times.
//!
//! The index `outboxd_due` of migration 0009 has the events that are not dead in the order in which
//! they are due. A look reads as much of it as it returns, so a million events for next month cost
//! nothing. Documents of other types come before the dates in an index, and so they are found as due.
//!
//! A process that dies in a move leaves its transaction open on the server for up to a minute, and
//! MongoDB lets nobody else move or cancel those events until then. So the mover's session is in the
//! lease's document, and the next mover ends it.

use std::time::Duration;

use bson::{Bson, DateTime, Document, RawArray, RawDocument, RawDocumentBuf, doc};
use futures_util::StreamExt as _;
use mongodb::error::{Error, ErrorKind, Result, WriteFailure};
use mongodb::options::{Hint, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::raw_batch_cursor::RawBatchCursor;
use mongodb::{ClientSession, Collection};
use outboxd_client::{Key, field, scheduled_collection};
use tracing::debug;

use super::code;
use super::collation::simple;
use super::collections::LEASE;
use super::lease::MOVER;
use super::mark::mark_update;
use super::outbox::{Store, except, limit};
use super::wanted::{updated, writes_of_due_times};
use super::write::{self, Order, Write};
use crate::document::layout::Layout;
use crate::document::record::small_id;
use crate::document::scheduled;
use crate::document::state::{self, State};
use crate::relay::listing::RawId;
use crate::relay::mover::CALM_POLL;
use crate::relay::ports::scheduled::{
    Alarms, Due, DuePage, Misfit, Movable, MoveError, Mover, NextDue, ScheduledStore, Without,
};
use crate::relay::ports::shared::Wanted;
use crate::relay::ports::{Mark, Refused, Room, StoreError, StoreResult};
use crate::relay::shared::Share;

/// How long the server waits for a due time before it answers a quiet stream.
const ALARM_WAIT: Duration = CALM_POLL;
/// The server's clock.
const NOW: &str = "now";

/// A session that moves events.
pub(crate) struct Session {
    session: ClientSession,
    store: Store,
}

/// The due times that are written.
pub(crate) enum DueTimes {
    /// From a change stream of them alone.
    Own(Box<RawBatchCursor>),
    /// From the stream that many outboxes share.
    Shared(Share),
}

impl Store {
    fn scheduled(&self) -> Collection<RawDocumentBuf> {
        self.database().collection(&scheduled_collection(self.collection.name()))
    }

    /// In a query: the scheduled events, but for some.
    fn scheduled_without(&self, without: &Without) -> Result<Document> {
        let mut scheduled = State::Scheduled.filter(&self.layout);
        scheduled.extend(except(&without.ids)?);
        scheduled.extend(of_other_keys(&self.layout, &without.keys));

        Ok(scheduled)
    }

    async fn read_next_due(&self, without: &Without) -> Result<Option<NextDue>> {
        let is_date = doc! { "$eq": [{ "$type": format!("${}", field::DELIVER_AT) }, "date"] };
        let mut found = self
            .scheduled()
            .find(self.scheduled_without(without)?)
            .sort(in_order())
            .limit(limit(1 + without.nameless))
            .projection(doc! {
                field::ID: 0,
                field::DELIVER_AT: { "$cond": [&is_date, format!("${}", field::DELIVER_AT), "$$REMOVE"] },
                NOW: "$$NOW",
            })
            .collation(simple())
            .await?;

        let mut next = None;

        while found.advance().await? {
            let found = found.current();
            let now_ms = found.get_datetime(NOW).map_err(Error::custom)?.timestamp_millis();
            // What has no date is due for being marked.
            let at_ms =
                found.get_datetime(field::DELIVER_AT).map_or(i64::MIN, DateTime::timestamp_millis);
            next = Some(NextDue { at_ms, now_ms });
            // Those that can't be named come first: they are always due.
            if at_ms > now_ms {
                break;
            }
        }

        Ok(next)
    }

    async fn read_misfits(&self, room: Room, without: &Without) -> Result<Vec<Misfit>> {
        let mut misfits = except(&without.ids)?;
        misfits.insert("$or", state::scheduled_by_mistake().to_vec());
        let scheduled = self.scheduled();
        let find = scheduled.find(misfits).limit(limit(room.events)).collation(simple());

        let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, find.await?);

        while bytes < room.bytes && cursor.advance().await? {
            let document = cursor.current();
            bytes += document.as_bytes().len();
            let Some(id) = id_of(document) else { continue };
            let key = self.layout.key_of(document);
            let reason = match scheduled::moved(document) {
                Err(fault) => fault.to_string(),
                Ok(_) => format!("`{}` is neither a date nor left out", field::DEAD_AT),
            };
            found.push(Misfit { id, key, reason });
        }

        Ok(found)
    }
}

impl ScheduledStore for Store {
    type Mover = Session;
    type Alarms = DueTimes;

    async fn mover(&self, term: i64) -> StoreResult<Session> {
        let session = self.database().client().start_session().await?;
        let id = session.id().get("id").cloned().unwrap_or(Bson::Null);

        let leases = self.database().collection::<Document>(LEASE);
        let own = doc! { "_id": self.collection.name(), "term": term };
        let set = doc! { "$set": { MOVER: &id } };
        let lease = leases.find_one_and_update(own, set).projection(doc! { MOVER: 1 });
        let Some(mut before) = lease.collation(simple()).await? else {
            return Err(StoreError::unexpected("another relay leads"));
        };

        if let Some(last) = before.remove(MOVER).filter(|last| *last != id) {
            let kill = doc! { "killSessions": [{ "id": last }] };
            let killed = self.database().client().database("admin").run_command(kill).await;
            if let Err(error) = killed {
                // Then the server ends what is left of it after a minute.
                debug!(%error, "could not end the last leader's session");
            }
        }

        Ok(Session { session, store: self.clone() })
    }

    async fn alarms(&self) -> StoreResult<DueTimes> {
        if let Some(share) = self.changes.join(self.watched(Wanted::DueTimes)).await? {
            return Ok(DueTimes::Shared(share));
        }

        let stream =
            self.scheduled().aggregate(due_times()).max_await_time(ALARM_WAIT).batch().await?;
        Ok(DueTimes::Own(Box::new(stream)))
    }

    async fn next_due(&self, without: &Without) -> StoreResult<Option<NextDue>> {
        Ok(self.read_next_due(without).await?)
    }

    async fn misfits(&self, room: Room, without: &Without) -> StoreResult<Vec<Misfit>> {
        Ok(self.read_misfits(room, without).await?)
    }

    async fn mark_scheduled(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        let updates: Vec<_> = marks.iter().map(mark_update).collect::<Result<_>>()?;
        let (database, scheduled) = (self.database(), self.scheduled());
        let name = scheduled.name();

        Ok(write::all(&database, name, Write::Update, &updates, Order::None, |_| {}).await?)
    }
}

impl Mover for Session {
    async fn begin(&mut self, room: Room, without: &Without) -> StoreResult<DuePage> {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);

        self.session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority())
            .selection_criteria(primary)
            .await?;

        let mut due = self.store.scheduled_without(without)?;
        due.insert("$expr", doc! { "$lte": [format!("${}", field::DELIVER_AT), "$$NOW"] });

        let most = room.events + without.nameless;
        let scheduled = self.store.scheduled();
        let mut cursor = scheduled
            .find(due)
            .sort(in_order())
            .limit(limit(most + 1))
            .batch_size(u32::try_from(most + 1).unwrap_or(u32::MAX))
            .collation(simple())
            .session(&mut self.session)
            .await?;

        let (mut page, mut bytes) = (DuePage::default(), 0);

        while cursor.advance(&mut self.session).await? {
            if page.events.len() >= room.events || bytes >= room.bytes {
                page.more = true;
                break;
            }

            let document = cursor.current();
            let Some(id) = id_of(document) else {
                page.nameless += 1;
                continue;
            };
            bytes += document.as_bytes().len();
            let key = self.store.layout.key_of(document);
            let document = self.store.movable(document);
            page.events.push(Due { id, key, document });
        }

        Ok(page)
    }

    async fn take(&mut self, events: &[Movable]) -> std::result::Result<(), MoveError> {
        let ids: Vec<_> = events
            .iter()
            .map(|event| event.id.to_bson())
            .collect::<bson::error::Result<_>>()
            .map_err(Error::from)?;
        let wanted = ids.len() as u64;
        let by_id = Hint::Keys(doc! { field::ID: 1 });
        let scheduled = self.store.scheduled();
        let delete = scheduled.delete_many(doc! { field::ID: { "$in": ids } }).hint(by_id);
        let deleted = delete.collation(simple()).session(&mut self.session).await?;

        if deleted.deleted_count == wanted { Ok(()) } else { Err(MoveError::Conflict) }
    }

    async fn put(&mut self, events: &[Movable]) -> std::result::Result<(), MoveError> {
        let documents = events.iter().map(|event| &event.document);
        let insert = self.store.collection.insert_many(documents).session(&mut self.session);

        Ok(insert.await.map(|_| ())?)
    }

    async fn commit(&mut self) -> std::result::Result<(), MoveError> {
        Ok(self.session.commit_transaction().await?)
    }

    async fn abort(&mut self) {
        // It fails when there is nothing to take back.
        if let Err(error) = self.session.abort_transaction().await {
            debug!(%error, "could not roll back a move");
        }
    }
}

impl Store {
    /// A document as the outbox gets it, or why it is no event.
    fn movable(&self, document: &RawDocument) -> std::result::Result<RawDocumentBuf, String> {
        let moved = scheduled::moved(document).map_err(|fault| fault.to_string())?;

        match self.record(&moved) {
            Ok(_) => Ok(moved),
            Err(malformed) => Err(malformed.reason),
        }
    }
}

impl Alarms for DueTimes {
    async fn next(&mut self) -> StoreResult<Option<i64>> {
        loop {
            let earliest = match self {
                Self::Own(stream) => match stream.next().await.transpose()? {
                    Some(page) => earliest(page.doc_slices()?, |change| {
                        change.get_datetime(field::DELIVER_AT).ok()
                    })?,
                    None => return Ok(None),
                },
                Self::Shared(share) => earliest(&share.changes().await?, due_time)?,
            };
            if earliest.is_some() {
                return Ok(earliest);
            }
        }
    }
}

/// The earliest due time of a page of changes.
fn earliest(
    page: &RawArray,
    due_time: impl Fn(&RawDocument) -> Option<DateTime>,
) -> Result<Option<i64>> {
    let mut earliest = None;
    for change in page {
        let at = change?.as_document().and_then(&due_time);
        // What has no due time is due for being marked.
        let at = at.map_or(i64::MIN, DateTime::timestamp_millis);
        earliest = Some(earliest.map_or(at, |earliest: i64| earliest.min(at)));
    }

    Ok(earliest)
}

/// The due time in a change of the shared stream.
fn due_time(change: &RawDocument) -> Option<DateTime> {
    let inserted = change.get_document("fullDocument").ok();
    let updated =
        || change.get_document("updateDescription").ok()?.get_document("updatedFields").ok();
    inserted.or_else(updated)?.get_datetime(field::DELIVER_AT).ok()
}

impl From<Error> for MoveError {
    fn from(error: Error) -> Self {
        if let ErrorKind::InsertMany(inserted) = &*error.kind
            && let Some(first) = inserted.write_errors.iter().flatten().next()
        {
            return match first.code {
                code::WRITE_CONFLICT => Self::Conflict,
                passing if code::PASSING.contains(&passing) => Self::Failed(error.into()),
                _ => {
                    Self::Refused(Refused { index: first.index, error: write::cut(&first.message) })
                }
            };
        }

        let code = match &*error.kind {
            ErrorKind::Command(refused) => Some(refused.code),
            ErrorKind::Write(WriteFailure::WriteError(refused)) => Some(refused.code),
            _ => None,
        };

        match code {
            Some(code::WRITE_CONFLICT) => Self::Conflict,
            _ => Self::Failed(error.into()),
        }
    }
}

/// The order of the index: of the due times, then of the ids.
fn in_order() -> Document {
    doc! { field::DELIVER_AT: 1, field::ID: 1 }
}

fn of_other_keys(layout: &Layout, keys: &[Key]) -> Document {
    if keys.is_empty() {
        return Document::new();
    }

    let of = |key: &Key| doc! { layout.key(): layout.of_key(key.as_str()) };
    doc! { "$nor": keys.iter().map(of).collect::<Vec<_>>() }
}

/// The `_id`, unless it is huge or unreadable.
fn id_of(document: &RawDocument) -> Option<RawId> {
    let id = document.get(field::ID).ok().flatten()?;
    Some(RawId::new(&Bson::try_from(small_id(id)?).ok()?))
}

/// Of each write that may bring a due time, only that.
fn due_times() -> [Document; 3] {
    let updated = updated(field::DELIVER_AT);
    let deliver_at = doc! {
        "$ifNull": [format!("$fullDocument.{}", field::DELIVER_AT), format!("${updated}")],
    };

    [
        doc! { "$changeStream": {} },
        doc! { "$match": { "$or": writes_of_due_times().to_vec() } },
        doc! { "$project": { field::DELIVER_AT: deliver_at } },
    ]
}

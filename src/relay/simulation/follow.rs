//! What the tail reads of the outbox in memory.

use std::time::Duration;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use tokio::time::{Instant, timeout};

use super::connection::Store;
use super::world::{Change, State};
use crate::relay::ports::shared::{Wanted, Watched};
use crate::relay::ports::{EventTail, StoreError, StoreResult};

/// How long the server waits for something to happen before it answers a quiet tail.
const TAIL_WAIT: Duration = Duration::from_secs(1);
/// Most changes in a page of the tail. A transaction may have more.
pub(super) const TAIL_PAGE: usize = 3;

/// The changes from one on.
pub(super) struct Tail {
    pub(super) store: Store,
    pub(super) next: usize,
    pub(super) cuts: u32,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.store.world.lock().lives[self.store.life].tails -= 1;
    }
}

impl Store {
    /// Waits until there is a change from this one on, or for as long as the server does.
    pub(super) async fn await_change(&self, next: usize) {
        self.world.alive(self.life).await;
        let changed = self.world.changed.notified();
        if self.world.lock().changes.len() <= next {
            _ = timeout(TAIL_WAIT, changed).await;
            self.world.travel().await;
        }
        self.world.alive(self.life).await;
    }
}

impl EventTail for Tail {
    type Page = RawArrayBuf;

    async fn next(&mut self) -> StoreResult<Option<RawArrayBuf>> {
        self.store.await_change(self.next).await;
        let mut state = self.store.world.lock();
        if state.cuts != self.cuts || state.weather.mongodb_away > Instant::now() {
            state.count("change streams ended");
            return Err(StoreError::unexpected("the stream was cut"));
        }

        let wall = bson::DateTime::from_millis(state.now_ms());
        let mut page = RawArrayBuf::new();
        let upto = state.changes.len().min(self.next + TAIL_PAGE);
        for index in self.next..upto {
            page.push(shown(&mut state, index, wall));
        }
        self.next = upto;
        Ok(Some(page))
    }

    fn may_be_cut(&self, changes: usize, _bytes: usize) -> bool {
        changes >= TAIL_PAGE
    }
}

/// A change as the server shows it, without a large document.
pub(super) fn shown(state: &mut State, index: usize, wall: bson::DateTime) -> RawDocumentBuf {
    let is_large = state.chance(0.03);
    let (at, change) = &state.changes[index];
    let beside = [index.checked_sub(1), index.checked_add(1)];
    let mut beside = beside.into_iter().flatten().filter_map(|i| state.changes.get(i));
    let is_in_transaction = beside.any(|(other, _)| other == at);

    let (operation, number) = match change {
        Change::Insert(number, _) => ("insert", number),
        Change::Update(number) | Change::Requested(number) => ("update", number),
        Change::Delete(number) => ("delete", number),
    };

    let mut shown = rawdoc! { "operationType": operation, "clusterTime": *at, "wallTime": wall };
    shown.append(cstr!("ns"), outbox().namespace());
    shown.append(cstr!("documentKey"), rawdoc! { "_id": format!("e{number}") });

    if is_in_transaction {
        shown.append(cstr!("txnNumber"), 1_i64);
    }

    match change {
        Change::Insert(_, event) if !is_large => shown.append(cstr!("fullDocument"), event.clone()),
        Change::Requested(_) => shown.append(
            cstr!("updateDescription"),
            rawdoc! { "updatedFields": { "retryRequestedAt": wall } },
        ),
        _ => {}
    }

    shown
}

/// The outbox that the relays follow.
pub(super) fn outbox() -> Watched {
    watched("outbox")
}

pub(super) fn watched(name: &str) -> Watched {
    let (database, collection) = ("shop".to_owned(), name.to_owned());
    Watched { database, collection, wanted: Wanted::Events }
}

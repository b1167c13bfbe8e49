//! The scheduled events in memory, and transactions that move them. Checks that nothing is moved
//! before it is due, twice, or after it was cancelled.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf};
use outboxd_client::Key;
use tokio::time::{Instant, timeout};

use super::connection::Store;
use super::row::{Row, document, number};
use super::transactions::{Later, Open};
use super::world::{Change, Committed, Lie, State};
use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;
use crate::document::scheduled::moved;
use crate::relay::listing::RawId;
use crate::relay::ports::scheduled::{
    Alarms, Due, DuePage, Misfit, Movable, MoveError, Mover, NextDue, ScheduledStore, Without,
};
use crate::relay::ports::{Mark, Refused, Room, StoreError, StoreResult};

/// How long it waits for a due time before it answers.
const ALARM_WAIT: Duration = Duration::from_secs(15);
/// Most events in a move, so that a few take more than one.
const PAGE: usize = 6;

impl State {
    /// The server's clock. It may be set.
    pub(super) fn server_ms(&self) -> i64 {
        self.now_ms() + self.scheduled.clock_ms
    }

    fn due(&self, without: &Without, now_ms: i64) -> Vec<(u32, Later)> {
        let ids: Vec<_> = without.ids.iter().map(number_of).collect();
        let keys: Vec<_> = without.keys.iter().map(key_number).collect();
        let mut due: Vec<_> = self
            .scheduled
            .later
            .iter()
            .filter(|(number, later)| {
                !later.row.dead
                    && (later.undated || later.due_ms <= now_ms)
                    && !ids.contains(number)
                    && later.row.key.is_none_or(|key| !keys.contains(&key))
            })
            .map(|(number, later)| (*number, later.clone()))
            .collect();
        due.sort_by_key(|(number, later)| (!later.undated, later.due_ms, *number));
        due
    }
}

fn number_of(id: &RawId) -> u32 {
    number(id.to_bson().expect("an id").as_str().expect("ids are strings"))
}

fn key_number(key: &Key) -> u8 {
    key.as_str().trim_start_matches('k').parse().expect("keys are k and a number")
}

/// The document as a service wrote it.
fn written(number: u32, later: &Later) -> RawDocumentBuf {
    let mut event = document(number, &later.row);
    match later.undated {
        true => event.append(bson::raw::cstr!("deliverAt"), "tomorrow"),
        false => event.append(bson::raw::cstr!("deliverAt"), DateTime::from_millis(later.due_ms)),
    }
    event
}

fn movable(number: u32, later: &Later) -> Result<RawDocumentBuf, String> {
    let moved = moved(&written(number, later)).map_err(|fault| fault.to_string())?;
    match OutboxRecord::parse(&moved, &Layout::default()) {
        Ok(_) => Ok(moved),
        Err(malformed) => Err(malformed.reason),
    }
}

/// A session of one life of a relay.
pub(super) struct Session {
    store: Store,
    transaction: Option<u64>,
    /// What the transaction read, with its versions.
    read: BTreeMap<u32, u64>,
    taken: Vec<u32>,
    put: Vec<u32>,
}

/// What the server answers in a transaction that it doesn't keep.
fn no_transaction() -> MoveError {
    MoveError::Failed(StoreError::unexpected("no such transaction"))
}

impl ScheduledStore for Store {
    type Mover = Session;
    type Alarms = DueTimes;

    async fn mover(&self, term: i64) -> StoreResult<Session> {
        self.command("mover", move |state| {
            if state.lease.as_ref().is_none_or(|lease| lease.term != term) {
                return Err(StoreError::unexpected("another relay leads"));
            }
            if let Some(last) = state.scheduled.newest.take() {
                if state.scheduled.is_open(last) {
                    state.count("moves that a dead leader left open");
                }
                state.scheduled.end(last);
            }
            Ok(())
        })
        .await??;
        Ok(Session {
            store: self.clone(),
            transaction: None,
            read: BTreeMap::new(),
            taken: Vec::new(),
            put: Vec::new(),
        })
    }

    async fn alarms(&self) -> StoreResult<DueTimes> {
        let (next, cuts) =
            self.command("alarms", |state| (state.scheduled.rung.len(), state.cuts)).await?;
        Ok(DueTimes { store: self.clone(), next, cuts })
    }

    async fn next_due(&self, without: &Without) -> StoreResult<Option<NextDue>> {
        let without = without.clone();
        self.command("next due", move |state| {
            let now_ms = state.server_ms();
            let (_, first) = state.due(&without, i64::MAX).into_iter().next()?;
            let at_ms = if first.undated { i64::MIN } else { first.due_ms };
            Some(NextDue { at_ms, now_ms })
        })
        .await
    }

    async fn misfits(&self, _room: Room, _without: &Without) -> StoreResult<Vec<Misfit>> {
        Ok(Vec::new())
    }

    async fn mark_scheduled(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        let marks = marks.to_vec();
        self.command("mark scheduled", move |state| {
            let mut refused = Vec::new();
            for (index, mark) in marks.iter().enumerate() {
                let number = number_of(&mark.id);
                // The server waits for the transaction that holds it, and gives up.
                if state.scheduled.is_held(number, None) {
                    continue;
                }
                let version = state.scheduled.version();
                let Some(later) = state.scheduled.later.get_mut(&number) else { continue };
                if later.row.cursed {
                    refused.push(Refused { index, error: "cursed".to_owned() });
                    continue;
                }
                (later.row.dead, later.version) = (true, version);
                state.count("scheduled events marked dead");
            }
            refused
        })
        .await
    }
}

impl Mover for Session {
    async fn begin(&mut self, room: Room, without: &Without) -> StoreResult<DuePage> {
        let without = without.clone();
        let (most, last) = (room.events.min(PAGE), self.transaction.take());
        let (transaction, due, more) = self
            .store
            .command("begin", move |state| {
                // A session has one transaction.
                last.into_iter().for_each(|last| state.scheduled.end(last));
                let now_ms = state.server_ms();
                let lies = if state.lie == Some(Lie::Early) { 3000 } else { 0 };
                let mut due = state.due(&without, now_ms + lies);
                let more = due.len() > most;
                due.truncate(most);

                let transaction = state.scheduled.begin(now_ms);
                state.scheduled.newest = Some(transaction);
                (transaction, due, more)
            })
            .await?;

        self.transaction = Some(transaction);
        self.read = due.iter().map(|(number, later)| (*number, later.version)).collect();
        (self.taken, self.put) = (Vec::new(), Vec::new());
        let events = due.iter().map(|(number, later)| Due {
            id: RawId::new(&format!("e{number}").into()),
            key: later.row.key.map(|key| Key::new(format!("k{key}")).expect("a short key")),
            document: movable(*number, later),
        });
        Ok(DuePage { events: events.collect(), nameless: 0, more })
    }

    async fn take(&mut self, events: &[Movable]) -> Result<(), MoveError> {
        let transaction = self.transaction.expect("a transaction");
        let numbers: Vec<_> = events.iter().map(|event| number_of(&event.id)).collect();
        let (read, wanted) = (self.read.clone(), numbers.clone());
        let taken = self.store.command("take", move |state| {
            if !state.scheduled.is_open(transaction) {
                return Err(no_transaction());
            }
            for number in &wanted {
                let as_read = state.scheduled.later.get(number).map(|later| later.version);
                if state.lie == Some(Lie::Unheld) {
                    continue;
                }
                if as_read != read.get(number).copied()
                    || state.scheduled.is_held(*number, Some(transaction))
                {
                    state.count("moves that conflict");
                    state.scheduled.end(transaction);
                    return Err(MoveError::Conflict);
                }
            }
            for number in &wanted {
                if let Some(later) = state.scheduled.later.get_mut(number) {
                    later.held = Some(transaction);
                }
            }
            Ok(())
        });
        taken.await.map_err(MoveError::Failed)??;
        self.taken = numbers;
        Ok(())
    }

    async fn put(&mut self, events: &[Movable]) -> Result<(), MoveError> {
        let transaction = self.transaction.expect("a transaction");
        let numbers: Vec<_> = events.iter().map(|event| number_of(&event.id)).collect();
        let wanted = numbers.clone();
        let put = self.store.command("put", move |state| {
            if !state.scheduled.is_open(transaction) {
                return Err(no_transaction());
            }
            if let Some(both) = wanted.iter().find(|number| state.rows.contains_key(number)) {
                state.wrong.push(format!("e{both} is scheduled and in the outbox"));
            }
            let later = |number| state.scheduled.later.get(number);
            let refused = |number| later(number).is_some_and(|later| later.refused);
            if let Some(index) = wanted.iter().position(refused) {
                state.count("moves that the outbox refuses");
                state.scheduled.end(transaction);
                return Err(MoveError::Refused(Refused { index, error: "E11000".to_owned() }));
            }
            Ok(())
        });
        put.await.map_err(MoveError::Failed)??;
        self.put = numbers;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), MoveError> {
        let transaction = self.transaction.expect("a transaction");
        let (taken, put) = (self.taken.clone(), self.put.clone());
        let commit = self.store.command("commit", move |state| {
            if !state.scheduled.is_open(transaction) {
                return Err(no_transaction());
            }
            if taken != put {
                state.wrong.push(format!("{taken:?} are taken and {put:?} put"));
            }
            state.move_into_the_outbox(transaction, &put);
            state.scheduled.end(transaction);
            Ok(())
        });
        commit.await.map_err(MoveError::Failed)??;
        self.store.world.changed.notify_waiters();
        self.transaction = None;
        Ok(())
    }

    async fn abort(&mut self) {
        let Some(transaction) = self.transaction.take() else { return };
        // A lost abort leaves it open.
        _ = self.store.command("abort", move |state| state.scheduled.end(transaction)).await;
    }
}

impl State {
    fn move_into_the_outbox(&mut self, transaction: u64, numbers: &[u32]) {
        let open = self.scheduled.open[&transaction];
        let mut rows = Vec::new();
        for number in numbers {
            let Some(Later { row, due_ms, .. }) = self.scheduled.later.remove(number) else {
                self.wrong.push(format!("e{number} is moved, and is not scheduled"));
                continue;
            };
            if due_ms > open.now_ms {
                self.wrong.push(format!("e{number} is moved {} ms early", due_ms - open.now_ms));
            }
            if self.scheduled.cancelled.contains(number) {
                self.wrong.push(format!("e{number} is moved, and was cancelled"));
            }
            self.check_due_order(*number, row.key, due_ms, open);
            rows.push((*number, Row { ts: self.tick(), locked: true, ..row }));
        }

        let at = self.tick();
        for (number, row) in rows {
            let (key, subject, begun) = (row.key, row.subject, row.ts.increment);
            let committed = Committed { key, subject, begun, at: at.increment };
            self.committed.insert(number, committed);
            self.changes.push((at, Change::Insert(number, document(number, &row))));
            self.rows.insert(number, row);
            self.count("scheduled events moved");
        }
        self.remember();
    }

    /// Nothing of its key that was due before it, and that the transaction saw, is left behind.
    fn check_due_order(&mut self, number: u32, key: Option<u8>, due_ms: i64, open: Open) {
        let Some(key) = key else { return };
        let earlier = self.scheduled.later.iter().find(|(other, later)| {
            let is_event = !later.undated && !later.row.malformed && !later.refused;
            later.row.key == Some(key)
                && is_event
                && (later.due_ms, **other) < (due_ms, number)
                && later.version <= open.version
        });
        if let Some((earlier, _)) = earlier {
            self.wrong.push(format!("e{number} is moved before e{earlier} of k{key}"));
        }
    }
}

/// The due times from one on.
pub(super) struct DueTimes {
    store: Store,
    next: usize,
    cuts: u32,
}

impl Alarms for DueTimes {
    async fn next(&mut self) -> StoreResult<Option<i64>> {
        loop {
            let Store { world, life, .. } = &self.store;
            world.alive(*life).await;
            let changed = world.changed.notified();
            if world.lock().scheduled.rung.len() <= self.next {
                _ = timeout(ALARM_WAIT, changed).await;
                world.travel().await;
            }
            world.alive(*life).await;

            let mut state = world.lock();
            if state.cuts != self.cuts || state.weather.mongodb_away > Instant::now() {
                return Err(StoreError::unexpected("the stream was cut"));
            }
            let rung = state.scheduled.rung.get(self.next..).unwrap_or_default();
            let earliest = rung.iter().copied().min();
            self.next = state.scheduled.rung.len();
            if earliest.is_some() {
                state.count("alarms");
                return Ok(earliest);
            }
        }
    }
}

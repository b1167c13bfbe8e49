//! An outbox and a lease in memory, behind a network that loses requests and replies, and delivers
//! some long after their sender has given up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::world::{Change, Lease, Row, State, World, document, number};
use crate::config::OnDead;
use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;
use crate::relay::ports::{
    EventStore, EventSweep, EventTail, LeaseStore, Mark, Next, Page, Parsed, Refused, Room,
    StoreError, StoreErrorKind, StoreResult,
};
use crate::relay::publish::outcome::Acked;
use outboxd_client::{EventId, Key};

/// How long a client waits for a reply that doesn't come.
const NO_REPLY: Duration = Duration::from_secs(2);
/// How long the server waits for something to happen before it answers a quiet tail.
const TAIL_WAIT: Duration = Duration::from_secs(1);
/// Documents in a page of a sweep.
const PAGE: usize = 4;
/// Most events in a read of a key, so that a few of a key take more than one.
const KEY_PAGE: usize = 3;

/// A connection of one life of a relay to the database.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) world: World,
    pub(super) life: usize,
}

/// What becomes of a command.
#[derive(Debug)]
enum Fate {
    Done,
    Refused,
    RequestLost,
    ReplyLost,
    /// It reaches the server when its sender has given up.
    Late(Duration),
}

impl Store {
    /// A command: what it does happens at once and whole, or not at all.
    async fn command<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> StoreResult<T> {
        let Self { world, life } = self;
        world.alive(*life).await;
        world.travel().await;
        let fate = {
            let mut state = world.lock();
            state.note(name, *life);
            let lossy = if state.weather.lossy > Instant::now() { 0.15 } else { 0.003 };
            if state.weather.mongodb_away > Instant::now() {
                Fate::Refused
            } else if !state.chance(lossy) {
                Fate::Done
            } else {
                match state.random.random_range(0..3) {
                    0 => Fate::RequestLost,
                    1 => Fate::ReplyLost,
                    _ => Fate::Late(Duration::from_millis(state.random.random_range(1..8000))),
                }
            }
        };

        self.trace(|| format!("{name}: {fate:?}"));
        match fate {
            Fate::Done => {
                let done = run(&mut world.lock());
                world.travel().await;
                world.alive(*life).await;
                return Ok(done);
            }
            Fate::Refused => world.lock().count("commands refused"),
            Fate::RequestLost => world.lock().count("commands lost"),
            Fate::ReplyLost => {
                let mut state = world.lock();
                run(&mut state);
                state.count("replies lost");
            }
            Fate::Late(by) => {
                let world = world.clone();
                tokio::spawn(async move {
                    sleep(NO_REPLY + by).await;
                    let mut state = world.lock();
                    run(&mut state);
                    state.count("commands that came late");
                });
            }
        }

        if !matches!(fate, Fate::Refused) {
            sleep(NO_REPLY).await;
        }
        world.alive(*life).await;
        Err(StoreError::new(StoreErrorKind::Connection, "no reply"))
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("OUTBOXD_SIMULATE_TRACE").is_some() {
            println!(
                "{:>9.3} {:>3} {}",
                self.world.lock().began.elapsed().as_secs_f64(),
                self.life,
                what()
            );
        }
    }

    /// A read of one moment: of the rows that `which` finds, in their order, as many as there is
    /// room for.
    async fn read(
        &self,
        name: &'static str,
        room: Room,
        which: impl FnOnce(&BTreeMap<u32, Row>, i64) -> Vec<u32> + Send + 'static,
    ) -> StoreResult<Page> {
        let found = self.command(name, move |state| {
            let (rows, now_ms) = (state.shown(), state.now_ms());
            let found = which(&rows, now_ms);
            found.into_iter().map(|number| document(number, &rows[&number])).collect::<Vec<_>>()
        });
        let mut found = found.await?;
        self.trace(|| {
            format!(
                "{name} found {:?}",
                found.iter().map(|event| event.get_str("_id").unwrap_or("?")).collect::<Vec<_>>()
            )
        });

        let more = found.len() > room.events;
        found.truncate(room.events);
        Ok(Page { events: found.iter().map(|document| self.parse(document)).collect(), more })
    }
}

fn of(rows: &BTreeMap<u32, Row>, which: impl Fn(&Row) -> bool) -> Vec<u32> {
    rows.iter().filter(|(_, row)| which(row)).map(|(number, _)| *number).collect()
}

fn is_due(row: &Row, now_ms: i64) -> bool {
    !row.locked && !row.dead && row.due_ms.unwrap_or(0) <= now_ms
}

impl EventStore for Store {
    type Sweep = Sweep;
    type Tail = Tail;

    fn parse(&self, document: &RawDocument) -> Parsed {
        OutboxRecord::parse(document, &Layout::default())
    }

    async fn sweep(&self) -> StoreResult<Sweep> {
        let (rows, at) = self
            .command("sweep", |state| {
                let rows = state.rows.iter().map(|(number, row)| document(*number, row)).collect();
                (rows, state.tick())
            })
            .await?;
        Ok(Sweep { store: self.clone(), rows, at })
    }

    async fn tail(&self, at: Timestamp) -> StoreResult<Tail> {
        let (next, cuts) = self
            .command("tail", move |state| {
                (state.changes.partition_point(|(of, _)| *of <= at), state.cuts)
            })
            .await?;
        Ok(Tail { store: self.clone(), next, cuts })
    }

    async fn delete(&self, acked: &[Acked]) -> StoreResult<()> {
        let ids: Vec<_> = acked.iter().map(|acked| number(&acked.id().to_string())).collect();
        self.trace(|| format!("to delete {ids:?}"));
        self.command("delete", move |state| ids.into_iter().for_each(|number| state.delete(number)))
            .await
    }

    async fn mark(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        let marks = marks.to_vec();
        self.trace(|| {
            format!(
                "to mark {:?}",
                marks.iter().map(|mark| mark.id.to_string()).collect::<Vec<_>>()
            )
        });
        self.command("mark", move |state| {
            let now_ms = state.now_ms();
            let mut refused = Vec::new();
            for (index, mark) in marks.into_iter().enumerate() {
                let number = number(mark.id.as_str().expect("ids are strings"));
                if state.rows.get(&number).is_some_and(|row| row.cursed) {
                    state.count("marks refused for good");
                    refused.push(Refused { index, error: "cursed".to_owned() });
                    continue;
                }
                let Some(row) = state
                    .rows
                    .get_mut(&number)
                    .filter(|row| !row.marks.contains(&mark.at.timestamp_millis()))
                else {
                    continue;
                };
                row.marks.insert(mark.at.timestamp_millis());
                (row.locked, row.attempts) = (false, mark.attempts);
                match mark.next {
                    Next::Dead => row.dead = true,
                    Next::RetryAfter(wait) => {
                        row.due_ms = Some(now_ms + i64::try_from(wait.as_millis()).expect("a wait"))
                    }
                }
                let dead = row.dead;
                if dead && state.on_dead == OnDead::Skip {
                    state.excused.insert(number);
                }
                state.count(if dead { "marked dead" } else { "marked" });
                state.remember();
            }
            refused
        })
        .await
    }

    async fn park(&self, ids: &[EventId]) -> StoreResult<Option<Refused>> {
        let ids: Vec<_> = ids.iter().map(|id| number(&id.to_string())).collect();
        self.trace(|| format!("to park {ids:?}"));
        if ids.is_empty() {
            self.world.lock().wrong.push("MongoDB refuses a command without writes".to_owned());
        }

        self.command("park", move |state| {
            for (index, number) in ids.into_iter().enumerate() {
                match state.rows.get_mut(&number) {
                    Some(row) if row.cursed => {
                        state.count("parks refused for good");
                        return Some(Refused { index, error: "cursed".to_owned() });
                    }
                    Some(row) => {
                        row.locked = false;
                        state.count("parked");
                        state.remember();
                    }
                    None => {}
                }
            }
            None
        })
        .await
    }

    async fn discard(&self, ids: &[EventId]) -> StoreResult<()> {
        let ids: Vec<_> = ids.iter().map(|id| number(&id.to_string())).collect();
        self.command("discard", move |state| {
            for number in ids {
                if state.rows.get(&number).is_some_and(|row| !row.locked && row.discard) {
                    state.rows.remove(&number);
                    state.excused.insert(number);
                    state.count("discarded");
                    state.remember();
                }
            }
        })
        .await
    }

    async fn due(&self, room: Room) -> StoreResult<Page> {
        let half = room.events.div_ceil(2);
        let on_dead = self.world.lock().on_dead;
        self.read("due", Room { events: half * 2, ..room }, move |rows, now_ms| {
            let mut heads = BTreeMap::new();
            for (number, row) in
                rows.iter().filter(|(_, row)| !row.locked && (on_dead == OnDead::Hold || !row.dead))
            {
                if let Some(key) = row.key {
                    heads.entry(key).or_insert((*number, is_due(row, now_ms)));
                }
            }
            let heads =
                heads.into_values().filter(|(_, due)| *due).map(|(number, _)| number).take(half);
            let others = of(rows, |row| row.key.is_none() && is_due(row, now_ms));
            heads.chain(others.into_iter().take(half)).collect()
        })
        .await
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        self.read("discards", room, |rows, _| {
            of(rows, |row| !row.locked && !row.dead && row.discard)
        })
        .await
    }

    async fn passed_over(&self, age: Duration, room: Room) -> StoreResult<Page> {
        let age = u32::try_from(age.as_secs()).expect("an age");
        self.read("passed_over", room, move |rows, now_ms| {
            let before = u32::try_from(now_ms / 1000).expect("a time") - age;
            of(rows, |row| row.locked && !row.dead && row.ts.time < before)
        })
        .await
    }

    async fn unlocked(&self, key: &Key, room: Room) -> StoreResult<Page> {
        let key =
            key.as_str().trim_start_matches('k').parse::<u8>().expect("keys are k and a number");
        let on_dead = self.world.lock().on_dead;
        self.read("unlocked", room.at_most(KEY_PAGE), move |rows, _| {
            of(rows, |row| {
                row.key == Some(key) && !row.locked && (on_dead == OnDead::Hold || !row.dead)
            })
        })
        .await
    }
}

pub(super) struct Sweep {
    store: Store,
    rows: VecDeque<RawDocumentBuf>,
    at: Timestamp,
}

impl EventSweep for Sweep {
    type Page = RawArrayBuf;

    fn at(&self) -> Timestamp {
        self.at
    }

    async fn next(&mut self) -> StoreResult<Option<RawArrayBuf>> {
        self.store.command("page", |_| ()).await?;
        let page = self.rows.drain(..self.rows.len().min(PAGE));
        let page = page.fold(RawArrayBuf::new(), |mut page, row| {
            page.push(row);
            page
        });
        Ok((!page.is_empty()).then_some(page))
    }
}

pub(super) struct Tail {
    store: Store,
    next: usize,
    cuts: u32,
}

impl EventTail for Tail {
    type Page = RawArrayBuf;

    async fn next(&mut self) -> StoreResult<Option<RawArrayBuf>> {
        let Store { world, life } = &self.store;
        world.alive(*life).await;
        let changed = world.changed.notified();
        if world.lock().changes.len() <= self.next {
            _ = timeout(TAIL_WAIT, changed).await;
            world.travel().await;
        }
        world.alive(*life).await;
        let mut state = world.lock();
        if state.cuts != self.cuts || state.weather.mongodb_away > Instant::now() {
            state.count("change streams ended");
            return Err(StoreError::unexpected("the stream was cut"));
        }

        let change = state.changes.get(self.next).map(|(_, change)| change.clone());
        self.next += usize::from(change.is_some());
        let wall = bson::DateTime::from_millis(state.now_ms());
        let mut page = RawArrayBuf::new();
        match change {
            Some(Change::Insert(event)) => {
                page.push(
                    rawdoc! { "operationType": "insert", "wallTime": wall, "fullDocument": event },
                );
            }
            Some(Change::Requested) => page.push(rawdoc! { "operationType": "update" }),
            None => {}
        }
        Ok(Some(page))
    }
}

/// The lease's document, as one life of a relay sees it.
#[derive(Clone)]
pub(super) struct LeaseRow {
    pub(super) store: Store,
    pub(super) holder: String,
}

impl LeaseStore for LeaseRow {
    fn holder(&self) -> &str {
        &self.holder
    }

    async fn claim(&self, ttl: Duration) -> StoreResult<Option<i64>> {
        let holder = self.holder.clone();
        let claim = self.store.command("claim", move |state| {
            let now = Instant::now();
            let term = match &state.lease {
                None => 1,
                Some(lease) if lease.until <= now || lease.holder == holder => lease.term + 1,
                Some(_) => return None,
            };
            if state.lease.as_ref().is_some_and(|lease| lease.holder != holder) {
                state.count("take-overs");
            }
            state.lease = Some(Lease { holder, term, until: now + ttl });
            Some(term)
        });
        claim.await
    }

    async fn renew(&self, term: i64, ttl: Duration) -> StoreResult<bool> {
        let holder = self.holder.clone();
        let renew = self.store.command("renew", move |state| {
            let mine =
                state.lease.as_mut().filter(|lease| lease.holder == holder && lease.term == term);
            mine.map(|lease| lease.until = Instant::now() + ttl).is_some()
        });
        renew.await
    }

    async fn release(&self, term: i64) -> StoreResult<()> {
        let holder = self.holder.clone();
        let release = self.store.command("release", move |state| {
            let mine =
                state.lease.as_mut().filter(|lease| lease.holder == holder && lease.term == term);
            mine.into_iter().for_each(|lease| lease.until = Instant::now());
        });
        release.await
    }
}

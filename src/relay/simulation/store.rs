//! An outbox in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::{RawArrayBuf, RawDocument, Timestamp, rawdoc};

use super::connection::Store;
use super::follow::{Tail, outbox};
use super::row::{Row, document, number};
use super::world::{State, of};
use crate::config::OnDead;
use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;
use crate::relay::listing::{IdSet, Listing, Moment, RawId, id_of, only_id};
use crate::relay::ports::{
    Dated, EventStore, Fetched, Mark, Next, Page, Parsed, Refused, RestOf, Room, StoreError,
    StoreErrorKind, StoreResult,
};
use crate::relay::publish::outcome::Acked;
use crate::relay::shared::{self, Joined};
use crate::relay::watermark::Epoch;
use outboxd_client::{EventId, Key};
use tokio::sync::mpsc;

/// Most events in a read of a key, so that a few of a key take more than one.
const KEY_PAGE: usize = 3;

/// A list has this many times fewer events than it is asked for, so that some are cut.
const LISTED: usize = 4000;

impl Store {
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
            let found = found.into_iter().map(|number| document(number, &rows[&number]));
            (found.collect::<Vec<_>>(), now_ms)
        });
        let (mut found, at_ms) = found.await?;
        self.trace(|| {
            format!(
                "{name} found {:?}",
                found.iter().map(|event| event.get_str("_id").unwrap_or("?")).collect::<Vec<_>>()
            )
        });

        let more = found.len() > room.events;
        found.truncate(room.events);
        let events = found.iter().map(|document| self.parse(document)).collect();
        Ok(Page { events, more, at_ms })
    }
}

fn number_of(id: &[u8]) -> u32 {
    let event = only_id(id).expect("an id of this store");
    number(event.get_str("_id").expect("ids are strings"))
}

fn is_of_others(rows: &BTreeMap<u32, Row>, number: u32, keys: &[u8]) -> bool {
    let key = rows.get(&number).and_then(|row| row.key);
    key.is_none_or(|key| !keys.contains(&key))
}

fn key_number(key: &Key) -> u8 {
    key.as_str().trim_start_matches('k').parse().expect("keys are k and a number")
}

fn numbers(ids: &[RawId]) -> BTreeSet<u32> {
    ids.iter().map(number_of_raw).collect()
}

fn number_of_raw(id: &RawId) -> u32 {
    number(id.to_bson().expect("an id").as_str().expect("ids are strings"))
}

fn is_due(row: &Row, now_ms: i64) -> bool {
    !row.locked && !row.dead && row.due_ms.unwrap_or(0) <= now_ms
}

impl EventStore for Store {
    type Page = RawArrayBuf;
    type Joined = Joined;
    type Tail = shared::Tail<Tail>;

    fn limit_payloads(&self, _bytes: usize) {}

    fn parse(&self, document: &RawDocument) -> Parsed {
        OutboxRecord::parse(document, &Layout::default())
    }

    async fn list(&self, most: usize, without: &[Key], before: &IdSet) -> StoreResult<Listing> {
        let without: Vec<_> = without.iter().map(key_number).collect();
        let most = most / LISTED;
        let after = self.command("time", State::tick).await?;
        {
            let mut state = self.world.lock();
            if state.lives[self.life].tails > 0 {
                let wrong = format!("relay {} sweeps beside a tail of its own", self.life);
                state.wrong.push(wrong);
            }
        }
        let listed = self.command("list", move |state| {
            if state.chance(0.05) {
                state.count("lists too old");
                return Err(StoreError::new(StoreErrorKind::Refused, "snapshot too old"));
            }
            let mut locked = state.locked();
            locked.retain(|number| is_of_others(&state.rows, *number, &without));
            Ok(locked)
        });

        let listed = listed.await??;
        // Until that is answered, more is committed.
        let until = self.command("time", State::tick).await?;

        let mut list = Listing { moment: Moment { after, until }, ..Listing::default() };
        for number in listed {
            let event = rawdoc! { "_id": format!("e{number}") };
            let id = id_of(&event).expect("an id");
            match before.place(id) {
                Some(place) => list.again.push(place),
                None if list.ids.len() == most => {
                    list.is_cut = true;
                    self.world.lock().count("lists cut");
                    break;
                }
                None => list.ids.push(id),
            }
        }
        Ok(list)
    }

    async fn held(
        &self,
        _since: Timestamp,
        _before: Option<Timestamp>,
        found: mpsc::Sender<Vec<Key>>,
    ) -> StoreResult<()> {
        let keys = self.command("held", |state| {
            let held = state.on_dead == OnDead::Hold;
            let rows = state.rows.values().filter(|row| !row.locked && (held || !row.dead));
            let keys: BTreeSet<_> = rows.filter_map(|row| row.key).collect();
            let key = |key| Key::new(format!("k{key}")).expect("a short key");
            keys.into_iter().map(key).collect::<Vec<_>>()
        });

        for key in keys.await? {
            _ = found.send(vec![key]).await;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        ids: &[&[u8]],
        _since: Timestamp,
        without: &[Key],
    ) -> StoreResult<Fetched<RawArrayBuf>> {
        let without: Vec<_> = without.iter().map(key_number).collect();
        let mut numbers: Vec<_> = ids.iter().map(|id| number_of(id)).collect();
        self.command("fetch", move |state| {
            numbers.retain(|number| is_of_others(&state.rows, *number, &without));
            let is_cut = numbers.len() > 1 && state.chance(0.2);
            if is_cut {
                state.count("pages cut");
                numbers.pop();
            }

            let mut page = RawArrayBuf::new();
            for number in numbers.into_iter().rev() {
                state.rows.get(&number).iter().for_each(|row| page.push(document(number, row)));
            }
            Fetched { page, is_cut }
        })
        .await
    }

    async fn join(&self) -> StoreResult<Joined> {
        let Some(shared) = &self.shared else { return Ok(Joined::Own) };
        let share = shared.join(outbox()).await?;
        Ok(share.map_or(Joined::Own, Joined::Shared))
    }

    async fn tail(&self, joined: Joined, at: Timestamp) -> StoreResult<Self::Tail> {
        if let Joined::Shared(share) = joined {
            return Ok(shared::Tail::shared(share, at));
        }

        let (next, cuts) = self
            .command("tail", move |state| {
                (state.changes.partition_point(|(of, _)| *of <= at), state.cuts)
            })
            .await?;
        self.world.lock().lives[self.life].tails += 1;
        Ok(shared::Tail::Own(Tail { store: self.clone(), next, cuts }))
    }

    async fn locked(&self, of_keys: &[RestOf], room: Room) -> StoreResult<Dated> {
        let wanted: Vec<_> =
            of_keys.iter().map(|rest| (key_number(&rest.key), rest.from)).collect();
        self.trace(|| format!("rests of {wanted:?}"));
        let page = self.read("locked", room.at_most(KEY_PAGE), move |rows, _| {
            of(rows, |row| {
                let is_wanted = |(key, from): &_| row.key == Some(*key) && row.ts >= *from;
                row.locked && wanted.iter().any(is_wanted)
            })
        });
        // The server says only roughly when a read was.
        let before = self.world.lock().newest_change();
        let page = page.await?;
        let mut until = self.world.lock().tick();
        until.increment += 2;
        self.world.lock().count(match of_keys {
            [_] => "reads of a rest",
            _ => "reads of several rests",
        });
        Ok(Dated { page, moment: Moment { after: before, until } })
    }

    async fn delete(&self, acked: &[Acked], epoch: Epoch) -> StoreResult<Vec<Refused>> {
        if self.world.lock().keeps {
            self.keep(acked, epoch).await?;
        }

        let ids: Vec<_> = acked.iter().map(|acked| number(&acked.id().to_string())).collect();
        self.trace(|| format!("to delete {ids:?}"));
        let life = self.life;

        self.command("delete", move |state| {
            let mut refused = Vec::new();
            for (index, number) in ids.into_iter().enumerate() {
                if state.rows.get(&number).is_some_and(|row| row.cursed) {
                    state.count("deletes refused for good");
                    refused.push(Refused { index, error: "cursed".to_owned() });
                    continue;
                }
                state.delete(number, life);
            }
            refused
        })
        .await
    }

    async fn mark(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        let marks = marks.to_vec();
        self.trace(|| {
            format!("to mark {:?}", marks.iter().map(|mark| &mark.id).collect::<Vec<_>>())
        });

        self.command("mark", move |state| {
            let now_ms = state.now_ms();
            let mut refused = Vec::new();
            for (index, mark) in marks.into_iter().enumerate() {
                let number = number_of_raw(&mark.id);
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

    async fn grant_discards(&self, ids: &[EventId]) -> StoreResult<(u64, Vec<Refused>)> {
        let ids: Vec<_> = ids.iter().map(|id| number(&id.to_string())).collect();
        self.command("grant_discards", move |state| {
            let (now_ms, mut granted) = (state.now_ms(), 0);
            for number in ids {
                let row = state.rows.get_mut(&number).filter(|row| !row.locked);
                let asked = row.and_then(|row| row.discard.as_mut());
                if let Some(asked) = asked.filter(|asked| asked.holds(now_ms) && !asked.granted) {
                    asked.granted = true;
                    granted += 1;
                    state.count("discards granted");
                    state.remember();
                }
            }
            (granted, Vec::new())
        })
        .await
    }

    async fn due(&self, room: Room, except: &[RawId]) -> StoreResult<Page> {
        let except = numbers(except);
        let half = room.events.div_ceil(2);
        let on_dead = self.world.lock().on_dead;

        self.read("due", Room { events: half * 2, ..room }, move |rows, now_ms| {
            let mut heads = BTreeMap::new();
            let unlocked = |row: &Row| !row.locked && (on_dead == OnDead::Hold || !row.dead);
            for number in of(rows, unlocked) {
                let row = &rows[&number];
                if let Some(key) = row.key {
                    heads.entry(key).or_insert((number, is_due(row, now_ms)));
                }
            }
            let heads = heads.into_values().filter(|(_, due)| *due).map(|(number, _)| number);
            let heads = heads.filter(|number| !except.contains(number)).take(half);
            let mut others = of(rows, |row| row.key.is_none() && is_due(row, now_ms));
            others.retain(|number| !except.contains(number));
            heads.chain(others.into_iter().take(half)).collect()
        })
        .await
    }

    async fn is_empty(&self) -> StoreResult<bool> {
        let is_empty = self.command("is empty", |state| state.shown().is_empty()).await?;
        if is_empty {
            self.world.lock().count("outboxes found empty");
        }
        Ok(is_empty)
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        self.read("discards", room, |rows, now_ms| {
            let is_asked =
                |row: &Row| row.discard.is_some_and(|asked| asked.holds(now_ms) && !asked.granted);
            of(rows, |row| !row.locked && !row.dead && is_asked(row))
        })
        .await
    }

    async fn passed_over(
        &self,
        age: Duration,
        room: Room,
        without: &[Key],
        except: &[RawId],
    ) -> StoreResult<Page> {
        let except = numbers(except);
        let without: Vec<_> = without.iter().map(key_number).collect();
        let age = u32::try_from(age.as_secs()).expect("an age");
        self.read("passed_over", room, move |rows, now_ms| {
            let before = u32::try_from(now_ms / 1000).expect("a time") - age;
            let is_without = |row: &Row| row.key.is_some_and(|key| without.contains(&key));
            let mut found =
                of(rows, |row| row.locked && !row.dead && row.ts.time < before && !is_without(row));
            found.retain(|number| !except.contains(number));
            found
        })
        .await
    }

    async fn unlocked(&self, key: &Key, room: Room) -> StoreResult<Page> {
        let key = key_number(key);
        let on_dead = self.world.lock().on_dead;
        self.read("unlocked", room.at_most(KEY_PAGE), move |rows, _| {
            of(rows, |row| {
                row.key == Some(key) && !row.locked && (on_dead == OnDead::Hold || !row.dead)
            })
        })
        .await
    }
}

//! Kept events in memory, and a stream that loses the end of what it has.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use rand::RngExt as _;

use super::bus::STREAM;
use super::connection::Store;
use super::row::{document, number};
use super::world::{KeptRow, State};
use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;
use crate::relay::kept::{Kept, KeptStore, Republished, place};
use crate::relay::ports::{Room, StoreResult};
use crate::relay::publish::outcome::Acked;
use crate::relay::watermark::Epoch;

impl Store {
    /// Copies acked events that are in the outbox to the kept ones.
    pub(super) async fn keep(&self, acked: &[Acked], epoch: Epoch) -> StoreResult<()> {
        let acked: Vec<_> = acked
            .iter()
            .map(|acked| {
                let id = acked.is_renamed.then(|| acked.message_id.clone());
                (number(&acked.id().to_string()), acked.sequence, id)
            })
            .collect();

        let keep = self.command("keep", move |state| {
            for (number, sequence, message_id) in acked {
                let Some(row) = state.rows.get(&number).cloned() else { continue };
                if state.kept.values().any(|kept| kept.number == number) {
                    state.count("events kept twice");
                }
                state.kept.retain(|_, kept| kept.number != number);
                let place = place(epoch, sequence);
                let sequence = Some(sequence);
                state.kept.insert((place, number), KeptRow { number, sequence, message_id, row });
                state.count("events kept");
            }
        });
        keep.await
    }
}

fn shown(place: i64, kept: &KeptRow) -> Kept {
    let document = document(kept.number, &kept.row);
    Kept {
        place,
        stream: STREAM.to_owned(),
        sequence: kept.sequence,
        message_id: kept.message_id.clone(),
        event: OutboxRecord::parse(&document, &Layout::default()),
    }
}

/// The first few, and those that share the place of the last of them.
fn page<'a>(kept: impl Iterator<Item = (i64, &'a KeptRow)>, few: usize) -> Vec<Kept> {
    let mut page = Vec::<Kept>::new();
    for (place, kept) in kept {
        if page.len() >= few && page.last().is_some_and(|last| last.place != place) {
            break;
        }
        page.push(shown(place, kept));
    }
    page
}

impl KeptStore for Store {
    async fn kept(&self, places: Range<i64>, room: Room) -> StoreResult<Vec<Kept>> {
        let few = room.events.min(3);
        self.command("kept", move |state| page(state.within(places), few)).await
    }

    async fn next_held(&self, places: Range<i64>) -> StoreResult<Option<Kept>> {
        let next = self.command("next_held", move |state| {
            let mut held = state.within(places).filter(|(_, kept)| kept.sequence.is_some());
            held.next().map(|(place, kept)| shown(place, kept))
        });
        next.await
    }

    async fn last_held(&self, places: Range<i64>, room: Room) -> StoreResult<Vec<Kept>> {
        let few = room.events.min(3);
        let last = self.command("last_held", move |state| {
            page(state.within(places).rev().filter(|(_, kept)| kept.sequence.is_some()), few)
        });
        last.await
    }

    async fn count_kept(&self, places: Range<i64>) -> StoreResult<u64> {
        self.command("count_kept", move |state| state.within(places).count() as u64).await
    }

    async fn republished(&self, events: &[Republished]) -> StoreResult<()> {
        let events = events.to_vec();
        let write = self.command("republished", move |state| {
            for event in events {
                let number = number(&event.id.to_string());
                if let Some(mut kept) = state.kept.remove(&(event.place, number)) {
                    kept.sequence = event.to.map(|(_, sequence)| sequence);
                    kept.message_id = event.message_id;
                    if event.to.is_none() {
                        state.count("repairs refused");
                        state.excused.insert(kept.number);
                    }
                    let place = event.to.map_or(event.place, |(place, _)| place);
                    state.kept.insert((place, number), kept);
                    state.count("events repaired");
                }
            }
        });
        write.await
    }

    async fn forget(&self, _age: Duration) -> StoreResult<u64> {
        Ok(0)
    }

    async fn record_repair(&self, _relay: &str, _published: u64, _: String) -> StoreResult<()> {
        self.command("record_repair", |state| state.count("repairs")).await
    }
}

impl State {
    fn within(&self, places: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, &KeptRow)> {
        let kept = self.kept.range((places.start, 0)..(places.end, 0));
        kept.map(|((place, _), kept)| (*place, kept))
    }

    /// The stream is put back to an old copy: the last of its messages are gone, and it remembers
    /// only the ids of those that it has.
    pub(super) fn rewind(&mut self) -> bool {
        if !self.keeps || self.newest == 0 {
            return false;
        }

        let last = self.random.random_range(self.newest.saturating_sub(20)..self.newest);
        let lost: Vec<_> = self.log.split_off(&(last + 1)).into_values().collect();
        self.newest = last;
        self.remembered.retain(|_, (_, sequence)| *sequence <= last);
        self.count("streams put back");

        let held: BTreeSet<_> = self.log.values().map(|(_, number)| *number).collect();
        for (_, number) in lost {
            self.lost.insert(number);
            let times = self.stream.get(&number).copied().unwrap_or(0);
            match times.saturating_sub(1) {
                0 if !held.contains(&number) => _ = self.stream.remove(&number),
                times => _ = self.stream.insert(number, times),
            }
        }

        // What was removed before is published again.
        let behind = self.kept.values().filter(|kept| kept.sequence.is_some_and(|at| at > last));
        for number in behind.map(|kept| kept.number).collect::<Vec<_>>() {
            if !self.lost.contains(&number) {
                *self.repeatable.entry(number).or_default() += 1;
            }
        }
        self.acked.clear();
        true
    }

    /// Whether the stream lacks events that it had.
    pub(super) fn is_hurt(&self) -> bool {
        let is_missing = |number: &u32| {
            let is_out = self.excused.contains(number) || self.rows.contains_key(number);
            !is_out && !self.stream.contains_key(number)
        };
        self.committed.keys().any(is_missing)
    }
}

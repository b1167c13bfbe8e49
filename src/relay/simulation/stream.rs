//! The stream of the simulation: its messages, and the ids that it remembers longer than those.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::bus::STREAM;
use super::row::{Row, document};
use super::world::{Arriving, Change, Committed, Lie, State};
use crate::relay::ports::Ack;
use crate::relay::watermark::{Epoch, Watermark};

/// An event that none of the services here has committed.
const FOREIGN: u32 = 0;
/// How long after its delete an event may be restored.
const SETTLED: Duration = Duration::from_secs(10);

impl State {
    /// Of the stream, at this sequence.
    pub(super) fn watermark(&self, sequence: u64, message_id: Option<&str>) -> Watermark {
        let (stream, message_id) = (STREAM.to_owned(), message_id.map(str::to_owned));
        Watermark { stream, created_ms: 0, sequence, message_id, epoch: Epoch::default() }
    }

    /// A message comes to the stream. Returns the stream's ack, or `None` if the message isn't behind
    /// the one that it names.
    pub(super) fn arrive(&mut self, message: &Arriving) -> Option<Ack> {
        let Arriving { ref message_id, ref behind, number, subject } = *message;
        if self.committed.get(&number).is_some_and(|committed| committed.subject != subject) {
            self.wrong.push(format!("e{number} was published as it never was committed"));
        }

        let ack = Ack::new;
        let now = Instant::now();
        if let Some((since, sequence)) = self.remembered.get(message_id).copied()
            && now - since < self.window
        {
            self.count("duplicates dropped");
            return Some(ack(sequence, true));
        }

        if self.lie == Some(Lie::Ack) && self.chance(0.1) {
            return Some(ack(self.newest + 1, false));
        }

        if let Some(behind) = behind {
            if *behind != self.last_id && self.lie != Some(Lie::Unchained) {
                self.count("messages that are not behind another");
                return None;
            }
            self.count("messages stored behind another");
        }

        let sequence = self.store(message_id, number);
        self.arrived(number);

        Some(ack(sequence, false))
    }

    /// A batch comes to the stream. Returns the ack of its last message, or `None` if the stream
    /// refuses all, because it has one of them.
    pub(super) fn arrive_together(&mut self, batch: &[Arriving]) -> Option<Ack> {
        let (now, window) = (Instant::now(), self.window);
        let has = |message: &Arriving| {
            let known = self.remembered.get(&message.message_id);
            known.is_some_and(|(since, _)| now - *since < window)
        };
        if batch.iter().any(has) {
            self.count("batches with a duplicate");
            return None;
        }

        self.count("batches stored");
        let torn = usize::from(self.lie == Some(Lie::Unchained));
        batch.iter().skip(torn).filter_map(|message| self.arrive(message)).last()
    }

    /// The stream stores another's message under the id of an event.
    pub(super) fn occupy_id(&mut self, number: u32) {
        self.store(&format!("shop.outbox.e{number}"), FOREIGN);
    }

    /// The stream stores a message. Returns its sequence.
    fn store(&mut self, message_id: &str, number: u32) -> u64 {
        self.newest += 1;
        self.log.insert(self.newest, (message_id.to_owned(), number));
        self.last_id = message_id.to_owned();

        if self.lie != Some(Lie::Forget) {
            self.remembered.insert(message_id.to_owned(), (Instant::now(), self.newest));
        }

        self.newest
    }

    /// The stream has an event, perhaps again.
    fn arrived(&mut self, number: u32) {
        let times = self.stream.entry(number).or_default();
        *times += 1;

        if *times > 1 || self.restored.contains(&number) {
            return;
        }

        let Some(event) = self.committed.get(&number) else {
            self.wrong.push(format!("e{number} was published and never committed"));
            return;
        };

        // Transactions that overlap have no order.
        let comes_before = |other: &Committed| {
            event.key.is_some() && other.key == event.key && other.at < event.begun
        };
        let passed = self.committed.range(..number).find(|(earlier, other)| {
            comes_before(other)
                && !self.stream.contains_key(earlier)
                && !self.excused.contains(earlier)
                && !self.restored.contains(earlier)
                && !self.forged.contains(earlier)
                && !self.lost.contains(earlier)
        });

        if let Some((passed, _)) = passed {
            self.wrong.push(format!("e{number} passed e{passed} of its key"));
        }
    }

    /// Messages are removed from the stream, which remembers their ids: it is purged, or consumers
    /// acknowledge some of a work queue.
    pub(super) fn remove_messages(&mut self) {
        let share = if self.chance(0.5) { 1.0 } else { 0.5 };
        let mut log = std::mem::take(&mut self.log);
        log.retain(|_, _| !self.chance(share));
        self.log = log;

        // A relay may still have in hand what was deleted a moment ago, by a write that came late.
        let in_hand = self.deleted.iter().filter(|(_, deleted)| deleted.elapsed() <= SETTLED);
        let in_hand = in_hand.map(|(number, _)| number).chain(self.rows.keys()).copied();
        let kept = self.kept.values().map(|kept| kept.number);
        for number in in_hand.chain(kept).collect::<BTreeSet<_>>() {
            *self.repeatable.entry(number).or_default() += 1;
        }
    }

    /// An operator puts delivered events whose messages are gone back into the outbox.
    pub(super) fn restore(&mut self) {
        let kept: BTreeSet<_> = self.log.values().map(|(_, number)| *number).collect();
        let mut gone: Vec<_> = self.stream.keys().copied().collect();
        gone.retain(|number| !self.rows.contains_key(number) && !kept.contains(number));
        gone.retain(|_| self.chance(0.3));
        // A relay may still repeat the delete of what was deleted a moment ago.
        gone.retain(|number| {
            self.deleted.get(number).is_some_and(|deleted| deleted.elapsed() > SETTLED)
        });

        for number in gone {
            self.count("events restored");
            let ts = self.tick();
            let Some(committed) = self.committed.get(&number) else { continue };
            let row = Row::new(committed.key, ts, committed.subject);

            self.changes.push((ts, Change::Insert(number, document(number, &row))));
            self.rows.insert(number, row);
            self.stream.remove(&number);
            self.repeatable.remove(&number);
            self.restored.insert(number);
            self.acked.retain(|(_, acked)| *acked != number);
            self.seen_stored.retain(|(_, seen)| *seen != number);
        }

        self.remember();
    }
}

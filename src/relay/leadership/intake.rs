//! What comes in from the readers: found events, the retrier's answers, and what can't be published
//! at all.

use std::collections::{HashMap, HashSet};

use bson::Bson;
use outboxd_client::{EventId, Key};
use tracing::{debug, info};

use super::Leadership;
use crate::document::record::{Malformed, OutboxRecord};
use crate::failure::{MALFORMED, Rejection};
use crate::relay::dispatch::known::Origin;
use crate::relay::dispatch::pending::Pending;
use crate::relay::dispatch::read::Read;
use crate::relay::dispatch::rest::{self, ReadAhead, RestEnd, START};
use crate::relay::follow::found::Found;
use crate::relay::listing::RawId;
use crate::relay::mover::Gate;
use crate::relay::ports::{Dated, EventBus, Page, Parsed, RestOf, Room};
use crate::relay::retry::{Answer, Ask};
use crate::relay::settle::{Refusal, Settlement};
use crate::relay::verdict::Failed;
use crate::relay::wake::{Reason, Reasons};

impl<B: EventBus> Leadership<B> {
    /// Takes what sweep and tail found.
    pub(super) fn take_found(&mut self, found: &mut Vec<Found>) {
        found.drain(..).for_each(|found| self.found(found));
    }

    fn found(&mut self, found: Found) {
        self.look.disturb();
        match found {
            Found::SweepBegan(number, taken) => {
                self.dispatch.sweep_began(number);
                // A reader that is gone doesn't sweep.
                _ = taken.send(());
            }
            Found::Held(keys) => keys.iter().for_each(|key| self.dispatch.hold(Some(key))),
            Found::Event(pending, now_ms) => {
                self.look.wants_discards |= pending.record.is_discard_requested(now_ms);
                self.dispatch.offer(pending, now_ms);
            }
            Found::Requested => {
                self.look.wants_discards = true;
                self.wake.because(Reason::Requested);
            }
            Found::Malformed(malformed) => {
                let key = malformed.key.as_ref();
                if malformed.marked || !self.dispatch.leaves_out_malformed(key) {
                    self.malformed(*malformed);
                }
            }
            Found::SweepEnded => {
                self.dispatch.sweep_ended();
                // The sweep brings no unlocked event, so it has seen no request either.
                self.look.wants_discards = true;
                self.look_after_sweep();
            }
        }
    }

    /// Lets the mover bring more events, or not. They come behind the fresh ones, so half of the
    /// room stays free for those.
    pub(super) fn set_gate(&self) {
        let room = self.dispatch.room();
        let limits = &self.config.dispatch;
        let has_room = room.events >= limits.max_buffered_events.div_ceil(2)
            && room.bytes >= limits.max_buffered_bytes / 2;
        let is_well = self.publisher.breaker.is_well() || self.dispatch.in_flight() == 0;

        let gate = match self.publisher.is_connected() {
            false => Gate::Closed,
            true if has_room && is_well => Gate::Open,
            true => Gate::Crowded,
        };
        if *self.gate.borrow() != gate {
            self.gate.send_replace(gate);
        }
    }

    /// Looks for what the latest sweep left to the retrier, once what it parked is written.
    pub(super) fn look_after_sweep(&mut self) {
        if self.dispatch.settles_the_sweep() {
            self.wake.because(Reason::Swept);
        }
    }

    /// Asks for what is due. If an operator may want events removed, those come first.
    pub(super) fn look_for_due(&mut self, room: Room, reasons: Reasons) {
        if reasons.are_only(Reason::Schedule) && self.look.finds_nothing(self.config.sweep.interval)
        {
            return;
        }
        debug!(%reasons, "looking for due events");

        let discards = std::mem::take(&mut self.look.wants_discards);
        if discards {
            return self.begin_look(Ask::Discards, room);
        }
        self.begin_due_look(room);
    }

    /// Asks for locked events that nothing has brought.
    pub(super) fn look_for_passed_over(&mut self, room: Room) {
        let (resting, except) = (self.dispatch.resting(), self.except());
        self.begin_look(|read, room| Ask::PassedOver(read, room, resting, except), room);
    }

    /// The events that the next read leaves out: those that can't be written, if they filled the
    /// one before. Otherwise none, because an operator may have repaired them.
    fn except(&mut self) -> Vec<RawId> {
        match std::mem::take(&mut self.look.past_refused) {
            true => self.dispatch.refused(),
            false => Vec::new(),
        }
    }

    fn begin_due_look(&mut self, room: Room) {
        let (except, asks_empty) = (self.except(), self.look.begin());
        self.begin_look(|read, room| Ask::Due(read, room, except, asks_empty), room);
    }

    fn begin_look(&mut self, ask: impl FnOnce(Read, Room) -> Ask, room: Room) {
        self.look.under_way = true;
        let read = self.dispatch.begin_read();
        self.ask(ask(read, room));
    }

    /// Takes the result of a read.
    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Due(read, page, is_empty) => {
                self.look.end(is_empty);
                self.due(read, page);
            }
            Answer::Discards(read, page) => self.discards(read, page),
            Answer::PassedOver(read, page) => self.passed_over(read, page),
            Answer::Key(key, read, events, behind) => {
                self.dispatch.end_key_read(&key, read, events, behind);
            }
            Answer::Waiting(filled) => self.dispatch.end_filling(filled),
            Answer::Rest(of, read, rest) => self.rest(of, read, rest),
        }
    }

    fn due(&mut self, read: Read, page: Page) {
        self.look.under_way = false;

        let due: Vec<_> = self
            .well_formed(page.events)
            .into_iter()
            .filter(|record| !record.is_discard_requested(page.at_ms))
            .map(|record| pending(record, Origin::Retry))
            .collect();

        let found = due.len();
        let taken = self.dispatch.end_due_read(read, due);

        debug!(found, taken, more = page.more, "looked for due events");
        self.look.more_due = page.more && taken > 0;
        self.look.past_refused = page.more && taken == 0 && self.dispatch.has_refused();
    }

    fn discards(&mut self, read: Read, page: Page) {
        self.look.under_way = false;

        let wanted: Vec<_> =
            self.well_formed(page.events).into_iter().map(|record| record.id).collect();
        let count = wanted.len();
        let ids = self.dispatch.end_discards_read(read, wanted);

        // The next look finds what is in flight, or was too much for once.
        self.look.wants_discards = page.more || ids.len() < count;
        for id in ids {
            self.settle(Settlement::GrantDiscard(id));
        }

        self.begin_due_look(self.dispatch.room());
    }

    fn passed_over(&mut self, read: Read, page: Page) {
        self.look.under_way = false;

        let (mut events, more) = (0, page.more);
        for parsed in page.events {
            match parsed {
                Ok(record) => {
                    let pending = pending(record, Origin::SafetySweep);
                    events += u64::from(self.dispatch.offer_passed_over(&read, pending));
                }
                Err(malformed) => self.malformed(*malformed),
            }
        }

        self.dispatch.end_read(read);
        self.look.past_refused = more && events == 0 && self.dispatch.has_refused();

        if events > 0 {
            info!(
                events,
                "the safety sweep found locked events that neither sweep nor tail had brought"
            );
        }
    }

    /// Takes what keys had left in the database.
    fn rest(&mut self, of: Vec<RestOf>, read: Read, rest: Option<Dated>) {
        let Some(Dated { page, moment }) = rest else {
            of.iter().for_each(|rest| self.dispatch.end_rest(&rest.key, None));
            return self.dispatch.end_rest_read(read);
        };

        let (events, more) = (page.events.len(), page.more);
        let (keys, RestOf { key, from }) = (of.len(), &of[0]);
        debug!(keys, key = key.as_str(), %from, events, more, "read what keys had left");

        let mut cut = more.then_some(START);
        let mut ids: HashMap<Key, HashSet<EventId>> = HashMap::new();
        for parsed in page.events {
            match parsed {
                Ok(record) => {
                    if more {
                        cut = cut.max(Some(rest::place(&record)));
                    } else if let Some(key) = &record.key {
                        ids.entry(key.clone()).or_default().insert(record.id.clone());
                    }
                    self.dispatch.offer_rest(&read, pending(record, Origin::Rest));
                }
                Err(malformed) => {
                    let key = malformed.key.as_ref();
                    if key.is_none_or(|key| self.dispatch.takes_rest(key)) {
                        self.malformed(*malformed);
                    }
                    // Else it comes behind what waits in the database.
                }
            }
        }

        for RestOf { key, from } in of {
            let ids = ids.remove(&key).unwrap_or_default();
            let ahead = ReadAhead { from, moment, ids };
            self.dispatch.end_rest(&key, Some(RestEnd { cut, ahead }));
        }
        self.dispatch.end_rest_read(read);
    }

    /// Takes the malformed events out of a page.
    fn well_formed(&mut self, events: Vec<Parsed>) -> Vec<OutboxRecord> {
        let mut records = Vec::with_capacity(events.len());
        for parsed in events {
            match parsed {
                Ok(record) => records.push(record),
                Err(malformed) => self.malformed(*malformed),
            }
        }

        records
    }

    /// Nothing the broker does can help a malformed event: it is dead at once, and its key waits
    /// for a person.
    fn malformed(&mut self, malformed: Malformed) {
        if malformed.marked {
            return self.dispatch.hold_dead(malformed.key.as_ref());
        }

        let id = malformed.id.and_then(|id| Bson::try_from(id).ok());
        let Some(id) = id else {
            let key = malformed.key.as_ref();
            if !self.dispatch.block_unmarkable(key, malformed.fingerprint) {
                return;
            }
            let of = malformed.key.as_ref().map(|key| format!(" of key {key:?}"));
            let id = format!("one{} with a huge or unreadable _id", of.unwrap_or_default());
            return self.refused(Refusal { write: "mark", id: Some(id), error: malformed.reason });
        };

        // Not if it is found again while it is being marked, or after the server refused that.
        let Some(debt) = self.dispatch.hold_malformed(RawId::new(&id), malformed.key) else {
            return;
        };

        let rejection = Rejection::new(MALFORMED, malformed.reason);
        let key = debt.unmarked.key.as_ref();
        let mark = self.verdicts.mark(&Failed { id, subject: None, key, attempts: 0 }, rejection);
        self.settle(Settlement::Failed(Box::new((debt, mark))));
    }
}

fn pending(record: OutboxRecord, origin: Origin) -> Pending {
    Pending { record: record.into(), origin, committed_ms: None }
}

//! What a failure holds up: the lanes it stalls, the debts and parks it leaves, the reads that open
//! its lane again, and what `settle` reports of all that.

use outboxd_client::{EventId, Key};

use super::debt::{Debt, FailedId, Park, Unmarked};
use super::forgotten::Filter;
use super::lane::{Lane, LaneState, Then};
use super::pending::{Dispatched, Pending};
use super::read::{Behind, Read};
use super::{Dispatch, MAX_KEY_READS};
use crate::config::OnDead;
use crate::document::record::OutboxRecord;
use crate::document::state::State;
use crate::relay::listing::RawId;
use crate::relay::ports::Next;

/// The part of the memory for events that lanes may have when nothing moves in them: 1 MiB.
const LANES: usize = 8;
/// Memory of a lane besides its own and its key's: a table is half empty after it has grown.
const LANE_OVERHEAD: usize = 64;

/// Events found in the database.
impl Dispatch {
    /// An event of this key waits in the database: what is offered after it waits behind it.
    pub(crate) fn hold(&mut self, key: Option<&Key>) {
        self.await_parks(key);
        let Some(key) = key else { return };

        if self.has_too_many_lanes() && !self.lanes.contains_key(key) {
            self.forgotten.stall(key);
        } else {
            self.lane_or_new(key).hold();
        }
    }

    /// An event of this key is unlocked, or may be once it is retried. What was offered before it
    /// leaves before it.
    pub(super) fn await_parks(&mut self, key: Option<&Key>) {
        if let Some(lane) = key.and_then(|key| self.lanes.get_mut(key)) {
            lane.await_parks();
        }
    }

    /// The same for an event that is marked dead, unless dead events are skipped.
    pub(crate) fn hold_dead(&mut self, key: Option<&Key>) {
        match self.limits.on_dead {
            OnDead::Hold => self.hold(key),
            OnDead::Skip => self.await_parks(key),
        }
    }

    /// A malformed event is about to be marked as dead. Unless dead events are skipped, its key
    /// waits for that. `None` if the event is known already.
    pub(crate) fn hold_malformed(&mut self, id: RawId, key: Option<Key>) -> Option<Debt> {
        if !self.known.insert_malformed(id.clone()) {
            return None;
        }

        self.await_parks(key.as_ref());
        let key = key.filter(|_| self.limits.on_dead == OnDead::Hold);
        if let Some(key) = &key {
            let lane = self.lane_or_new(key);
            lane.hold();
            lane.begin_mark();
        }

        Some(Debt { unmarked: Unmarked { event: FailedId::Malformed(id), key }, behind: None })
    }

    /// A malformed event can't even be marked. Unless dead events are skipped, nothing more of its
    /// key is taken; what is buffered still leaves. Each sweep brings it again: returns whether the
    /// document with this fingerprint is news.
    pub(crate) fn block_unmarkable(&mut self, key: Option<&Key>, fingerprint: u64) -> bool {
        if let Some(key) = key.filter(|_| self.limits.on_dead == OnDead::Hold) {
            self.lane_or_new(key).block();
            self.tidy(key);
        }
        self.nameless.is_news(fingerprint)
    }
}

/// Marks and parks.
impl Dispatch {
    /// Takes back an event whose publish failed: its lane stalls. The event stays known until its
    /// mark is settled.
    pub(crate) fn failed(&mut self, dispatched: Dispatched) -> (Box<OutboxRecord>, Debt) {
        let record = self.take_back(dispatched);
        let (id, key) = (record.id.clone(), record.key.clone());

        let behind = key.as_ref().and_then(|key| {
            let queue = self.lane(key).fail();
            let park = self.park_queue(key, queue);
            self.lane(key).begin_mark();
            park
        });

        (record, Debt { unmarked: Unmarked { event: FailedId::Event(id), key }, behind })
    }

    /// Parks to write now, besides those of a [`Debt`].
    pub(crate) fn take_parks(&mut self) -> Vec<Park> {
        std::mem::take(&mut self.parks)
    }

    /// A mark is written, and the event is tried `next`. If it is dead and dead events are skipped,
    /// those behind it leave.
    pub(crate) fn mark_written(&mut self, unmarked: &Unmarked, next: Next) {
        match &unmarked.event {
            FailedId::Event(id) => self.known.settle(id),
            FailedId::Malformed(id) => self.known.settle_malformed(id),
        }

        if let Some(key) = &unmarked.key {
            self.writes_settled += 1;
            let number = self.writes_settled;
            let skipped = next == Next::Dead && self.limits.on_dead == OnDead::Skip;
            let then = self.lane(key).settle_mark(number, skipped);
            self.follow_up(key, then);
        }
    }

    /// A park is written.
    pub(crate) fn parked(&mut self, park: &Park) {
        park.ids.iter().for_each(|id| self.known.settle(id));

        self.parks_settled += park.ids.len() as u64;
        self.writes_settled += 1;
        let number = self.writes_settled;
        let then = self.lane(&park.key).settle_parks(number, park.ids.len());
        self.follow_up(&park.key, then);
    }

    /// The server refused a mark for good. The event stays in the outbox as it is, and so does what
    /// follows in its key, for the next leadership.
    pub(crate) fn mark_refused(&mut self, unmarked: &Unmarked) {
        match &unmarked.event {
            FailedId::Event(id) => self.known.refuse(id),
            FailedId::Malformed(id) => self.known.refuse_malformed(id),
        }

        if let Some(key) = &unmarked.key {
            let lane = self.lane(key);
            lane.end_writes(1);
            lane.block();
            self.tidy(key);
        }
    }

    /// The server refused for good to delete an event, which stays in the outbox as it is.
    pub(crate) fn delete_refused(&mut self, id: &EventId) {
        self.known.refuse(id);
    }

    /// Whether the server has refused to write some event.
    pub(crate) fn has_refused(&self) -> bool {
        self.known.has_refused()
    }

    /// Those events, as far as they are remembered.
    pub(crate) fn refused(&self) -> Vec<RawId> {
        self.known.refused()
    }

    /// The server refused a park for good, or it wasn't tried because it follows a write of its key
    /// that was refused.
    pub(crate) fn park_refused(&mut self, key: &Key, id: &EventId) {
        self.parks_settled += 1;
        self.known.remove(id);
        let lane = self.lane(key);
        lane.end_writes(1);
        lane.block();
        self.tidy(key);
    }

    pub(super) fn park_one(&mut self, pending: Pending, key: Key) {
        let id = pending.record.id;
        self.known.insert(id.clone(), pending.origin);
        self.parks_begun += 1;
        self.lane(&key).begin_parks(1);
        self.parks.push(Park { key, ids: vec![id] });
    }

    /// The park of what waited in a lane that stalls. Of a blocked one nothing more is unlocked.
    fn park_queue(&mut self, key: &Key, queue: impl IntoIterator<Item = Pending>) -> Option<Park> {
        let mut ids = Vec::new();
        let is_blocked = matches!(self.lane(key).state(), LaneState::Blocked);
        for pending in queue {
            self.buffered -= 1;
            self.buffered_bytes -= pending.size();

            match pending.record.state {
                State::Locked if !is_blocked => ids.push(pending.record.id),
                // It stays as it is. What is unlocked, the retrier has already.
                State::Locked | State::Scheduled | State::Failed | State::Parked | State::Dead => {
                    self.known.remove(&pending.record.id);
                }
            }
        }

        if ids.is_empty() {
            return None;
        }

        self.parks_begun += ids.len() as u64;
        self.lane(key).begin_parks(ids.len());
        Some(Park { key: key.clone(), ids })
    }
}

/// Reads of the retrier.
impl Dispatch {
    /// A read for due events, discards or events passed over begins.
    pub(crate) fn begin_read(&mut self) -> Read {
        Read { began: self.known.begin_read(), writes_shown: self.writes_settled }
    }

    /// The read is over, and everything it brought is offered.
    pub(crate) fn end_read(&mut self, read: Read) {
        self.known.end_read(read.began);
    }

    /// Takes the due events that a read found: of each key the oldest unlocked one. A lane that is
    /// busy leaves its event to the next such read, and a sweep that is under way leaves all of
    /// them. Returns how many were taken.
    pub(crate) fn end_due_read(
        &mut self,
        read: Read,
        due: impl IntoIterator<Item = Pending>,
    ) -> usize {
        let mut taken = 0;
        let swept = self.has_swept();

        for pending in due.into_iter().filter(|_| swept) {
            if self.known.is_new(&pending.record.id, read.began)
                && self.makes_way(pending.record.key.as_ref(), &read)
            {
                taken += 1;
                self.buffer(pending);
            }
        }

        self.end_read(read);
        taken
    }

    /// Stalls the lane of a due event. Returns whether the event may leave. What waits in the lane
    /// leaves before it: an event that was malformed and repaired is newer than that. The read of
    /// the key brings the event once the lane is empty.
    fn makes_way(&mut self, key: Option<&Key>, read: &Read) -> bool {
        let Some(key) = key else { return true };

        let lane = self.lane_or_new(key);
        lane.hold();
        let takes = lane.takes_due(read.writes_shown);
        if !takes {
            self.tidy(key);
        }
        takes
    }

    /// Takes the events that an operator wants removed. Returns those that are not known: they are
    /// from now on, until the operator's command has been granted them.
    pub(crate) fn end_discards_read(&mut self, read: Read, mut ids: Vec<EventId>) -> Vec<EventId> {
        ids.retain(|id| self.known.is_new(id, read.began));
        ids.iter().for_each(|id| self.known.let_go(id.clone()));

        self.end_read(read);
        ids
    }

    /// Takes one of the locked events that the safety sweep found passed over, oldest first.
    /// Returns whether it was not known. Takes none while a sweep is under way: that may yet bring
    /// an unlocked event that they must not pass.
    pub(crate) fn offer_passed_over(&mut self, read: &Read, pending: Pending) -> bool {
        let taken = self.has_swept() && self.known.is_new(&pending.record.id, read.began);
        if taken {
            self.admit(pending, i64::MAX);
        }
        taken
    }

    /// The next key whose unlocked events are to be read, if there is room for them. None while a
    /// sweep is under way, which may yet bring an older event than those.
    pub(crate) fn begin_key_read(&mut self) -> Option<(Key, Read)> {
        if self.key_reads >= MAX_KEY_READS || self.room().is_none() || !self.has_swept() {
            return None;
        }

        while let Some(key) = self.wanted_reads.pop_front() {
            // A blocked lane may be forgotten.
            if self.lanes.get_mut(&key).is_some_and(Lane::begin_read) {
                self.key_reads += 1;
                return Some((key, self.begin_read()));
            }
        }
        None
    }

    /// Takes the result of the read of a key: its unlocked events, oldest first, all of them due.
    pub(crate) fn end_key_read(
        &mut self,
        key: &Key,
        read: Read,
        events: Vec<Pending>,
        mut behind: Behind,
    ) {
        self.key_reads -= 1;
        for pending in events {
            // Once that is known, the relay looks for what is due.
            if self.known.is_let_go(&pending.record.id, read.began) {
                behind = Behind::Held;
                break;
            }
            if self.known.is_new(&pending.record.id, read.began) {
                self.buffer(pending);
            }
        }

        self.end_read(read);

        let lane = self.lane(key);
        let then = lane.end_read(behind);
        let has_opened = matches!(lane.state(), LaneState::Open);
        if has_opened && self.forgotten.may_be_stalled(key) {
            self.forgotten.found_nothing();
        }
        self.follow_up(key, then);
    }

    /// An empty filter to fill with the keys that wait in the database, if it is time for that.
    pub(crate) fn begin_filling(&mut self) -> Option<Filter> {
        self.forgotten.begin_filling()
    }

    /// Takes that filter, or `None` if the keys could not be read.
    pub(crate) fn end_filling(&mut self, filled: Option<Filter>) {
        self.forgotten.end_filling(filled);
    }
}

/// Lanes.
impl Dispatch {
    /// The lane of this key, which is made if there is none. That of a key that was forgotten waits
    /// until a read shows that nothing of the key is unlocked.
    pub(super) fn lane_or_new(&mut self, key: &Key) -> &mut Lane {
        let Self { lanes, lane_bytes, forgotten, .. } = self;
        lanes.entry(key.clone()).or_insert_with(|| {
            *lane_bytes += size_of_lane(key);

            let mut lane = Lane::default();
            lane.last_write = forgotten.last_write;
            if forgotten.may_be_blocked(key) {
                lane.block();
            } else if forgotten.may_be_stalled(key) {
                lane.hold();
            }
            lane
        })
    }

    pub(super) fn remove_lane(&mut self, key: &Key) {
        if self.lanes.remove(key).is_some() {
            self.lane_bytes -= size_of_lane(key);
        }
    }

    /// Whether lanes in which nothing moves are forgotten: they may have a part of the memory that
    /// events may have.
    fn has_too_many_lanes(&self) -> bool {
        self.lane_bytes > self.limits.max_buffered_bytes / LANES
    }

    /// Bytes of lanes, and of the filters of those that were forgotten.
    #[cfg(test)]
    pub(super) fn memory_of_keys(&self) -> (usize, usize) {
        (self.lane_bytes, self.forgotten.bytes())
    }

    /// A lane with something under way: it stays until that is settled.
    pub(super) fn lane(&mut self, key: &Key) -> &mut Lane {
        self.lanes.get_mut(key).expect("a lane with something under way stays")
    }

    /// What a transition of a lane asks for; and forgets the lane if nothing is left of it.
    pub(super) fn follow_up(&mut self, key: &Key, then: Then) {
        match then {
            Then::ReadKey => self.wanted_reads.push_back(key.clone()),
            Then::Nothing => self.tidy(key),
        }
    }

    pub(super) fn tidy(&mut self, key: &Key) {
        let Some(lane) = self.lanes.get(key) else { return };
        if lane.is_done() {
            return self.remove_lane(key);
        }

        if self.has_too_many_lanes()
            && let Some(last_write) = lane.idle_since()
        {
            match lane.state() {
                LaneState::Blocked => self.forgotten.block(key),
                _ => self.forgotten.stall(key),
            }
            self.forgotten.last_write = self.forgotten.last_write.max(last_write);
            self.remove_lane(key);
        }
    }
}

fn size_of_lane(key: &Key) -> usize {
    size_of::<(Key, Lane)>() + LANE_OVERHEAD + key.as_str().len()
}

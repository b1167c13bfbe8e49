//! The share of the buffer that one key may have, and the reads of what stays in the database: see
//! [`rest`](super::rest).

use bson::Timestamp;
use outboxd_client::Key;

use super::Dispatch;
use super::known::Origin;
use super::lane::{Lane, LaneState, Then};
use super::pending::Pending;
use super::read::Read;
use super::rest::{Had, Rest, RestEnd, START};
use crate::relay::ports::{RestOf, Room};

/// A key may have this part of the buffer. The memory is enough for half a thousand events while
/// the next are read, and a few hot keys leave most of the buffer to others.
const SHARE: usize = 8;
/// With half of the buffer in use a key may have this part: sixty hot keys don't fill it.
const SMALL_SHARE: usize = 64;
/// Most events in one read.
const MAX_READ: usize = 1000;
/// Most keys in one read: the server compares each event with every one of them.
const MAX_KEYS: usize = 32;
/// A key is read with others if this part of its share is free.
const JOINS: usize = 4;

/// The share of a key, and what is left out.
impl Dispatch {
    /// How much of the buffer a key may have.
    pub(super) fn share(&self) -> Room {
        let part = |most: usize, used: usize| {
            let part = if used < most / 2 { SHARE } else { SMALL_SHARE };
            (most / part).max(1)
        };

        Room {
            events: part(self.limits.max_buffered_events, self.buffered),
            bytes: part(self.limits.max_buffered_bytes, self.buffered_bytes),
        }
    }

    /// A locked event of a key with a rest, or with its share of the buffer, stays in the database.
    pub(super) fn leave_out(&mut self, pending: &Pending) {
        let Some(key) = &pending.record.key else { return };
        let at = match pending.origin {
            Origin::Tail(at) => Some(at),
            Origin::Sweep(_) | Origin::Retry | Origin::Rest | Origin::SafetySweep => None,
        };

        let lane = self.lanes.get_mut(key).expect("a lane with its share stays");
        if lane.rest.is_none() {
            self.rests.push_back(key.clone());
            self.rests_changed = true;
        }
        lane.rest.get_or_insert_with(|| Box::new(Rest::new())).leave_out(&pending.record, at);
    }

    /// Whether a malformed event of this key stays in the database: it comes behind the rest of the
    /// key, and is reported in its turn.
    pub(crate) fn leaves_out_malformed(&mut self, key: Option<&Key>) -> bool {
        let lane = key.and_then(|key| self.lanes.get_mut(key));
        let Some(lane) = lane.filter(|lane| !matches!(lane.state(), LaneState::Blocked)) else {
            return false;
        };

        lane.rest.as_mut().map(|rest| rest.leave_out_malformed()).is_some()
    }

    /// Whether the tail brings an event that a rest had brought, or that the next read of the key
    /// tells about.
    pub(super) fn was_read_ahead(&mut self, pending: &Pending, at: Timestamp) -> bool {
        self.read_ahead.retain(|_, ahead| ahead.moment.until >= at);

        let record = &pending.record;
        let Some(key) = &record.key else { return false };
        let ahead = self.read_ahead.get(key);
        match ahead.map_or(Had::No, |ahead| ahead.had(record, at)) {
            Had::No => false,
            Had::Yes => true,
            Had::Perhaps => {
                self.lane_or_new(key);
                self.leave_out(pending);
                true
            }
        }
    }

    /// The keys with a rest, if they are not those that were returned before.
    pub(crate) fn take_changed_rests(&mut self) -> Option<Vec<Key>> {
        std::mem::take(&mut self.rests_changed).then(|| self.resting())
    }

    /// The keys with a rest.
    pub(crate) fn resting(&self) -> Vec<Key> {
        self.rests.iter().cloned().collect()
    }
}

/// The keys of a read of rests.
struct Chosen {
    keys: Vec<Key>,
    /// What they have room for.
    room: Room,
    /// Whether one is read without others.
    is_alone: bool,
    /// Whether one is read from its start.
    from_start: bool,
}

impl Chosen {
    fn add(&mut self, key: &Key, room: Room) {
        self.keys.push(key.clone());
        self.room.events += room.events;
        self.room.bytes += room.bytes;
    }

    /// For all of them no more than is left, but as much as the first has room for.
    fn at_most(mut self, left: Room, first: Room) -> Self {
        let events = MAX_READ.min(left.events.max(first.events));
        self.room.events = self.room.events.min(events);
        self.room.bytes = self.room.bytes.min(left.bytes.max(first.bytes));
        self
    }
}

/// Reads of rests.
impl Dispatch {
    /// The keys whose rests are to be read next, from which `ts` on, and how much of them.
    pub(crate) fn begin_rest_read(&mut self) -> Option<(Vec<RestOf>, Room, Read)> {
        let left = self.room();
        if self.rests.is_empty() || self.rest_read || left.is_none() {
            return None;
        }

        let share = self.share();
        let chosen = self.choose_rests(left, share)?;
        self.rests.extend(chosen.keys.iter().cloned());

        let (swept, read, tailed) = (self.swept(), self.begin_read(), self.tailed);
        let begin = |key: Key| {
            let lane = self.lanes.get_mut(&key).expect("a lane with a rest stays");
            let most = Room { bytes: share.bytes, ..lane.room(share) };
            let from = lane.rest.as_mut()?.begin_read(swept, tailed, most);
            Some(RestOf { key, from })
        };
        let of: Vec<_> = chosen.keys.into_iter().filter_map(begin).collect();

        let mut room = chosen.room;
        if chosen.from_start {
            // It also returns what is on its way.
            let known = self.known.events();
            let on_their_way = if chosen.is_alone { known } else { known.min(MAX_READ) };
            let events = room.events + on_their_way;
            room = Room { events, bytes: self.limits.max_buffered_bytes };
        }

        self.rest_read = true;
        Some((of, room, read))
    }

    /// Takes a key that wants to be read out of the rests, and those that are read with it.
    fn choose_rests(&mut self, left: Room, share: Room) -> Option<Chosen> {
        let (settlements, tailed) = (self.known.settlements(), self.tailed);
        let wants =
            |key: &Key| self.lanes.get(key).is_some_and(|lane| lane.wants(share, settlements));
        let place = self.rests.iter().position(wants)?;
        let key = self.rests.remove(place)?;

        let first = &self.lanes[&key];
        let (room, is_alone) = (first.room(share), first.is_alone());
        let from_start = first.reads_from_start(tailed);
        let mut chosen = Chosen { keys: vec![key], room, is_alone, from_start };
        if is_alone {
            return Some(chosen.at_most(left, room));
        }

        self.rests.retain(|key| {
            let lane = &self.lanes[key];
            let from_start = chosen.from_start || lane.reads_from_start(tailed);
            // A read from the start has no bound but what its keys may have.
            let fits = !from_start || chosen.room.bytes < left.bytes;
            let joins = fits && chosen.keys.len() < MAX_KEYS && lane.joins(share, settlements);

            if joins {
                chosen.add(key, lane.room(share));
                chosen.from_start = from_start;
            }
            !joins
        });

        Some(chosen.at_most(left, room))
    }

    /// Whether the result of a read of this rest may still be offered.
    pub(crate) fn takes_rest(&mut self, key: &Key) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        let is_open = matches!(lane.state(), LaneState::Open);
        let bytes = lane.bytes;
        lane.rest.as_mut().is_some_and(|rest| rest.takes(is_open, bytes))
    }

    /// Takes an event of a rest, in the order of its key, unless it is known.
    pub(crate) fn offer_rest(&mut self, read: &Read, pending: Pending) {
        let Some(key) = &pending.record.key else { return };
        if !self.takes_rest(key) {
            return;
        }

        let is_new = self.known.is_new(&pending.record.id, read.began);
        let Some(rest) = &mut self.lane(key).rest else { return };
        if !rest.may_take(&pending.record) {
            return;
        }
        rest.reach(&pending.record, is_new);

        if is_new {
            self.buffer(pending);
        }
    }

    /// The read is over, and everything it brought of this key is offered. `None` if it failed.
    pub(crate) fn end_rest(&mut self, key: &Key, end: Option<RestEnd>) {
        let (swept, settlements) = (self.swept(), self.known.settlements());
        let lane = self.lane(key);
        let rest = lane.rest.as_mut();
        if !rest.is_some_and(|rest| rest.end_read(end.as_ref(), swept, settlements)) {
            return;
        }

        lane.rest = None;
        self.rests.retain(|resting| resting != key);
        self.rests_changed = true;
        self.read_ahead.extend(end.map(|end| (key.clone(), end.ahead)));
        self.tidy(key);
    }

    /// The read is over, for all of its keys.
    pub(crate) fn end_rest_read(&mut self, read: Read) {
        self.rest_read = false;
        self.end_read(read);
    }

    /// Reads that failed are tried again. A stalled lane looks whether its key still has something
    /// unlocked: an operator may have removed that, and nothing is parked that would show it.
    pub(crate) fn retry_rests(&mut self) {
        self.each_rest(Rest::retry);

        for key in &self.rests {
            let lane = self.lanes.get_mut(key);
            if lane.is_some_and(|lane| lane.look_again() == Then::ReadKey) {
                self.wanted_reads.push_back(key.clone());
            }
        }
    }

    /// A sweep is over, so rests can end.
    pub(super) fn end_rests(&mut self) {
        self.each_rest(Rest::end_sweep);
    }

    fn each_rest(&mut self, change: fn(&mut Rest)) {
        for key in &self.rests {
            let rest = self.lanes.get_mut(key).and_then(|lane| lane.rest.as_mut());
            rest.into_iter().for_each(|rest| change(rest));
        }
    }

    /// The latest sweep, unless it is under way.
    fn swept(&self) -> Option<u64> {
        self.has_swept().then_some(self.sweeps)
    }
}

impl Lane {
    /// Whether another locked event of the key stays in the database.
    pub(super) fn is_full(&self, share: Room) -> bool {
        match self.state() {
            LaneState::Blocked => false,
            _ if self.rest.is_some() => true,
            LaneState::Stalled(_) => false,
            LaneState::Open => self.queued() >= share.events || self.bytes >= share.bytes,
        }
    }

    /// What the next read of the rest may bring.
    fn room(&self, share: Room) -> Room {
        Room {
            events: share.events.saturating_sub(self.queued()).clamp(1, MAX_READ),
            bytes: share.bytes.saturating_sub(self.bytes).max(1),
        }
    }

    fn wants(&self, share: Room, settlements: u64) -> bool {
        matches!(self.state(), LaneState::Open)
            && self.queued() <= share.events / 2
            && self.bytes <= share.bytes / 2
            && self.rest.as_ref().is_some_and(|rest| rest.may_read(settlements))
    }

    fn reads_from_start(&self, tailed: Timestamp) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.reads_from(tailed) == START)
    }

    /// Whether the rest is read by itself.
    fn is_alone(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.is_alone)
    }

    /// Whether the rest is read along with that of another key.
    fn joins(&self, share: Room, settlements: u64) -> bool {
        let free = Room {
            events: share.events.saturating_sub(self.queued()),
            bytes: share.bytes.saturating_sub(self.bytes),
        };

        matches!(self.state(), LaneState::Open)
            && free.events > share.events / JOINS
            && free.bytes > share.bytes / JOINS
            && !self.is_alone()
            && self.rest.as_ref().is_some_and(|rest| rest.may_read(settlements))
    }
}

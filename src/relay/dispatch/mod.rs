//! What may be published now: lanes, bounds and what is known. Pure state, no I/O, no clock.
//!
//! Guarantees, whatever order the calls come in:
//! - the events of one key leave in the order they were offered: one at a time, or in a *burst* that
//!   has ended before the next of the key leaves;
//! - once an event of a key has failed, no later event of that key leaves before it: the lane is
//!   *stalled* and what comes behind is *parked* (handed to the retrier through the database)
//!   instead of kept in memory;
//! - an event is in here at most once, from its offer until its delete, mark or park is settled,
//!   whichever read offers it again.
//!
//! In the order that an event passes them:
//!
//! - [`pending`]: an event that waits, and one that is published
//! - [`known`], [`refused`]: whether the relay already has it, or must leave it as it is
//! - [`lane`]: the state of one key, with the diagram of its transitions
//! - [`turn`]: whose turn it is in a lane, and how many leave together
//! - this file: offers, turns, and the bounds across lanes
//! - [`share`], [`rest`]: what one key may have of the buffer, and what stays in the database
//! - [`forgotten`]: keys that wait and are too many for lanes of their own
//! - [`stall`]: what a failure holds up, and how that leaves again
//! - [`debt`], [`read`]: what must be written for a failure; a read from its beginning to its end

pub(crate) mod debt;
pub(crate) mod forgotten;
pub(crate) mod known;
mod lane;
pub(crate) mod pending;
pub(crate) mod read;
mod refused;
pub(crate) mod rest;
mod share;
mod stall;
#[cfg(test)]
mod tests;
pub(crate) mod turn;

use std::collections::{HashMap, VecDeque};

use bson::Timestamp;
use bytes::Bytes;
use foldhash::fast::RandomState;
use outboxd_client::{EventId, Key};

use self::debt::Park;
use self::forgotten::Forgotten;
use self::known::{Known, Origin};
use self::lane::{Lane, LaneState, Then};
use self::pending::{Dispatched, Pending};
use self::refused::Nameless;
use self::rest::{ReadAhead, START};
use self::turn::Stored;
use super::ports::Room;
use crate::config::DispatchConfig;
use crate::document::record::OutboxRecord;
use crate::document::state::State;

/// Fewest unsettled events that stop intake on top of those buffered: a few full delete batches, so
/// that deletes never wait for publishes.
const MAX_UNSETTLED: usize = 3072;
/// What the read of a key may bring.
pub(crate) const KEY_READ: Room = Room { events: 100, bytes: 1 << 20 };
/// How often the id of a malformed event is in memory until it is marked: here, in its debt and in
/// its mark.
const COPIES_OF_AN_ID: usize = 3;
/// How often the id of an event is in memory until its delete is settled: here and in that.
const COPIES_UNSETTLED: usize = 2;
/// Reads of keys under way at once. Each may bring [`KEY_READ`] beyond the bounds of the buffer.
const MAX_KEY_READS: usize = 4;

#[derive(Debug)]
enum Ready {
    Lane(Key),
    Single(Pending),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Dispatch {
    limits: DispatchConfig,
    lanes: HashMap<Key, Lane, RandomState>,
    /// Memory of the lanes, without what is in their queues.
    lane_bytes: usize,
    forgotten: Forgotten,
    /// Lanes and events without a key, in the order in which they became ready.
    ready: VecDeque<Ready>,
    /// Every event in here: buffered, in flight or unsettled.
    known: Known,
    nameless: Nameless,
    in_flight: usize,
    /// Events that wait or are in flight.
    buffered: usize,
    buffered_bytes: usize,
    /// Marks and parks written so far, of all keys.
    writes_settled: u64,
    parks: Vec<Park>,
    /// Events whose park was begun, and settled, so far.
    parks_begun: u64,
    parks_settled: u64,
    /// How many parks were begun when the sweep ended, until those are settled.
    parks_of_sweep: Option<u64>,
    /// Keys whose read is asked for.
    wanted_reads: VecDeque<Key>,
    /// Reads of keys under way.
    key_reads: usize,
    /// Sweeps begun so far.
    sweeps: u64,
    /// Keys with a rest, in the order in which theirs are read.
    rests: VecDeque<Key>,
    rests_changed: bool,
    /// Whether the read of a rest is under way.
    rest_read: bool,
    /// The tail has brought everything that was committed before this time.
    tailed: Timestamp,
    /// What rests had that the tail hasn't passed yet.
    read_ahead: HashMap<Key, ReadAhead, RandomState>,
}

impl Dispatch {
    pub(crate) fn new(limits: DispatchConfig) -> Self {
        Self {
            limits,
            lanes: HashMap::default(),
            lane_bytes: 0,
            forgotten: Forgotten::default(),
            ready: VecDeque::new(),
            known: Known::default(),
            nameless: Nameless::default(),
            in_flight: 0,
            buffered: 0,
            buffered_bytes: 0,
            writes_settled: 0,
            parks: Vec::new(),
            parks_begun: 0,
            parks_settled: 0,
            parks_of_sweep: None,
            wanted_reads: VecDeque::new(),
            key_reads: 0,
            sweeps: 0,
            rests: VecDeque::new(),
            rests_changed: false,
            rest_read: false,
            tailed: START,
            read_ahead: HashMap::default(),
        }
    }

    /// How much more may be offered; none means that sweep, tail and retrier stop reading.
    pub(crate) fn room(&self) -> Room {
        let unsettled =
            (self.limits.max_buffered_events + MAX_UNSETTLED).saturating_sub(self.known.events());
        let buffered = self.limits.max_buffered_events.saturating_sub(self.buffered);
        let (malformed, bytes_of_ids) = self.known.malformed();
        let bytes_of_ids = COPIES_OF_AN_ID * bytes_of_ids + COPIES_UNSETTLED * self.known.bytes();
        let bytes = self.buffered_bytes + bytes_of_ids;

        Room {
            events: buffered.min(unsettled).saturating_sub(malformed),
            bytes: self.limits.max_buffered_bytes.saturating_sub(bytes),
        }
    }

    /// Whether events that the retrier brought are waiting, in flight or unsettled.
    pub(crate) fn is_retrying(&self) -> bool {
        self.known.retried() > 0
    }

    /// Whether everything that waits in the outbox has been offered, or is about to be by the tail.
    /// Until then the retrier's events and the safety sweep's must wait: an older one of their key
    /// may come.
    pub(crate) fn has_swept(&self) -> bool {
        self.known.has_swept()
    }

    /// Events and bytes in memory, and keys remembered.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        (self.buffered, self.buffered_bytes, self.lanes.len())
    }

    /// Publishes in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events offered whose delete, mark or park isn't settled, those in flight and waiting
    /// included.
    pub(crate) fn unsettled(&self) -> usize {
        self.known.events()
    }

    /// A round of a sweep began; what settles from now on may still come in one of its pages.
    pub(crate) fn sweep_began(&mut self, number: u64) {
        self.sweeps += 1;
        self.known.begin_sweep(number);
    }

    /// The sweep has offered everything that is locked. What is unlocked comes from reads, and may
    /// be newer than what is being parked: those reads wait for it.
    pub(crate) fn sweep_ended(&mut self) {
        self.known.end_sweep();
        self.end_rests();
        self.lanes.values_mut().for_each(Lane::await_parks);
        self.parks_of_sweep = Some(self.parks_begun);
    }

    /// Whether the latest sweep has ended and everything parked until then is settled. Once for
    /// each sweep: a read that begins now may bring what is due of every key.
    pub(crate) fn settles_the_sweep(&mut self) -> bool {
        self.parks_of_sweep.take_if(|begun| *begun <= self.parks_settled).is_some()
    }

    /// Takes what sweep or tail read. `now_ms` is the server's time, by which an unlocked event is
    /// due or not.
    pub(crate) fn offer(&mut self, pending: Pending, now_ms: i64) {
        if let Origin::Tail(at) = pending.origin {
            self.tailed = self.tailed.max(at);
        }

        if !self.known.is_new_to_follow(&pending.record.id, pending.origin) {
            return;
        }

        if let Origin::Tail(at) = pending.origin
            && !self.read_ahead.is_empty()
            && self.was_read_ahead(&pending, at)
        {
            return;
        }

        self.admit(pending, now_ms);
    }

    fn admit(&mut self, pending: Pending, now_ms: i64) {
        let key = pending.record.key.as_ref();
        if !self.forgotten.is_empty()
            && let Some(key) = key.filter(|key| !self.lanes.contains_key(*key))
            && self.forgotten.may_wait(key)
        {
            let key = key.clone();
            self.lane_or_new(&key);
            self.admit_to_lane(pending, now_ms);
            self.lane(&key).look_up();
            return self.tidy(&key);
        }

        self.admit_to_lane(pending, now_ms);
    }

    fn admit_to_lane(&mut self, pending: Pending, now_ms: i64) {
        let key = pending.record.key.as_ref();
        let unlocked = match pending.record.state {
            // What is in the outbox is no longer scheduled.
            State::Locked | State::Scheduled => false,
            State::Failed | State::Parked if pending.record.is_due(now_ms) => true,
            State::Failed | State::Parked => return self.hold(key),
            State::Dead => return self.hold_dead(key),
        };

        let lane = key.and_then(|key| self.lanes.get(key));
        if !unlocked && lane.is_some_and(|lane| lane.is_full(self.share())) {
            return self.leave_out(&pending);
        }

        match (lane.map(Lane::state), key) {
            (Some(LaneState::Blocked), _) => {}
            // The retrier has what is unlocked.
            (Some(LaneState::Stalled(_)), Some(_)) if unlocked => self.await_parks(key),
            (Some(LaneState::Stalled(_)), Some(key)) => {
                let key = key.clone();
                self.park_one(pending, key);
            }
            _ => self.buffer(pending),
        }
    }

    /// The next event to publish, if one may leave now, or a burst: the next events of one key in
    /// their order, at most `most`. The stream must store none of them without the one before it.
    pub(crate) fn next(&mut self, most: usize) -> Option<Vec<Dispatched>> {
        let room = self.limits.max_in_flight.saturating_sub(self.in_flight);
        if room == 0 {
            return None;
        }

        Some(match self.ready.pop_front()? {
            Ready::Single(pending) => vec![self.send(pending)],
            Ready::Lane(key) => {
                let burst = self.lane(&key).take_turn(most.min(room));
                burst.into_iter().map(|pending| self.send(pending)).collect()
            }
        })
    }

    fn send(&mut self, pending: Pending) -> Dispatched {
        let size = pending.size();
        let Pending { mut record, origin, committed_ms } = pending;
        self.in_flight += 1;

        let payload = Bytes::from(std::mem::take(&mut record.payload));
        Dispatched { record, payload, origin, committed_ms, size }
    }

    /// Takes back an event that the stream has. It stays known until its delete is settled.
    pub(crate) fn delivered(&mut self, dispatched: Dispatched, stored: Stored) {
        let record = self.take_back(dispatched);
        let Some(key) = &record.key else { return };

        let lane = self.lanes.get_mut(key).expect("a lane with an event in flight stays");
        match lane.deliver(stored) {
            Then::ReadKey => self.wanted_reads.push_back(key.clone()),
            Then::Nothing if lane.is_done() => self.remove_lane(key),
            Then::Nothing => self.ready.extend(lane.queue_up().then(|| Ready::Lane(key.clone()))),
        }
    }

    /// Takes back those events of a burst, in their order, of which it isn't known that the stream
    /// has them. They leave again before anything else of their key.
    pub(crate) fn given_back(&mut self, burst: Vec<Dispatched>) {
        let Some(key) = burst.first().and_then(|first| first.record.key.clone()) else { return };
        self.in_flight -= burst.len();
        self.buffered_bytes -= burst.iter().map(|dispatched| dispatched.size).sum::<usize>();

        // A trace may have been written into their headers.
        let pending: Vec<_> = burst.into_iter().map(Dispatched::into_pending).collect();
        self.buffered_bytes += pending.iter().map(Pending::size).sum::<usize>();
        let lane = self.lane(&key);
        lane.give_back(pending);
        if lane.queue_up() {
            self.ready.push_back(Ready::Lane(key));
        }
    }

    /// Takes back an event that wasn't tried to the end, because this leadership ends. It stays in
    /// the outbox as it is, and its lane stays taken, so that nothing of its key leaves before it.
    pub(crate) fn abandoned(&mut self, dispatched: Dispatched) {
        _ = self.take_back(dispatched);
    }

    fn take_back(&mut self, dispatched: Dispatched) -> Box<OutboxRecord> {
        self.in_flight -= 1;
        self.buffered -= 1;
        self.buffered_bytes -= dispatched.size;
        dispatched.record
    }

    /// An event is deleted, or left to an operator who wants it removed.
    pub(crate) fn deleted(&mut self, id: &EventId) {
        self.known.settle(id);
        debug_assert!(self.known.events() >= self.buffered, "what is buffered is known");
    }

    fn buffer(&mut self, pending: Pending) {
        self.known.insert(pending.record.id.clone(), pending.origin);
        self.buffered += 1;
        self.buffered_bytes += pending.size();
        // Reads under way were asked for when there was room.
        debug_assert!(
            self.buffered <= 2 * self.limits.max_buffered_events + MAX_KEY_READS * KEY_READ.events,
            "{} events are buffered",
            self.buffered
        );

        match pending.record.key.clone() {
            None => self.ready.push_back(Ready::Single(pending)),
            Some(key) => {
                let lane = self.lane_or_new(&key);
                lane.push(pending);
                if lane.queue_up() {
                    self.ready.push_back(Ready::Lane(key));
                }
            }
        }
    }
}

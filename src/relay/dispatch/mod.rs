//! What may be published now: lanes, bounds and twins. Pure state, no I/O, no clock.
//!
//! Guarantees, whatever order the calls come in:
//! - of the events of one key at most one is in flight, and they leave in the order they were
//!   offered;
//! - once an event of a key has failed, no later event of that key leaves before it: the lane is
//!   *stalled* and what comes behind is *parked* (handed to the retrier through the database)
//!   instead of kept in memory;
//! - an event is in here at most once, from its offer until its delete or mark is settled, whoever
//!   offers it again.
//!
//! ```text
//!              head failed, or an unlocked event was seen
//!   open ──────────────────────────────────────────────────▶ stalled ──┐ offers are parked
//!     ▲                                                         │  ▲───┘
//!     │ a read begun after the last park                        │ a due head is offered and delivered:
//!     │ returned all that was unlocked                          ▼ the key's unlocked events are read
//!     └──────────────────────────────────────────────────── draining
//! ```
//!
//! Draining is not a state of its own: it is a stalled lane with something in its queue. A dead
//! event keeps its lane stalled until a person decides (`on_dead = hold`), or is read past
//! (`skip`).

pub(crate) mod lane;
#[cfg(test)]
mod model;
mod stall;
#[cfg(test)]
mod tests;
pub(crate) mod twins;

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use self::lane::{Dispatched, Ended, Lane, Park, Pending};
use self::twins::{Began, Origin, Twins};
use super::ports::Room;
use crate::config::DispatchConfig;
use crate::document::record::OutboxRecord;
use crate::document::state::State;
use outboxd_client::{EventId, Key};

/// Fewest unsettled events that stop intake on top of those buffered: a few full delete batches, so
/// that deletes never wait for publishes.
const MAX_UNSETTLED: usize = 8192;
/// What one lane read may bring.
pub(crate) const LANE_READ: Room = Room { events: 100, bytes: 1 << 20 };
/// Memory of an event besides its payload and headers.
const OVERHEAD: usize = 256;

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
    ready: VecDeque<Ready>,
    /// Every event in here: buffered, in flight or unsettled.
    twins: Twins,
    in_flight: usize,
    buffered: usize,
    buffered_bytes: usize,
    tick_began: Began,
    /// Marks written so far, and how many of them a read of due events surely shows.
    marks: u64,
    tick_shows: u64,
    parks: Vec<Park>,
    wanted_reads: VecDeque<Key>,
    lane_reads: usize,
}

impl Dispatch {
    pub(crate) fn new(limits: DispatchConfig) -> Self {
        Self {
            limits,
            lanes: HashMap::default(),
            ready: VecDeque::new(),
            twins: Twins::default(),
            in_flight: 0,
            buffered: 0,
            buffered_bytes: 0,
            tick_began: Began::default(),
            marks: 0,
            tick_shows: 0,
            parks: Vec::new(),
            wanted_reads: VecDeque::new(),
            lane_reads: 0,
        }
    }

    /// How much more may be offered; none means that sweep, tail and retrier stop reading.
    pub(crate) fn room(&self) -> Room {
        let unsettled =
            (self.limits.max_buffered_events + MAX_UNSETTLED).saturating_sub(self.twins.len());
        Room {
            events: self.limits.max_buffered_events.saturating_sub(self.buffered).min(unsettled),
            bytes: self.limits.max_buffered_bytes.saturating_sub(self.buffered_bytes),
        }
    }

    /// Whether events that the retrier brought are waiting, in flight or unsettled.
    pub(crate) fn is_retrying(&self) -> bool {
        self.twins.retried() > 0
    }

    /// Whether everything that waits in the outbox has been offered, or is about to be by the tail.
    /// Until then the retrier's events and the safety sweep's must wait: an older one of their key
    /// may come.
    pub(crate) fn has_swept(&self) -> bool {
        self.twins.has_swept()
    }

    /// Events and bytes in memory, and keys remembered.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        (self.buffered, self.buffered_bytes, self.lanes.len())
    }

    /// Publishes under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events offered whose delete, mark or park isn't settled, those in flight and waiting
    /// included.
    pub(crate) fn unsettled(&self) -> usize {
        self.twins.len()
    }

    /// A sweep began; what settles from now on may still come in one of its pages.
    pub(crate) fn sweep_began(&mut self, number: u64) {
        self.twins.begin_sweep(number);
    }

    /// The sweep has offered everything.
    pub(crate) fn sweep_ended(&mut self) {
        self.twins.end_sweep();
    }

    /// A read of due events began.
    pub(crate) fn tick_began(&mut self) {
        self.tick_began = self.twins.begin_read();
        self.tick_shows = self.marks;
    }

    /// Takes what sweep or tail read. `now_ms` is the server's time, by which an unlocked event is
    /// due or not.
    pub(crate) fn offer(&mut self, pending: Pending, now_ms: i64) {
        if self.twins.is_new_to_follow(&pending.record.id, pending.origin) {
            self.admit(pending, now_ms);
        }
    }

    fn admit(&mut self, pending: Pending, now_ms: i64) {
        let unlocked = match pending.record.state {
            State::Locked => false,
            State::Failed | State::Parked if pending.record.is_due(now_ms) => true,
            State::Failed | State::Parked => return self.hold(pending.record.key.as_ref()),
            State::Dead => return self.hold_dead(pending.record.key.as_ref()),
        };
        let lane = pending.record.key.as_ref().and_then(|key| self.lanes.get(key));
        match (lane, pending.record.key.as_ref()) {
            (Some(lane), _) if lane.blocked => {}
            (Some(lane), Some(key)) if lane.stalled => {
                if !unlocked {
                    let key = key.clone();
                    self.twins.insert(pending.record.id.clone(), pending.origin);
                    self.park(key, vec![pending.record.id]);
                }
            }
            _ => self.buffer(pending),
        }
    }

    /// Takes what the retrier found due: of each key the oldest unlocked event. A lane that is busy
    /// leaves it to the next tick, and a sweep that is under way leaves all of them. Returns how
    /// many were taken.
    pub(crate) fn tick_ended(&mut self, due: impl IntoIterator<Item = Pending>) -> usize {
        let mut taken = 0;
        let swept = self.has_swept();
        for pending in due.into_iter().filter(|_| swept) {
            if pending.record.discard_requested
                || !self.twins.is_new(&pending.record.id, self.tick_began)
            {
                continue;
            }
            if let Some(key) = pending.record.key.clone() {
                // What waits in a lane that is stalled already comes before this one.
                if self.lanes.get(&key).is_none_or(|lane| !lane.stalled) {
                    self.stall(&key);
                }
                // An older one that has just failed may still be locked in what was read.
                let shown = |lane: &Lane| lane.marking == 0 && lane.marked <= self.tick_shows;
                if !self
                    .lanes
                    .get(&key)
                    .is_some_and(|lane| lane.is_quiet() && !lane.blocked && shown(lane))
                {
                    continue;
                }
            }
            taken += 1;
            self.buffer(pending);
        }
        self.twins.end_read(self.tick_began);
        taken
    }

    /// Takes what an operator wants removed. Returns those that nobody has in hand: they are known
    /// until settled.
    pub(crate) fn discards_ended(&mut self, mut ids: Vec<EventId>) -> Vec<EventId> {
        let began = self.tick_began;
        ids.retain(|id| self.twins.is_new(id, began));
        ids.iter().for_each(|id| self.twins.insert(id.clone(), Origin::Retry));
        self.twins.end_read(began);
        ids
    }

    /// Takes one of the oldest locked events that the safety sweep found, in their order. Returns
    /// whether it was not known. Takes none while a sweep is under way: it may yet bring an
    /// unlocked event that they must not pass.
    pub(crate) fn offer_stray(&mut self, pending: Pending) -> bool {
        let taken = self.has_swept() && self.twins.is_new(&pending.record.id, self.tick_began);
        if taken {
            self.admit(pending, i64::MAX);
        }
        taken
    }

    /// The safety sweep has offered everything.
    pub(crate) fn stray_ended(&mut self) {
        self.twins.end_read(self.tick_began);
    }

    /// The next event to publish, if one may leave now.
    pub(crate) fn next(&mut self) -> Option<Dispatched> {
        if self.in_flight >= self.limits.max_in_flight {
            return None;
        }
        loop {
            let pending = match self.ready.pop_front()? {
                Ready::Single(pending) => pending,
                Ready::Lane(key) => {
                    let Some(lane) = self.lanes.get_mut(&key) else {
                        continue;
                    };
                    lane.ready = false;
                    let Some(pending) = lane.queue.pop_front() else {
                        continue;
                    };
                    // There may be a hundred thousand stalled lanes; an empty queue keeps its room.
                    if lane.stalled && lane.queue.is_empty() {
                        lane.queue = VecDeque::new();
                    }
                    lane.in_flight = true;
                    pending
                }
            };
            self.in_flight += 1;
            let Pending { record, origin, committed_ms } = pending;
            return Some(Dispatched { bytes: bytes(&record), record, origin, committed_ms });
        }
    }

    /// Takes back an event whose publish ended. It stays known until [`Dispatch::settled`] or, if
    /// it failed, [`Dispatch::marked`].
    pub(crate) fn finished(&mut self, dispatched: Dispatched, ended: Ended) -> Box<OutboxRecord> {
        let Dispatched { record, bytes, .. } = dispatched;
        self.in_flight -= 1;
        self.buffered -= 1;
        self.buffered_bytes -= bytes;
        if ended == Ended::Abandoned {
            return record;
        }
        let Some(key) = &record.key else {
            return record;
        };
        let lane = self.lanes.get_mut(key).expect("a lane with an event in flight stays");
        lane.in_flight = false;
        match ended {
            Ended::Failed => {
                self.stall(key);
                self.marks(key);
            }
            _ if lane.stalled && lane.queue.is_empty() => self.want_read(key),
            _ if lane.is_done() => _ = self.lanes.remove(key),
            _ => self.ready.extend(lane.get_ready().then(|| Ready::Lane(key.clone()))),
        }
        record
    }

    /// The delete or the mark of an event is done.
    pub(crate) fn settled(&mut self, id: &EventId) {
        self.twins.settle(id);
    }

    fn buffer(&mut self, pending: Pending) {
        self.twins.insert(pending.record.id.clone(), pending.origin);
        self.buffered += 1;
        self.buffered_bytes += bytes(&pending.record);
        match pending.record.key.clone() {
            None => self.ready.push_back(Ready::Single(pending)),
            Some(key) => {
                let lane = self.lanes.entry(key.clone()).or_default();
                lane.queue.push_back(pending);
                self.ready.extend(lane.get_ready().then_some(Ready::Lane(key)));
            }
        }
    }

    fn tidy(&mut self, key: &Key) {
        if self.lanes.get(key).is_some_and(Lane::is_done) {
            self.lanes.remove(key);
        }
    }
}

fn bytes(record: &OutboxRecord) -> usize {
    record.payload.len() + record.headers.bytes() + OVERHEAD
}

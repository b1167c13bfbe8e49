//! Stalled lanes: what stalls one, what is parked behind it, and the reads that open it again.

use outboxd_client::{EventId, Key};

use super::lane::{Behind, Marking, Park, Pending};
use super::{Dispatch, bytes};
use crate::config::OnDead;
use crate::document::state::State;

/// Lane reads under way at once: each may bring [`LANE_READ`] that no bound has been asked about.
pub(super) const MAX_LANE_READS: usize = 4;

impl Dispatch {
    /// Notes that an event of this key waits in the database: what is offered after it waits behind
    /// it.
    pub(crate) fn hold(&mut self, key: Option<&Key>) {
        if let Some(key) = key {
            self.lanes.entry(key.clone()).or_default().stalled = true;
        }
    }

    /// The same for a dead event, unless those are skipped.
    pub(crate) fn hold_dead(&mut self, key: Option<&Key>) {
        if self.limits.on_dead == OnDead::Hold {
            self.hold(key);
        }
    }

    /// The same for a malformed event that is about to be marked as dead. Returns the key if that
    /// is held until the mark is written.
    pub(crate) fn hold_until_marked(&mut self, key: Option<Key>) -> Option<Key> {
        let key = key.filter(|_| self.limits.on_dead == OnDead::Hold)?;
        self.lanes.entry(key.clone()).or_default().stalled = true;
        self.marks(&key);
        Some(key)
    }

    /// A mark is written. If it says that the event is dead and those are skipped, the ones behind
    /// it go on.
    pub(crate) fn marked(&mut self, marking: &Marking) {
        if let Some(id) = &marking.id {
            self.settled(id);
        }
        let Some(key) = &marking.key else { return };
        self.marks += 1;
        let lane = self.lanes.get_mut(key).expect("a lane with writes under way stays");
        (lane.marking, lane.marked) = (lane.marking - 1, self.marks);
        let skipped = marking.dead && self.limits.on_dead == OnDead::Skip;
        if skipped
            && self
                .lanes
                .get(key)
                .is_some_and(|lane| lane.stalled && !lane.in_flight && lane.queue.is_empty())
        {
            self.want_read(key);
        }
        self.written(key, 1);
    }

    /// Events to park now.
    pub(crate) fn take_parks(&mut self) -> Vec<Park> {
        std::mem::take(&mut self.parks)
    }

    /// A park is done.
    pub(crate) fn parked(&mut self, park: &Park) {
        for id in &park.ids {
            self.settled(id);
        }
        self.written(&park.key, park.ids.len());
    }

    /// The server refused to mark or park an event of this key, or that wasn't tried because it
    /// follows one of those. From now on nothing of the key leaves or is parked: it stays in the
    /// outbox as it is, for the next start.
    pub(crate) fn refused(&mut self, key: Option<&Key>, id: Option<&EventId>) {
        // Without a key it stays known, or the safety sweep would bring it again.
        let Some(key) = key else { return };
        if let Some(id) = id {
            self.twins.remove(id);
        }
        self.lanes.get_mut(key).expect("a lane with writes under way stays").blocked = true;
        self.written(key, 1);
    }

    fn written(&mut self, key: &Key, count: usize) {
        let lane = self.lanes.get_mut(key).expect("a lane with writes under way stays");
        lane.writing -= count;
        if std::mem::take(&mut lane.read_wanted) {
            self.want_read(key);
        }
        self.tidy(key);
    }

    /// The next key whose unlocked events are to be read, if there is room for them.
    pub(crate) fn next_lane_read(&mut self) -> Option<Key> {
        if self.lane_reads >= MAX_LANE_READS || self.room().is_none() {
            return None;
        }
        let key = self.wanted_reads.pop_front()?;
        let lane = self.lanes.get_mut(&key).expect("a lane that waits for its read stays");
        lane.written_since_read = lane.writing > 0;
        lane.read_began = self.twins.begin_read();
        self.lane_reads += 1;
        Some(key)
    }

    /// Takes the result of a lane read: the key's unlocked events, oldest first, all of them due.
    pub(crate) fn lane_read(&mut self, key: &Key, events: Vec<Pending>, behind: Behind) {
        self.lane_reads -= 1;
        let began = self.lanes.get(key).expect("a lane that is being read stays").read_began;
        for pending in events {
            if self.twins.is_new(&pending.record.id, began) {
                self.buffer(pending);
            }
        }
        self.twins.end_read(began);
        let lane = self.lanes.get_mut(key).expect("a lane that is being read stays");
        lane.reading = false;
        let idle = !lane.in_flight && lane.queue.is_empty();
        match behind {
            Behind::Nothing if !lane.written_since_read => lane.stalled = lane.blocked,
            // It saw some of them on their way; the next one to arrive is worth another look.
            Behind::Nothing | Behind::More if idle && lane.writing > 0 => lane.read_wanted = true,
            Behind::Nothing | Behind::More if idle => self.want_read(key),
            Behind::Nothing | Behind::More | Behind::Held => {}
        }
        self.tidy(key);
    }

    /// Stalls an open lane and parks what waits in it. What is in flight stays.
    pub(super) fn stall(&mut self, key: &Key) {
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.stalled = true;
        let queue = std::mem::take(&mut lane.queue);
        let mut ids = Vec::new();
        for pending in queue {
            self.buffered -= 1;
            self.buffered_bytes -= bytes(&pending.record);
            match pending.record.state {
                State::Locked => ids.push(pending.record.id),
                // The retrier has it already.
                State::Failed | State::Parked | State::Dead => {
                    self.twins.remove(&pending.record.id)
                }
            }
        }
        if !ids.is_empty() {
            self.park(key.clone(), ids);
        }
    }

    pub(super) fn park(&mut self, key: Key, ids: Vec<EventId>) {
        self.writes(&key, ids.len());
        self.parks.push(Park { key, ids });
    }

    /// Until these are written, a read of the key may miss them, so it doesn't open the lane.
    pub(super) fn writes(&mut self, key: &Key, count: usize) {
        let lane = self.lanes.get_mut(key).expect("only called for a lane that is there");
        lane.writing += count;
        lane.written_since_read = true;
    }

    /// A mark is on its way. See [`Dispatch::writes`].
    pub(super) fn marks(&mut self, key: &Key) {
        self.writes(key, 1);
        self.lanes.get_mut(key).expect("only called for a lane that is there").marking += 1;
    }

    /// Reads while parks are on their way, too: those are written in the order of the events, so a
    /// read sees the first of them and misses the last. Not while a mark is: a read would show
    /// those behind the failed event and not that it failed.
    pub(super) fn want_read(&mut self, key: &Key) {
        let lane = self.lanes.get_mut(key).expect("only called for a lane that is there");
        if lane.marking > 0 {
            lane.read_wanted = true;
        } else if !lane.reading && !lane.blocked {
            lane.reading = true;
            self.wanted_reads.push_back(key.clone());
        }
    }
}

//! What of a key stays in the database because the key has its share of the buffer.
//!
//! One event of a key is in flight, so a key leaves as fast as the stream acks, whatever is
//! buffered of it. A key with a large backlog would fill the buffer, and no other key would get in.
//! So a lane takes no more locked events once its queue has its share: it gets a *rest*. From a
//! place in the order of the key on, its locked events are in the database only. What sweep, tail
//! and safety sweep bring of them is left out, without a write.
//!
//! Once the queue has shrunk to half of its share, the retrier reads the next events of the rest, and
//! with them those of other keys that have room: a read goes over the events of all other keys, so a
//! read for each key would cost as many times that. A key whose events are not among those that were
//! returned has none up to the last of them, and its rest begins there. If that is no further than
//! before, the key is read alone next, so that none waits for the backlogs of others. What is
//! unlocked of a key is older than its rest, so only an open lane reads.
//!
//! Such a read may run ahead of the tail, and miss an event that was committed late, by a transaction
//! that was open for long: it stands before the place where the read begins, and nothing has brought
//! it yet. What began after its commit must not pass it. So a read takes nothing that is newer than
//! the tail, or than a read from the start of the key, which shows such an event too.
//!
//! A rest ends with a read that had everything: it was not cut, what was left out while it was under
//! way is in it, and no sweep was under way that may have passed the key over. From then on the tail
//! brings the events of the key again. Those that the read had already are left out of it: see
//! [`ReadAhead`].

use std::collections::HashSet;

use bson::Timestamp;
use outboxd_client::EventId;

use crate::document::record::OutboxRecord;
use crate::relay::listing::Moment;
use crate::relay::ports::Room;

/// Most events that are remembered because they were left out while a read was under way.
const MAX_MISSED: usize = 256;
/// Before every event.
pub(crate) const START: Timestamp = Timestamp { time: 0, increment: 0 };
/// After every event.
const END: Timestamp = Timestamp { time: u32::MAX, increment: u32::MAX };

/// See the module.
#[derive(Debug)]
pub(super) struct Rest {
    /// Everything that was left out, and not in a read since, has at least this `ts`.
    from: Timestamp,
    /// Of what was committed before this time, everything is known that comes before `from`.
    known_to: Timestamp,
    read: RestRead,
    /// What was left out while a read is under way.
    missed: Vec<Missed>,
    /// Whether more was left out than is remembered.
    missed_more: bool,
    /// Whether the last read was cut and got no further: it came to the events of other keys first,
    /// or these have no numbers. The next has no other keys.
    pub(super) is_alone: bool,
}

/// An event that was left out.
#[derive(Debug)]
struct Missed {
    id: EventId,
    place: Timestamp,
    /// When it was committed, if the tail brought it.
    at: Option<Timestamp>,
}

#[derive(Debug)]
enum RestRead {
    No,
    UnderWay(UnderWay),
    /// A read failed or brought nothing new. The next waits until so many events have settled.
    AfterSettlement(u64),
    /// Everything there was is read, and a sweep that is under way may have passed more over.
    AfterSweep,
}

/// A read of a rest.
#[derive(Debug)]
struct UnderWay {
    from: Timestamp,
    /// Nothing that was begun later may be taken.
    upto: Timestamp,
    /// Whether it returned such an event.
    is_ahead: bool,
    /// The `ts` of the last event that was offered of it.
    reached: Timestamp,
    /// The latest sweep, if that was over when the read began.
    swept: Option<u64>,
    /// New events that were taken of it.
    taken: usize,
    /// How many of them may be, and up to how many bytes of the key in memory.
    most: Room,
    /// Whether the lane was open, and had room, for everything that it returned.
    is_whole: bool,
}

/// What a read of a rest showed, besides the events that were offered.
#[derive(Debug)]
pub(crate) struct RestEnd {
    /// The place of the last event that it returned, of whatever key, if there is more. Those without
    /// a number don't count.
    pub(crate) cut: Option<Timestamp>,
    /// The ids it returned, if that was all.
    pub(crate) ahead: ReadAhead,
}

/// What the read that ended a rest had. The tail may still bring it, or bring it only now, long
/// after it was published and deleted.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    /// The place from which it had everything.
    pub(crate) from: Timestamp,
    /// When it was.
    pub(crate) moment: Moment,
    pub(crate) ids: HashSet<EventId>,
}

/// Whether a rest had an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Had {
    Yes,
    No,
    /// An earlier read may have had it, or none: it was committed long after it was numbered.
    Perhaps,
}

impl ReadAhead {
    pub(super) fn had(&self, record: &OutboxRecord, at: Timestamp) -> Had {
        if self.ids.contains(&record.id) {
            Had::Yes
        } else if at > self.moment.after {
            Had::No
        } else if place(record) >= self.from {
            Had::Yes
        } else {
            Had::Perhaps
        }
    }

    fn covers(&self, missed: &Missed) -> bool {
        let is_from_before = missed.at.is_some_and(|at| at <= self.moment.after);
        self.ids.contains(&missed.id) || (is_from_before && missed.place >= self.from)
    }
}

impl Rest {
    pub(super) fn new() -> Self {
        Self {
            from: END,
            known_to: START,
            read: RestRead::No,
            missed: Vec::new(),
            missed_more: false,
            is_alone: false,
        }
    }

    pub(super) fn leave_out(&mut self, record: &OutboxRecord, at: Option<Timestamp>) {
        self.from = self.from.min(place(record));

        match self.read {
            RestRead::UnderWay(_) if self.missed.len() < MAX_MISSED => {
                self.missed.push(Missed { id: record.id.clone(), place: place(record), at });
            }
            RestRead::UnderWay(_) => self.missed_more = true,
            RestRead::AfterSweep => self.read = RestRead::No,
            RestRead::No | RestRead::AfterSettlement(_) => {}
        }
    }

    /// A malformed event of the key is left out. Its place is unknown, so it may be anywhere.
    pub(super) fn leave_out_malformed(&mut self) {
        self.from = START;

        match self.read {
            RestRead::UnderWay(_) => self.missed_more = true,
            RestRead::AfterSweep => self.read = RestRead::No,
            RestRead::No | RestRead::AfterSettlement(_) => {}
        }
    }

    pub(super) fn may_read(&self, settlements: u64) -> bool {
        match self.read {
            RestRead::No => true,
            RestRead::AfterSettlement(wanted) => settlements >= wanted,
            RestRead::UnderWay(_) | RestRead::AfterSweep => false,
        }
    }

    /// Where a read begins. The tail has brought everything that was committed before `tailed`.
    pub(super) fn reads_from(&self, tailed: Timestamp) -> Timestamp {
        if self.from > self.known_to.max(tailed) { START } else { self.from }
    }

    /// A read begins. Returns where.
    pub(super) fn begin_read(
        &mut self,
        swept: Option<u64>,
        tailed: Timestamp,
        most: Room,
    ) -> Timestamp {
        let from = self.reads_from(tailed);
        self.known_to = self.known_to.max(tailed);
        self.from = END;
        let upto = if from == START { END } else { self.known_to };

        let (is_whole, is_ahead) = (true, false);
        let read =
            UnderWay { from, upto, is_ahead, reached: from, swept, taken: 0, most, is_whole };
        self.read = RestRead::UnderWay(read);
        from
    }

    /// Whether the result of the read under way may still be offered, to a lane that is open or not,
    /// and has so many bytes.
    pub(super) fn takes(&mut self, is_open: bool, bytes: usize) -> bool {
        let RestRead::UnderWay(read) = &mut self.read else { return false };
        read.is_whole &= is_open && read.taken < read.most.events && bytes < read.most.bytes;
        read.is_whole
    }

    /// Whether this event of the read under way may be taken: no event is unknown that was committed
    /// before it began. If not, nothing behind it may be.
    pub(super) fn may_take(&mut self, record: &OutboxRecord) -> bool {
        let RestRead::UnderWay(read) = &mut self.read else { return false };
        if place(record) > read.upto {
            (read.is_ahead, read.is_whole) = (true, false);
        }
        read.is_whole
    }

    /// The read under way returned this event, which is new or not.
    pub(super) fn reach(&mut self, record: &OutboxRecord, is_new: bool) {
        if let RestRead::UnderWay(read) = &mut self.read {
            read.reached = place(record);
            read.taken += usize::from(is_new);
        }
    }

    /// What was read failed or brought nothing new: it may be read again now.
    pub(super) fn retry(&mut self) {
        if matches!(self.read, RestRead::AfterSettlement(_)) {
            self.read = RestRead::No;
        }
    }

    /// No sweep is under way any more. It left the key out, and with it what was committed long after
    /// it was numbered: that may be anywhere.
    pub(super) fn end_sweep(&mut self) {
        self.from = START;
        if matches!(self.read, RestRead::AfterSweep) {
            self.read = RestRead::No;
        }
    }

    /// Returns whether the rest is over.
    pub(super) fn end_read(
        &mut self,
        end: Option<&RestEnd>,
        swept: Option<u64>,
        settlements: u64,
    ) -> bool {
        let RestRead::UnderWay(read) = std::mem::replace(&mut self.read, RestRead::No) else {
            return false;
        };

        let missed = std::mem::take(&mut self.missed);
        let missed_more = std::mem::take(&mut self.missed_more);
        let later = RestRead::AfterSettlement(settlements + 1);
        let Some(end) = end else {
            self.from = self.from.min(read.from);
            self.read = later;
            return false;
        };

        let reached = read.reached_with(end.cut);
        self.from = self.from.min(reached);
        if read.from == START {
            self.known_to = self.known_to.max(end.ahead.moment.after);
        }

        if end.cut.is_some() || !read.is_whole {
            self.is_alone = end.cut.is_some() && reached == read.from;
            let is_passed_over = end.cut.is_some_and(|cut| cut < read.from);
            if read.taken == 0 && read.is_ahead {
                // The tail is late. Only a read from the start gets on.
                self.from = START;
            } else if read.taken == 0 && reached == read.from && !is_passed_over {
                self.read = later;
            }
            return false;
        }

        if missed_more || missed.iter().any(|missed| !end.ahead.covers(missed)) {
            return false;
        }

        let is_over = swept.is_some() && read.swept == swept;
        if swept.is_none() {
            self.read = RestRead::AfterSweep;
        }
        is_over
    }
}

impl UnderWay {
    /// Where the next read begins, if this one was cut at that place: up to there it had everything of
    /// the key, though perhaps nothing.
    fn reached_with(&self, cut: Option<Timestamp>) -> Timestamp {
        match cut {
            Some(cut) if self.is_whole && self.reached >= self.from => {
                self.reached.max(cut.min(self.upto))
            }
            _ => self.reached,
        }
    }
}

/// An event's place in the order of its key. One that the server didn't number may be anywhere.
pub(crate) fn place(record: &OutboxRecord) -> Timestamp {
    if record.ts.increment == 0 { START } else { record.ts }
}

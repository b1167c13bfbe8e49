//! The lane of one key: what waits in it, whose turn it is, and what in the database stands in its
//! way.
//!
//! ```text
//!            hold, fail                block
//!   Open ───────────────────▶ Stalled ───────▶ Blocked
//!    ▲                           │
//!    └───────────────────────────┘
//!     end_read: nothing unlocked is left, and the read missed no write
//! ```
//!
//! - *Open*: events leave in the order they were offered.
//! - *Stalled*: an event of the key waits in the database. Locked events that are offered are
//!   parked behind it. Unlocked ones leave when a read for due events or a read of the key brings
//!   them. While they leave, the lane is draining: stalled, with something in its queue.
//! - *Blocked*: the server refused to mark or park an event of the key. What the database says of
//!   the key can't be relied on, so until the next leadership nothing more of it is taken.
//!
//! A stalled lane counts its unsettled writes and follows the read of its key:
//!
//! ```text
//!        ask_read            begin_read
//!   No ───────────▶ Asked ───────────────▶ UnderWay
//!   │ ▲              ▲                        │
//!   │ └──────────────┼────── end_read ────────┤
//!   │                │ a write settled, no    │
//!   │ ask_read       │ mark or awaited park   │ end_read, with writes unsettled
//!   └──────────▶ AfterWrite ◀─────────────────┘
//! ```
//!
//! | transition | called when |
//! | --- | --- |
//! | `hold` | an event of the key is found waiting in the database, or due |
//! | `fail` | a publish failed; stalls and begins a mark |
//! | `begin_mark`, `begin_parks` | a mark or parks go to `settle` |
//! | `await_parks` | an event was found that parks on their way come before |
//! | `settle_mark`, `settle_parks` | `settle` has written them |
//! | `block` | the server refused one of them |
//! | `begin_read`, `end_read` | the read of the key starts, its result is in |
//! | `push`, `queue_up`, `take_turn`, `deliver` | an event comes, waits for its turn, leaves, is delivered |
//! | `give_back` | events of a burst come back: the stream has them only behind the first of them |

use std::collections::VecDeque;

use super::pending::Pending;
use super::read::Behind;
use super::rest::Rest;
use super::turn::{Stored, Turn};

/// See the module. Only [`Dispatch`](super::Dispatch) changes it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: LaneState,
    queue: VecDeque<Pending>,
    turn: Turn,
    /// Number of the key's latest write that a read for due events must show, among all writes.
    pub(super) last_write: u64,
    /// Writes and reads that were begun and aren't over, in whatever state.
    under_way: usize,
    /// Bytes of what is in the queue.
    pub(super) bytes: usize,
    /// Locked events of the key that stay in the database: see [`rest`](super::rest).
    pub(super) rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
pub(super) enum LaneState {
    #[default]
    Open,
    Stalled(Stall),
    Blocked,
}

/// What a stalled lane waits for.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Marks on their way to the database.
    marks: usize,
    /// Parks on their way to the database.
    parks: usize,
    /// The first of those, which reads must show: see [`Lane::await_parks`].
    awaited: usize,
    read: KeyRead,
}

/// The read of a stalled key's unlocked events.
#[derive(Debug, Default)]
enum KeyRead {
    #[default]
    No,
    /// To be asked for when another write settles and reads need no longer wait.
    AfterWrite,
    /// Among the reads that wait for room.
    Asked,
    /// `complete` until a write begins that the read may miss.
    UnderWay { complete: bool },
}

/// What the caller of a transition does next.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// Queue the key for a read.
    ReadKey,
}

impl Lane {
    pub(super) fn state(&self) -> &LaneState {
        &self.state
    }

    /// Whether there is nothing to remember about the key.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, LaneState::Open)
            && self.turn.is_idle()
            && self.queue.is_empty()
            && self.rest.is_none()
    }

    /// Events in the queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The key's latest write, if nothing of the key is under way and nothing is in memory: what
    /// there is to remember is that it waits.
    pub(super) fn idle_since(&self) -> Option<u64> {
        let waits = match &self.state {
            LaneState::Open => false,
            LaneState::Stalled(stall) => matches!(stall.read, KeyRead::No),
            LaneState::Blocked => true,
        };
        let is_idle = self.turn.is_idle() && self.queue.is_empty() && self.under_way == 0;
        (waits && is_idle && self.rest.is_none()).then_some(self.last_write)
    }

    /// The park on its way is followed by a read of the key.
    pub(super) fn look_up(&mut self) {
        if let LaneState::Stalled(stall) = &mut self.state
            && matches!(stall.read, KeyRead::No)
            && stall.parks > 0
        {
            stall.read = KeyRead::AfterWrite;
        }
    }

    /// So many writes were refused.
    pub(super) fn end_writes(&mut self, count: usize) {
        self.under_way = self.under_way.saturating_sub(count);
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.turn.is_in_flight()
    }

    /// Whether the key's oldest unlocked event, from a read that shows so many writes, may leave: no
    /// other can come before it. An older event whose mark or park that read doesn't show is still
    /// locked there.
    pub(super) fn takes_due(&self, writes_shown: u64) -> bool {
        let LaneState::Stalled(stall) = &self.state else { return false };

        self.is_empty()
            && matches!(stall.read, KeyRead::No)
            && stall.lets_read()
            && self.last_write <= writes_shown
    }

    /// Puts an event at the end of the queue.
    pub(super) fn push(&mut self, pending: Pending) {
        self.bytes += pending.size();
        self.queue.push_back(pending);
    }

    /// Makes an idle lane with something in its queue ready. Returns whether it became so.
    pub(super) fn queue_up(&mut self) -> bool {
        !self.queue.is_empty() && self.turn.queue_up()
    }

    /// Takes the head of the queue of a ready lane, and at most `most` events with it: see
    /// [`turn`](super::turn). They are in flight from now on.
    pub(super) fn take_turn(&mut self, most: usize) -> Vec<Pending> {
        let leaving = self.turn.leave(self.queue.len(), most);
        let taken: Vec<_> = self.queue.drain(..leaving).collect();
        self.bytes -= taken.iter().map(Pending::size).sum::<usize>();

        // There may be a hundred thousand stalled lanes; an empty queue keeps its room.
        if self.queue.is_empty() && !matches!(self.state, LaneState::Open) {
            self.queue = VecDeque::new();
        }

        taken
    }

    /// The stream has an event in flight. After the last of them, a stalled lane that ran empty
    /// reads what is left.
    pub(super) fn deliver(&mut self, stored: Stored) -> Then {
        if !self.turn.deliver(stored) {
            return Then::Nothing;
        }

        match &mut self.state {
            LaneState::Stalled(stall) if self.queue.is_empty() => stall.ask_read(),
            _ => Then::Nothing,
        }
    }

    /// Reads the key of a stalled lane in which nothing moves.
    pub(super) fn look_again(&mut self) -> Then {
        let is_empty = self.is_empty();
        match &mut self.state {
            LaneState::Stalled(stall)
                if is_empty && matches!(stall.read, KeyRead::No) && stall.unsettled() == 0 =>
            {
                stall.ask_read()
            }
            _ => Then::Nothing,
        }
    }

    /// Takes back events of a burst, in their order: they are the next to leave.
    pub(super) fn give_back(&mut self, pending: Vec<Pending>) {
        self.turn.give_back(pending.len());
        for pending in pending.into_iter().rev() {
            self.bytes += pending.size();
            self.queue.push_front(pending);
        }
    }

    /// The publish of the one event in flight failed. Returns what waited behind it, to be parked.
    pub(super) fn fail(&mut self) -> VecDeque<Pending> {
        self.turn.fail();
        self.hold();
        self.bytes = 0;
        std::mem::take(&mut self.queue)
    }

    /// An event of the key waits in the database.
    pub(super) fn hold(&mut self) {
        if matches!(self.state, LaneState::Open) {
            self.state = LaneState::Stalled(Stall::default());
        }
    }

    /// The server refused a mark or a park.
    pub(super) fn block(&mut self) {
        self.state = LaneState::Blocked;
    }

    /// Reads wait for the parks that are on their way: an event that comes after those was found
    /// unlocked, or may be once it is repaired, and a read would show it and not them.
    pub(super) fn await_parks(&mut self) {
        if let LaneState::Stalled(stall) = &mut self.state {
            stall.awaited = stall.parks;
        }
    }

    /// A mark is on its way. A read that began before may miss it, so it doesn't open the lane.
    pub(super) fn begin_mark(&mut self) {
        self.await_parks();
        self.under_way += 1;
        if let Some(stall) = self.stalled() {
            stall.marks += 1;
            stall.read.misses_a_write();
        }
    }

    /// Parks are on their way, which a read may miss likewise.
    pub(super) fn begin_parks(&mut self, count: usize) {
        self.under_way += count;
        if let Some(stall) = self.stalled() {
            stall.parks += count;
            stall.read.misses_a_write();
        }
    }

    /// A mark is written, as the write with this number. `skipped` if the event is dead and doesn't
    /// hold up what comes behind it.
    pub(super) fn settle_mark(&mut self, number: u64, skipped: bool) -> Then {
        self.end_writes(1);
        self.last_write = number;
        let continues = skipped && self.is_empty();
        let Some(stall) = self.stalled() else { return Then::Nothing };

        stall.marks -= 1;
        if continues || matches!(stall.read, KeyRead::AfterWrite) {
            return stall.ask_read();
        }

        Then::Nothing
    }

    /// So many parks are written, as the write with this number. A key's parks settle in their
    /// order.
    pub(super) fn settle_parks(&mut self, number: u64, count: usize) -> Then {
        self.end_writes(count);
        let Some(stall) = self.stalled() else { return Then::Nothing };

        stall.parks -= count;
        let awaited = stall.awaited > 0;
        stall.awaited = stall.awaited.saturating_sub(count);
        let then = match stall.read {
            KeyRead::AfterWrite => stall.ask_read(),
            _ => Then::Nothing,
        };

        if awaited {
            self.last_write = number;
        }
        then
    }

    /// The read of the key that was asked for starts. Returns false if it must wait again, or the
    /// lane is blocked by now.
    pub(super) fn begin_read(&mut self) -> bool {
        let Some(stall) = self.stalled() else { return false };
        debug_assert!(matches!(stall.read, KeyRead::Asked), "{stall:?}");

        let begins = stall.lets_read();
        stall.read = match begins {
            true => KeyRead::UnderWay { complete: stall.unsettled() == 0 },
            false => KeyRead::AfterWrite,
        };
        self.under_way += usize::from(begins);
        begins
    }

    /// The read is over, and what it returned is in the queue. Opens the lane if that was all.
    pub(super) fn end_read(&mut self, behind: Behind) -> Then {
        self.end_writes(1);
        let is_empty = self.is_empty();
        let Some(stall) = self.stalled() else { return Then::Nothing };

        let read = std::mem::take(&mut stall.read);
        let complete = matches!(read, KeyRead::UnderWay { complete: true });

        match behind {
            Behind::Nothing if complete => {
                debug_assert_eq!(stall.unsettled(), 0, "a complete read missed a write");
                self.state = LaneState::Open;
                Then::Nothing
            }
            // It saw some events before their parks; the next park to arrive is worth another look.
            Behind::Nothing | Behind::More if is_empty && stall.unsettled() > 0 => {
                stall.read = KeyRead::AfterWrite;
                Then::Nothing
            }
            Behind::Nothing | Behind::More if is_empty => stall.ask_read(),
            Behind::Nothing | Behind::More | Behind::Held => Then::Nothing,
        }
    }

    /// A blocked lane counts no writes: nothing opens it.
    fn stalled(&mut self) -> Option<&mut Stall> {
        debug_assert!(
            !matches!(self.state, LaneState::Open),
            "an open lane neither writes nor reads"
        );

        match &mut self.state {
            LaneState::Stalled(stall) => Some(stall),
            LaneState::Open | LaneState::Blocked => None,
        }
    }
}

impl Stall {
    fn unsettled(&self) -> usize {
        self.marks + self.parks
    }

    /// Reads while parks are on their way, too: those are written in the order of the events, so a
    /// read sees the first of them and misses the last. Not while a mark is: a read would show the
    /// events behind the failed one and not that it failed. Nor while parks are awaited.
    fn lets_read(&self) -> bool {
        self.marks == 0 && self.awaited == 0
    }

    fn ask_read(&mut self) -> Then {
        match self.read {
            KeyRead::No | KeyRead::AfterWrite if !self.lets_read() => {
                self.read = KeyRead::AfterWrite;
                Then::Nothing
            }
            KeyRead::No | KeyRead::AfterWrite => {
                self.read = KeyRead::Asked;
                Then::ReadKey
            }
            KeyRead::Asked | KeyRead::UnderWay { .. } => {
                debug_assert_eq!(self.marks, 0, "the result of a read comes before the next one");
                Then::Nothing
            }
        }
    }
}

impl KeyRead {
    fn misses_a_write(&mut self) {
        if let Self::UnderWay { complete } = self {
            *complete = false;
        }
    }
}

/// The transitions that the simulation reaches in hardly any seed.
#[cfg(test)]
mod tests {
    use super::*;

    /// A stalled lane whose read is asked for.
    fn asked() -> Lane {
        let mut lane = Lane::default();
        lane.hold();
        assert_eq!(lane.stalled().expect("a held lane is stalled").ask_read(), Then::ReadKey);
        lane
    }

    #[test]
    fn a_read_that_is_asked_for_waits_again_when_a_mark_begins() {
        let mut lane = asked();
        lane.begin_parks(2);
        lane.begin_mark();
        lane.hold();

        assert!(!lane.begin_read(), "writes are on their way");

        assert_eq!(lane.settle_parks(1, 1), Then::Nothing, "a park and the mark are left");
        assert_eq!(lane.settle_parks(2, 1), Then::Nothing, "the mark is left");
        assert_eq!(lane.settle_mark(3, false), Then::ReadKey);

        assert!(lane.begin_read());
        assert_eq!(lane.end_read(Behind::Nothing), Then::Nothing);
        assert!(lane.is_done(), "{lane:?}");
    }

    #[test]
    fn a_mark_that_begins_and_settles_under_a_read_keeps_the_lane_stalled() {
        let mut lane = asked();
        assert!(lane.begin_read());
        lane.begin_mark();
        assert_eq!(lane.settle_mark(1, false), Then::Nothing, "a read is under way");

        assert_eq!(lane.end_read(Behind::Nothing), Then::ReadKey, "it may have missed the mark");
        assert!(!lane.is_done(), "{lane:?}");
    }
}

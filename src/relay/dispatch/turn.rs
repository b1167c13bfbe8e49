//! Whose turn it is in a lane, and how many of its events leave together.
//!
//! ```text
//!          queue_up            leave
//!   Idle ───────────▶ Ready ───────────▶ InFlight(n)
//!    ▲                                       │
//!    └── deliver, give_back, fail: none left ┘
//! ```
//!
//! Events of a burst leave without waiting for each other. The stream refuses one of them unless its
//! last message has the id of the one before. That alone doesn't prove that this one is stored: the
//! last message may be an older event with the same id. So an event leaves with others only if it
//! waited already when an event of its key left that the stream has stored *since*. Whatever the
//! stream has had under one of their ids is older than that message, and so not its last one.

/// How the stream came to have an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It has just stored the event.
    Now,
    /// It may have had the event before.
    Before,
}

/// See the module. Only [`Lane`](super::lane::Lane) changes it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: TurnState,
    /// How many of the queue waited already when the last events left.
    behind: usize,
    /// How many of the queue may leave together.
    together: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum TurnState {
    #[default]
    Idle,
    /// The lane stands among those with something to publish.
    Ready,
    /// So many events of the key are being published.
    InFlight(usize),
}

impl Turn {
    pub(super) fn is_idle(&self) -> bool {
        self.state == TurnState::Idle
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, TurnState::InFlight(_))
    }

    /// The lane has something to publish. Returns whether it becomes ready.
    pub(super) fn queue_up(&mut self) -> bool {
        let becomes = self.is_idle();
        if becomes {
            self.state = TurnState::Ready;
        }
        becomes
    }

    /// Some of those that wait leave, at most `most`. Returns how many.
    pub(super) fn leave(&mut self, queued: usize, most: usize) -> usize {
        debug_assert_eq!(self.state, TurnState::Ready, "a burst has ended before the next leaves");
        debug_assert!(queued > 0, "a ready lane has something in its queue");

        let leaving = self.together.min(most).min(queued).max(1);
        *self = Self { state: TurnState::InFlight(leaving), behind: queued - leaving, together: 0 };
        leaving
    }

    /// The stream has an event in flight. Returns whether it was the last of them.
    pub(super) fn deliver(&mut self, stored: Stored) -> bool {
        if stored == Stored::Now {
            self.together = self.behind;
        }
        self.end(1)
    }

    /// Events in flight come back to the head of the queue.
    pub(super) fn give_back(&mut self, events: usize) {
        (self.behind, self.together) = (0, 0);
        self.end(events);
    }

    /// The publish of the one event in flight failed.
    pub(super) fn fail(&mut self) {
        debug_assert_eq!(self.state, TurnState::InFlight(1), "the others of its burst are back");
        *self = Self::default();
    }

    fn end(&mut self, events: usize) -> bool {
        let TurnState::InFlight(in_flight) = self.state else {
            unreachable!("only an event in flight ends");
        };
        let left = in_flight - events;
        self.state = if left == 0 { TurnState::Idle } else { TurnState::InFlight(left) };
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane in which so many wait.
    fn ready() -> Turn {
        let mut turn = Turn::default();
        assert!(turn.queue_up() && !turn.queue_up());
        turn
    }

    #[test]
    fn what_waited_when_an_event_left_leaves_together_once_that_is_stored() {
        let mut turn = ready();
        assert_eq!(turn.leave(5, 64), 1, "nothing of the key was stored yet");
        assert!(turn.deliver(Stored::Now) && turn.queue_up());
        assert_eq!(turn.leave(7, 64), 4, "the two that came later wait");

        assert!(![Stored::Now; 3].into_iter().any(|stored| turn.deliver(stored)));
        assert!(turn.deliver(Stored::Now) && turn.queue_up());
        assert_eq!(turn.leave(3, 2), 2);
    }

    #[test]
    fn after_a_duplicate_or_a_break_one_event_leaves_at_a_time() {
        let mut turn = ready();
        assert_eq!(turn.leave(5, 64), 1);
        assert!(turn.deliver(Stored::Before) && turn.queue_up());
        assert_eq!(turn.leave(4, 64), 1, "its message may be old");
        assert!(turn.deliver(Stored::Now) && turn.queue_up());

        assert_eq!(turn.leave(3, 64), 3);
        assert!(!turn.deliver(Stored::Now));
        turn.give_back(2);
        assert!(turn.is_idle() && turn.queue_up());
        assert_eq!(turn.leave(2, 64), 1, "the first that came back is tried alone");
    }
}

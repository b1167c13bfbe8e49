//! The lane of one key: what waits in it and what holds it up.

use std::collections::VecDeque;

use super::dispatch::Pending;
use super::twins::Began;

/// One key's state. Only [`Dispatch`](super::dispatch::Dispatch) changes it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Pending>,
    /// Whether an event of the key is being published.
    pub(super) in_flight: bool,
    /// Whether it stands in the queue of lanes with something to publish.
    pub(super) ready: bool,
    /// Whether an event of the key waits in the database, so that later ones are parked behind it.
    pub(super) stalled: bool,
    /// Parked events whose update isn't settled yet.
    pub(super) parking: usize,
    /// Whether something was parked since the last read began, so that the read may have missed it.
    pub(super) parked_since_read: bool,
    /// Whether a read of the key's unlocked events is asked for or under way.
    pub(super) reading: bool,
    pub(super) read_began: Began,
    /// Whether such a read is to be asked for once every park is settled.
    pub(super) read_wanted: bool,
}

impl Lane {
    /// Whether nothing is under way that could bring or send an event of the key.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && !self.in_flight && !self.reading && !self.read_wanted
    }

    /// Whether there is nothing to remember about the key.
    pub(super) fn is_done(&self) -> bool {
        self.is_quiet() && !self.stalled && self.parking == 0
    }
}

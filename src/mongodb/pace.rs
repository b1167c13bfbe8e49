//! At what pace a change stream is read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Changes are counted over this time to measure their rate.
const WINDOW: Duration = Duration::from_millis(100);
/// With more changes in a window (a thousand a second), the stream is busy and is read at a pace.
const BUSY: usize = 100;
/// A reply with at least this many changes is followed at once by the next, because many changes
/// wait to be read.
const SMALL: usize = 32;
/// Pause between small replies of a busy stream. It costs the writers of a busy server less. They
/// were measured at 0.87 of their rate without a relay; without the pause, at 0.81.
const PAUSE: Duration = Duration::from_millis(5);

/// The rate of changes. A stream replies as soon as there is one change, so on a busy server each
/// change would be a reply of its own.
pub(super) struct Pace {
    /// When the current window began.
    since: Instant,
    /// Changes since then.
    changes: usize,
    /// Whether the last window had more than [`BUSY`].
    busy: bool,
    /// Whether to pause before the next reply.
    pauses: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), changes: 0, busy: false, pauses: false }
    }

    /// Before asking for the next reply.
    pub(super) async fn pause(&mut self) {
        if self.pauses {
            sleep(PAUSE).await;
            self.pauses = false;
        }
    }

    /// Counts the changes of a reply.
    pub(super) fn count(&mut self, changes: usize) {
        self.changes += changes;
        if self.since.elapsed() >= WINDOW {
            self.busy = self.changes > BUSY;
            (self.since, self.changes) = (Instant::now(), 0);
        }
        self.pauses = self.busy && changes < SMALL;
    }
}

//! What the mover knows from one look to the next, and what it learns from a move that failed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::aside::Aside;
use crate::failure::NOT_MOVED;
use crate::relay::ports::StoreResult;
use crate::relay::ports::scheduled::{Misfit, Movable, MoveError, NextDue};

/// Most events in a move. A move of so many takes some tens of milliseconds, in which nobody can
/// cancel them.
pub(super) const MOST: usize = 500;
/// No timer runs for longer: a look comes first.
const LONGEST: Duration = Duration::from_secs(60);

/// What the mover knows from one look to the next.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) aside: Aside,
    /// Most events in the next move: fewer after a conflict.
    pub(super) size: usize,
    /// The server's clock when it was last seen, and when that was.
    clock: Option<(i64, Instant)>,
    /// When the next search for misfits is.
    pub(super) misfits_at: Instant,
}

/// Why the writes of a move were not made.
pub(super) enum Untransferred {
    /// The leadership is over.
    Over,
    Failed(MoveError),
}

/// What became of one move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing was due.
    Nothing,
    /// All that was due is moved.
    Done,
    /// There may be more.
    More,
    /// The leadership is over.
    Over,
}

impl Known {
    pub(super) fn new() -> Self {
        Self { aside: Aside::default(), size: MOST, clock: None, misfits_at: Instant::now() }
    }

    /// When this time comes, by the server's clock as it was last seen. A clock that nobody has
    /// seen yet says now.
    pub(super) fn when(&self, at_ms: i64) -> Instant {
        let Some((now_ms, seen)) = self.clock else { return Instant::now() };
        let wait = u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0);
        // The server counts in whole milliseconds. Nothing waits for longer than a poll.
        let wait = Duration::from_millis(wait.saturating_add(1)).min(LONGEST);
        if at_ms <= now_ms { seen } else { seen + wait }
    }

    /// Takes the server's clock from a look.
    pub(super) fn see(&mut self, next: NextDue) {
        self.clock = Some((next.now_ms, Instant::now()));
    }

    pub(super) fn grow(&mut self) {
        self.size = (self.size * 2).min(MOST);
    }

    /// After a move that was not made: which of its events are to blame, and what comes next.
    pub(super) fn after(
        &mut self,
        error: Untransferred,
        mut events: Vec<Movable>,
        misfits: &mut Vec<(&'static str, Misfit)>,
    ) -> StoreResult<Step> {
        let number = events.len();
        match error {
            Untransferred::Over => return Ok(Step::Over),
            Untransferred::Failed(MoveError::Failed(error)) => return Err(error),
            // Somebody else's transaction holds one of them: fewer are moved at once, until only
            // that one is left.
            Untransferred::Failed(MoveError::Conflict) => {
                if number == 1
                    && let Some(Movable { id, key, .. }) = events.pop()
                {
                    debug!("another transaction holds a scheduled event; passing it over");
                    self.aside.held(id, key, Instant::now());
                }
            }
            Untransferred::Failed(MoveError::Refused(refused)) => {
                let Movable { id, key, .. } = events.swap_remove(refused.index.min(number - 1));
                misfits.push((NOT_MOVED, Misfit { id, key, reason: refused.error }));
            }
        }

        self.size = (number / 2).max(1);
        Ok(Step::More)
    }
}

impl From<MoveError> for Untransferred {
    fn from(error: MoveError) -> Self {
        Self::Failed(error)
    }
}

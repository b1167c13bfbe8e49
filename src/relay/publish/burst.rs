//! How many events of one key leave together, and what becomes of each: see
//! [`together`](super::together).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::outcome::Outcome;
use crate::relay::dispatch::pending::Dispatched;

/// Most events of a burst. The stream takes so many in about a millisecond, so the events of other
/// keys wait no longer for a hot key than that, and a round trip is small against it.
const MOST: usize = 64;
/// Fewest: one message may be refused then, where a lone event would wait as long for its ack.
const FEWEST: usize = 2;

/// How many events may leave together.
#[derive(Debug)]
pub(crate) struct Bursts {
    is_on: bool,
    /// Halved when another writer cuts a burst short, doubled when one of this length is whole.
    most: AtomicUsize,
}

impl Bursts {
    pub(crate) fn new(is_on: bool) -> Self {
        Self { is_on, most: AtomicUsize::new(MOST) }
    }

    /// How many may leave together now.
    pub(super) fn most(&self) -> usize {
        if self.is_on { self.most.load(Ordering::Relaxed) } else { 1 }
    }

    /// All of a burst is stored.
    pub(super) fn whole(&self, events: usize) {
        let most = self.most.load(Ordering::Relaxed);
        if events >= most && most < MOST {
            self.most.store(MOST.min(2 * most), Ordering::Relaxed);
        }
    }

    /// Another message came between.
    pub(super) fn cut(&self) {
        let most = self.most.load(Ordering::Relaxed);
        self.most.store(FEWEST.max(most / 2), Ordering::Relaxed);
    }
}

/// How the publish of an event, or of a burst, ended.
#[derive(Debug)]
pub(crate) struct Published {
    /// Of a burst: the stream may have them, in their order behind what came before them.
    pub(crate) back: Vec<Dispatched>,
    /// One that failed is the last.
    pub(crate) ended: Vec<(Dispatched, Outcome)>,
}

/// What is known of an event of a burst.
pub(super) enum Member {
    Ended(Outcome),
    Back,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shrinks_while_others_write_and_grows_again() {
        let bursts = Bursts::new(true);
        let most = || bursts.most();
        (0..10).for_each(|_| bursts.cut());
        assert_eq!(most(), FEWEST);

        bursts.whole(1);
        assert_eq!(most(), FEWEST, "it had no more to publish");
        (0..10).for_each(|_| bursts.whole(most()));
        assert_eq!(most(), MOST);
    }
}

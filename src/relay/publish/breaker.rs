//! Whether the broker answers. While it doesn't, few events are in flight: an event that waits in
//! MongoDB costs neither memory nor attempts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::relay::wake::{Reason, Wake};
use crate::telemetry::metrics::Level;

/// Whether the broker answers, as the publishes in flight see it.
#[derive(Debug)]
pub(crate) struct Breaker {
    troubled: AtomicBool,
    /// Woken when the broker answers again, so that failed events are published without waiting for
    /// the schedule.
    wake: Wake,
    /// Notified when one more event may be in flight.
    pub(crate) probe: Notify,
    /// Events in flight whose last try had no definite answer.
    trying_again: AtomicUsize,
    open: Level,
}

impl Breaker {
    pub(crate) fn new(wake: Wake, open: Level) -> Self {
        Self {
            troubled: AtomicBool::new(false),
            wake,
            probe: Notify::new(),
            trying_again: AtomicUsize::new(0),
            open,
        }
    }

    /// A try ended without a definite answer.
    pub(super) fn trouble(&self) {
        if !self.troubled.swap(true, Ordering::Relaxed) {
            self.open.set_flag(true);
        }
    }

    /// Whether the last try had a definite answer.
    pub(crate) fn is_well(&self) -> bool {
        !self.troubled.load(Ordering::Relaxed)
    }

    /// How many publishes may be in flight. There is no limit while the broker answers. Otherwise
    /// one more than those trying again may be, so that one event without an answer doesn't hold up
    /// the rest.
    pub(crate) fn limit(&self) -> usize {
        match self.is_well() {
            true => usize::MAX,
            false => self.trying_again.load(Ordering::Relaxed) + 1,
        }
    }

    /// A try had a definite answer.
    pub(super) fn answered(&self) {
        // Loads first because this runs for every event, and a load is cheaper than a swap.
        if self.troubled.load(Ordering::Relaxed) && self.troubled.swap(false, Ordering::Relaxed) {
            self.open.set_flag(false);
            self.wake.because(Reason::BrokerAnswers);
        }
    }
}

/// Counts one event among those trying again, for as long as it lives.
pub(super) struct TryingAgain<'a>(&'a Breaker);

impl<'a> TryingAgain<'a> {
    pub(super) fn new(breaker: &'a Breaker) -> Self {
        breaker.trouble();
        breaker.trying_again.fetch_add(1, Ordering::Relaxed);
        breaker.probe.notify_one();
        Self(breaker)
    }
}

impl Drop for TryingAgain<'_> {
    fn drop(&mut self) {
        self.0.trying_again.fetch_sub(1, Ordering::Relaxed);
    }
}

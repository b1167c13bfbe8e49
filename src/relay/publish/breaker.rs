//! Whether the broker answers: while it doesn't, hardly anything new is sent, and what failed
//! rests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::relay::wake::{Reason, Wake};
use crate::telemetry::metrics;

/// Whether the broker answers, as seen by those in flight. While it doesn't, hardly anything new is
/// sent: what waits in MongoDB costs neither memory nor attempts.
#[derive(Debug)]
pub(crate) struct Breaker {
    troubled: AtomicBool,
    /// When the broker answers again, what failed meanwhile goes first, without waiting for the
    /// schedule.
    wake: Wake,
    /// Woken when one more may be in flight.
    pub(crate) probe: Notify,
    /// Events in flight whose last try had no definite answer.
    trying_again: AtomicUsize,
}

impl Breaker {
    pub(crate) fn new(wake: Wake) -> Self {
        Self {
            troubled: AtomicBool::new(false),
            wake,
            probe: Notify::new(),
            trying_again: AtomicUsize::new(0),
        }
    }

    /// A try ended without a definite answer.
    pub(super) fn trouble(&self) {
        if !self.troubled.swap(true, Ordering::Relaxed) {
            metrics::breaker(true);
        }
    }

    /// Whether the broker answered last.
    pub(crate) fn is_well(&self) -> bool {
        !self.troubled.load(Ordering::Relaxed)
    }

    /// Publishes that may be in flight: without bound when the broker answers; else one more than
    /// those trying again, so that one event without an answer doesn't hold up the rest.
    pub(crate) fn limit(&self) -> usize {
        match self.troubled.load(Ordering::Relaxed) {
            true => self.trying_again.load(Ordering::Relaxed) + 1,
            false => usize::MAX,
        }
    }

    pub(super) fn answered(&self) {
        // Read first: this is on every event's path, and a write would take the cache line from the
        // other threads.
        if self.troubled.load(Ordering::Relaxed) && self.troubled.swap(false, Ordering::Relaxed) {
            metrics::breaker(false);
            self.wake.because(Reason::Recovered);
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        metrics::breaker(false);
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

//! Wake-ups of the retrier's reads, each with its reason.
//!
//! A wake-up without a waiter is kept once, with every reason that was given meanwhile: the relay
//! then looks at the same things for all of them.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

/// Why the relay looks for due events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The cron schedule.
    Schedule,
    /// The broker answers again: what failed meanwhile goes first.
    BrokerAnswers,
    /// An operator wants events published or removed.
    Requested,
    /// Events were left to an operator: one whose request was withdrawn meanwhile may be due.
    DiscardsGranted,
    /// The last look left due events where they are, for want of room.
    MoreDue,
    /// A sweep is over, which left unlocked events to the retrier.
    Swept,
    /// The wall clock jumped, or the time zone changed its offset: the schedule begins anew.
    ClocksChanged,
}

impl Reason {
    const ALL: [Self; 7] = [
        Self::Schedule,
        Self::BrokerAnswers,
        Self::Requested,
        Self::DiscardsGranted,
        Self::MoreDue,
        Self::Swept,
        Self::ClocksChanged,
    ];

    const fn bit(self) -> u8 {
        match self {
            Self::Schedule => 1,
            Self::BrokerAnswers => 1 << 1,
            Self::Requested => 1 << 2,
            Self::DiscardsGranted => 1 << 3,
            Self::MoreDue => 1 << 4,
            Self::Swept => 1 << 5,
            Self::ClocksChanged => 1 << 6,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::BrokerAnswers => "broker answers",
            Self::Requested => "requested",
            Self::DiscardsGranted => "discards granted",
            Self::MoreDue => "more due",
            Self::Swept => "swept",
            Self::ClocksChanged => "clocks changed",
        }
    }
}

/// The reasons of one wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reasons(u8);

impl Reasons {
    /// Whether there is no other reason.
    pub(crate) fn are_only(self, reason: Reason) -> bool {
        self.0 == reason.bit()
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for reason in Reason::ALL.into_iter().filter(|reason| self.0 & reason.bit() != 0) {
            write!(f, "{separator}{}", reason.as_str())?;
            separator = ", ";
        }
        Ok(())
    }
}

/// A handle that many wake and one waits on. It outlives leaderships.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake(Arc<Inner>);

/// A handle that keeps nothing.
#[derive(Debug)]
pub(crate) struct WeakWake(Weak<Inner>);

#[derive(Debug, Default)]
struct Inner {
    reasons: AtomicU8,
    notify: Notify,
}

impl WeakWake {
    /// Wakes the one that waits, or the next to wait. False if nobody will.
    pub(crate) fn because(&self, reason: Reason) -> bool {
        let inner = self.0.upgrade();
        inner.map(|inner| Wake(inner).because(reason)).is_some()
    }
}

impl Wake {
    pub(crate) fn downgrade(&self) -> WeakWake {
        WeakWake(Arc::downgrade(&self.0))
    }

    /// Wakes the one that waits, or the next to wait.
    pub(crate) fn because(&self, reason: Reason) {
        self.0.reasons.fetch_or(reason.bit(), Ordering::Relaxed);
        self.0.notify.notify_one();
    }

    /// Waits to be woken. A wait that is dropped loses no wake-up.
    pub(crate) async fn woken(&self) -> Reasons {
        self.0.notify.notified().await;
        Reasons(self.0.reasons.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_wake_up_nobody_waits_for_is_kept_once_with_its_reasons() {
        let wake = Wake::default();
        assert_eq!(wake.woken().now_or_never(), None);

        for reason in [Reason::Requested, Reason::Schedule, Reason::Schedule] {
            wake.because(reason);
        }

        let reasons = wake.woken().now_or_never().expect("a kept wake-up");
        assert_eq!(reasons.to_string(), "schedule, requested");
        assert_eq!(wake.woken().now_or_never(), None);
    }
}

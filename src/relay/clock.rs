//! The wall clock and chance, in one place so that the simulation can set both. Deadlines use
//! tokio's clock, never this one.

use std::ops::Range;
use std::time::Duration;

use bson::DateTime;
use tokio::time::Instant;

/// The time of this machine. It may be wrong by hours, so no guarantee depends on it.
pub(crate) fn now() -> DateTime {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    DateTime::now()
}

/// A random number from this range.
pub(crate) fn chance(range: Range<f64>) -> f64 {
    #[cfg(test)]
    if let Some(chance) = simulated::chance(range.clone()) {
        return chance;
    }
    rand::random_range(range)
}

/// Multiplies a wait by a random factor, so that relays that wait for the same thing don't ask at
/// the same moment.
pub(crate) fn jitter(wait: Duration, factors: Range<f64>) -> Duration {
    wait.mul_f64(chance(factors))
}

/// The last beat of the process up to this time. Beats are so far apart. Whoever waits from time to time
/// waits for beats: of a hundred outboxes, all wake at once, which costs little more than one.
///
/// In tests of this crate every moment is a beat, because those set the clock.
pub(crate) fn beat(until: Instant, apart: Duration) -> Instant {
    #[cfg(not(test))]
    {
        static FIRST: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let passed = until.saturating_duration_since(*FIRST).as_nanos();
        let since = passed.checked_rem(apart.as_nanos()).unwrap_or(0);
        until - Duration::from_nanos(u64::try_from(since).unwrap_or(0))
    }
    #[cfg(test)]
    {
        _ = apart;
        until
    }
}

#[cfg(test)]
pub(crate) mod simulated {
    //! The clock and the chance of the simulation that runs on this thread.

    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use tokio::time::Instant;

    use super::{DateTime, Range};

    struct Simulated {
        began: Instant,
        began_ms: i64,
        random: StdRng,
    }

    thread_local!(static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) });

    /// Starts a clock at `began_ms` that runs with tokio's, and draws chance from `seed`.
    pub(crate) fn set(began_ms: i64, seed: u64) {
        let random = StdRng::seed_from_u64(seed);
        SIMULATED.set(Some(Simulated { began: Instant::now(), began_ms, random }));
    }

    /// Moves the clock forwards or backwards.
    pub(crate) fn jump(by_ms: i64) {
        SIMULATED.with_borrow_mut(|simulated| {
            simulated.iter_mut().for_each(|simulated| simulated.began_ms += by_ms)
        });
    }

    /// Returns to the machine's clock and chance.
    pub(crate) fn unset() {
        SIMULATED.set(None);
    }

    pub(super) fn now() -> Option<DateTime> {
        SIMULATED.with_borrow(|simulated| {
            let simulated = simulated.as_ref()?;
            let passed = i64::try_from(simulated.began.elapsed().as_millis()).ok()?;
            Some(DateTime::from_millis(simulated.began_ms + passed))
        })
    }

    pub(super) fn chance(range: Range<f64>) -> Option<f64> {
        SIMULATED.with_borrow_mut(|simulated| Some(simulated.as_mut()?.random.random_range(range)))
    }
}

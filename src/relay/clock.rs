//! The wall clock and chance, in one place so that the simulation can set both. Deadlines are on
//! tokio's clock, never on this one.

use std::ops::Range;
use std::time::Duration;

use bson::DateTime;

/// What this machine's clock says. It may be wrong by hours: nothing that must hold depends on it.
pub(crate) fn now() -> DateTime {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    DateTime::now()
}

/// A wait, more or less, so that those who failed together don't return together.
pub(crate) fn jitter(wait: Duration, factor: Range<f64>) -> Duration {
    #[cfg(test)]
    if let Some(chance) = simulated::chance(factor.clone()) {
        return wait.mul_f64(chance);
    }
    wait.mul_f64(rand::random_range(factor))
}

#[cfg(test)]
pub(crate) mod simulated {
    //! Clock and chance of the simulation that runs on this thread.

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

    /// From now on the clock begins at `began_ms` and runs with tokio's, and chance comes from
    /// `seed`.
    pub(crate) fn set(began_ms: i64, seed: u64) {
        let random = StdRng::seed_from_u64(seed);
        SIMULATED.set(Some(Simulated { began: Instant::now(), began_ms, random }));
    }

    /// Sets the clock, back or forth.
    pub(crate) fn jump(by_ms: i64) {
        SIMULATED.with_borrow_mut(|simulated| {
            simulated.iter_mut().for_each(|simulated| simulated.began_ms += by_ms)
        });
    }

    /// Back to the machine's own.
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

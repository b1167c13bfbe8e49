//! The wait before a failed attempt is repeated. It doubles with every failure up to a maximum.
//!
//! Everything that repeats uses this, so that each place states only its first wait, its longest
//! wait and its jitter. Jitter spreads relays and events that failed together. The source of chance
//! is handed in, because the simulation replaces it.

use std::ops::Range;
use std::time::Duration;

/// Draws a number from a range.
type Chance = fn(Range<f64>) -> f64;

/// Waits that double with every failure, and how many failures there were.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    jitter: Option<(Range<f64>, Chance)>,
    failures: u32,
}

impl Backoff {
    /// Waits `first` after the first failure and never longer than `max`.
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, jitter: None, failures: 0 }
    }

    /// Multiplies every wait by a factor that `chance` draws from `factors`. A factor above 1 may
    /// exceed the maximum.
    pub(crate) const fn with_jitter(self, factors: Range<f64>, chance: Chance) -> Self {
        Self { first: self.first, max: self.max, jitter: Some((factors, chance)), failures: 0 }
    }

    /// Counts one more failure and returns the wait after it.
    pub(crate) fn next_wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    /// The wait after this many failures in a row.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.max);

        match &self.jitter {
            Some((factors, chance)) => wait.mul_f64(chance(factors.clone())),
            None => wait,
        }
    }

    /// Begins again with the first wait, because an attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_millis(300);

    #[test]
    fn waits_double_up_to_the_maximum_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(FIRST, MAX);
        let waits: Vec<_> = (0..5).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 300, 300]);

        backoff.reset();
        assert_eq!(backoff.next_wait(), FIRST);
    }

    #[test]
    fn any_number_of_failures_has_a_wait() {
        let backoff = Backoff::new(FIRST, MAX);
        assert_eq!(backoff.after(0), FIRST);
        assert_eq!(backoff.after(u32::MAX), MAX);

        let endless = Backoff::new(Duration::from_secs(1), Duration::MAX);
        assert_eq!(endless.after(u32::MAX), Duration::from_secs(1 << 31));
    }

    #[test]
    fn jitter_multiplies_each_wait() {
        let mut backoff = Backoff::new(FIRST, MAX).with_jitter(0.5..1.0, |factors| factors.start);
        assert_eq!(backoff.next_wait(), FIRST / 2);
        assert_eq!(backoff.next_wait(), FIRST);
    }
}

//! Lets one log line of a kind through from time to time, and counts what it leaves out: a webhook
//! that hangs is one line, not one for each alert.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two lines of a kind.
const APART: Duration = Duration::from_secs(30);

/// Log lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Counts what happened so many times. Returns how often it has happened since the last line, if
    /// it is time for another line.
    pub(crate) fn count(&mut self, times: u64) -> Option<u64> {
        self.left_out += times;

        let is_soon = self.last.is_some_and(|last| last.elapsed() < APART);
        if is_soon || self.left_out == 0 {
            return None;
        }

        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.left_out))
    }

    /// How often it has happened since the last line.
    pub(crate) fn rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.left_out)).filter(|times| *times > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thousands_are_two_lines_a_minute_and_none_is_left_uncounted() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.count(0), None);
        assert_eq!(seldom.count(1), Some(1));

        let lines = (0..5000).filter_map(|_| seldom.count(1)).count();
        assert_eq!(lines, 0);

        tokio::time::advance(APART).await;
        assert_eq!(seldom.count(0), Some(5000));
        assert_eq!(seldom.count(3), None);
        assert_eq!(seldom.rest(), Some(3));
        assert_eq!(seldom.rest(), None);
    }
}

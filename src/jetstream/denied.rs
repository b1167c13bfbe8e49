//! The subjects that the server denied to a connection. A denied publish or request gets no reply:
//! the server only sends an error for the connection.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::driver_words::denied_subject;

/// Most denied subjects that are remembered. A service publishes to a handful. When there are more,
/// all are forgotten and learned again.
const MAX_DENIED: usize = 1024;

/// The subjects that the server denied, and when it last denied each.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    subjects: Mutex<HashMap<Box<str>, Instant>>,
    learned: Notify,
}

impl Denied {
    /// Whether the server denied this subject after `since`.
    pub(crate) fn since(&self, subject: &str, since: Instant) -> bool {
        let denied = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get(subject).is_some_and(|at| *at >= since)
    }

    /// Waits until the server denies this subject.
    pub(super) async fn after(&self, subject: &str, since: Instant) {
        loop {
            let mut learned = pin!(self.learned.notified());
            // Registers before the look, so that no notification falls between the two.
            learned.as_mut().enable();
            if self.since(subject, since) {
                return;
            }
            learned.await;
        }
    }

    /// Takes an error of the server.
    pub(crate) fn learn(&self, error: &str) {
        let Some(subject) = denied_subject(error) else { return };
        let mut denied = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);

        if denied.len() >= MAX_DENIED {
            denied.clear();
        }

        denied.insert(subject.into(), Instant::now());
        self.learned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_denied_subject_is_known_until_it_is_tried_again() {
        let denied = Denied::default();
        let before = Instant::now();

        denied.learn("Permissions Violation for Publish to \"Shop.made\"");
        denied.learn("Permissions Violation for Subscription to \"other\"");

        assert!(denied.since("Shop.made", before));
        assert!(!denied.since("other", before));
        assert!(!denied.since("Shop.made", Instant::now() + Duration::from_secs(1)));
    }
}

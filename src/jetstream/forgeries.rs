//! Signs that somebody other than the stream answers publishes.
//!
//! A neighbour that sees a message sees the subject of its reply, and may have the right to answer
//! it. No single answer shows who wrote it. Two answers that contradict each other, a sequence that
//! the stream hasn't reached and a message that isn't there are signs of a forger. After one, every
//! ack is compared with the message that it names, until there was no sign for [`QUIET`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::VerifyAcks;
use crate::relay::ports::Forged;

/// How long after the last sign every ack is verified. A forger that waits for longer is found by
/// its next sign again.
const QUIET: Duration = Duration::from_secs(3600);

/// What was found of forgers.
#[derive(Debug)]
pub(super) struct Forgeries {
    verify: VerifyAcks,
    /// Whether there was a sign within [`QUIET`]. Read for every ack.
    is_suspicious: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    last: Option<Instant>,
    /// What nobody has asked for yet.
    news: Option<Forged>,
}

impl Forgeries {
    pub(super) fn new(verify: VerifyAcks) -> Self {
        Self { verify, is_suspicious: AtomicBool::new(false), found: Mutex::default() }
    }

    /// Whether an ack counts only if the stream has the message that it names.
    pub(super) fn must_verify(&self) -> bool {
        self.verify == VerifyAcks::Always || self.is_suspicious.load(Ordering::Relaxed)
    }

    /// Counts a sign.
    pub(super) fn sign(&self, describe: impl FnOnce() -> String) {
        let begins = !self.is_suspicious.swap(true, Ordering::Relaxed);
        let mut found = self.found();
        found.last = Some(Instant::now());

        match &mut found.news {
            Some(news) => {
                news.signs += 1;
                news.begins |= begins;
            }
            None => found.news = Some(Forged { signs: 1, first: describe(), begins }),
        }
    }

    /// What was found since the last call. Ends the suspicion when it has been quiet.
    pub(super) fn news(&self) -> Option<Forged> {
        let mut found = self.found();
        if found.last.is_some_and(|last| last.elapsed() > QUIET) {
            found.last = None;
            self.is_suspicious.store(false, Ordering::Relaxed);
        }

        found.news.take()
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_ack_is_verified_until_there_was_no_sign_for_long() {
        let forgeries = Forgeries::new(VerifyAcks::Suspicious);
        assert!(!forgeries.must_verify() && forgeries.news().is_none());

        forgeries.sign(|| "the first".to_owned());
        forgeries.sign(|| "the second".to_owned());
        assert!(forgeries.must_verify());
        let news = forgeries.news().expect("news");
        assert_eq!((news.signs, &*news.first, news.begins), (2, "the first", true));

        tokio::time::advance(QUIET / 2).await;
        forgeries.sign(|| "the third".to_owned());
        assert!(!forgeries.news().expect("news").begins);
        tokio::time::advance(QUIET).await;
        assert!(forgeries.news().is_none() && forgeries.must_verify());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(forgeries.news().is_none() && !forgeries.must_verify());
        assert!(Forgeries::new(VerifyAcks::Always).must_verify());
    }
}

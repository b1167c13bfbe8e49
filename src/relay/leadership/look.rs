//! What the retrier looks for besides the events of a key: one thing at a time.
//!
//! An outbox that was empty has nothing that is due until something is inserted, and each insert comes
//! through the tail. So while nothing comes, the schedule of an empty outbox costs no query. Once in
//! `sweep.interval` the relay looks all the same.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) under_way: bool,
    /// Whether an operator may want events removed: asked for once, or seen by the sweep.
    pub(super) wants_discards: bool,
    /// Whether the last look left due events where they are, for want of room.
    pub(super) more_due: bool,
    /// Whether the last look was full and brought nothing, with events about that can't be written.
    pub(super) past_refused: bool,
    /// Whether nothing was found or written since the last look for due events began.
    is_calm: bool,
    /// When the outbox was empty, if nothing came since.
    empty_since: Option<Instant>,
}

impl Look {
    /// Something was found in the outbox, or written there.
    pub(super) fn disturb(&mut self) {
        (self.is_calm, self.empty_since) = (false, None);
    }

    /// A look for due events begins. Returns whether it should ask if the outbox is empty: not while
    /// events come and go, because the server passes over what was just deleted one by one.
    pub(super) fn begin(&mut self) -> bool {
        std::mem::replace(&mut self.is_calm, true)
    }

    /// The look is over, and the outbox was empty, or may not have been.
    pub(super) fn end(&mut self, was_empty: bool) {
        self.empty_since = (was_empty && self.is_calm).then(Instant::now);
    }

    /// Whether a look would find nothing. A look that is as old as this proves nothing.
    pub(super) fn finds_nothing(&self, at_most: Duration) -> bool {
        self.empty_since.is_some_and(|since| since.elapsed() < at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_MOST: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn an_outbox_that_was_empty_is_known_to_be_until_something_comes_or_for_a_while() {
        let mut look = Look::default();
        assert!(!look.begin(), "what the sweep brought may be there");
        look.end(false);
        assert!(look.begin() && !look.finds_nothing(AT_MOST));
        look.end(true);
        assert!(look.finds_nothing(AT_MOST));

        tokio::time::advance(AT_MOST).await;
        assert!(!look.finds_nothing(AT_MOST));

        assert!(look.begin());
        look.end(true);
        look.disturb();
        assert!(!look.finds_nothing(AT_MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_during_the_look_counts() {
        let mut look = Look::default();
        look.begin();
        assert!(look.begin());
        look.disturb();
        look.end(true);
        assert!(!look.finds_nothing(AT_MOST));
    }
}

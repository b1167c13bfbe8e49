//! The retrier's reads, as dispatch checks their results.

use super::known::Began;

/// A read of the database from its beginning to its end. [`Dispatch`](super::Dispatch) makes it
/// when the read is asked for and takes it back with the result, to tell what settled meanwhile.
#[must_use = "a read that is not ended keeps everything that settles in memory"]
#[derive(Debug)]
pub(crate) struct Read {
    pub(super) began: Began,
    /// How many marks and parks were written when the read began: it shows those for sure.
    pub(super) writes_shown: u64,
}

/// What the read of a key found behind the events it returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing: that was all that is unlocked of the key.
    Nothing,
    /// More of the same.
    More,
    /// An event that is dead or not due, or that an operator's command is granted; or the read
    /// failed: the lane waits for the next read for due events.
    Held,
}

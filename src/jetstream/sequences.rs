//! Whether the sequence of an ack fits those before it.
//!
//! What one connection publishes is stored in its order, so the ack of a new message names a higher
//! sequence than every ack before it, and no sequence is named twice. A restored stream, or acks
//! that overtake each other, break this without a forger: such an ack is examined, not refused.

use std::collections::VecDeque;

/// Most unconfirmed sequences that are remembered. Dispatch bounds the events that wait for their
/// delete to far fewer.
const MAX_RECENT: usize = 1 << 16;

/// How the sequence of an ack relates to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is the highest.
    Next,
    /// It is not.
    Behind,
    /// An earlier ack has named it, and the stream has not confirmed that one.
    UsedTwice,
}

/// The sequences of a connection's acks.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    highest: u64,
    /// Those that the stream has not confirmed, in rising order.
    recent: VecDeque<u64>,
}

impl Sequences {
    /// Takes the sequence of the ack of a new message.
    pub(super) fn take(&mut self, sequence: u64) -> Fit {
        if sequence > self.highest {
            self.highest = sequence;
            if self.recent.len() == MAX_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(sequence);
            return Fit::Next;
        }

        match self.recent.binary_search(&sequence) {
            Ok(_) => Fit::UsedTwice,
            Err(_) => Fit::Behind,
        }
    }

    /// The stream has the message of an ack that was behind: what was named above it is forged, or
    /// the stream has gone back.
    pub(super) fn go_back(&mut self, sequence: u64) {
        self.highest = self.highest.min(sequence);
        self.recent.clear();
    }

    /// The stream has reached this sequence.
    pub(super) fn confirm(&mut self, reached: u64) {
        let confirmed = self.recent.partition_point(|sequence| *sequence <= reached);
        self.recent.drain(..confirmed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_fits_if_it_is_the_highest_and_is_used_once() {
        let mut sequences = Sequences::default();
        for (sequence, fit) in [
            (7, Fit::Next),
            (9, Fit::Next),
            (9, Fit::UsedTwice),
            (8, Fit::Behind),
            (7, Fit::UsedTwice),
            (10, Fit::Next),
        ] {
            assert_eq!(sequences.take(sequence), fit, "{sequence}");
        }

        sequences.confirm(9);
        assert_eq!(sequences.take(9), Fit::Behind, "the stream has confirmed the first");
        assert_eq!(sequences.take(10), Fit::UsedTwice);
        sequences.go_back(1);
        assert_eq!(sequences.take(2), Fit::Next);
    }

    #[test]
    fn what_is_never_confirmed_takes_little_memory() {
        let mut sequences = Sequences::default();
        (1..=3 * MAX_RECENT as u64)
            .for_each(|sequence| assert_eq!(sequences.take(sequence), Fit::Next));
        assert_eq!(sequences.recent.len(), MAX_RECENT);
    }
}

//! The watermark: which stream acked, and the newest message that it acked.
//!
//! An ack is not a disk. A stream may lose what it acked: it was put back to an old copy, it was
//! deleted and created again, its disk is gone. So the leader stores the watermark with each renewal
//! of its lease, and every leader compares it with the stream: at its start, after each reconnect
//! and when an ack goes back. Nothing is published until that comparison is made.
//!
//! A purge is not a loss: it keeps the stream's creation time and its last sequence. Nor is a message
//! that a consumer or a limit has removed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A message that a stream has acked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) stream: String,
    /// When the stream was created, in ms since 1970; 0 if that is not known.
    pub(crate) created_ms: i64,
    pub(crate) sequence: u64,
    /// `None` if the message is not known to be the relay's.
    pub(crate) message_id: Option<String>,
    pub(crate) epoch: Epoch,
}

/// The time between two losses, in which sequences only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) number: i64,
    /// The last sequence that is of an earlier one.
    pub(crate) since: u64,
}

impl Epoch {
    /// Follows this loss.
    pub(crate) fn after(self, loss: &Rewound) -> Self {
        let since = if loss.how == How::Recreated { 0 } else { loss.to };
        Self { number: self.number + 1, since }
    }
}

/// What a comparison of the stream with a watermark has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) loss: Option<Rewound>,
    /// The stream as it is now.
    pub(crate) now: Watermark,
}

/// A stream that has lost what it acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rewound {
    /// The last sequence it had shown.
    pub(crate) from: u64,
    /// The last sequence it has shown since, or given to a message that was sent since.
    pub(crate) to: u64,
    pub(crate) how: How,
    /// When the stream that is there now was created, in ms since 1970.
    pub(crate) created_ms: i64,
}

/// How a loss shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The last sequence is lower.
    WentBack,
    /// The stream was created again.
    Recreated,
    /// The sequence has another message.
    Overwritten,
}

impl How {
    /// The word in alerts.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::WentBack => "went-back",
            Self::Recreated => "recreated",
            Self::Overwritten => "overwritten",
        }
    }
}

/// The message that the stream has at the watermark's sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// One with the message id, if it has one.
    Message(Option<String>),
    /// None: it was purged, consumed or evicted.
    Nothing,
    /// The relay may not read it.
    Unreadable,
}

/// In the place of the message id while the stream is being repaired. No message has it.
const REPAIRING: &str = " repairing";

impl Watermark {
    /// While what the stream has lost is published again.
    pub(crate) fn begin_repair(&mut self, epoch: Epoch) {
        self.message_id = Some(REPAIRING.to_owned());
        self.epoch = epoch;
    }

    /// Whether a repair has begun and not ended.
    pub(crate) fn is_repaired(&self) -> bool {
        self.message_id.as_deref() == Some(REPAIRING)
    }

    /// Whether the newest kept event is newer.
    fn is_older(&self, kept: &Self) -> bool {
        self.stream == kept.stream && self.sequence < kept.sequence && !self.is_repaired()
    }

    /// What the stream has lost, if it is as `now` and has `found` at the sequence of this
    /// watermark.
    pub(crate) fn loss(&self, now: &Self, found: &Found) -> Option<Rewound> {
        // Another stream was named in the settings.
        if self.stream != now.stream {
            return None;
        }

        let is_same = [0, now.created_ms].contains(&self.created_ms);
        let lost = |how| {
            let (from, to, created_ms) = (self.sequence, now.sequence, now.created_ms);
            Some(Rewound { from, to, how, created_ms })
        };
        let is_behind = now.sequence < self.sequence;

        match found {
            _ if self.is_repaired() && !is_behind => lost(How::Overwritten),
            _ if is_behind && is_same => lost(How::WentBack),
            _ if is_behind => lost(How::Recreated),
            // It may have been moved with its messages, so they count.
            Found::Message(found) if self.message_id.is_some() => match *found == self.message_id {
                true => None,
                false if is_same => lost(How::Overwritten),
                false => lost(How::Recreated),
            },
            _ if is_same => None,
            _ => lost(How::Recreated),
        }
    }
}

/// The watermark of a term, between those who learn of acks and those who store it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Newest(Arc<Mutex<Option<Watermark>>>);

impl Newest {
    pub(crate) fn new(watermark: Option<Watermark>) -> Self {
        Self(Arc::new(Mutex::new(watermark)))
    }

    pub(crate) fn get(&self) -> Option<Watermark> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, watermark: Watermark) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(watermark);
    }

    /// Takes the newest kept event of the stream, if that is newer, or if nothing was stored before
    /// the last relay died.
    pub(crate) fn raise(&self, kept: Watermark) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.as_mut() {
            None => *newest = Some(kept),
            Some(known) if known.is_older(&kept) => {
                (known.sequence, known.message_id) = (kept.sequence, kept.message_id);
            }
            Some(_) => {}
        }
    }

    /// Takes the stream as it is, unless one of its acks is known.
    pub(crate) fn begin(&self, now: Watermark) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|newest| newest.stream != now.stream) {
            *newest = Some(now);
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.as_ref().map(|newest| newest.epoch).unwrap_or_default()
    }

    /// Takes a watermark that the stream has borne out, unless a newer one is there.
    pub(crate) fn advance(&self, watermark: Watermark) {
        let epoch = self.epoch();
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_newer = newest.as_ref().is_some_and(|newest| {
            newest.stream == watermark.stream
                && newest.created_ms == watermark.created_ms
                && newest.sequence >= watermark.sequence
        });

        if !is_newer {
            *newest = Some(Watermark { epoch, ..watermark });
        }
    }
}

/// The last sequence that the stream showed when it was compared over a connection.
///
/// Acks of before that are still in hand may be for messages that the stream has lost. When others
/// have taken their sequences, and were consumed, nothing else tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reached(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Reached {
    /// Over this connection, the stream showed this sequence.
    pub(crate) fn note(&self, connection: u64, sequence: u64) {
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What bears out no less than the new one says nothing more.
        reached.retain(|_, last| *last < sequence);
        reached.insert(connection, sequence);
    }

    /// Whether an ack that came over this connection is for a message that the stream has not lost
    /// since, as far as this tells.
    pub(crate) fn bears_out(&self, connection: u64, sequence: u64) -> bool {
        let reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reached.range(connection.saturating_add(1)..).all(|(_, last)| *last >= sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(created_ms: i64, sequence: u64, id: Option<&str>) -> Watermark {
        let message_id = id.map(str::to_owned);
        let epoch = Epoch::default();
        Watermark { stream: "S".to_owned(), created_ms, sequence, message_id, epoch }
    }

    #[test]
    fn a_loss_is_told_apart_from_a_purge_and_from_other_writers() {
        let (mine, others) = (Found::Message(Some("a".to_owned())), Found::Message(None));
        let mark = at(1, 9, Some("a"));
        for (now, found, how) in [
            (at(1, 9, None), &mine, None),
            (at(1, 20, None), &mine, None),
            // A purge, a consumer and a limit keep the last sequence.
            (at(1, 9, None), &Found::Nothing, None),
            (at(1, 9, None), &Found::Unreadable, None),
            // A stream that was moved with its messages.
            (at(2, 9, None), &mine, None),
            (at(1, 8, None), &Found::Nothing, Some(How::WentBack)),
            (at(1, 20, None), &others, Some(How::Overwritten)),
            (at(2, 20, None), &others, Some(How::Recreated)),
            (at(2, 20, None), &Found::Nothing, Some(How::Recreated)),
            (at(2, 20, None), &Found::Unreadable, Some(How::Recreated)),
            (at(2, 0, None), &Found::Nothing, Some(How::Recreated)),
        ] {
            let loss = mark.loss(&now, found);
            assert_eq!(loss.map(|loss| loss.how), how, "{now:?} {found:?}");
            assert!(loss.is_none_or(|loss| (loss.from, loss.to) == (9, now.sequence)));
        }

        let unknown = at(1, 9, None);
        assert_eq!(unknown.loss(&at(1, 20, None), &others), None);
        assert!(unknown.loss(&at(2, 20, None), &others).is_some());

        let kept = at(0, 9, Some("a"));
        assert_eq!(kept.loss(&at(2, 20, None), &Found::Nothing), None, "it may be a purge");
        assert!(kept.loss(&at(2, 20, None), &others).is_some());

        let other = Watermark { stream: "T".to_owned(), ..at(2, 1, None) };
        assert_eq!(mark.loss(&other, &Found::Nothing), None, "the settings name another stream");
    }

    #[test]
    fn a_watermark_only_rises_within_one_stream() {
        let newest = Newest::default();
        for (next, kept) in [(at(1, 5, None), 5), (at(1, 4, None), 5), (at(1, 6, None), 6)] {
            newest.advance(next);
            assert_eq!(newest.get().expect("a watermark").sequence, kept);
        }
        newest.advance(at(2, 1, None));
        assert_eq!(newest.get(), Some(at(2, 1, None)));
    }
    #[test]
    fn an_ack_is_borne_out_only_if_no_later_connection_showed_less() {
        let reached = Reached::default();
        assert!(reached.bears_out(1, 9));
        reached.note(1, 5);
        assert!(reached.bears_out(1, 9), "it came over that connection, and later");
        reached.note(2, 7);
        reached.note(3, 20);
        assert!(reached.bears_out(1, 7) && !reached.bears_out(1, 8));
        assert!(reached.bears_out(2, 20) && !reached.bears_out(2, 21));
    }
}

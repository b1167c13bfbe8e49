//! Kept events: what the core needs of the collection to which acked events move.
//!
//! A kept event has a *place*: the epoch, which a loss ends, then the sequence under which the stream
//! has it. So the order of places is the order of the stream. A repair gives what was lost new places,
//! behind all others. What a loss took of an epoch is the end of it.

use std::ops::Range;
use std::time::Duration;

use outboxd_client::EventId;

use super::ports::{Parsed, Room, StoreResult};
use super::watermark::Epoch;

/// Bits of a place that hold the sequence: a thousand billion messages in a stream.
const SEQUENCE_BITS: u32 = 40;

/// The place of the message with this sequence. One from before the epoch belongs to the one before.
pub(crate) fn place(epoch: Epoch, sequence: u64) -> i64 {
    let number = if sequence <= epoch.since { epoch.number - 1 } else { epoch.number };
    let sequence = sequence & ((1 << SEQUENCE_BITS) - 1);
    (number.max(0) << SEQUENCE_BITS) | i64::try_from(sequence).unwrap_or(0)
}

/// The epoch of a place, as far as a place tells.
pub(crate) fn epoch_of(place: i64) -> Epoch {
    Epoch { number: place >> SEQUENCE_BITS, since: 0 }
}

/// The first place behind the epoch of this one.
pub(crate) fn end_of_epoch(place: i64) -> i64 {
    ((place >> SEQUENCE_BITS) + 1) << SEQUENCE_BITS
}

/// The collection of kept events. Like the outbox's, its writes may be repeated without harm.
pub(crate) trait KeptStore: Clone + Send + Sync + 'static {
    /// The kept events of these places, in order. At least one if there is one.
    fn kept(
        &self,
        places: Range<i64>,
        room: Room,
    ) -> impl Future<Output = StoreResult<Vec<Kept>>> + Send;

    /// The first of these places that the stream has acked and does not refuse.
    fn next_held(
        &self,
        places: Range<i64>,
    ) -> impl Future<Output = StoreResult<Option<Kept>>> + Send;

    /// The last of these places that the stream has acked and does not refuse, the last one first.
    /// At least one if there is one.
    fn last_held(
        &self,
        places: Range<i64>,
        room: Room,
    ) -> impl Future<Output = StoreResult<Vec<Kept>>> + Send;

    /// How many there are in these places.
    fn count_kept(&self, places: Range<i64>) -> impl Future<Output = StoreResult<u64>> + Send;

    /// Writes where the stream has these events now.
    fn republished(&self, events: &[Republished]) -> impl Future<Output = StoreResult<()>> + Send;

    /// Removes a few of those that were published longer ago than this, by the server's clock.
    /// Returns how many.
    fn forget(&self, age: Duration) -> impl Future<Output = StoreResult<u64>> + Send;

    /// Adds a repair to the audit.
    fn record_repair(
        &self,
        relay: &str,
        published: u64,
        what: String,
    ) -> impl Future<Output = StoreResult<()>> + Send;
}

/// An event that the stream has acked.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) place: i64,
    pub(crate) stream: String,
    /// `None` if the stream has lost it and refuses to take it again.
    pub(crate) sequence: Option<u64>,
    /// If it is not the event's first one.
    pub(crate) message_id: Option<String>,
    pub(crate) event: Parsed,
}

/// A kept event that was published again.
#[derive(Debug, Clone)]
pub(crate) struct Republished {
    pub(crate) id: EventId,
    pub(crate) place: i64,
    /// Where it goes, and the sequence there; `None` if the stream refuses it.
    pub(crate) to: Option<(i64, u64)>,
    /// If it is not the event's first one.
    pub(crate) message_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_rise_as_the_stream_does() {
        let (first, second) = (Epoch { number: 0, since: 0 }, Epoch { number: 1, since: 5 });
        assert!(place(first, 1) < place(first, 2));
        assert!(place(first, 900) < place(second, 6), "a loss ends an epoch");
        assert_eq!(place(second, 5), place(first, 5), "of before the loss");
        assert_eq!(end_of_epoch(place(first, 7)), place(second, 0) + (1 << SEQUENCE_BITS));
    }
}

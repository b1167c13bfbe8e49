//! Keys that wait and have no lane in memory any more, because there are too many.
//!
//! Lanes in which nothing moves have a bound in bytes. Beyond it the relay forgets the lane and
//! remembers the key in a filter of fixed size. A key that may be in the filter is looked up before
//! an event of it leaves: its lane is stalled, the event is parked behind what may be there, and the
//! read of the key shows whether something is. So a filter that is wrong about a key costs a write
//! and a read, and never the order.
//!
//! Keys that leave the outbox stay in a filter. When many look-ups found nothing, the retrier reads
//! which keys wait and fills another one. What is forgotten meanwhile is in both.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use outboxd_client::Key;

/// Bits of a filter: 4 MiB, of which only what is used becomes resident. With two million keys one
/// key in two thousand is looked up for nothing.
const BITS: usize = 1 << 25;
/// Bits for each key.
const PROBES: u64 = 8;
/// Look-ups that found nothing until the filter is filled anew.
const MISSES: usize = 1000;

/// Which keys may have been added. Never wrong about one that was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    hasher: RandomState,
    /// Empty until the first key is added.
    bits: Vec<u64>,
}

impl Filter {
    pub(crate) fn insert(&mut self, key: &Key) {
        if self.bits.is_empty() {
            self.bits = vec![0; BITS / 64];
        }
        for bit in places(&self.hasher, key) {
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
    }

    fn may_contain(&self, key: &Key) -> bool {
        !self.bits.is_empty()
            && places(&self.hasher, key).all(|bit| self.bits[bit / 64] & (1 << (bit % 64)) != 0)
    }

    /// Another one, which is empty.
    fn emptied(&self) -> Self {
        Self { hasher: self.hasher.clone(), bits: Vec::new() }
    }

    /// Adds the keys of another one with the same hasher.
    fn add(&mut self, other: &Self) {
        match self.bits.is_empty() {
            true => self.bits.clone_from(&other.bits),
            false => self.bits.iter_mut().zip(&other.bits).for_each(|(bits, more)| *bits |= more),
        }
    }
}

fn places(hasher: &RandomState, key: &Key) -> impl Iterator<Item = usize> {
    let hash = hasher.hash_one(key);
    let (first, step) = (hash >> 32, (hash & 0xffff_ffff) | 1);
    (0..PROBES).map(move |n| first.wrapping_add(n.wrapping_mul(step)) as usize % BITS)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    stalled: Filter,
    /// Nothing of these leaves until the next leadership.
    blocked: Filter,
    /// The latest write of those that were forgotten: see `Lane::last_write`.
    pub(super) last_write: u64,
    /// Look-ups of keys that found nothing since the filter was filled.
    misses: usize,
    /// What was forgotten since the filter is being filled anew.
    since: Option<Filter>,
}

impl Forgotten {
    pub(super) fn is_empty(&self) -> bool {
        self.stalled.bits.is_empty() && self.blocked.bits.is_empty()
    }

    /// Bytes of all filters.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let filters = [&self.stalled, &self.blocked].into_iter().chain(&self.since);
        filters.map(|filter| size_of_val(&filter.bits[..])).sum()
    }

    pub(super) fn stall(&mut self, key: &Key) {
        self.stalled.insert(key);
        if let Some(since) = &mut self.since {
            since.insert(key);
        }
    }

    pub(super) fn block(&mut self, key: &Key) {
        self.blocked.insert(key);
    }

    pub(super) fn may_wait(&self, key: &Key) -> bool {
        self.may_be_stalled(key) || self.may_be_blocked(key)
    }

    pub(super) fn may_be_stalled(&self, key: &Key) -> bool {
        self.stalled.may_contain(key)
    }

    pub(super) fn may_be_blocked(&self, key: &Key) -> bool {
        self.blocked.may_contain(key)
    }

    /// The lane of a key opened that the filter has.
    pub(super) fn found_nothing(&mut self) {
        self.misses += 1;
    }

    /// An empty filter to fill with the keys that wait, if it is time for that.
    pub(super) fn begin_filling(&mut self) -> Option<Filter> {
        if self.misses < MISSES || self.since.is_some() {
            return None;
        }

        self.misses = 0;
        self.since = Some(self.stalled.emptied());
        Some(self.stalled.emptied())
    }

    /// Takes the filter, or `None` if the keys could not be read.
    pub(super) fn end_filling(&mut self, filled: Option<Filter>) {
        let (Some(since), Some(mut filled)) = (self.since.take(), filled) else { return };
        filled.add(&since);
        self.stalled = filled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::new(format!("{number}-{}", "k".repeat(200))).expect("a key")
    }

    #[test]
    fn two_million_keys_are_remembered_and_few_others_are_looked_up() {
        let mut filter = Filter::default();
        (0..2_000_000).for_each(|number| filter.insert(&key(number)));

        assert!((0..2_000_000).step_by(97).all(|number| filter.may_contain(&key(number))));
        let wrong = (2_000_000..2_100_000).filter(|number| filter.may_contain(&key(*number)));
        let wrong = wrong.count();
        assert!(wrong < 200, "{wrong} of 100,000");
    }

    #[test]
    fn what_is_forgotten_while_the_filter_is_filled_is_in_the_new_one() {
        let mut forgotten = Forgotten::default();
        forgotten.stall(&key(1));
        assert!(forgotten.begin_filling().is_none(), "no look-up was for nothing");

        (0..MISSES).for_each(|_| forgotten.found_nothing());
        let mut filled = forgotten.begin_filling().expect("it is time");
        assert!(forgotten.begin_filling().is_none(), "one at a time");
        forgotten.stall(&key(2));
        filled.insert(&key(3));
        forgotten.end_filling(Some(filled));

        let stalled = [1, 2, 3].map(|number| forgotten.may_be_stalled(&key(number)));
        assert_eq!(stalled, [false, true, true]);
    }
}

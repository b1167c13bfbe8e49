//! Events of which the server refused a write for good: a mark, a delete or a discard. They stay in
//! the outbox as they are. Each is remembered, so that reads which bring it again cost nothing.
//!
//! The memory is bounded in bytes. What is forgotten is tried once more when a read brings it.

use std::collections::HashSet;

use crate::relay::listing::RawId;

/// Bytes that each half of the memory may have: some thirty thousand ids of usual length.
const HALF: usize = 2 << 20;
/// What an id costs besides its bytes.
const OVERHEAD: usize = 48;

/// See the module. The older half is forgotten when the newer one is full.
#[derive(Debug, Default)]
pub(super) struct Refused {
    newer: HashSet<RawId>,
    newer_bytes: usize,
    older: HashSet<RawId>,
}

impl Refused {
    pub(super) fn is_empty(&self) -> bool {
        self.newer.is_empty() && self.older.is_empty()
    }

    pub(super) fn contains(&self, id: &RawId) -> bool {
        self.newer.contains(id) || self.older.contains(id)
    }

    pub(super) fn insert(&mut self, id: RawId) {
        let bytes = id.bytes() + OVERHEAD;
        if self.newer_bytes + bytes > HALF {
            self.older = std::mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }

        if self.newer.insert(id) {
            self.newer_bytes += bytes;
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &RawId> {
        self.newer.iter().chain(&self.older)
    }
}

/// Most documents without a readable id that are remembered: half a megabyte.
const MOST_NAMELESS: usize = 1 << 15;

/// Documents without a readable id that were reported, by their fingerprints.
#[derive(Debug, Default)]
pub(super) struct Nameless(HashSet<u64>);

impl Nameless {
    /// Whether this one was not reported yet, as far as is remembered.
    pub(super) fn is_news(&mut self, fingerprint: u64) -> bool {
        if self.0.len() >= MOST_NAMELESS {
            self.0.clear();
        }
        self.0.insert(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use bson::Bson;

    use super::*;

    #[test]
    fn the_newest_are_remembered_and_their_memory_is_bounded() {
        let id = |number: i64| RawId::new(&Bson::from(number));
        let mut refused = Refused::default();
        (0..1_000_000).for_each(|number| refused.insert(id(number)));

        assert!(refused.contains(&id(999_999)) && refused.contains(&id(980_000)));
        assert!(!refused.contains(&id(0)));

        let bytes: usize = refused.ids().map(|id| id.bytes() + OVERHEAD).sum();
        assert!(bytes <= 2 * HALF, "{bytes}");
    }
}

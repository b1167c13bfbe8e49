//! The scheduled events that the mover passes over, so that they hold up no others.

use std::time::Duration;

use outboxd_client::Key;
use tokio::time::Instant;

use crate::relay::listing::RawId;
use crate::relay::ports::scheduled::Without;

/// Most events that are passed over at once. A query names each of them.
const MOST: usize = 10_000;
/// How long an event is passed over that somebody else's transaction holds.
pub(super) const HELD: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside {
    passed: Vec<Passed>,
    nameless: usize,
}

#[derive(Debug)]
struct Passed {
    id: RawId,
    /// Later events of its key must not pass it.
    key: Option<Key>,
    until: Option<Instant>,
}

impl Aside {
    /// Somebody else's transaction holds the event: it and its key wait a moment.
    pub(super) fn held(&mut self, id: RawId, key: Option<Key>, now: Instant) {
        self.add(Passed { id, key, until: Some(now + HELD) });
    }

    /// The event can be neither moved nor marked. Its key doesn't wait.
    pub(super) fn unmarkable(&mut self, id: RawId) {
        self.add(Passed { id, key: None, until: None });
    }

    fn add(&mut self, passed: Passed) {
        if self.passed.len() < MOST {
            self.passed.push(passed);
        }
    }

    /// How many documents a read found whose `_id` can't be named. Returns whether there are more of
    /// them than before.
    pub(super) fn nameless(&mut self, found: usize) -> bool {
        let are_more = found > self.nameless;

        self.nameless = self.nameless.max(found).min(MOST);
        are_more
    }

    /// What a read leaves out now.
    pub(super) fn without(&mut self, now: Instant) -> Without {
        self.passed.retain(|passed| passed.until.is_none_or(|until| until > now));
        Without {
            ids: self.passed.iter().map(|passed| passed.id.clone()).collect(),
            keys: self.passed.iter().filter_map(|passed| passed.key.clone()).collect(),
            nameless: self.nameless,
        }
    }

    /// When the next event is no longer passed over.
    pub(super) fn until(&self) -> Option<Instant> {
        self.passed.iter().filter_map(|passed| passed.until).min()
    }
}

#[cfg(test)]
mod tests {
    use bson::Bson;

    use super::*;

    fn id(number: i32) -> RawId {
        RawId::new(&Bson::from(number))
    }

    #[test]
    fn a_held_event_and_its_key_wait_a_moment_and_an_unmarkable_one_for_good() {
        let (now, key) = (Instant::now(), Key::new("k").expect("a key"));
        let mut aside = Aside::default();
        aside.held(id(1), Some(key.clone()), now);
        aside.unmarkable(id(2));

        let without = aside.without(now);
        assert_eq!((without.ids, without.keys), (vec![id(1), id(2)], vec![key]));
        assert_eq!(aside.until(), Some(now + HELD));

        let without = aside.without(now + HELD);
        assert_eq!((without.ids, without.keys), (vec![id(2)], vec![]));
        assert_eq!(aside.until(), None);
    }
}

//! What comes into the pump from the readers: found events, the retrier's answers, and what can't
//! be published at all.

use bson::doc;
use tracing::{debug, error, info};

use outboxd_client::{Key, field};

use super::Pump;
use crate::document::record::Malformed;
use crate::failure::{MALFORMED, Rejection};
use crate::relay::dispatch::lane::{Marking, Pending};
use crate::relay::dispatch::twins::Origin;
use crate::relay::follow::found::Found;
use crate::relay::ports::EventBus;
use crate::relay::retry::{Answer, Ask};
use crate::relay::settle::Settlement;
use crate::relay::verdict::Failed;

impl<B: EventBus> Pump<B> {
    pub(super) fn found(&mut self, found: Found) {
        match found {
            Found::SweepBegan(number, taken) => {
                self.dispatch.sweep_began(number);
                // Whoever is gone doesn't sweep.
                _ = taken.send(());
            }
            Found::Event(pending, now_ms) => {
                self.wants_discards |= pending.record.discard_requested;
                self.dispatch.offer(pending, now_ms);
            }
            Found::Requested => {
                self.wants_discards = true;
                self.tick.notify_one();
            }
            Found::Malformed(malformed) => self.malformed(*malformed),
            Found::SweepEnded => self.dispatch.sweep_ended(),
        }
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Due(page) => {
                self.ticking = false;
                let mut due = Vec::new();
                for parsed in page.events {
                    match parsed {
                        Ok(record) => due.push(Pending {
                            record: record.into(),
                            origin: Origin::Retry,
                            committed_ms: None,
                        }),
                        Err(malformed) => self.malformed(*malformed),
                    }
                }
                let found = due.len();
                let taken = self.dispatch.tick_ended(due);
                debug!(found, taken, more = page.more, "looked for due events");
                self.more_due = page.more && taken > 0;
            }
            Answer::Discards(page) => {
                self.ticking = false;
                let mut wanted = Vec::new();
                for parsed in page.events {
                    match parsed {
                        Ok(record) => wanted.push(record.id),
                        Err(malformed) => self.malformed(*malformed),
                    }
                }
                let count = wanted.len();
                let ids = self.dispatch.discards_ended(wanted);
                // What is in flight, or was too much for once, is looked at again with the next
                // tick.
                self.wants_discards = page.more || ids.len() < count;
                self.events.discarded.increment(ids.len() as u64);
                if !ids.is_empty() {
                    info!(events = ids.len(), "discarding, as an operator asked");
                }
                for id in ids {
                    self.settle(Settlement::Discard(id));
                }
                self.read(Ask::Due(self.dispatch.room()));
            }
            Answer::Stray(page) => {
                self.ticking = false;
                let mut events = 0;
                for parsed in page.events {
                    match parsed {
                        Ok(record) => {
                            events += u64::from(self.dispatch.offer_stray(Pending {
                                record: record.into(),
                                origin: Origin::Stray,
                                committed_ms: None,
                            }));
                        }
                        Err(malformed) => self.malformed(*malformed),
                    }
                }
                self.dispatch.stray_ended();
                if events > 0 {
                    info!(
                        events,
                        "the safety sweep found locked events that nothing had brought yet"
                    );
                }
            }
            Answer::Lane(key, events, behind) => self.dispatch.lane_read(&key, events, behind),
        }
    }

    /// Nothing the broker does can help it: dead at once, and its key waits for a person.
    fn malformed(&mut self, malformed: Malformed) {
        if malformed.marked {
            return self.dispatch.hold_dead(malformed.key.as_ref());
        }
        // Found again while it is being marked, or after the server refused that.
        let known = malformed
            .id
            .as_ref()
            .and_then(|id| bson::serialize_to_vec(&doc! { field::ID: id }).ok());
        if known.as_ref().is_some_and(|id| self.malformed.contains(id)) {
            return;
        }
        let held = self.dispatch.hold_until_marked(malformed.key);
        let Some(id) = malformed.id else {
            let (reason, key) = (malformed.reason, held.as_ref().map(Key::as_str));
            error!(
                reason,
                key, "an event with a huge or unreadable _id can't be marked; it is left as it is"
            );
            return self.dispatch.refused(held.as_ref(), None);
        };
        let rejection = Rejection::new(MALFORMED, malformed.reason);
        let failed = Failed { id, subject: None, key: held.as_ref(), attempts: 0 };
        let mark = self.judge.mark(&failed, rejection);
        self.events.dead.increment(1);
        self.malformed.extend(known.clone());
        let marking = Marking { id: None, malformed: known, key: held, dead: true };
        self.settle(Settlement::Failed(marking, Box::new(mark)));
    }
}

//! What comes back: the outcomes of publishes, and what `settle` has written.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use outboxd_client::Key;
use tracing::{debug, info};

use super::Leadership;
use super::parts::Totals;
use crate::failure::Rejection;
use crate::relay::clock;
use crate::relay::dispatch::known::Origin;
use crate::relay::dispatch::pending::Dispatched;
use crate::relay::dispatch::turn::Stored;
use crate::relay::ports::EventBus;
use crate::relay::publish::burst::Published;
use crate::relay::publish::outcome::{Acked, Outcome};
use crate::relay::settle::{Refusal, Settled, Settlement};
use crate::relay::verdict::Failed;
use crate::relay::wake::Reason;

impl<B: EventBus> Leadership<B> {
    /// Takes an outcome, and the others that are there by now: a turn of the loop costs more than
    /// one of them. Returns whether a publish found the lease lapsed, if only for a moment: its
    /// lane stays taken, so this leadership is over.
    pub(super) fn take_outcomes(&mut self, first: Published, totals: &mut Totals) -> bool {
        let mut lapsed = false;
        let mut next = Some(first);

        while let Some(published) = next {
            lapsed |= self.finished(published, totals);
            next = self.in_flight.next().now_or_never().flatten();
        }

        lapsed
    }

    /// A publish has ended. Returns whether it found the lease lapsed.
    pub(super) fn finished(&mut self, published: Published, totals: &mut Totals) -> bool {
        let Published { back, ended } = published;
        let mut lapsed = false;
        self.dispatch.given_back(back);

        for (dispatched, outcome) in ended {
            match outcome {
                Outcome::Acked(acked) => {
                    totals.published += 1;
                    totals.duplicates += u64::from(acked.duplicate);
                    self.delivered(dispatched, acked);
                }
                Outcome::Rejected(rejection) => {
                    totals.failed += 1;
                    self.failed(dispatched, rejection);
                }
                Outcome::Abandoned => {
                    lapsed = true;
                    totals.abandoned += 1;
                    self.dispatch.abandoned(dispatched);
                }
            }
        }

        lapsed
    }

    fn delivered(&mut self, dispatched: Dispatched, acked: Acked) {
        self.events.published.increment(1);
        self.events.duplicates.increment(acked.duplicate.into());
        self.events.publish.record(acked.took);
        self.events.retried.increment((dispatched.origin == Origin::Retry).into());

        if let Some(committed_ms) = dispatched.committed_ms {
            let millis = clock::now().timestamp_millis() - committed_ms;
            let latency = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            self.events.latency.record(latency);
        }

        if let Some(mistaken) = &acked.mistaken {
            self.events.false_duplicates.increment(1);
            self.verdicts.false_duplicate(&dispatched.record, mistaken);
        }

        let stored = if acked.duplicate { Stored::Before } else { Stored::Now };
        self.dispatch.delivered(dispatched, stored);
        self.settle(Settlement::Delivered(acked));
    }

    fn failed(&mut self, dispatched: Dispatched, rejection: Rejection) {
        self.events.failed.add(rejection.class);

        let (record, debt) = self.dispatch.failed(dispatched);
        let mark = self.verdicts.mark(&Failed::new(&record), rejection);
        self.settle(Settlement::Failed(Box::new((debt, mark))));
    }

    /// Takes what `settle` has written.
    pub(super) fn take_settled(&mut self, settled: &mut Vec<Settled>) {
        for settled in settled.drain(..) {
            self.settled(settled);

            // The rest of what was due, without waiting for the schedule.
            if self.look.more_due && !self.dispatch.is_retrying() {
                self.look.more_due = false;
                self.wake.because(Reason::MoreDue);
            }
        }
    }

    fn settled(&mut self, settled: Settled) {
        self.verdicts.written(&settled, &self.events);
        self.look.disturb();
        match settled {
            Settled::Delivered(acked) => {
                self.traffic.add(acked.len());
                acked.iter().for_each(|acked| self.dispatch.deleted(acked.id()));
            }
            Settled::NotBorneOut(events) => self.not_borne_out += events,
            Settled::DiscardsGranted(ids, granted) => {
                if granted > 0 {
                    info!(events = granted, "let go of events that an operator discards");
                }
                self.events.discarded.increment(granted);
                ids.iter().for_each(|id| self.dispatch.deleted(id));
                self.wake.because(Reason::DiscardsGranted);
            }
            Settled::Marked(unmarked, mark) => self.dispatch.mark_written(&unmarked, mark.next),
            Settled::Parked(park) => {
                debug!(events = park.ids.len(), "parked behind a failed event");
                self.events.parked.increment(park.ids.len() as u64);
                self.dispatch.parked(&park);
                self.look_after_sweep();
            }
            Settled::MarkRefused(unmarked, _) => {
                self.dispatch.mark_refused(&unmarked);
                unmarked.key.into_iter().for_each(|key| self.is_blocked(key));
            }
            Settled::ParkRefused(key, id, refusal) => {
                self.dispatch.park_refused(&key, &id);
                self.look_after_sweep();
                if refusal.is_some() {
                    self.is_blocked(key);
                }
            }
            Settled::DeleteRefused(id, _) => self.dispatch.delete_refused(&id),
            // It is being repeated.
            Settled::CommandRefused(_) => {}
        }
    }

    /// The parks of this key that were sent are the last ones.
    fn is_blocked(&mut self, key: Key) {
        self.settle_parks();
        self.settle(Settlement::Blocked(key));
    }

    /// MongoDB refuses to write an event, which stays as it is.
    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.events.unwritable.increment(1);
        self.verdicts.refused(refusal);
    }
}

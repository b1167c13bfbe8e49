//! Repairs a stream that has lost what it had acked: publishes the kept events again that it has
//! lost.
//!
//! The kept events stand in the order of the stream. A stream that was put back has the first of an
//! epoch and not the others, so a binary search finds the first one that is lost. It asks the stream
//! for the message at the event's sequence and compares the message id: a stream that was created
//! again, or in which somebody else has published since, does not pass for one that is whole. A repair
//! that was interrupted has published a page in part, so the last page that the search takes for held is
//! compared one by one.
//!
//! All that is lost is published in that order, one event of a key at a time, with the ids it had.
//! Nothing else is published meanwhile. After each page, what was published gets its new place, in the
//! next epoch. So a repair that a crash interrupts, or another loss, begins again with the search and
//! goes on where it was; what has no new place yet is dropped by the stream as a duplicate.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::again::{PAGE, Sent, publish_again};
use super::kept::{Kept, KeptStore, Republished, end_of_epoch, place};
use super::ports::{EventBus, StoreError};
use super::publish::Publisher;
use super::publish::outcome::Outcome;
use super::watermark::{Epoch, Found, How, Rewound, Watermark};
use crate::crash::{self, Point};
use crate::failure::Rejection;
use crate::telemetry::health::Health;

/// Why a repair ended before its end. It is begun again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error("MongoDB: {0}")]
    Store(#[from] StoreError),
    #[error("NATS: {}", .0.error)]
    Bus(Rejection),
    #[error("the relay stops, or has lost its lease")]
    Stopped,
}

/// What a repair has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The places of what the stream has lost: the end of each epoch.
    pub(super) places: Vec<Range<i64>>,
    /// Kept events that it has lost.
    pub(super) events: u64,
    /// Sequences that it has lost and of which no event is kept any more.
    pub(super) unrecoverable: u64,
}

/// What a repair has done.
#[derive(Debug, Default)]
pub(super) struct Repaired {
    pub(super) published: u64,
    /// Of those, how many the stream had already.
    pub(super) duplicates: u64,
    /// Events that the stream refuses.
    pub(super) refused: u64,
    /// The newest message that the stream has acked.
    pub(super) newest: Option<Watermark>,
    /// The newest sequence of the page where the stream was not seen to have the message.
    unseen: Option<u64>,
}

/// See the module.
pub(super) struct Repair<'a, S, B> {
    pub(super) store: &'a S,
    pub(super) publisher: &'a Publisher<B>,
    pub(super) loss: Rewound,
    /// That begins with this loss.
    pub(super) epoch: Epoch,
    /// Most events a second.
    pub(super) rate: u64,
    pub(super) health: &'a Health,
    pub(super) stop: &'a CancellationToken,
}

impl<S: KeptStore, B: EventBus> Repair<'_, S, B> {
    /// Finds what the stream has lost.
    pub(super) async fn plan(&self) -> Result<Plan, Interrupted> {
        let oldest = self.store.next_held(0..i64::MAX).await?;
        let lost_before = self.lost_before(oldest.as_ref().and_then(|oldest| oldest.sequence));
        let mut plan = Plan { places: Vec::new(), events: 0, unrecoverable: lost_before };

        let mut next = oldest.map(|oldest| oldest.place);
        while let Some(first) = next {
            let end = end_of_epoch(first);
            let from = self.first_lost(first..end).await?;
            let from = self.lost_within_a_page(first..from).await?;
            if from > first {
                plan.unrecoverable = 0;
            }

            plan.events += self.store.count_kept(from..end).await?;
            plan.places.push(from..end);
            next = self.store.next_held(end..i64::MAX).await?.map(|next| next.place);
        }

        Ok(plan)
    }

    /// The first place of an epoch that the stream has lost.
    async fn first_lost(&self, epoch: Range<i64>) -> Result<i64, Interrupted> {
        // Places below `from` are held by the stream, those from `until` on are not.
        let (mut from, mut until) = (epoch.start, epoch.end);
        while from < until {
            let middle = from + (until - from) / 2;
            match self.store.next_held(middle..until).await? {
                Some(kept) if self.holds(&kept).await? => from = kept.place + 1,
                _ => until = middle,
            }
            self.go_on()?;
        }

        Ok(from)
    }

    /// The first place of the last page that the stream has lost; the end if it has them all. A
    /// repair that was interrupted has published some events of a page and not others. With another
    /// writer's messages between them, a later one may be back at its old sequence, and an earlier
    /// one not.
    async fn lost_within_a_page(&self, places: Range<i64>) -> Result<i64, Interrupted> {
        let mut first = places.end;
        for kept in self.store.last_held(places, PAGE).await? {
            if !self.holds(&kept).await? {
                first = kept.place;
            }
            self.go_on()?;
        }

        Ok(first)
    }

    /// How many sequences the stream has lost before this one.
    fn lost_before(&self, kept: Option<u64>) -> u64 {
        let Rewound { from, to, how, .. } = self.loss;
        let first = if how == How::WentBack { to + 1 } else { 1 };
        kept.unwrap_or(from + 1).saturating_sub(first)
    }

    /// Whether the stream has this event where it acked it. What was there and was removed, by a
    /// purge, a consumer or a limit, counts as held.
    async fn holds(&self, kept: &Kept) -> Result<bool, Interrupted> {
        let (Some(sequence), Ok(event)) = (kept.sequence, &kept.event) else { return Ok(false) };
        // What another stream got is no matter of this one.
        if *kept.stream != *self.publisher.stream {
            return Ok(true);
        }

        let found = self.publisher.bus.found(sequence).await.map_err(Interrupted::Bus)?;
        let id = kept.message_id.clone();
        let id = id.unwrap_or_else(|| self.publisher.message_id(&event.id));
        Ok(match found {
            Found::Message(found) => found == Some(id),
            Found::Nothing => sequence <= self.loss.to && self.loss.how != How::Recreated,
            Found::Unreadable => {
                let error = "the relay may not read messages of the stream; run `outboxd check`";
                return Err(Interrupted::Bus(Rejection::new("other", error)));
            }
        })
    }

    /// Publishes what the stream has lost.
    pub(super) async fn publish(&self, plan: &Plan) -> Result<Repaired, Interrupted> {
        let (mut repaired, mut read, began) = (Repaired::default(), 0, Instant::now());

        for places in &plan.places {
            let mut left = places.clone();
            loop {
                let page = self.store.kept(left.clone(), PAGE).await?;
                let Some(last) = page.last() else { break };
                left.start = last.place.saturating_add(1);
                read += page.len() as u64;

                crash::here(Point::Repairing);
                let events = self.publish_page(page, &mut repaired).await?;
                self.is_borne_out(repaired.unseen.take()).await?;
                crash::here(Point::Repaired);
                self.store.republished(&events).await?;

                self.go_on()?;
                info!(published = repaired.published, of = plan.events, "repairing the stream");
                // No faster than the rate.
                let due = Duration::from_micros(read.saturating_mul(1_000_000) / self.rate);
                tokio::time::sleep_until(began + due).await;
            }
        }

        Ok(repaired)
    }

    /// Asks the stream whether it has what it seemed to ack.
    async fn is_borne_out(&self, newest: Option<u64>) -> Result<(), Interrupted> {
        let Some(newest) = newest else { return Ok(()) };

        let error = match self.publisher.bus.bears_out(newest).await {
            Some(true) => return Ok(()),
            Some(false) => "the stream lacks messages that seemed to be acked",
            None => "the stream does not answer",
        };
        Err(Interrupted::Bus(Rejection::new("other", error)))
    }

    async fn publish_page(
        &self,
        page: Vec<Kept>,
        repaired: &mut Repaired,
    ) -> Result<Vec<Republished>, Interrupted> {
        let mut events = Vec::with_capacity(page.len());

        publish_again(self.publisher, page, None, |Sent { place, id, outcome }| {
            let event = id.map(|id| Republished { id, place, to: None, message_id: None });
            events.extend(self.published(event, outcome, repaired)?);
            Ok::<(), Interrupted>(())
        })
        .await?;

        Ok(events)
    }

    fn published(
        &self,
        event: Option<Republished>,
        outcome: Outcome,
        repaired: &mut Repaired,
    ) -> Result<Option<Republished>, Interrupted> {
        match outcome {
            Outcome::Acked(acked) => {
                repaired.published += 1;
                repaired.duplicates += u64::from(acked.duplicate);
                if !acked.seen {
                    repaired.unseen = repaired.unseen.max(Some(acked.sequence));
                }

                let is_newest = |newest: &Watermark| newest.sequence < acked.sequence;
                if repaired.newest.as_ref().is_none_or(is_newest) {
                    repaired.newest = Some(Watermark {
                        stream: self.publisher.stream.to_string(),
                        created_ms: self.loss.created_ms,
                        sequence: acked.sequence,
                        message_id: Some(acked.message_id.clone()),
                        epoch: self.epoch,
                    });
                }

                let message_id = acked.is_renamed.then(|| acked.message_id.clone());
                let to = Some((place(self.epoch, acked.sequence), acked.sequence));
                Ok(event.map(|event| Republished { to, message_id, ..event }))
            }
            Outcome::Rejected(rejection) if rejection.is_definite() => {
                let id = event.as_ref().map(|event| event.id.to_string());
                let (code, error) = (&*rejection.code, &*rejection.error);
                warn!(id, code, error, "the stream refuses to take an event again");
                repaired.refused += 1;
                Ok(event)
            }
            Outcome::Rejected(rejection) => Err(Interrupted::Bus(rejection)),
            Outcome::Abandoned => Err(Interrupted::Stopped),
        }
    }

    fn go_on(&self) -> Result<(), Interrupted> {
        self.health.turned();
        let stops = self.stop.is_cancelled() || !self.publisher.term.is_trusted();
        if stops { Err(Interrupted::Stopped) } else { Ok(()) }
    }
}

//! Publishes the next events of one key together, without waiting for the acks between them.
//!
//! Each message but the first names the message id of the one before, and the stream refuses it
//! unless that is its last message. So whatever is lost, refused or late, the stream never has one of
//! them without the one before, also when an answer never comes. Another writer's message
//! between two of them only cuts the burst short.
//!
//! | the answer to a message | what becomes of its event |
//! | --- | --- |
//! | an ack, and for a duplicate the very event there | it is delivered |
//! | a definite refusal, and everything before it is acked | it has failed: marked, and the rest of its key parked |
//! | not behind the message before it ([`NOT_BEHIND`]) | given back to its lane: it isn't stored |
//! | none, or a passing refusal | given back: it is stored only if the one before it is |
//! | a duplicate of another message | given back: it is published alone, under another id |
//!
//! A stream in a cluster takes them as one batch instead, which it stores or refuses as a whole. All
//! are given back unless it says that it has stored them; perhaps it has, and then each of them,
//! published again, is a duplicate. The batch can't be stored behind one of its own events.
//!
//! The first event that is given back is published again alone, with all that a lone event has: tries
//! in place, the grace, the check of duplicates.

use futures_util::future::{join_all, maybe_done};
use futures_util::poll;
use tracing::debug;

use super::burst::Member;
use super::outcome::{Acked, Outcome};
use super::publication::Publication;
use super::{Publisher, Try};
use crate::crash::{self, Point};
use crate::failure::NOT_BEHIND;
use crate::relay::dispatch::pending::Dispatched;
use crate::relay::ports::{Burst, EventBus};

impl<B: EventBus> Publisher<B> {
    /// The most events of a key that may leave together.
    pub(crate) fn most_together(&self) -> usize {
        let most = self.bursts.most();
        match most > 1 && self.breaker.is_well() && self.bus.bursts().is_some() {
            true => most,
            false => 1,
        }
    }

    /// Publishes the events of a burst once.
    pub(super) async fn publish_burst(&self, burst: &[Dispatched]) -> Vec<Member> {
        match self.bus.bursts() {
            Some(Burst::Chain) => self.publish_chain(burst).await,
            Some(Burst::Batch) => self.publish_batch(burst).await,
            None => burst.iter().map(|_| Member::Back).collect(),
        }
    }

    /// Publishes as many as one batch may have.
    async fn publish_batch(&self, burst: &[Dispatched]) -> Vec<Member> {
        if self.stop.is_cancelled() || !self.term.is_trusted() {
            return burst.iter().map(|_| Member::Ended(Outcome::Abandoned)).collect();
        }

        let fit = burst.iter().take_while(|dispatched| dispatched.record.over_limit.is_none());
        let mut publications: Vec<_> = fit
            .map(|one| Publication::new(&self.id_prefix, &one.record, one.payload.clone()))
            .collect();
        let mut members = Vec::with_capacity(burst.len());
        if !publications.is_empty() && self.is_connected() {
            members.extend(self.batch(&mut publications).await.unwrap_or_default());
        }

        members.resize_with(burst.len(), || Member::Back);
        members
    }

    /// Publishes a batch. Returns `None` unless the stream has acked it.
    async fn batch(&self, publications: &mut [Publication<'_>]) -> Option<Vec<Member>> {
        let connection = self.bus.connection();
        let messages: Vec<_> =
            publications.iter().map(|publication| publication.message(&self.stream)).collect();

        let ack = match self.bus.publish_batch(&messages).await {
            Ok(ack) => ack,
            Err(rejection) => {
                debug!(code = rejection.code, error = rejection.error, "a batch is not acked");
                match rejection.is_definite() {
                    true => self.breaker.answered(),
                    false => self.breaker.trouble(),
                }
                self.bursts.cut();
                return None;
            }
        };

        crash::here(Point::Acked);
        self.breaker.answered();
        self.bursts.whole(publications.len());

        // They are directly behind each other.
        let sequences = (0..=ack.sequence).rev().take(publications.len());
        let members =
            publications.iter_mut().rev().zip(sequences).map(|(publication, sequence)| {
                let ids = (publication.record.id.clone(), publication.take_message_id(), false);
                let at = (sequence, connection);
                let acked = Acked::new(ids, publication.began.elapsed(), at, false, ack.seen, None);
                Member::Ended(Outcome::Acked(acked))
            });
        let mut members: Vec<_> = members.collect();
        members.reverse();
        Some(members)
    }

    async fn publish_chain(&self, burst: &[Dispatched]) -> Vec<Member> {
        let mut publications = Vec::<Publication<'_>>::with_capacity(burst.len());
        for Dispatched { record, payload, .. } in burst {
            let mut publication = Publication::new(&self.id_prefix, record, payload.clone());
            if let Some(before) = publications.last() {
                publication.follow(before);
            }
            publications.push(publication);
        }

        let tries = publications.iter_mut().map(|publication| self.try_once(publication));
        let mut tries: Vec<_> = tries.map(|tried| Box::pin(maybe_done(tried))).collect();
        // They leave in this order, with nothing of this relay between them.
        for tried in &mut tries {
            let _ = poll!(tried.as_mut());
        }
        join_all(tries.iter_mut().map(|tried| tried.as_mut())).await;

        let ended = tries.iter_mut().filter_map(|tried| tried.as_mut().take_output());
        self.members(ended.collect())
    }

    /// What the answers mean: see the module.
    fn members(&self, tries: Vec<Try>) -> Vec<Member> {
        let is_abandoned =
            tries.iter().any(|tried| matches!(tried, Try::Ended(Outcome::Abandoned)));
        let (mut members, mut is_whole, mut is_cut) =
            (Vec::with_capacity(tries.len()), true, false);

        for tried in tries {
            let is_behind_all = is_whole;
            let is_acked = matches!(tried, Try::Ended(Outcome::Acked(_)));
            is_whole &= is_acked;

            members.push(match tried {
                Try::Ended(outcome) if is_acked => Member::Ended(outcome),
                _ if is_abandoned => Member::Ended(Outcome::Abandoned),
                Try::Ended(Outcome::Rejected(rejection)) if rejection.code == NOT_BEHIND => {
                    is_cut |= is_behind_all;
                    Member::Back
                }
                Try::Ended(outcome) if is_behind_all => Member::Ended(outcome),
                Try::Ended(_) | Try::Renamed => Member::Back,
                Try::Unanswered(_) => {
                    self.breaker.trouble();
                    Member::Back
                }
            });
        }

        if is_whole {
            self.bursts.whole(members.len());
        } else if is_cut {
            self.bursts.cut();
        }
        members
    }
}

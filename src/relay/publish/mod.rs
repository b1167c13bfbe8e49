//! Publishes one event as one message and returns its [`Outcome`]; events of one key that leave
//! together are a [`burst`].
//!
//! `Nats-Msg-Id` is the same on every try and from every relay. `Nats-Expected-Stream` keeps other
//! streams from acking. An ack that says *duplicate* is checked against the stored message.
//!
//! While no definite answer comes, the same event is tried again in place, so its key waits and
//! keeps its order. After `retry.outage_grace` it is given up for now and marked. Nothing is sent
//! without a trusted lease.
//!
//! - [`breaker`]: whether the broker answers, and how many publishes may be in flight
//! - [`clearance`]: whether the stream was compared with what it had acked
//! - `span`: the producer span of a publish
//! - this file: the tries
//! - `together`: several events of one key at once
//! - [`burst`]: how many, and what becomes of each
//! - `publication`: an event, its message and the message id that it has now
//! - `message_id`: the message ids of an event
//! - `duplicate`: whether the stream has what it acked as a duplicate
//! - [`outcome`]: how a publish ended, and the proof of an ack

pub(crate) mod breaker;
pub(crate) mod burst;
pub(crate) mod clearance;
mod duplicate;
mod message_id;
pub(crate) mod outcome;
mod publication;
mod span;
mod together;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_sdk::trace::SdkTracer;
use outboxd_client::EventId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::breaker::{Breaker, TryingAgain};
use self::burst::{Bursts, Member, Published};
use self::clearance::Clearance;
use self::duplicate::{Duplicate, check};
use self::outcome::{Acked, Outcome};
use self::publication::Publication;
use self::span::Publishing;
use super::clock;
use super::dispatch::pending::Dispatched;
use super::lease::Term;
use super::ports::{Ack, EventBus};
use crate::backoff::Backoff;
use crate::crash::{self, Point};
use crate::document::record::OutboxRecord;
use crate::failure::{
    Class, DISCONNECTED, LARGER_THAN_STREAM, NO_PERMISSION, NO_REPLIES, NO_RESPONDERS, NOT_COVERED,
    Rejection, STREAM_FULL, TIMEOUT,
};

/// Waits between tries of the same event in place. A leader election takes one to two seconds.
const TRIES_IN_PLACE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
    .with_jitter(0.75..1.25, clock::chance);

/// Publishes to one stream during one term.
#[derive(Debug)]
pub(crate) struct Publisher<B> {
    pub(crate) bus: B,
    pub(crate) stream: Box<str>,
    /// `<event.id_prefix><db>.<collection>.`
    pub(crate) id_prefix: Box<str>,
    pub(crate) grace: Duration,
    pub(crate) breaker: Breaker,
    pub(crate) bursts: Bursts,
    pub(crate) clearance: Clearance,
    pub(crate) term: Term,
    /// Makes a span for each publish if spans are exported.
    pub(crate) tracer: Option<SdkTracer>,
    /// Cancelled when no new try may begin.
    pub(crate) stop: CancellationToken,
}

/// What is known after one more try. That it was not sent doesn't change that it may have been
/// stored before.
fn latest(before: Option<Rejection>, now: Option<Rejection>) -> Option<Rejection> {
    let Some(now) = now else { return before };
    match before {
        Some(before) if now.code == NO_REPLIES && before.class == Class::Unknown => {
            Some(Rejection { class: Class::Unknown, ..now })
        }
        _ => Some(now),
    }
}

/// The result of one try.
enum Try {
    /// There is a definite answer, or no try may begin.
    Ended(Outcome),
    /// The publication has another message id now.
    Renamed,
    /// There is no definite answer yet, or no connection.
    Unanswered(Option<Rejection>),
}

impl<B: EventBus> Publisher<B> {
    /// Whether publishes may leave: the connection is up, and the stream was compared over it.
    pub(crate) fn is_connected(&self) -> bool {
        self.clearance.is_granted(self.bus.connection())
    }

    /// Whether to try: publishes may leave, or the stream does not answer, which events are marked
    /// for after the grace.
    pub(crate) fn may_try(&self) -> bool {
        self.is_connected() || *self.bus.connected().borrow() && self.clearance.why().is_some()
    }

    /// Publishes one event until there is a definite answer, the grace is over or the relay stops;
    /// or the events of a burst once.
    pub(crate) async fn publish(self: Arc<Self>, mut burst: Vec<Dispatched>) -> Published {
        crash::here(Point::Claimed);
        let spans = self.begin_spans(&mut burst);

        let members = match &*burst {
            [Dispatched { record, payload, .. }] => {
                let outcome = self.publish_until_answered(record, payload.clone(), None).await;
                vec![Member::Ended(outcome)]
            }
            // Boxed to keep the future of a lone event small.
            burst => Box::pin(self.publish_burst(burst)).await,
        };

        spans.into_iter().zip(&members).for_each(|(span, member)| span.end(member));

        let (mut back, mut ended, mut failed) = (Vec::new(), Vec::new(), None);
        for (dispatched, member) in burst.into_iter().zip(members) {
            match member {
                Member::Back => back.push(dispatched),
                Member::Ended(outcome @ Outcome::Rejected(_)) => {
                    failed = Some((dispatched, outcome))
                }
                Member::Ended(outcome) => ended.push((dispatched, outcome)),
            }
        }
        ended.extend(failed);
        Published { back, ended }
    }

    fn begin_spans(&self, burst: &mut [Dispatched]) -> Vec<Publishing> {
        let Some(tracer) = &self.tracer else { return Vec::new() };
        let spans = burst.iter_mut().map(|Dispatched { record, payload, .. }| {
            Publishing::begin(tracer, &self.stream, record, payload.len())
        });
        spans.collect()
    }

    /// Publishes a kept event again: under the message id it had, or as part of the replay with this
    /// number.
    pub(crate) async fn republish(
        &self,
        record: &OutboxRecord,
        payload: Bytes,
        replay: Option<u64>,
    ) -> Outcome {
        self.publish_until_answered(record, payload, replay).await
    }

    /// The first message id of this event.
    pub(crate) fn message_id(&self, id: &EventId) -> String {
        message_id::first(&self.id_prefix, id)
    }

    async fn publish_until_answered(
        &self,
        record: &OutboxRecord,
        payload: Bytes,
        replay: Option<u64>,
    ) -> Outcome {
        let mut publication = Publication::new(&self.id_prefix, record, payload);
        replay.into_iter().for_each(|number| publication.is_replayed(number));

        match self.try_once(&mut publication).await {
            Try::Ended(outcome) => outcome,
            // Boxed to keep the future of a publish that is acked at once small.
            unanswered => Box::pin(self.try_again(&mut publication, unanswered)).await,
        }
    }

    /// Publishes once, if a try may begin and there is a connection.
    async fn try_once(&self, publication: &mut Publication<'_>) -> Try {
        if self.stop.is_cancelled() || !self.term.is_trusted() {
            return Try::Ended(Outcome::Abandoned);
        }

        if let Some(limit) = publication.record.over_limit {
            let error = format!("Payload size limit of {limit} exceeded by the payload alone");
            return Try::Ended(Outcome::Rejected(Rejection::new("max-payload", error)));
        }

        if !self.is_connected() {
            return Try::Unanswered(self.bus.unheard().or_else(|| self.clearance.why()));
        }

        match self.send(publication).await {
            Ok(Some(acked)) => {
                self.breaker.answered();
                Try::Ended(Outcome::Acked(acked))
            }
            Ok(None) => {
                self.breaker.answered();
                Try::Renamed
            }
            Err(rejection) if rejection.is_definite() => {
                self.breaker.answered();
                Try::Ended(Outcome::Rejected(rejection))
            }
            Err(rejection) => {
                debug!(
                    id = %publication.record.id,
                    code = rejection.code,
                    error = rejection.error,
                    "no definite answer yet"
                );
                Try::Unanswered(Some(rejection))
            }
        }
    }

    /// Repeats a try that did not end the publish.
    async fn try_again(&self, publication: &mut Publication<'_>, mut tried: Try) -> Outcome {
        let (mut trying_again, mut last) = (None, None);
        let mut backoff = TRIES_IN_PLACE;

        loop {
            match tried {
                Try::Ended(outcome) => return outcome,
                // The broker answers, so this try needs no wait.
                Try::Renamed => trying_again = None,
                Try::Unanswered(rejection) => {
                    last = latest(last, rejection);

                    self.breaker.trouble();
                    trying_again.get_or_insert_with(|| TryingAgain::new(&self.breaker));

                    if publication.began.elapsed() >= self.grace {
                        break;
                    }

                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Outcome::Abandoned,
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                    }
                }
            }

            tried = self.try_once(publication).await;
        }

        let rejection =
            last.unwrap_or_else(|| Rejection::new(DISCONNECTED, "not connected to NATS"));
        Outcome::Rejected(rejection.given_up())
    }

    /// Publishes, waits for the ack and checks it. Returns `None` when the stream took the event for
    /// a duplicate of another message, and the publication has another id now.
    async fn send(&self, publication: &mut Publication<'_>) -> Result<Option<Acked>, Rejection> {
        let record = publication.record;
        let (sent, connection) = (Instant::now(), self.bus.connection());

        let mut ack = match self.bus.publish(publication.message(&self.stream)).await {
            Ok(ack) => ack,
            // Boxed to keep the future of a publish that is acked small.
            Err(rejection) => {
                return Err(Box::pin(self.explain(publication, sent, rejection)).await);
            }
        };

        crash::here(Point::Acked);

        if ack.duplicate && !ack.seen {
            // Boxed to keep the future of a publish that is no duplicate small.
            match Box::pin(check(&self.bus, &self.stream, publication, ack)).await? {
                Duplicate::Delivered => ack.seen = true,
                Duplicate::Renamed => return Ok(None),
            }
        }

        let took = publication.began.elapsed();
        // An earlier relay has stored it under this id, and has reported that.
        let mistaken = publication.mistaken.take().filter(|_| !ack.duplicate);
        let is_renamed = publication.renames() > 0;
        let ids = (record.id.clone(), publication.take_message_id(), is_renamed);
        let Ack { sequence, duplicate, seen } = ack;
        let at = (sequence, connection);
        Ok(Some(Acked::new(ids, took, at, duplicate, seen, mistaken)))
    }

    /// Replaces a rejection by its cause if that can be found out before the relay stops.
    async fn explain(
        &self,
        publication: &Publication<'_>,
        sent: Instant,
        rejection: Rejection,
    ) -> Rejection {
        tokio::select! {
            biased;
            cause = self.cause(publication, sent, &rejection) => {
                cause.unwrap_or(rejection)
            }
            () = self.stop.cancelled() => rejection,
        }
    }

    /// Why no ack came. After a timeout, the server may have denied the subject. Without an answer,
    /// either the stream has no leader just now or no subject of the stream covers this
    /// one; the stream's own subjects tell the two apart. A stream may be full for one message only,
    /// which is larger than the stream may become.
    async fn cause(
        &self,
        publication: &Publication<'_>,
        sent: Instant,
        rejection: &Rejection,
    ) -> Option<Rejection> {
        let subject = publication.record.subject.as_str();
        if self.bus.denied(subject, sent) {
            let error = format!("the server denied a publish to {subject}");
            return Some(Rejection::new(NO_PERMISSION, error));
        }

        if rejection.code == STREAM_FULL
            && self.bus.fits(publication.message(&self.stream)).await == Some(false)
        {
            let error = format!(
                "a message with a payload of {} bytes is larger than max_bytes of stream {}",
                publication.payload.len(),
                self.stream
            );
            return Some(Rejection::new(LARGER_THAN_STREAM, error));
        }

        // Anybody's subscription to the subject does away with the answer that there is nobody.
        let is_uncovered = [NO_RESPONDERS, TIMEOUT].contains(&&*rejection.code)
            && self.bus.covers(subject).await == Some(false);
        is_uncovered.then(|| {
            let error = format!("no subject of stream {} covers {subject}", self.stream);
            Rejection::new(NOT_COVERED, error)
        })
    }
}

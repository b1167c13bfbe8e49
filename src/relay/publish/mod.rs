//! Publishes one event as one message and returns its [`Outcome`].
//!
//! `Nats-Msg-Id` is `<db>.<collection>.<_id>`, the same on every try and from every relay. A string
//! `_id` is quoted where it could be mistaken for another event's. `Nats-Expected-Stream` keeps
//! other streams from acking.
//!
//! While no definite answer comes, the same event is tried again in place, so its key waits and
//! keeps its order. After `retry.outage_grace` it is given up for now and marked. Nothing is sent
//! without a trusted lease.
//!
//! - [`breaker`]: whether the broker answers, and how many publishes may be in flight
//! - `span`: the producer span of a publish
//! - this file: the tries
//! - [`outcome`]: how a publish ended, and the proof of an ack

pub(crate) mod breaker;
pub(crate) mod outcome;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_sdk::trace::SdkTracer;
use outboxd_client::EventId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::breaker::{Breaker, TryingAgain};
use self::outcome::{Acked, Outcome, Rewound};
use self::span::Publishing;
use super::clock;
use super::dispatch::pending::Dispatched;
use super::lease::Term;
use super::ports::{Ack, EventBus, Message};
use crate::backoff::Backoff;
use crate::crash::{self, Point};
use crate::document::record::OutboxRecord;
use crate::failure::{
    Class, DISCONNECTED, NO_PERMISSION, NO_RESPONDERS, NOT_COVERED, OTHER_STREAM, Rejection,
};

/// Waits between tries of the same event in place. A leader election takes one to two seconds.
const TRIES_IN_PLACE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
    .with_jitter(0.75..1.25, clock::chance);

/// Publishes to one stream during one term.
#[derive(Debug)]
pub(crate) struct Publisher<B> {
    pub(crate) bus: B,
    pub(crate) stream: Box<str>,
    /// `<db>.<collection>.`
    pub(crate) id_prefix: Box<str>,
    pub(crate) grace: Duration,
    pub(crate) breaker: Breaker,
    /// The newest sequence that the stream acked; 0 before the first ack. It falls when the stream
    /// goes back.
    pub(crate) newest: AtomicU64,
    pub(crate) term: Term,
    /// Makes a span for each publish if spans are exported.
    pub(crate) tracer: Option<SdkTracer>,
    /// Cancelled when no new try may begin.
    pub(crate) stop: CancellationToken,
}

/// An event on its way to the stream.
struct Publication<'a> {
    record: &'a OutboxRecord,
    message_id: String,
    payload: Bytes,
    /// When the first try began.
    began: Instant,
}

/// The result of one try.
enum Try {
    /// There is a definite answer, or no try may begin.
    Ended(Outcome),
    /// There is no definite answer yet, or no connection.
    Unanswered(Option<Rejection>),
}

impl<B: EventBus> Publisher<B> {
    /// Whether the connection to NATS is up.
    pub(crate) fn is_connected(&self) -> bool {
        *self.bus.connected().borrow()
    }

    /// Publishes until there is a definite answer, the grace is over or the relay stops.
    pub(crate) async fn publish(
        self: Arc<Self>,
        mut dispatched: Dispatched,
    ) -> (Dispatched, Outcome) {
        crash::here(Point::Claimed);

        let Dispatched { record, payload, .. } = &mut dispatched;
        // Boxed to keep the future small when no span is made.
        let span = self
            .tracer
            .as_ref()
            .map(|tracer| Box::new(Publishing::begin(tracer, &self.stream, record, payload.len())));

        let payload = payload.clone();
        let outcome = self.publish_until_answered(&dispatched.record, payload).await;

        if let Some(span) = span {
            span.end(&outcome);
        }

        (dispatched, outcome)
    }

    async fn publish_until_answered(&self, record: &OutboxRecord, payload: Bytes) -> Outcome {
        let message_id = message_id(&self.id_prefix, &record.id);
        let publication = Publication { record, message_id, payload, began: Instant::now() };

        match self.try_once(&publication).await {
            Try::Ended(outcome) => outcome,
            // Boxed to keep the future of a publish that is acked at once small.
            Try::Unanswered(last) => Box::pin(self.try_again(&publication, last)).await,
        }
    }

    /// Publishes once, if a try may begin and there is a connection.
    async fn try_once(&self, publication: &Publication<'_>) -> Try {
        if self.stop.is_cancelled() || !self.term.is_trusted() {
            return Try::Ended(Outcome::Abandoned);
        }

        if !self.is_connected() {
            return Try::Unanswered(None);
        }

        match self.send(publication).await {
            Ok(acked) => {
                self.breaker.answered();
                Try::Ended(Outcome::Acked(acked))
            }
            Err(rejection) if matches!(rejection.class, Class::Config | Class::Poison) => {
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

    /// Repeats a try that had no definite answer. `last` is the newest reason.
    async fn try_again(
        &self,
        publication: &Publication<'_>,
        mut last: Option<Rejection>,
    ) -> Outcome {
        let _trying_again = TryingAgain::new(&self.breaker);
        let mut backoff = TRIES_IN_PLACE;

        while publication.began.elapsed() < self.grace {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Outcome::Abandoned,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }

            match self.try_once(publication).await {
                Try::Ended(outcome) => return outcome,
                Try::Unanswered(rejection) => last = rejection.or(last),
            }

            self.breaker.trouble();
        }

        let rejection =
            last.unwrap_or_else(|| Rejection::new(DISCONNECTED, "not connected to NATS"));
        Outcome::Rejected(rejection.given_up())
    }

    /// Publishes, waits for the ack and checks it.
    async fn send(&self, publication: &Publication<'_>) -> Result<Acked, Rejection> {
        let Publication { record, message_id, payload, began } = publication;
        let sent = Instant::now();
        let newest = self.newest.load(Ordering::Relaxed);

        let message = Message {
            subject: &record.subject,
            headers: &record.headers,
            id: message_id,
            stream: &self.stream,
            payload: payload.clone(),
        };

        let ack = match self.bus.publish(message).await {
            Ok(ack) => ack,
            // Boxed to keep the future of a publish that is acked small.
            Err(rejection) => return Err(Box::pin(self.explain(record, sent, rejection)).await),
        };

        if *ack.stream != *self.stream {
            let error =
                format!("the ack came from stream {}, not from {}", ack.stream, self.stream);
            return Err(Rejection::new(OTHER_STREAM, error));
        }

        crash::here(Point::Acked);

        let rewound = self.went_back(newest, &ack);
        Ok(Acked::new(record.id.clone(), began.elapsed(), ack.duplicate, rewound))
    }

    /// Reports, once for each loss, that the stream lost messages it had acked. A message sent
    /// after the stream had acked `newest` gets a higher sequence unless messages are gone.
    fn went_back(&self, newest: u64, ack: &Ack) -> Option<Rewound> {
        // The ack of a duplicate has the sequence of the first message with its id.
        if ack.duplicate {
            return None;
        }

        if ack.sequence > newest {
            self.newest.fetch_max(ack.sequence, Ordering::Relaxed);
            return None;
        }

        let is_first = self
            .newest
            .compare_exchange(newest, ack.sequence, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();

        is_first.then_some(Rewound { from: newest, to: ack.sequence })
    }

    /// Replaces a rejection by its cause if that can be found out before the relay stops.
    async fn explain(
        &self,
        record: &OutboxRecord,
        sent: Instant,
        rejection: Rejection,
    ) -> Rejection {
        tokio::select! {
            biased;
            cause = self.cause(record.subject.as_str(), sent, &rejection) => {
                cause.unwrap_or(rejection)
            }
            () = self.stop.cancelled() => rejection,
        }
    }

    /// Why no ack came. After a timeout, the server may have denied the subject. Without
    /// responders, either the stream has no leader just now or no subject of the stream covers this
    /// one; the stream's own subjects tell the two apart.
    async fn cause(
        &self,
        subject: &str,
        sent: Instant,
        rejection: &Rejection,
    ) -> Option<Rejection> {
        if self.bus.denied(subject, sent) {
            let error = format!("the server denied a publish to {subject}");
            return Some(Rejection::new(NO_PERMISSION, error));
        }

        let is_uncovered =
            rejection.code == NO_RESPONDERS && self.bus.covers(subject).await == Some(false);
        is_uncovered.then(|| {
            let error = format!("no subject of stream {} covers {subject}", self.stream);
            Rejection::new(NOT_COVERED, error)
        })
    }
}

/// `<db>.<collection>.<_id>`, different for every event of every outbox. A string id is quoted if
/// it could be read as a longer collection's name and a shorter id, as a quoted id, or as the text
/// of an ObjectId or UUID.
fn message_id(prefix: &str, id: &EventId) -> String {
    match id {
        EventId::String(text) if text.contains(['.', '"']) || [24, 36].contains(&text.len()) => {
            let escaped = text.replace('\\', r"\\").replace('"', r#"\""#);
            format!("{prefix}\"{escaped}\"")
        }
        _ => format!("{prefix}{id}"),
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;

    use super::*;

    #[test]
    fn no_two_events_of_a_database_share_a_message_id() {
        let hex = "6745f0a1b2c3d4e5f6a7b8c9";
        let uuid = bson::Uuid::from_bytes([7; 16]);
        let texts = [
            "order-1",
            "b",
            "a.b",
            "a",
            "\"a\"",
            "a\"",
            "\\",
            "a\\\".\"b",
            "b\"",
            hex,
            &uuid.to_string(),
            "\".\"a",
        ];

        let mut ids: Vec<_> = texts.iter().map(|text| EventId::string(*text).unwrap()).collect();
        ids.push(EventId::ObjectId(ObjectId::parse_str(hex).unwrap()));
        ids.push(EventId::Uuid(uuid));

        let mut made = std::collections::HashSet::new();
        for prefix in ["d.outbox.", "d.outbox.a.", "d.outbox.\"a.", "d.outbox.\"a\"."] {
            assert!(ids.iter().all(|id| made.insert(message_id(prefix, id))), "{prefix}: {made:?}");
        }

        assert!(made.contains("d.outbox.order-1") && made.contains(&format!("d.outbox.{hex}")));
        assert!(made.contains("d.outbox.\"a.b\"") && made.contains(&format!("d.outbox.\"{hex}\"")));
    }
}

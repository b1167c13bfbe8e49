//! One event becomes one message, and its fate is known: [`Outcome`].
//!
//! Publishes with `Nats-Msg-Id` = `<db>.<collection>.<_id>`, the same on every try and from every
//! relay, and with `Nats-Expected-Stream`. A string `_id` stands in quotes there where it could be
//! mistaken for another event's. While no definite answer comes, the same event is tried again in
//! place, so its key waits and keeps its order; after `retry.outage_grace` it is given up for now
//! and marked. Nothing is sent without a trusted lease.

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
use crate::crash::{self, Point};
use crate::document::record::OutboxRecord;
use crate::failure::{
    Class, DISCONNECTED, NO_PERMISSION, NO_RESPONDERS, NOT_COVERED, OTHER_STREAM, Rejection,
};

/// First wait before the same event is tried again in place; doubles up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between tries in place. A leader election takes one to two seconds.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The moment before a message leaves.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// When the first try of it began.
    began: Instant,
    at: Instant,
    /// The newest sequence that the stream had acked.
    newest: u64,
}

/// Publishes to one stream during one term.
#[derive(Debug)]
pub(crate) struct Publisher<B> {
    pub(crate) bus: B,
    pub(crate) stream: Box<str>,
    /// `<db>.<collection>.`
    pub(crate) id_prefix: Box<str>,
    pub(crate) grace: Duration,
    pub(crate) breaker: Breaker,
    /// The newest sequence that the stream acked, as long as it doesn't go back; 0 before the first
    /// ack.
    pub(crate) newest: AtomicU64,
    pub(crate) term: Term,
    /// Makes a span of each publish, when those are exported.
    pub(crate) tracer: Option<SdkTracer>,
    /// Cancelled when no new try may begin.
    pub(crate) stop: CancellationToken,
}

impl<B: EventBus> Publisher<B> {
    /// Whether the connection to NATS stands.
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
        // Boxed, so that a publish without a span isn't the larger for it.
        let span = self
            .tracer
            .as_ref()
            .map(|tracer| Box::new(Publishing::begin(tracer, &self.stream, record, payload.len())));
        let outcome = self.to_the_end(record, payload).await;
        if let Some(span) = span {
            span.end(&outcome);
        }
        (dispatched, outcome)
    }

    async fn to_the_end(&self, record: &OutboxRecord, payload: &Bytes) -> Outcome {
        let began = Instant::now();
        let id = message_id(&self.id_prefix, &record.id);
        let mut wait = FIRST_WAIT;
        let mut trying_again = None;
        let mut last = None;
        loop {
            if self.stop.is_cancelled() || !self.term.is_trusted() {
                return Outcome::Abandoned;
            }
            if self.is_connected() {
                let sent =
                    Sent { began, at: Instant::now(), newest: self.newest.load(Ordering::Relaxed) };
                let message = Message {
                    subject: &record.subject,
                    headers: &record.headers,
                    id: &id,
                    stream: &self.stream,
                    payload: payload.clone(),
                };
                let publishing = self.bus.publish(message);
                match self.once(record, sent, publishing).await {
                    Ok(acked) => {
                        self.breaker.answered();
                        return Outcome::Acked(acked);
                    }
                    Err(rejection) if matches!(rejection.class, Class::Config | Class::Poison) => {
                        self.breaker.answered();
                        return Outcome::Rejected(rejection);
                    }
                    Err(rejection) => {
                        debug!(id = %record.id, code = rejection.code, error = rejection.error, "no definite answer yet");
                        last = Some(rejection);
                    }
                }
            }
            trying_again.get_or_insert_with(|| TryingAgain::new(&self.breaker));
            self.breaker.trouble();
            if began.elapsed() >= self.grace {
                let rejection =
                    last.unwrap_or_else(|| Rejection::new(DISCONNECTED, "not connected to NATS"));
                return Outcome::Rejected(rejection.given_up());
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Outcome::Abandoned,
                () = Box::pin(tokio::time::sleep(clock::jitter(wait, 0.75..1.25))) => {}
            }
            wait = (wait * 2).min(MAX_WAIT);
        }
    }

    async fn once(
        &self,
        record: &OutboxRecord,
        sent: Sent,
        publishing: impl Future<Output = Result<Ack, Rejection>>,
    ) -> Result<Acked, Rejection> {
        let ack = match publishing.await {
            Ok(ack) => ack,
            Err(rejection) => {
                let unexplained = rejection.clone();
                // Boxed, so that a publish that is acked isn't the larger for it.
                return tokio::select! {
                    biased;
                    rejection = Box::pin(self.explain(record, sent.at, rejection)) => Err(rejection),
                    () = self.stop.cancelled() => Err(unexplained),
                };
            }
        };
        if *ack.stream != *self.stream {
            let error =
                format!("the ack came from stream {}, not from {}", ack.stream, self.stream);
            return Err(Rejection::new(OTHER_STREAM, error));
        }
        crash::here(Point::Acked);
        let rewound = self.went_back(sent.newest, &ack);
        let took = sent.began.elapsed();
        Ok(Acked::new(record.id.clone(), took, ack.duplicate, rewound))
    }

    /// A message that was sent when the stream had acked `newest` comes after that one, or messages
    /// are gone. Said once.
    fn went_back(&self, newest: u64, ack: &Ack) -> Option<Rewound> {
        // A duplicate's ack names the first of its kind.
        if ack.duplicate {
            return None;
        }
        if ack.sequence > newest {
            self.newest.fetch_max(ack.sequence, Ordering::Relaxed);
            return None;
        }
        let first = self
            .newest
            .compare_exchange(newest, ack.sequence, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        first.then_some(Rewound { from: newest, to: ack.sequence })
    }

    /// What an answer that never came or came from nobody means. No ack in time: the server may
    /// have denied the subject. No responders: either no leader just now, or nobody will ever take
    /// this subject; the stream itself tells.
    async fn explain(
        &self,
        record: &OutboxRecord,
        sent: Instant,
        rejection: Rejection,
    ) -> Rejection {
        let subject = record.subject.as_str();
        if self.bus.denied(subject, sent) {
            return Rejection::new(
                NO_PERMISSION,
                format!("the server denied a publish to {subject}"),
            );
        }
        if rejection.code != NO_RESPONDERS || self.bus.covers(subject).await != Some(false) {
            return rejection;
        }
        let error = format!("no subject of stream {} covers {subject}", self.stream);
        Rejection::new(NOT_COVERED, error)
    }
}

/// `<db>.<collection>.<_id>`, different for every event of every outbox. A string id stands in
/// quotes where it could be mistaken: for a longer collection's name and a shorter id, for a quoted
/// one, or for the text of an ObjectId or UUID.
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

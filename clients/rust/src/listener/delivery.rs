//! One delivery: from the message of the stream to the ack that follows from the handler's answer.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::message::Message as Delivered;
use bson::DateTime;
use tracing::warn;

use super::parts::Parts;
use super::step::{self, Step};
use crate::message::{Handle, Message};
use crate::verdict::{HandleError, Verdict};

/// The header that JetStream knows a message by.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// When a handler is tried again while MongoDB is away: the first time, and the longest.
const OUTAGE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Hands a message to the handler, until it has an answer that isn't an outage.
pub(super) async fn deliver(
    delivered: &Delivered,
    parts: &Parts,
    handler: &impl Handle,
) -> AckKind {
    let message = read(delivered, parts);
    let limits = parts.settings.limits;
    if step::is_never_answered(message.deliveries, limits) {
        return put_aside(&message, parts, "it was delivered again and again, and never answered")
            .await;
    }

    let answer = answer(&message, handler).await;
    if let Err(error) = &answer {
        warn!(error = error.reason(), ?message, "not applied");
    }

    // No answer is looked at while the lock is held, so it can't be poisoned.
    let step = match parts.answers.lock() {
        Ok(mut answers) => answers.step(message.sequence, &answer, limits),
        Err(poisoned) => poisoned.into_inner().step(message.sequence, &answer, limits),
    };
    match step {
        Step::Ack => AckKind::Ack,
        Step::Again(delay) => AckKind::Nak(Some(delay)),
        Step::PutAside(reason) => put_aside(&message, parts, &reason).await,
    }
}

async fn answer(message: &Message, handler: &impl Handle) -> Result<Verdict, HandleError> {
    let mut wait = OUTAGE.0;
    loop {
        #[cfg(feature = "opentelemetry")]
        let answer = super::trace::within(message, handler.handle(message)).await;
        #[cfg(not(feature = "opentelemetry"))]
        let answer = handler.handle(message).await;

        match answer {
            Err(error) if error.is_outage() => {
                warn!(error = error.reason(), ?message, "MongoDB is away; keeping the message");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(OUTAGE.1);
            }
            answer => return answer,
        }
    }
}

/// Without MongoDB the message stays here, with heartbeats: it is never acked unwritten.
async fn put_aside(message: &Message, parts: &Parts, reason: &str) -> AckKind {
    let mut wait = OUTAGE.0;
    loop {
        match parts.inbox.put_aside(message, reason).await {
            Ok(()) => {
                warn!(reason, ?message, "put aside");
                return AckKind::Ack;
            }
            Err(error) => {
                warn!(%error, ?message, "the message could not be put aside; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(OUTAGE.1);
            }
        }
    }
}

fn read(delivered: &Delivered, parts: &Parts) -> Message {
    let headers = delivered.headers.iter().flat_map(|headers| headers.iter());
    let headers: Vec<_> = headers
        .flat_map(|(name, values)| {
            values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
        })
        .collect();

    let id = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(MESSAGE_ID));
    let id = id.map(|(_, id)| id.clone());
    let mut message =
        Message::new(&parts.group, "", delivered.subject.as_str(), delivered.payload.to_vec());
    message.id = id;
    message.headers = headers;
    message.stream.clone_from(&parts.stream);

    if let Ok(info) = delivered.info() {
        message.sequence = info.stream_sequence;
        message.deliveries = u32::try_from(info.delivered).unwrap_or(u32::MAX);
        let millis = info.published.unix_timestamp_nanos() / 1_000_000;
        message.published_at = DateTime::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    }

    message
}

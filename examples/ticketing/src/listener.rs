//! Hears what the other service says and applies it, in order and once.
//!
//! A listener is a durable JetStream consumer named by its queue group; every instance of the
//! service shares it. It takes one message at a time and acks it only after what it says was
//! committed. A message that comes too early is asked for again later; one that was applied before
//! is done. One consumer takes every subject of the stream, because two consumers would lose the
//! order between created and cancelled.
//!
//! The service runs without it: while NATS is away, requests are answered and events wait in the
//! outbox.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::Message;
use async_nats::jetstream::{AckKind, Context};
use futures_util::{FutureExt, StreamExt};
use opentelemetry::propagation::Extractor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::refusal::ApiError;
use crate::traces;

/// When the server gives a message to someone else because no ack came: how long the messages of a
/// killed instance wait.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Messages asked for at once. They wait here for their turn, a few milliseconds each, well within
/// [`ACK_WAIT`].
const BATCH: usize = 32;
/// Messages without an ack, of all instances, those to be heard again later among them. When a
/// killed instance leaves gaps, everything behind a gap waits like that.
const MAX_PENDING: i64 = 4096;
/// When a message that came too early is heard again.
const LATER: Duration = Duration::from_millis(250);
/// When a message that could not be applied is heard again, once more for each time before; and
/// when a lost consumer is looked for again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest of those waits, as a multiple.
const MAX_WAITS: i64 = 10;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Committed, now or before; or nothing to do with this service.
    Done,
    /// An earlier one is missing.
    Later,
}

/// Why a message was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It will never be readable.
    #[error("it can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It may work next time.
    #[error(transparent)]
    Database(#[from] mongodb::error::Error),
}

/// Applies messages.
pub trait Apply: Send + Sync + 'static {
    /// Applies one message, all of it or nothing. The same message may come again.
    fn apply(
        &self,
        subject: &str,
        payload: &[u8],
    ) -> impl Future<Output = Result<Verdict, ApplyError>> + Send;
}

/// Listens until `stop`. Starts over whenever the consumer is lost.
pub async fn listen(
    nats: Context,
    stream: String,
    group: &'static str,
    to: impl Apply,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        match consume(&nats, &stream, group, &to, &stop).await {
            Ok(()) => {}
            Err(error) => {
                warn!(%error, stream, group, "not listening; trying again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
        }
    }
    // Acks are buffered by the client.
    let _ = tokio::time::timeout(AFTER_FAILURE, nats.client().flush()).await;
}

async fn consume(
    nats: &Context,
    stream: &str,
    group: &'static str,
    to: &impl Apply,
    stop: &CancellationToken,
) -> Result<(), async_nats::Error> {
    let config = pull::Config {
        durable_name: Some(group.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_PENDING,
        ..pull::Config::default()
    };

    let consumer =
        nats.get_stream_no_info(stream).await?.get_or_create_consumer(group, config).await?;
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
    info!(stream, group, "listening");

    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = messages.next() => message,
        };
        match message {
            Some(message) => {
                let message = message?;
                let span = span(&message);
                handle(message, to).instrument(span).await?;
            }
            None => return Ok(()),
        }
    }

    // What waits here is for another instance, at once; and for none but another, so this one asks
    // for no more.
    let mut waiting = Vec::new();
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        waiting.push(message);
    }

    drop(messages);
    for message in waiting {
        message.ack_with(AckKind::Nak(None)).await?;
    }

    Ok(())
}

/// One span for each message, in the trace of whoever caused it.
fn span(message: &Message) -> Span {
    let span = info_span!(
        "message",
        otel.name = format!("process {}", message.subject),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.r#type = "process",
        messaging.destination.name = %message.subject,
    );

    if let Some(headers) = &message.headers {
        // Without a layer that exports there is no trace to join.
        let _ = span.set_parent(traces::remote(&Carrier(headers)));
    }

    span
}

/// Headers of a message, for those who look for a trace in them.
struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

async fn handle(message: Message, to: &impl Apply) -> Result<(), async_nats::Error> {
    let kind = match to.apply(&message.subject, &message.payload).await {
        Ok(Verdict::Done) => AckKind::Ack,
        Ok(Verdict::Later) => AckKind::Nak(Some(LATER)),
        Err(ApplyError::Unreadable(error)) => {
            let sequence = message.info().map_or(0, |info| info.stream_sequence);
            error!(%error, subject = %message.subject, sequence, "skipping a message that can't be read");
            AckKind::Term
        }
        Err(ApplyError::Database(error)) => {
            let error = error
                .get_custom::<ApiError>()
                .map_or_else(|| error.to_string(), ApiError::to_string);
            warn!(error, subject = %message.subject, "not applied; asking for it again");
            let before = message.info().map_or(1, |info| info.delivered).clamp(1, MAX_WAITS);
            AckKind::Nak(Some(AFTER_FAILURE * u32::try_from(before)?))
        }
    };
    message.ack_with(kind).await
}

//! Publishes to the stream: the core's messages as the client's, and the client's errors as
//! failures of the table.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::connection::Nats;
use super::judge::any_covers;
use super::stream::info;
use crate::failure::{CONNECTION_LOST, HEADER, NO_RESPONDERS, Rejection, TIMEOUT};
use crate::relay::ports::{Ack, EventBus, Message};

/// How old the known subjects of the stream may be when a publish finds no responder.
const COVERAGE_AGE: Duration = Duration::from_secs(1);

/// The stream as the relay publishes to it.
#[derive(Debug, Clone)]
pub(crate) struct JetStream {
    nats: Nats,
    name: String,
    subjects: Arc<Mutex<Option<Subjects>>>,
}

/// The subjects the stream takes, if it said, and when it was asked.
#[derive(Debug)]
struct Subjects {
    asked: Instant,
    taken: Option<Vec<String>>,
}

impl JetStream {
    pub(crate) fn new(nats: Nats, name: &str) -> Self {
        Self { nats, name: name.to_owned(), subjects: Arc::default() }
    }
}

impl EventBus for JetStream {
    async fn publish(&self, message: Message<'_>) -> Result<Ack, Rejection> {
        let headers = headers(&message).map_err(|error| Rejection::new(HEADER, error))?;
        let acks = self.nats.acks();

        let ack = acks.publish(message.subject.as_str(), headers, message.payload).await;
        let PublishAck { stream, sequence, duplicate, .. } =
            ack.map_err(|error| classify(&error))?;

        Ok(Ack { stream, sequence, duplicate })
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.nats.connected
    }

    fn denied(&self, subject: &str, since: Instant) -> bool {
        self.nats.denied.since(subject, since)
    }

    /// One asks for all who wait, and not having been told is known for as long as having been.
    async fn covers(&self, subject: &str) -> Option<bool> {
        let mut known = self.subjects.lock().await;
        if known.as_ref().is_none_or(|known| known.asked.elapsed() > COVERAGE_AGE) {
            let info = info(&self.nats.context(), &self.name).await.ok().flatten();
            *known = Some(Subjects {
                asked: Instant::now(),
                taken: info.map(|info| info.config.subjects),
            });
        }
        known.as_ref().and_then(|known| Some(any_covers(known.taken.as_ref()?, subject)))
    }
}

/// The headers of a message as the client sends them. Uses only constructors that can fail: the
/// client's others panic on a line break.
fn headers(message: &Message<'_>) -> Result<HeaderMap, String> {
    let value = |text: &str| text.parse::<HeaderValue>().map_err(|error| error.to_string());
    let mut headers = HeaderMap::new();
    for (name, text) in message.headers.iter() {
        let name = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
        headers.insert(name, value(text)?);
    }
    headers.insert(NATS_MESSAGE_ID, value(message.id)?);
    headers.insert(NATS_EXPECTED_STREAM, value(message.stream)?);

    Ok(headers)
}

/// Classifies what the client returned.
fn classify(error: &PublishError) -> Rejection {
    use PublishErrorKind as K;
    let server = StdError::source(error)
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    if let Some(server) = server {
        return Rejection::new(server.error_code().0.to_string(), server.to_string());
    }
    let code = match error.kind() {
        K::StreamNotFound => NO_RESPONDERS,
        K::TimedOut => TIMEOUT,
        K::BrokenPipe => CONNECTION_LOST,
        K::MaxAckPending => "max-ack-pending",
        K::MaxPayloadExceeded => "max-payload",
        K::WrongLastMessageId => "10070",
        K::WrongLastSequence => "10071",
        K::Other => "other",
    };
    Rejection::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::look_up;

    #[test]
    fn errors_of_the_client_are_listed() {
        for kind in [
            PublishErrorKind::TimedOut,
            PublishErrorKind::BrokenPipe,
            PublishErrorKind::MaxPayloadExceeded,
        ] {
            let rejection = classify(&PublishError::new(kind));
            assert!(look_up(&rejection.code).is_some(), "{rejection:?}");
        }
    }
}

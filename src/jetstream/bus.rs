//! Publishes to the stream: turns the core's messages into the client's, and errors into the codes
//! of the failure table.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::acks::NoAck;
use super::connection::Nats;
use super::facts::any_covers;
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

/// The subjects of the stream when it was last asked, or `None` if it did not answer.
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

        let ack = acks.publish(message.subject.as_str(), headers, message.payload);
        ack.await.map_err(classify)
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.nats.connected
    }

    fn denied(&self, subject: &str, since: Instant) -> bool {
        self.nats.denied.since(subject, since)
    }

    /// Asks the stream once for everybody who waits. A question that failed counts as asked, so it
    /// isn't repeated sooner either.
    async fn covers(&self, subject: &str) -> Option<bool> {
        let mut known = self.subjects.lock().await;

        if known.as_ref().is_none_or(|known| known.asked.elapsed() > COVERAGE_AGE) {
            let info = info(&self.nats.context(), &self.name).await.ok().flatten();
            *known = Some(Subjects {
                asked: Instant::now(),
                taken: info.map(|info| info.config.subjects),
            });
        }

        let taken = known.as_ref()?.taken.as_ref()?;
        Some(any_covers(taken, subject))
    }
}

/// All headers of a message, as the client sends them. Uses only constructors that can fail: the
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

/// The failure table's code for a publish without an ack.
fn classify(no_ack: NoAck) -> Rejection {
    match no_ack {
        NoAck::TimedOut => Rejection::new(TIMEOUT, "no ack came in time"),
        NoAck::ConnectionLost => {
            Rejection::new(CONNECTION_LOST, "the connection to NATS broke before the ack came")
        }
        NoAck::NoResponders => {
            Rejection::new(NO_RESPONDERS, "no one takes the subject at the moment")
        }
        NoAck::TooLarge(error) => Rejection::new("max-payload", error.to_string()),
        NoAck::Refused(error) => {
            Rejection::new(error.error_code().0.to_string(), error.to_string())
        }
        NoAck::Other(error) => Rejection::new("other", error),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::client::{PublishError, PublishErrorKind};

    use super::*;
    use crate::failure::look_up;

    #[test]
    fn the_codes_of_a_missing_ack_are_in_the_failure_table() {
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        for no_ack in [
            NoAck::TimedOut,
            NoAck::ConnectionLost,
            NoAck::NoResponders,
            NoAck::TooLarge(too_large),
        ] {
            let rejection = classify(no_ack);
            assert!(look_up(&rejection.code).is_some(), "{rejection:?}");
        }
    }
}

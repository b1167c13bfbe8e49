//! Publishes to the stream: turns the core's messages into the client's, and errors into the codes
//! of the failure table.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::stream::Config;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::acks::{Foreign, NoAck, SECOND_REPLY};
use super::connection::Nats;
use super::facts::any_covers;
use super::stored::{self, transforms};
use super::stream;
use crate::failure::{
    CONNECTION_LOST, HEADER, NO_RESPONDERS, NOT_COVERED, OTHER_STREAM, Rejection, TIMEOUT, look_up,
};
use crate::relay::ports::{Ack, EventBus, Message};
use crate::relay::publish::outcome::Held;

/// How old the known configuration of the stream may be when a publish has no ack or a false one.
const CONFIG_AGE: Duration = Duration::from_secs(1);
/// Stored messages that are read at once. A thousand, after a crash, take 16 round trips, and the
/// server's queue of API requests, which the account shares, holds thousands.
const MAX_READS: usize = 64;
/// Bytes that a file store adds to a message with headers.
const RECORD_BYTES: usize = 34;
/// Bytes of a payload that count as one read of those at once, so that they take 16 MB at most
/// together, or the largest message alone.
const READ_BYTES: usize = 64 << 10;

/// The stream as the relay publishes to it.
#[derive(Debug, Clone)]
pub(crate) struct JetStream {
    nats: Nats,
    name: String,
    known: Arc<Mutex<Option<Known>>>,
    reads: Arc<Semaphore>,
}

/// The configuration of the stream when it was last asked, or `None` if it did not answer.
#[derive(Debug)]
struct Known {
    asked: Instant,
    config: Option<Arc<Config>>,
}

impl JetStream {
    pub(crate) fn new(nats: Nats, name: &str) -> Self {
        let reads = Arc::new(Semaphore::new(MAX_READS));
        Self { nats, name: name.to_owned(), known: Arc::default(), reads }
    }

    /// Waits for the answer to a publish to which another has replied. If the stream doesn't take the
    /// subject, no answer will come.
    async fn answer_after(
        &self,
        mut foreign: Box<Foreign>,
        subject: &str,
    ) -> Result<Ack, Rejection> {
        loop {
            let answer = match timeout(SECOND_REPLY, foreign.rest()).await {
                Ok(answer) => answer,
                Err(_) => {
                    let covers = self.config().await;
                    let covers = covers.map(|config| any_covers(&config.subjects, subject));

                    // The servers of the stream have been given another domain.
                    if let Some(ack) = self.nats.expected.ack_in(&foreign.reply) {
                        return Ok(ack);
                    }
                    if covers == Some(false) {
                        return Err(self.anothers(&foreign));
                    }

                    foreign.rest().await
                }
            };

            match answer {
                Err(NoAck::Foreign(next)) => foreign = next,
                Err(NoAck::TimedOut) => {
                    let error =
                        format!("no ack of stream {} in time; {}", self.name, foreign.reply);
                    return Err(Rejection::new(TIMEOUT, error));
                }
                answer => return answer.map_err(classify),
            }
        }
    }

    /// Why a publish to a subject that only others take has failed.
    fn anothers(&self, foreign: &Foreign) -> Rejection {
        let reply = &foreign.reply;
        let code = match reply.code {
            Some(code) if look_up(&code.to_string()).is_some() => code.to_string(),
            _ if reply.is_stored() => OTHER_STREAM.to_owned(),
            _ => NOT_COVERED.to_owned(),
        };

        Rejection::new(code, format!("no subject of stream {} covers this one; {reply}", self.name))
    }

    /// Asks the stream once for everybody who waits. A question that failed counts as asked, so it
    /// isn't repeated sooner either.
    async fn config(&self) -> Option<Arc<Config>> {
        let mut known = self.known.lock().await;

        if known.as_ref().is_none_or(|known| known.asked.elapsed() > CONFIG_AGE) {
            let info = stream::of(&self.nats, &self.name).await.ok().flatten();
            let config = info.map(|info| Arc::new(info.config));
            *known = Some(Known { asked: Instant::now(), config });
        }

        known.as_ref()?.config.clone()
    }
}

impl EventBus for JetStream {
    async fn publish(&self, message: Message<'_>) -> Result<Ack, Rejection> {
        let headers = headers(&message).map_err(|error| Rejection::new(HEADER, error))?;
        let acks = self.nats.acks();

        let ack = acks.publish(message.subject.as_str(), headers, message.payload);
        match ack.await {
            // Boxed to keep the future of a publish that is acked small.
            Err(NoAck::Foreign(foreign)) => {
                Box::pin(self.answer_after(foreign, message.subject.as_str())).await
            }
            answer => answer.map_err(classify),
        }
    }

    async fn holds(&self, sequence: u64, message: Message<'_>) -> Result<Held, Rejection> {
        // A reply is a third larger than its message, and large ones are read one after the other.
        let share = 1 + message.payload.len() / READ_BYTES;
        let share = u32::try_from(share.min(MAX_READS)).unwrap_or(1);
        // The semaphore is never closed.
        let _permit = self.reads.acquire_many(share).await.ok();

        // The stream may store a message under another subject than it was sent to.
        match stored::held(&self.nats, &self.name, sequence, &message).await? {
            Held::OtherSubject(stored) => match self.config().await {
                Some(config) if transforms(&config, message.subject.as_str(), &stored) => {
                    Ok(Held::This)
                }
                Some(_) => Ok(Held::OtherSubject(stored)),
                None => Err(Rejection::new(TIMEOUT, "the stream did not describe itself in time")),
            },
            held => Ok(held),
        }
    }

    fn max_payload(&self) -> usize {
        self.nats.max_payload()
    }

    async fn fits(&self, message: Message<'_>) -> Option<bool> {
        let headers = headers(&message).ok()?;
        let config = self.config().await?;
        let Ok(max_bytes) = usize::try_from(config.max_bytes) else { return Some(true) };

        Some(max_bytes == 0 || stored_size(&message, &headers) <= max_bytes)
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.nats.connected
    }

    fn denied(&self, subject: &str, since: Instant) -> bool {
        self.nats.denied.since(subject, since)
    }

    async fn covers(&self, subject: &str) -> Option<bool> {
        let config = self.config().await?;
        Some(any_covers(&config.subjects, subject))
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

/// The bytes of a message in a file store.
fn stored_size(message: &Message<'_>, headers: &HeaderMap) -> usize {
    let lines = headers.iter().map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| name.len() + value.as_str().len() + ": \r\n".len()).sum::<usize>()
    });
    let headers = lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len();

    RECORD_BYTES + message.subject.as_str().len() + headers + message.payload.len()
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
        NoAck::Refused(error) => Rejection::of_jetstream(error.error_code().0, error.to_string()),
        // Unreachable: the wait for the answer comes first.
        NoAck::Foreign(foreign) => Rejection::new(TIMEOUT, foreign.reply.to_string()),
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

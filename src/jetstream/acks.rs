//! One subscription for the acks of all publishes of a client, and who waits for which.
//!
//! The client's own way of doing this costs an inbox name, a permit, a timer and a reply parsed
//! twice for each event, and remembers a publish that is never answered for as long as it lives
//! (nats.rs#1617). Here a publish is a number, known only while somebody waits for it, and what
//! waits is small.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::{PublishErrorKind as ClientErrorKind, SubscribeError};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::crash::{self, Point};

/// Of a number.
const MAX_DIGITS: usize = 20;

type Answer = Result<Message, PublishError>;

/// Publishes over one client and waits for the acks.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: Arc<Waiting>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    timeout: Duration,
    tasks: [AbortHandle; 2],
}

/// A message on its way to the client. Not more of them than dispatch has in flight.
#[derive(Debug)]
struct Outgoing {
    number: u64,
    subject: Subject,
    headers: HeaderMap,
    payload: Bytes,
}

/// Who waits for which ack, and until when. The numbers rise with the time, so the first is the
/// next to be given up.
#[derive(Debug, Default)]
struct Waiting(Mutex<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    next: u64,
    waits: BTreeMap<u64, (Instant, oneshot::Sender<Answer>)>,
}

impl Waiting {
    fn with<T>(&self, then: impl FnOnce(&mut Numbered) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, until: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (waits, answer) = oneshot::channel();
        let number = self.with(|numbered| {
            numbered.next += 1;
            numbered.waits.insert(numbered.next, (until, waits));
            numbered.next
        });
        (number, answer)
    }

    fn is_wanted(&self, number: u64) -> bool {
        self.with(|numbered| {
            numbered.waits.get(&number).is_some_and(|(_, waits)| !waits.is_closed())
        })
    }

    fn answer(&self, number: u64, answer: Answer) {
        if let Some((_, waits)) = self.with(|numbered| numbered.waits.remove(&number)) {
            // Whoever stopped waiting has no more use for it.
            let _ = waits.send(answer);
        }
    }

    /// Gives up what has waited until `now`. Returns until when the first of the others waits.
    fn expire(&self, now: Instant) -> Option<Instant> {
        self.with(|numbered| {
            while let Some(first) = numbered.waits.first_entry() {
                if first.get().0 > now {
                    return Some(first.get().0);
                }
                let _ = first.remove().1.send(Err(PublishError::new(PublishErrorKind::TimedOut)));
            }
            None
        })
    }
}

/// What JetStream replies to a publish: an ack or an error.
#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<async_nats::jetstream::Error>,
}

impl Acks {
    /// Subscribes. A publish without an ack after `timeout` has failed.
    ///
    /// # Errors
    /// When the client has ended.
    pub(crate) async fn subscribe(
        client: Client,
        timeout: Duration,
    ) -> Result<Self, SubscribeError> {
        let inbox = format!("{}.", client.new_inbox());
        // Once more after each reconnect; the client sees to that.
        let replies = client.subscribe(format!("{inbox}*")).await?;
        let waiting = Arc::<Waiting>::default();
        let (outgoing, messages) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(replies, inbox.len(), waiting.clone(), timeout));
        let writing = tokio::spawn(write(client, messages, inbox, waiting.clone()));
        Ok(Self {
            waiting,
            outgoing,
            timeout,
            tasks: [reading.abort_handle(), writing.abort_handle()],
        })
    }

    /// Publishes; what is returned waits for the ack.
    ///
    /// # Errors
    /// As [`async_nats::jetstream::Context::publish`].
    pub(crate) fn publish(
        self: Arc<Self>,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> impl Future<Output = Result<PublishAck, PublishError>> + Send + 'static {
        let (number, answer) = self.waiting.add(Instant::now() + self.timeout);
        let message = Outgoing { number, subject: subject.to_owned().into(), headers, payload };
        let taken = self.outgoing.send(message).is_ok();
        async move {
            let ended = || PublishError::new(PublishErrorKind::BrokenPipe);
            if !taken {
                return Err(ended());
            }
            let answer = answer.await.map_err(|_| ended())?;
            // Kept until the ack: a client that is replaced meanwhile ends with the last of its
            // acks.
            drop(self);
            ack(&answer?)
        }
    }
}

/// Hands messages to the client, as fast as it takes them.
async fn write(
    client: Client,
    mut messages: mpsc::UnboundedReceiver<Outgoing>,
    inbox: String,
    waiting: Arc<Waiting>,
) {
    while let Some(Outgoing { number, subject, headers, payload }) = messages.recv().await {
        // What was given up meanwhile must not leave: its event may be tried again by now.
        if !waiting.is_wanted(number) {
            continue;
        }
        let mut reply = String::with_capacity(inbox.len() + MAX_DIGITS);
        let _ = write!(reply, "{inbox}{number}");
        match client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
            Ok(()) => crash::here(Point::Submitted),
            Err(error) => {
                let kind = match error.kind() {
                    ClientErrorKind::MaxPayloadExceeded => PublishErrorKind::MaxPayloadExceeded,
                    ClientErrorKind::Send => PublishErrorKind::BrokenPipe,
                    _ => PublishErrorKind::Other,
                };
                waiting.answer(number, Err(PublishError::with_source(kind, error)));
            }
        }
    }
}

/// Hands replies to those who wait, until the client ends.
async fn read(mut replies: Subscriber, from: usize, waiting: Arc<Waiting>, timeout: Duration) {
    let mut expiry = pin!(tokio::time::sleep(timeout));
    loop {
        tokio::select! {
            biased;
            reply = replies.next() => {
                let Some(reply) = reply else { break };
                if let Some(number) = reply.subject.get(from..).and_then(|number| number.parse().ok()) {
                    waiting.answer(number, Ok(reply));
                }
            }
            // Whoever begins to wait from now on waits for longer.
            () = &mut expiry => {
                let now = Instant::now();
                expiry.as_mut().reset(waiting.expire(now).unwrap_or(now + timeout));
            }
        }
    }
    waiting.with(|numbered| numbered.waits.clear());
}

fn ack(reply: &Message) -> Result<PublishAck, PublishError> {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(PublishError::new(PublishErrorKind::StreamNotFound));
    }
    let Reply { stream, seq, duplicate, error } = serde_json::from_slice(&reply.payload)
        .map_err(|error| PublishError::with_source(PublishErrorKind::Other, error))?;
    match error {
        Some(error) => Err(PublishError::with_source(PublishErrorKind::Other, error)),
        // Not of JetStream, or of a message that isn't stored yet.
        None if seq == 0 => {
            Err(PublishError::with_source(PublishErrorKind::Other, "an ack without a sequence"))
        }
        None => Ok(PublishAck { stream, sequence: seq, duplicate, ..PublishAck::default() }),
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        // A subscription keeps its client alive.
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_too_long_is_told_and_forgotten() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let (first, mut first_answer) = waiting.add(now);
        let (second, mut second_answer) = waiting.add(now + Duration::from_secs(1));
        assert_eq!(waiting.expire(now), Some(now + Duration::from_secs(1)));
        let told = first_answer.try_recv().expect("an answer").expect_err("no ack");
        assert_eq!(told.kind(), PublishErrorKind::TimedOut);
        assert!(
            !waiting.is_wanted(first) && waiting.is_wanted(second),
            "the first must not leave any more"
        );
        second_answer.close();
        assert!(!waiting.is_wanted(second), "nobody waits");
        waiting.answer(first, Err(PublishError::new(PublishErrorKind::Other)));
        assert_eq!(waiting.expire(now + Duration::from_secs(1)), None);
        assert!(waiting.with(|numbered| numbered.waits.is_empty()));
    }
}

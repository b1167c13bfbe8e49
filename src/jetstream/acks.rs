//! One subscription for the acks of all publishes of a client.
//!
//! The client's own publish costs an inbox name, a permit, a timer and a reply parsed twice for
//! each event, and it never frees a publish that is never answered (nats.rs#1617). Here a publish
//! is a number that is known only while somebody waits for its ack, and a waiting publish is small.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::{PublishError, PublishErrorKind, SubscribeError};
use async_nats::jetstream::Error as JetStreamError;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::crash::{self, Point};
use crate::relay::ports::Ack;

/// Digits of the largest number.
const MAX_DIGITS: usize = 20;

/// Why a publish has no ack.
#[derive(Debug)]
pub(crate) enum NoAck {
    /// No reply came within the timeout.
    TimedOut,
    /// The client ended or could not send.
    ConnectionLost,
    /// No subscriber takes the subject.
    NoResponders,
    /// The client refused a message over the server's `max_payload`.
    TooLarge(PublishError),
    /// JetStream replied with an error.
    Refused(JetStreamError),
    /// The client refused for another reason, or the reply is no ack.
    Other(String),
}

/// The reply to a publish, not parsed yet.
type Answer = Result<Message, NoAck>;

/// Publishes over one client and waits for the acks.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: Arc<Waiting>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    timeout: Duration,
    tasks: [AbortHandle; 2],
}

/// A message on its way to the client. The bound is dispatch's: it limits the events in flight.
#[derive(Debug)]
struct Outgoing {
    number: u64,
    subject: Subject,
    headers: HeaderMap,
    payload: Bytes,
}

/// The publishes that wait for a reply.
#[derive(Debug, Default)]
struct Waiting(Mutex<Numbered>);

/// Publishes by number. Numbers rise with time, so the first publish is the next to time out.
#[derive(Debug, Default)]
struct Numbered {
    last: u64,
    publishes: BTreeMap<u64, Publish>,
}

/// A publish that waits for its reply.
#[derive(Debug)]
struct Publish {
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    fn with<T>(&self, then: impl FnOnce(&mut Numbered) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, until: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();

        let number = self.with(|numbered| {
            numbered.last += 1;
            numbered.publishes.insert(numbered.last, Publish { until, answer });
            numbered.last
        });

        (number, receiver)
    }

    fn is_wanted(&self, number: u64) -> bool {
        self.with(|numbered| {
            numbered.publishes.get(&number).is_some_and(|publish| !publish.answer.is_closed())
        })
    }

    fn answer(&self, number: u64, answer: Answer) {
        if let Some(publish) = self.with(|numbered| numbered.publishes.remove(&number)) {
            // The receiver may have been dropped. It needs no answer then.
            let _ = publish.answer.send(answer);
        }
    }

    /// Ends the publishes whose timeout is over. Returns when the next one times out.
    fn expire(&self, now: Instant) -> Option<Instant> {
        self.with(|numbered| {
            while let Some(first) = numbered.publishes.first_entry() {
                if first.get().until > now {
                    return Some(first.get().until);
                }
                let _ = first.remove().answer.send(Err(NoAck::TimedOut));
            }
            None
        })
    }
}

impl Acks {
    /// Subscribes to the acks. A publish without an ack after `timeout` has failed.
    ///
    /// # Errors
    /// When the client has ended.
    pub(crate) async fn subscribe(
        client: Client,
        timeout: Duration,
    ) -> Result<Self, SubscribeError> {
        // The client subscribes again after each reconnect.
        let inbox = format!("{}.", client.new_inbox());
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

    /// Publishes. The returned future waits for the ack.
    pub(crate) fn publish(
        self: Arc<Self>,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> impl Future<Output = Result<Ack, NoAck>> + Send + 'static {
        let (number, answer) = self.waiting.add(Instant::now() + self.timeout);
        let message = Outgoing { number, subject: subject.to_owned().into(), headers, payload };
        let is_queued = self.outgoing.send(message).is_ok();

        async move {
            if !is_queued {
                return Err(NoAck::ConnectionLost);
            }

            let answer = answer.await.map_err(|_| NoAck::ConnectionLost)?;

            // Held until here: a client that has been replaced ends with the last of its acks.
            drop(self);
            parse(&answer?)
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
        // A publish that timed out in this queue must not leave: its event may be tried again by
        // now.
        if !waiting.is_wanted(number) {
            continue;
        }

        let mut reply = String::with_capacity(inbox.len() + MAX_DIGITS);
        let _ = write!(reply, "{inbox}{number}");

        match client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
            Ok(()) => crash::here(Point::Submitted),
            Err(error) => waiting.answer(number, Err(not_sent(error))),
        }
    }
}

/// Why the client did not take a message.
fn not_sent(error: PublishError) -> NoAck {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => NoAck::TooLarge(error),
        PublishErrorKind::Send => NoAck::ConnectionLost,
        PublishErrorKind::InvalidSubject => NoAck::Other(error.to_string()),
    }
}

/// Hands replies to the publishes that wait for them, until the client ends. The number of a
/// publish begins at `number_at` in the subject of its reply.
async fn read(mut replies: Subscriber, number_at: usize, waiting: Arc<Waiting>, timeout: Duration) {
    let mut expiry = pin!(tokio::time::sleep(timeout));
    loop {
        tokio::select! {
            biased;
            reply = replies.next() => {
                let Some(reply) = reply else { break };
                let number = reply.subject.get(number_at..);
                if let Some(number) = number.and_then(|number| number.parse().ok()) {
                    waiting.answer(number, Ok(reply));
                }
            }
            // A publish that is added later times out later than this.
            () = &mut expiry => {
                let now = Instant::now();
                expiry.as_mut().reset(waiting.expire(now).unwrap_or(now + timeout));
            }
        }
    }

    waiting.with(|numbered| numbered.publishes.clear());
}

/// JetStream's reply to a publish: an ack or an error.
#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<JetStreamError>,
}

fn parse(reply: &Message) -> Result<Ack, NoAck> {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(NoAck::NoResponders);
    }

    let Reply { stream, seq, duplicate, error } = serde_json::from_slice(&reply.payload)
        .map_err(|error| NoAck::Other(format!("the reply is no ack: {error}")))?;
    match error {
        Some(error) => Err(NoAck::Refused(error)),
        // The reply is not JetStream's, or the message isn't stored yet.
        None if seq == 0 => Err(NoAck::Other("the ack has no sequence".to_owned())),
        None => Ok(Ack { stream, sequence: seq, duplicate }),
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
    fn a_publish_that_times_out_is_answered_and_forgotten() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let (first, mut first_answer) = waiting.add(now);
        let (second, mut second_answer) = waiting.add(now + Duration::from_secs(1));

        assert_eq!(waiting.expire(now), Some(now + Duration::from_secs(1)));
        let answer = first_answer.try_recv().expect("an answer");
        assert!(matches!(answer, Err(NoAck::TimedOut)), "{answer:?}");
        assert!(!waiting.is_wanted(first), "the first must not leave any more");
        assert!(waiting.is_wanted(second));

        second_answer.close();
        assert!(!waiting.is_wanted(second), "nobody waits");

        waiting.answer(first, Err(NoAck::ConnectionLost));
        assert_eq!(waiting.expire(now + Duration::from_secs(1)), None);
        assert!(waiting.with(|numbered| numbered.publishes.is_empty()));
    }

    #[test]
    fn a_reply_is_an_ack_only_with_a_sequence() {
        let reply = |payload: &str, status| Message {
            subject: "_INBOX.1".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status,
            description: None,
            length: payload.len(),
        };

        let ack = parse(&reply(r#"{"stream":"SHOP","seq":7,"duplicate":true}"#, None));
        let expected = Ack { stream: "SHOP".to_owned(), sequence: 7, duplicate: true };
        assert_eq!(ack.expect("an ack"), expected);

        let refused = r#"{"error":{"code":503,"err_code":10077,"description":"full"}}"#;
        let answer = parse(&reply(refused, None));
        assert!(matches!(answer, Err(NoAck::Refused(_))), "{answer:?}");

        let answer = parse(&reply("", Some(StatusCode::NO_RESPONDERS)));
        assert!(matches!(answer, Err(NoAck::NoResponders)), "{answer:?}");

        for no_ack in [r#"{"stream":"SHOP"}"#, "+OK", ""] {
            let answer = parse(&reply(no_ack, None));
            assert!(matches!(answer, Err(NoAck::Other(_))), "{no_ack}: {answer:?}");
        }
    }
}

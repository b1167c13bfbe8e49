//! One subscription for the acks of all publishes of a client.
//!
//! A publish may have several replies: a second stream on its subject, in a leaf node or behind an
//! import, replies as well, and so may a subscriber that is no stream. Only the expected stream, in
//! the expected domain, answers a publish. Another's reply is handed over beside the wait for the
//! answer, so that a publish without one can name who did reply.
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
use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::reply::{Expected, ForeignReply, Read};
use crate::crash::{self, Point};
use crate::relay::ports::Ack;

/// How long a reply that is no answer, or may be none, waits for the answer. Servers far apart reply
/// within a few hundred milliseconds, and only a refused event pays for it.
pub(super) const SECOND_REPLY: Duration = Duration::from_millis(500);
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
    /// The stream replied with an error.
    Refused(JetStreamError),
    /// Another replied. The answer may still come.
    Foreign(Box<Foreign>),
    /// The client refused for another reason.
    Other(String),
}

/// The answer to a publish.
type Answer = Result<Ack, NoAck>;

/// A reply that is no answer, and the wait for one.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) reply: ForeignReply,
    rest: oneshot::Receiver<Answer>,
    /// See [`Acks::publish`].
    acks: Option<Arc<Acks>>,
}

/// Publishes over one client and waits for the acks.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: Arc<Waiting>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    timeout: Duration,
    tasks: [AbortHandle; 2],
}

impl Foreign {
    /// Waits for the next reply: the answer, or another's.
    pub(crate) async fn rest(&mut self) -> Answer {
        let answer = (&mut self.rest).await.unwrap_or(Err(NoAck::ConnectionLost));
        match answer {
            Err(NoAck::Foreign(mut foreign)) => {
                foreign.acks = self.acks.take();
                Err(NoAck::Foreign(foreign))
            }
            answer => answer,
        }
    }
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

    /// Another than the expected stream replied: the publish learns of it and waits on.
    fn foreign(&self, number: u64, reply: ForeignReply) {
        self.with(|numbered| {
            let Some(publish) = numbered.publishes.get_mut(&number) else { return };
            let (answer, rest) = oneshot::channel();
            let foreign = Box::new(Foreign { reply, rest, acks: None });
            let _ =
                std::mem::replace(&mut publish.answer, answer).send(Err(NoAck::Foreign(foreign)));
        });
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
        expected: Arc<Expected>,
    ) -> Result<Self, SubscribeError> {
        // The client subscribes again after each reconnect.
        let inbox = format!("{}.", client.new_inbox());
        let replies = client.subscribe(format!("{inbox}*")).await?;

        let waiting = Arc::<Waiting>::default();
        let (outgoing, messages) = mpsc::unbounded_channel();
        let reading =
            Reading { number_at: inbox.len(), waiting: waiting.clone(), timeout, expected };
        let reading = tokio::spawn(reading.run(replies));
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

            // A client that has been replaced ends with the last of its acks.
            match answer.await.map_err(|_| NoAck::ConnectionLost)? {
                Err(NoAck::Foreign(mut foreign)) => {
                    foreign.acks = Some(self);
                    Err(NoAck::Foreign(foreign))
                }
                answer => answer,
            }
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

/// Hands replies to the publishes that wait for them.
struct Reading {
    /// Where the number of a publish begins in the subject of its reply.
    number_at: usize,
    waiting: Arc<Waiting>,
    timeout: Duration,
    expected: Arc<Expected>,
}

impl Reading {
    /// Runs until the client ends.
    async fn run(self, mut replies: Subscriber) {
        let mut expiry = pin!(tokio::time::sleep(self.timeout));
        loop {
            tokio::select! {
                biased;
                reply = replies.next() => {
                    let Some(reply) = reply else { break };
                    let number = reply.subject.get(self.number_at..);
                    if let Some(number) = number.and_then(|number| number.parse().ok()) {
                        self.take(number, &reply);
                    }
                }
                // A publish that is added later times out later than this.
                () = &mut expiry => {
                    let now = Instant::now();
                    expiry.as_mut().reset(self.waiting.expire(now).unwrap_or(now + self.timeout));
                }
            }
        }

        self.waiting.with(|numbered| numbered.publishes.clear());
    }

    fn take(&self, number: u64, reply: &Message) {
        match self.expected.read(reply) {
            Read::Ack(ack) => self.waiting.answer(number, Ok(ack)),
            Read::NoResponders => self.waiting.answer(number, Err(NoAck::NoResponders)),
            Read::Refused(error) => self.refused(number, error),
            Read::Foreign(reply) => {
                self.expected.has_others();
                self.waiting.foreign(number, reply);
            }
        }
    }

    /// A stream of the expected name refused. If it may be another domain's, the ack of the expected
    /// one gets a moment to arrive.
    fn refused(&self, number: u64, error: JetStreamError) {
        if self.expected.is_alone() {
            return self.waiting.answer(number, Err(NoAck::Refused(error)));
        }

        let (waiting, wait) = (self.waiting.clone(), SECOND_REPLY.min(self.timeout / 2));
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            waiting.answer(number, Err(NoAck::Refused(error)));
        });
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

    #[tokio::test]
    async fn a_publish_waits_on_after_anothers_reply() {
        let waiting = Waiting::default();
        let (number, answer) = waiting.add(Instant::now() + Duration::from_secs(1));
        waiting.foreign(number, ForeignReply::of_no_stream());
        waiting.foreign(number, ForeignReply::of_no_stream());
        waiting.answer(number, Ok(Ack { sequence: 7, duplicate: false }));

        let Ok(Err(NoAck::Foreign(mut foreign))) = answer.await else { panic!("a foreign reply") };
        let Err(NoAck::Foreign(mut second)) = foreign.rest().await else { panic!("the second") };
        assert!(second.rest().await.is_ok(), "the answer is the last");
    }
}

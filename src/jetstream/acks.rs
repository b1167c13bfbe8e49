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
//! The subject of a reply has a digest with a secret key, so whoever sees one can't make up another's.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::{PublishError, PublishErrorKind, SubscribeError};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::bursts::put_into_batch;
use super::message::Part;
use super::reply::{Expected, Read};
use super::waiting::{Answer, NoAck, Waiting};
use crate::crash::{self, Point};
use crate::relay::ports::Ack;
use crate::task;

/// Digits of the digest of a number, and of the largest number.
const DIGEST_DIGITS: usize = 16;
const MAX_DIGITS: usize = 20;
/// In the place of a publish's number.
const ECHO: &str = "echo";

/// Publishes over one client and waits for the acks.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: Arc<Waiting>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    digest: Digest,
    timeout: Duration,
    /// The subject of the reply to a request that only tries the subscription.
    echo: String,
    echoed: Arc<Notify>,
    tasks: [AbortHandle; 2],
}

/// A message on its way to the client. The bound is dispatch's: it limits the events in flight.
#[derive(Debug)]
struct Outgoing {
    number: u64,
    part: Part,
    /// Whether the ack is of this message: the last of a batch, or a message of its own.
    is_last: bool,
}

impl Acks {
    /// Subscribes to the acks, whose subjects begin with `inbox`. A publish without an ack after
    /// `timeout` has failed.
    ///
    /// # Errors
    /// When the client has ended.
    pub(crate) async fn subscribe(
        client: Client,
        inbox: String,
        timeout: Duration,
        expected: Arc<Expected>,
    ) -> Result<Self, SubscribeError> {
        // The client subscribes again after each reconnect.
        let replies = client.subscribe(format!("{inbox}*")).await?;

        let (waiting, digest) = (Arc::<Waiting>::default(), Digest::default());
        let (outgoing, messages) = mpsc::unbounded_channel();
        let (echo, echoed) = (format!("{inbox}{ECHO}"), Arc::<Notify>::default());
        let reading = Reading {
            inbox: inbox.len(),
            digest: digest.clone(),
            waiting: waiting.clone(),
            echoed: echoed.clone(),
            timeout,
            expected,
        };
        let reading = task::spawn(reading.run(replies));
        let writing = task::spawn(write(client, messages, inbox, digest.clone(), waiting.clone()));

        Ok(Self {
            waiting,
            outgoing,
            digest,
            timeout,
            echo,
            echoed,
            tasks: [reading.abort_handle(), writing.abort_handle()],
        })
    }

    /// Makes this request, and waits for its reply where acks arrive. Returns whether it was sent.
    pub(super) async fn echo(&self, client: &Client, request: &str) -> bool {
        let mut echoed = pin!(self.echoed.notified());
        // Registers before the request, so that a reply to an earlier one doesn't count.
        echoed.as_mut().enable();

        let (request, reply) = (request.to_owned(), self.echo.clone());
        let is_sent = client.publish_with_reply(request, reply, Bytes::new()).await.is_ok();
        if is_sent {
            echoed.await;
        }

        is_sent
    }

    /// Publishes. The returned future waits for the ack.
    pub(super) fn publish(
        self: Arc<Self>,
        part: Part,
    ) -> impl Future<Output = Result<Ack, NoAck>> + Send + 'static {
        let (number, answer) = self.waiting.add(Instant::now() + self.timeout);
        let is_queued = self.outgoing.send(Outgoing { number, part, is_last: true }).is_ok();
        self.answer(is_queued, answer)
    }

    /// Publishes a batch. The returned future waits for the ack of its last message.
    pub(super) fn publish_batch(
        self: Arc<Self>,
        parts: Vec<Part>,
    ) -> impl Future<Output = Result<Ack, NoAck>> + Send + 'static {
        let (number, answer) = self.waiting.add(Instant::now() + self.timeout);
        let (id, of, mut is_queued) = (self.digest.batch(number), parts.len(), true);
        for (mut part, place) in parts.into_iter().zip(1..) {
            put_into_batch(&mut part.headers, &id, place, of);
            let outgoing = Outgoing { number, part, is_last: place == of };
            is_queued = self.outgoing.send(outgoing).is_ok();
        }
        self.answer(is_queued, answer)
    }

    async fn answer(
        self: Arc<Self>,
        is_queued: bool,
        answer: oneshot::Receiver<Answer>,
    ) -> Result<Ack, NoAck> {
        if !is_queued {
            return Err(NoAck::ConnectionLost);
        }

        // A client that has been replaced ends with the last of its acks.
        match answer.await.map_err(|_| NoAck::ConnectionLost)? {
            Err(NoAck::Unsure(mut unsure)) => {
                unsure.keep(self.waiting.clone(), self);
                Err(NoAck::Unsure(unsure))
            }
            answer => answer,
        }
    }

    /// The stream has reached this sequence.
    pub(super) fn confirm(&self, reached: u64) {
        self.waiting.confirm(reached);
    }
}

/// The secret part of the subjects of replies.
#[derive(Debug, Clone, Default)]
struct Digest(RandomState);

impl Digest {
    /// What follows the inbox in the subject of the reply to this publish.
    fn append(&self, reply: &mut String, number: u64) {
        let _ = write!(reply, "{:016x}{number}", self.0.hash_one(number));
    }

    /// An id that no other batch has, and that tells nothing of the subject of the reply.
    fn batch(&self, number: u64) -> String {
        format!("{:016x}{number}", self.0.hash_one(("batch", number)))
    }

    /// The publish that a reply belongs to, from what follows the inbox in its subject.
    fn number(&self, token: &str) -> Option<u64> {
        let (digest, number) = token.split_at_checked(DIGEST_DIGITS)?;
        let number = number.parse().ok()?;
        (u64::from_str_radix(digest, 16) == Ok(self.0.hash_one(number))).then_some(number)
    }
}

/// Hands messages to the client, as fast as it takes them.
async fn write(
    client: Client,
    mut messages: mpsc::UnboundedReceiver<Outgoing>,
    inbox: String,
    digest: Digest,
    waiting: Arc<Waiting>,
) {
    while let Some(Outgoing { number, part, is_last }) = messages.recv().await {
        // A publish that timed out in this queue must not leave: its event may be tried again by
        // now. Of a batch, nothing leaves behind a message that did not.
        if !waiting.is_wanted(number) {
            continue;
        }

        let Part { subject, headers, payload } = part;
        if !is_last {
            if let Err(error) = client.publish_with_headers(subject, headers, payload).await {
                waiting.fail(number, not_sent(error));
            }
            continue;
        }

        let mut reply = String::with_capacity(inbox.len() + DIGEST_DIGITS + MAX_DIGITS);
        reply.push_str(&inbox);
        digest.append(&mut reply, number);

        match client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
            Ok(()) => crash::here(Point::Submitted),
            Err(error) => waiting.fail(number, not_sent(error)),
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
    /// The length of the inbox in the subject of a reply.
    inbox: usize,
    digest: Digest,
    waiting: Arc<Waiting>,
    echoed: Arc<Notify>,
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
                    let token = reply.subject.get(self.inbox..).unwrap_or_default();
                    match self.digest.number(token) {
                        Some(number) => self.take(number, &reply),
                        None if token == ECHO => self.echoed.notify_waiters(),
                        None => {}
                    }
                }
                // A publish that is added later times out later than this.
                () = &mut expiry => {
                    let now = Instant::now();
                    expiry.as_mut().reset(self.waiting.expire(now).unwrap_or(now + self.timeout));
                }
            }
        }

        self.waiting.end();
    }

    fn take(&self, number: u64, reply: &Message) {
        let Self { waiting, expected, .. } = self;
        match expected.read(reply) {
            Read::Ack(ack) => waiting.ack(number, ack, &expected.forgeries),
            Read::NoResponders => waiting.no_responders(number, &expected.forgeries),
            Read::Refused(error) => {
                waiting.refused(number, error, expected.is_alone(), &expected.forgeries);
            }
            Read::Foreign(reply) => {
                expected.has_others();
                waiting.foreign(number, reply);
            }
        }
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
    use super::Digest;

    #[test]
    fn the_subject_of_a_reply_cannot_be_made_up() {
        let (digest, other) = (Digest::default(), Digest::default());
        let mut token = String::new();
        digest.append(&mut token, 12);
        assert_eq!(digest.number(&token), Some(12));
        assert_eq!(other.number(&token), None);
        for made_up in ["12", "", "0000000000000000", &format!("{}3", &token[..16]), "é"] {
            assert_eq!(digest.number(made_up), None, "{made_up}");
        }
    }
}

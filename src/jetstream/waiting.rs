//! The publishes that wait for a reply, and what becomes of the replies.
//!
//! An ack that fits the ones before it is the answer. Whatever else replies, in the stream's name or
//! another's, is handed over beside the wait for more, because a neighbour may have sent it
//! (`examine` decides). A second answer to a publish is a sign of a forger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::client::PublishError;
use async_nats::jetstream::Error as JetStreamError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::forgeries::Forgeries;
use super::reply::ForeignReply;
use super::sequences::{Fit, Sequences};
use crate::failure::{NO_RESPONDERS, Rejection, TIMEOUT};
use crate::relay::ports::Ack;

/// Replies of one publish that are handed over: a neighbour may send any number. What comes later
/// counts in the next try.
const MAX_REPLIES: u8 = 32;
/// Publishes without an answer that are remembered, because their answer may be late. In an outage a
/// few hundred are tried again every few seconds.
const MAX_UNANSWERED: usize = 1 << 14;

/// Why a publish has no ack.
#[derive(Debug)]
pub(crate) enum NoAck {
    /// No reply came within the timeout.
    TimedOut,
    /// The client ended or could not send.
    ConnectionLost,
    /// The client refused a message over the server's `max_payload`.
    TooLarge(PublishError),
    /// Something replied that may not be the answer. That may still come.
    Unsure(Box<Unsure>),
    /// The client refused for another reason.
    Other(String),
}

/// The answer to a publish.
pub(super) type Answer = Result<Ack, NoAck>;

/// A reply that may not be the answer, and the wait for more.
#[derive(Debug)]
pub(crate) struct Unsure {
    pub(super) said: Said,
    number: u64,
    rest: oneshot::Receiver<Answer>,
    source: Option<Source>,
}

/// Where more replies come from.
#[derive(Debug)]
struct Source {
    waiting: Arc<Waiting>,
    /// Keeps the subscription.
    _acks: Arc<dyn fmt::Debug + Send + Sync>,
}

/// What replied to a publish.
#[derive(Debug)]
pub(super) enum Said {
    /// The stream, or a forger, acked.
    Ack(Ack),
    /// The stream, one of its name in another domain, or a forger refused.
    Refused(JetStreamError),
    /// No subscriber takes the subject.
    NoResponders,
    /// Another replied.
    Foreign(ForeignReply),
    /// It was looked at already.
    Nothing,
}

impl Unsure {
    /// Keeps the subscription until the publish has its answer, even if its client was replaced.
    pub(super) fn keep(&mut self, waiting: Arc<Waiting>, acks: Arc<dyn fmt::Debug + Send + Sync>) {
        self.source = Some(Source { waiting, _acks: acks });
    }

    /// Waits for the next reply.
    pub(crate) async fn rest(&mut self) -> Answer {
        let answer = (&mut self.rest).await.unwrap_or(Err(NoAck::ConnectionLost));
        match answer {
            Err(NoAck::Unsure(mut next)) => {
                next.source = self.source.take();
                Err(NoAck::Unsure(next))
            }
            answer => answer,
        }
    }

    /// What it comes to for whoever waits for no more: all is published again.
    pub(super) fn without_rest(self) -> Rejection {
        match self.said {
            Said::Refused(ref error) => {
                self.answered(None);
                Rejection::of_jetstream(error.error_code().0, error.to_string())
            }
            Said::NoResponders => {
                Rejection::new(NO_RESPONDERS, "no one takes the subject at the moment")
            }
            Said::Ack(_) | Said::Foreign(_) | Said::Nothing => {
                Rejection::new(TIMEOUT, "somebody replied who may not be the stream")
            }
        }
    }

    /// The publish has its answer. The stream has the message of an ack at this sequence.
    pub(super) fn answered(&self, stored: Option<u64>) {
        if let Some(Source { waiting, .. }) = &self.source {
            waiting.with(|numbered| {
                numbered.publishes.remove(&self.number);
                stored.into_iter().for_each(|sequence| numbered.sequences.go_back(sequence));
            });
        }
    }
}

/// The publishes that wait for a reply.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Numbered>);

/// Publishes by number. Numbers rise with time, so the first publish is the next to time out.
#[derive(Debug, Default)]
struct Numbered {
    last: u64,
    publishes: BTreeMap<u64, Publish>,
    /// Those that ended without an answer.
    unanswered: BTreeSet<u64>,
    /// Up to here it is not known any more which publishes had an answer.
    forgotten: u64,
    sequences: Sequences,
}

/// A publish that waits for its reply.
#[derive(Debug)]
struct Publish {
    until: Instant,
    answer: oneshot::Sender<Answer>,
    /// Whether something replied in the stream's name.
    has_reply: bool,
    replies: u8,
}

impl Numbered {
    /// A reply in the stream's name came. Returns whether it is the second of its publish.
    fn replied(&mut self, number: u64) -> bool {
        match self.publishes.get_mut(&number) {
            Some(publish) => std::mem::replace(&mut publish.has_reply, true),
            None => {
                (self.forgotten + 1..=self.last).contains(&number)
                    && !self.unanswered.contains(&number)
            }
        }
    }

    /// The answer to this publish may be late.
    fn leave_unanswered(&mut self, number: u64) {
        if self.unanswered.len() == MAX_UNANSWERED {
            self.forgotten = self.unanswered.pop_first().unwrap_or(self.forgotten);
        }
        self.unanswered.insert(number);
    }

    /// Hands a reply over and lets the publish wait on.
    fn hand_over(&mut self, number: u64, said: Said) {
        let Some(publish) = self.publishes.get_mut(&number) else { return };
        if publish.replies == MAX_REPLIES {
            return;
        }
        publish.replies += 1;

        let (answer, rest) = oneshot::channel();
        let unsure = Box::new(Unsure { said, number, rest, source: None });
        // The receiver may have been dropped. It needs no reply then.
        let _ = std::mem::replace(&mut publish.answer, answer).send(Err(NoAck::Unsure(unsure)));
    }
}

impl Waiting {
    /// The stream has reached this sequence.
    pub(super) fn confirm(&self, reached: u64) {
        self.with(|numbered| numbered.sequences.confirm(reached));
    }

    /// Ends all publishes.
    pub(super) fn end(&self) {
        self.with(|numbered| numbered.publishes.clear());
    }

    fn with<T>(&self, then: impl FnOnce(&mut Numbered) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(&self, until: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();

        let number = self.with(|numbered| {
            numbered.last += 1;
            let publish = Publish { until, answer, has_reply: false, replies: 0 };
            numbered.publishes.insert(numbered.last, publish);
            numbered.last
        });

        (number, receiver)
    }

    pub(super) fn is_wanted(&self, number: u64) -> bool {
        self.with(|numbered| {
            numbered.publishes.get(&number).is_some_and(|publish| !publish.answer.is_closed())
        })
    }

    /// Ends a publish without an ack.
    pub(super) fn fail(&self, number: u64, no_ack: NoAck) {
        let publish = self.with(|numbered| {
            let publish = numbered.publishes.remove(&number)?;
            numbered.leave_unanswered(number);
            Some(publish)
        });
        if let Some(publish) = publish {
            // The receiver may have been dropped. It needs no answer then.
            let _ = publish.answer.send(Err(no_ack));
        }
    }

    /// An ack in the stream's name is the answer if it fits those before it.
    pub(super) fn ack(&self, number: u64, ack: Ack, forgeries: &Forgeries) {
        let mut sign = None;
        let answered = self.with(|numbered| {
            if numbered.replied(number) {
                sign = Some("a second answer came to one publish, an ack");
            }
            if !numbered.publishes.contains_key(&number) {
                return None;
            }

            let is_plain = !ack.duplicate && !forgeries.must_verify();
            let fit = if is_plain { numbered.sequences.take(ack.sequence) } else { Fit::Behind };
            if fit == Fit::UsedTwice {
                sign = Some("two acks named the same sequence");
            }
            if fit != Fit::Next || sign.is_some() {
                numbered.hand_over(number, Said::Ack(ack));
                return None;
            }
            numbered.publishes.remove(&number)
        });

        if let Some(sign) = sign {
            forgeries.sign(|| format!("{sign} of sequence {}", ack.sequence));
        }
        if let Some(publish) = answered {
            let _ = publish.answer.send(Ok(ack));
        }
    }

    /// A refusal in the stream's name, or in that of one in another domain if the stream is not
    /// alone.
    pub(super) fn refused(
        &self,
        number: u64,
        error: JetStreamError,
        is_alone: bool,
        forgeries: &Forgeries,
    ) {
        let is_second = self.with(|numbered| {
            let is_second = is_alone && numbered.replied(number);
            if let Some(publish) = numbered.publishes.get(&number)
                && !publish.answer.is_closed()
            {
                numbered.hand_over(number, Said::Refused(error));
            }
            is_second
        });
        if is_second {
            forgeries.sign(|| "a second answer came to one publish, a refusal".to_owned());
        }
    }

    /// Another than the expected stream replied.
    pub(super) fn foreign(&self, number: u64, reply: ForeignReply) {
        self.with(|numbered| numbered.hand_over(number, Said::Foreign(reply)));
    }

    /// The server says that nobody takes the subject, unless somebody else says so.
    pub(super) fn no_responders(&self, number: u64, forgeries: &Forgeries) {
        let is_second = self.with(|numbered| {
            numbered.hand_over(number, Said::NoResponders);
            numbered.replied(number)
        });
        if is_second {
            forgeries.sign(|| {
                "a second answer came to one publish, that there are no responders".to_owned()
            });
        }
    }

    /// Ends the publishes whose timeout is over. Returns when the next one times out.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        self.with(|numbered| {
            while let Some(first) = numbered.publishes.first_entry() {
                if first.get().until > now {
                    return Some(first.get().until);
                }
                let (number, publish) = first.remove_entry();
                let _ = publish.answer.send(Err(NoAck::TimedOut));
                numbered.leave_unanswered(number);
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::VerifyAcks;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn a_publish_that_times_out_is_answered_and_its_answer_may_be_late() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let forgeries = Forgeries::new(VerifyAcks::Suspicious);
        let (first, mut first_answer) = waiting.add(now);
        let (second, mut second_answer) = waiting.add(now + Duration::from_secs(1));

        assert_eq!(waiting.expire(now), Some(now + Duration::from_secs(1)));
        let answer = first_answer.try_recv().expect("an answer");
        assert!(matches!(answer, Err(NoAck::TimedOut)), "{answer:?}");
        assert!(!waiting.is_wanted(first), "the first must not leave any more");
        assert!(waiting.is_wanted(second));

        second_answer.close();
        assert!(!waiting.is_wanted(second), "nobody waits");

        waiting.ack(first, Ack::new(1, false), &forgeries);
        assert_eq!(waiting.expire(now + Duration::from_secs(1)), None);
        assert!(waiting.with(|numbered| numbered.publishes.is_empty()));
        waiting.ack(second, Ack::new(2, false), &forgeries);
        waiting.ack(7, Ack::new(3, false), &forgeries);
        assert!(!forgeries.must_verify());
    }

    #[tokio::test]
    async fn a_publish_waits_on_after_anothers_reply() {
        let (waiting, forgeries) = (Waiting::default(), Forgeries::new(VerifyAcks::Suspicious));
        let (number, answer) = waiting.add(soon());
        waiting.foreign(number, ForeignReply::of_no_stream());
        waiting.foreign(number, ForeignReply::of_no_stream());
        waiting.ack(number, Ack::new(7, false), &forgeries);

        let Ok(Err(NoAck::Unsure(mut first))) = answer.await else { panic!("a foreign reply") };
        let Err(NoAck::Unsure(mut second)) = first.rest().await else { panic!("the second") };
        assert!(second.rest().await.is_ok(), "the answer is the last");
        assert!(!forgeries.must_verify());
    }

    #[test]
    fn a_second_answer_to_a_publish_is_a_sign_of_a_forger() {
        type Reply = fn(&Waiting, u64, &Forgeries);
        let replies: [Reply; 3] = [
            |waiting, number, forgeries| waiting.ack(number, Ack::new(7, false), forgeries),
            |waiting, number, forgeries| waiting.no_responders(number, forgeries),
            |waiting, number, forgeries| {
                let error = r#"{"code":503,"err_code":10077,"description":"full"}"#;
                let error = serde_json::from_str(error).expect("an error");
                waiting.refused(number, error, true, forgeries);
            },
        ];

        for first in replies {
            for second in replies {
                let forgeries = Forgeries::new(VerifyAcks::Suspicious);
                let waiting = Waiting::default();
                let (number, _answer) = waiting.add(soon());
                first(&waiting, number, &forgeries);
                assert!(!forgeries.must_verify());
                second(&waiting, number, &forgeries);
                assert!(forgeries.must_verify());
            }
        }
    }

    #[test]
    fn only_an_ack_that_fits_is_the_answer() {
        let (waiting, forgeries) = (Waiting::default(), Forgeries::new(VerifyAcks::Suspicious));
        let mut answers = Vec::new();
        for (sequence, duplicate) in [(5, false), (6, true), (6, false), (4, false), (6, false)] {
            let (number, mut answer) = waiting.add(soon());
            waiting.ack(number, Ack::new(sequence, duplicate), &forgeries);
            answers.push((answer.try_recv().expect("a reply").is_ok(), forgeries.must_verify()));
        }
        let expected =
            [(true, false), (false, false), (true, false), (false, false), (false, true)];
        assert_eq!(answers, expected);
    }

    #[test]
    fn a_flood_of_replies_takes_little_memory() {
        let waiting = Waiting::default();
        let (number, mut answer) = waiting.add(soon());
        (0..1000).for_each(|_| waiting.foreign(number, ForeignReply::of_no_stream()));

        let mut replies = 0;
        while let Ok(Err(NoAck::Unsure(unsure))) = answer.try_recv() {
            (answer, replies) = (unsure.rest, replies + 1);
        }
        assert_eq!(replies, MAX_REPLIES);
    }
}

//! Which of several answers to a publish counts.
//!
//! A neighbour that may answer a publish is often faster than the stream. So an ack that doesn't fit
//! counts once the stream is seen to have the message, and a refusal waits for an ack. What the
//! stream itself says of its configuration decides whether it takes a subject.
//! An ordinary ack never comes here.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use tokio::time::{Instant, timeout};

use super::bus::{JetStream, classify};
use super::facts::removes;
use super::reply::ForeignReply;
use super::waiting::{NoAck, Said, Unsure};
use crate::failure::{
    ACK_UNCHECKED, Class, DUPLICATE_UNCHECKED, NO_RESPONDERS, NOT_BEHIND, NOT_COVERED,
    OTHER_STREAM, Rejection, TIMEOUT, look_up,
};
use crate::relay::ports::{Ack, Message};
use crate::relay::publish::outcome::Held;

/// How long a reply that is no answer waits for the answer. Servers far apart reply within a few
/// hundred milliseconds, and only a refused event pays for it.
const SECOND_REPLY: Duration = Duration::from_millis(500);
/// The same for a refusal by the stream, if no other domain's stream may have sent it.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);
/// The same for the ack of a duplicate whose message is another. The stream was asked for that
/// message in the meantime, so its own ack is on the way.
const AFTER_DUPLICATE: Duration = Duration::from_millis(50);
/// How long before a refusal that kills its event the stream must have answered, besides afterwards.
/// Otherwise it may have been away, and only a neighbour refused. The next try comes sooner.
const ALIVE: Duration = Duration::from_secs(2);

/// What counts if nothing better replies.
enum Best {
    Nothing,
    /// Only others replied.
    Foreign(ForeignReply),
    /// The ack of a duplicate of another message.
    Duplicate(Ack),
    Refusal(Rejection),
}

/// Whether the message names one before it, and the refusal is for that.
fn is_not_behind(message: &Message<'_>, refused: ErrorCode) -> bool {
    message.behind.is_some() && refused == ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID
}

impl JetStream {
    /// Waits for the answer to a publish to which something replied that may not be the answer.
    pub(super) async fn examine(
        &self,
        mut unsure: Box<Unsure>,
        message: &Message<'_>,
    ) -> Result<Ack, Rejection> {
        let (began, mut best) = (Instant::now(), Best::Nothing);
        let was_alive = self.answered_within(ALIVE);
        loop {
            let wait = match std::mem::replace(&mut unsure.said, Said::Nothing) {
                Said::Ack(ack) => match self.seen(ack, message).await? {
                    Some(ack) => {
                        unsure.answered((!ack.duplicate).then_some(ack.sequence));
                        return Ok(ack);
                    }
                    None if ack.duplicate => {
                        if !matches!(best, Best::Refusal(_)) {
                            best = Best::Duplicate(ack);
                        }
                        AFTER_DUPLICATE
                    }
                    None => {
                        self.sign_of(ack);
                        SECOND_REPLY
                    }
                },
                // Whoever refuses this: it is published once more, alone.
                Said::Refused(error) if is_not_behind(message, error.error_code()) => {
                    unsure.answered(None);
                    return Err(Rejection::new(NOT_BEHIND, error.to_string()));
                }
                Said::Refused(error) => {
                    let error = Rejection::of_jetstream(error.error_code().0, error.to_string());
                    best = milder(best, error);
                    self.wait_after_refusal()
                }
                Said::NoResponders => {
                    let error = "no one takes the subject at the moment";
                    best = milder(best, Rejection::new(NO_RESPONDERS, error));
                    self.wait_after_refusal()
                }
                Said::Foreign(reply) => {
                    if let Best::Nothing = best {
                        best = Best::Foreign(reply);
                    }
                    SECOND_REPLY
                }
                Said::Nothing => SECOND_REPLY,
            };

            let wait = wait.min(self.nats.ack_timeout / 2);
            match timeout(wait, unsure.rest()).await {
                Ok(Err(NoAck::Unsure(next))) => unsure = next,
                Ok(Err(NoAck::TimedOut)) => return self.at_timeout(best),
                Ok(answer) => return answer.map_err(classify),
                Err(_) => {
                    if let Some(ended) =
                        self.conclude(&mut best, &unsure, (began, was_alive), message).await
                    {
                        return ended;
                    }
                    match unsure.rest().await {
                        Err(NoAck::Unsure(next)) => unsure = next,
                        Err(NoAck::TimedOut) => return self.at_timeout(best),
                        answer => return answer.map_err(classify),
                    }
                }
            }
        }
    }

    /// What it comes to when nothing else replied for a while; `None` to wait for the timeout.
    async fn conclude(
        &self,
        best: &mut Best,
        unsure: &Unsure,
        (began, was_alive): (Instant, bool),
        message: &Message<'_>,
    ) -> Option<Result<Ack, Rejection>> {
        let is_definite = match best {
            Best::Duplicate(ack) => {
                unsure.answered(None);
                return Some(Ok(*ack));
            }
            Best::Refusal(rejection) => rejection.is_definite(),
            Best::Nothing | Best::Foreign(_) => true,
        };

        // Without the stream's own word, nothing marks an event: the refusal may be a neighbour's.
        let covers = match is_definite {
            true => self.look(began).await.map(|seen| seen.covers(message.subject.as_str())),
            false => Some(true),
        };
        // The servers of the stream may have been given another domain.
        if let Best::Foreign(reply) = best
            && let Some(ack) = self.nats.expected.ack_in(reply)
        {
            return Some(Ok(ack));
        }

        let ended = match (std::mem::replace(best, Best::Nothing), covers) {
            (Best::Refusal(rejection), Some(false)) if rejection.class == Class::Poison => {
                not_covered(&self.name, message)
            }
            (Best::Refusal(rejection), Some(_))
                if was_alive || rejection.class != Class::Poison =>
            {
                rejection
            }
            (Best::Refusal(rejection), _) => {
                let error = format!(
                    "a refusal came, and stream {} may not have been there: {}",
                    self.name, rejection.error
                );
                Rejection::new(TIMEOUT, error)
            }
            (Best::Foreign(reply), Some(false)) => self.anothers(&reply),
            (Best::Nothing, Some(false)) => not_covered(&self.name, message),
            (undecided, _) => {
                *best = undecided;
                return None;
            }
        };

        unsure.answered(None);
        Some(Err(ended))
    }

    fn wait_after_refusal(&self) -> Duration {
        if self.nats.expected.is_alone() { AFTER_REFUSAL } else { SECOND_REPLY }
    }

    fn at_timeout(&self, best: Best) -> Result<Ack, Rejection> {
        Err(match best {
            Best::Duplicate(ack) => return Ok(ack),
            Best::Refusal(rejection) => rejection,
            Best::Foreign(reply) => {
                Rejection::new(TIMEOUT, format!("no ack of stream {} in time; {reply}", self.name))
            }
            Best::Nothing => self.untrue(),
        })
    }

    /// The ack, if it is true: the stream has this very event at its sequence.
    ///
    /// # Errors
    /// When the stream does not say what it has there.
    async fn seen(&self, ack: Ack, message: &Message<'_>) -> Result<Option<Ack>, Rejection> {
        let (asked, reached) = (Instant::now(), self.reached());
        let held = match self.held(ack.sequence, message).await {
            Ok(held) => held,
            Err(error) if error.code == DUPLICATE_UNCHECKED && !ack.duplicate => {
                return Err(Rejection::new(ACK_UNCHECKED, error.error));
            }
            Err(error) => return Err(error),
        };

        match held {
            Held::This => return Ok(Some(Ack { seen: true, ..ack })),
            Held::Nothing | Held::OtherSubject(_) if !ack.duplicate => {}
            _ => return Ok(None),
        }

        let Some(stream) = self.look(asked).await else {
            let error = format!("stream {} did not describe itself in time", self.name);
            return Err(Rejection::new(TIMEOUT, error));
        };
        Ok(match held {
            // A subject mapping of the account renamed it on its way.
            Held::OtherSubject(subject)
                if stream.covers(&subject) && !stream.covers(message.subject.as_str()) =>
            {
                Some(Ack { seen: true, ..ack })
            }
            // It may have been there: the settler asks the stream once more.
            Held::Nothing if removes(&stream.config) && stream.may_have_had(ack, reached) => {
                Some(ack)
            }
            _ => None,
        })
    }

    /// An ack of a subject that the stream did not take when it was last seen, or of a sequence that
    /// it had reached before the publish.
    pub(super) async fn implausible(
        &self,
        ack: Ack,
        reached: u64,
        message: &Message<'_>,
    ) -> Result<Ack, Rejection> {
        let Some(stream) = self.look(Instant::now()).await else {
            let error = format!("an ack came, and stream {} does not describe itself", self.name);
            return Err(Rejection::new(TIMEOUT, error));
        };
        let is_covered = stream.covers(message.subject.as_str());
        if is_covered && ack.sequence > reached {
            return Ok(ack);
        }

        match self.seen(ack, message).await? {
            Some(ack) => Ok(ack),
            None => {
                self.sign_of(ack);
                Err(match is_covered {
                    true => self.untrue(),
                    false => not_covered(&self.name, message),
                })
            }
        }
    }

    fn untrue(&self) -> Rejection {
        let error = format!(
            "no ack of stream {} in time; somebody else sent one, and the stream does not have the \
             message that it names",
            self.name
        );
        Rejection::new(TIMEOUT, error)
    }

    /// An ack was not true.
    fn sign_of(&self, Ack { sequence, .. }: Ack) {
        self.nats.expected.forgeries.sign(|| {
            format!("an ack named sequence {sequence}, where the stream does not have the event")
        });
    }

    /// Why a publish to a subject that only others take has failed.
    fn anothers(&self, reply: &ForeignReply) -> Rejection {
        // Whoever may answer can send any code, so none makes the event dead at once.
        let of_server = reply
            .code
            .map(|code| code.to_string())
            .filter(|code| look_up(code).is_some_and(|rule| rule.class != Class::Poison));
        let code = match of_server {
            Some(code) => code,
            None if reply.is_stored() => OTHER_STREAM.to_owned(),
            None => NOT_COVERED.to_owned(),
        };

        Rejection::new(code, format!("no subject of stream {} covers this one; {reply}", self.name))
    }
}

/// No subject of the stream covers the event's.
fn not_covered(stream: &str, message: &Message<'_>) -> Rejection {
    let subject = message.subject.as_str();
    Rejection::new(NOT_COVERED, format!("no subject of stream {stream} covers {subject}"))
}

/// What counts of two refusals: the one that costs the event less. A forger can only repeat itself.
fn milder(best: Best, rejection: Rejection) -> Best {
    let severity = |rejection: &Rejection| match rejection.class {
        Class::Unknown | Class::Transient => 0,
        Class::Config => 1,
        Class::Poison => 2,
    };
    match best {
        Best::Refusal(before) if severity(&before) <= severity(&rejection) => Best::Refusal(before),
        _ => Best::Refusal(rejection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_refusals_the_milder_counts() {
        let class_of = |codes: &[&str]| {
            let best = codes
                .iter()
                .fold(Best::Nothing, |best, code| milder(best, Rejection::new(*code, "refused")));
            let Best::Refusal(rejection) = best else { panic!("a refusal") };
            rejection.class
        };
        assert_eq!(class_of(&["10054"]), Class::Poison);
        assert_eq!(class_of(&["10054", "10060"]), Class::Config);
        assert_eq!(class_of(&["10060", "10054"]), Class::Config);
        assert_eq!(class_of(&["10054", "10077", "10060"]), Class::Transient);
    }
}

//! What a listener does with a message after its handler has answered.

use std::collections::HashMap;
use std::time::Duration;

use crate::verdict::{HandleError, Verdict};

/// The first of the delays that double with each answer of a kind.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest of them.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Doublings that a delay of an error begins with: more time than for a message that is early.
const AFTER_ERROR: u32 = 2;
/// Most messages whose answers are remembered. They are forgotten when that is reached: then a
/// message is tried more often before it is put aside.
const MAX_REMEMBERED: usize = 8_192;

/// How often a message may be tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Errors, before it is put aside.
    pub(super) deliveries: u32,
    /// Times that an earlier message is missing.
    pub(super) later: u32,
}

/// What a listener does with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Ack,
    /// Asks for it again after this delay.
    Again(Duration),
    /// Writes it to `<inbox>_failed` with this reason, then acks it.
    PutAside(String),
}

/// The answers to messages that may come again, by their place in the stream.
///
/// Only of this instance: the server counts deliveries, but not what came of them.
#[derive(Debug, Default)]
pub(super) struct Answers(HashMap<u64, Count>);

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    errors: u32,
    later: u32,
}

impl Answers {
    /// After a handler's answer to the message at `sequence`.
    pub(super) fn step(
        &mut self,
        sequence: u64,
        answer: &Result<Verdict, HandleError>,
        limits: Limits,
    ) -> Step {
        let mut count = self.0.remove(&sequence).unwrap_or_default();
        let delay = match answer {
            Ok(Verdict::Done) => return Step::Ack,
            Err(HandleError::Unprocessable(reason)) => return Step::PutAside(reason.clone()),
            Ok(Verdict::Later) => {
                count.later += 1;
                if count.later >= limits.later {
                    return Step::PutAside("an earlier message is missing".to_owned());
                }
                delay(count.later)
            }
            Err(error) => {
                count.errors += 1;
                if count.errors >= limits.deliveries {
                    return Step::PutAside(error.reason());
                }
                delay(count.errors + AFTER_ERROR)
            }
        };

        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(sequence, count);
        Step::Again(delay)
    }
}

/// Twice as long each time.
fn delay(time: u32) -> Duration {
    (FIRST_DELAY * (1 << time.saturating_sub(1).min(16))).min(LONGEST_DELAY)
}

/// A message that comes more often than handlers may answer has ended the instances that got it.
pub(super) fn is_never_answered(deliveries: u32, limits: Limits) -> bool {
    deliveries > limits.deliveries.saturating_add(limits.later)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { deliveries: 10, later: 100 };

    fn millis(millis: u64) -> Step {
        Step::Again(Duration::from_millis(millis))
    }

    #[test]
    fn a_message_whose_predecessor_is_missing_is_asked_for_again_and_not_for_ever() {
        let mut answers = Answers::default();
        let mut later = || answers.step(7, &Ok(Verdict::Later), LIMITS);
        let delays: Vec<_> = (0..7).map(|_| later()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 10_000].map(millis));
        assert!((7..99).all(|_| later() == millis(10_000)));
        assert_eq!(later(), Step::PutAside("an earlier message is missing".to_owned()));
    }

    #[test]
    fn an_error_is_tried_again_and_then_put_aside_with_its_reason() {
        let mut answers = Answers::default();
        let mut failed = || answers.step(7, &Err(HandleError::failed("no such bank")), LIMITS);
        let delays: Vec<_> = (0..5).map(|_| failed()).collect();
        assert_eq!(delays, [1000, 2000, 4000, 8000, 10_000].map(millis));
        assert!((5..9).all(|_| failed() == millis(10_000)));
        assert_eq!(failed(), Step::PutAside("no such bank".to_owned()));
    }

    #[test]
    fn a_message_that_came_too_early_has_not_failed() {
        let mut answers = Answers::default();
        let limits = Limits { deliveries: 2, later: 9 };
        for _ in 0..5 {
            assert!(matches!(answers.step(7, &Ok(Verdict::Later), limits), Step::Again(_)));
        }
        let failed = Err(HandleError::failed("no luck"));
        assert_eq!(answers.step(7, &failed, limits), millis(1000));
        assert_eq!(
            answers.step(8, &failed, limits),
            millis(1000),
            "each message has its own count"
        );
        assert!(matches!(answers.step(7, &failed, limits), Step::PutAside(_)));
    }

    #[test]
    fn what_can_never_be_applied_is_put_aside_at_once() {
        let never = Err(HandleError::unprocessable("no JSON"));
        let step = Answers::default().step(7, &never, LIMITS);
        assert_eq!(step, Step::PutAside("no JSON".to_owned()));
    }

    #[test]
    fn a_message_that_ends_every_instance_is_put_aside_unhandled() {
        assert!(!is_never_answered(110, LIMITS));
        assert!(is_never_answered(111, LIMITS));
    }
}

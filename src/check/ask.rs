//! One question to a server: limited in time, and with a reason when there is no answer.

use std::time::{Duration, SystemTime};

use mongodb::error::ErrorKind as MongodbErrorKind;

use crate::driver_words::unusable_servers;
use crate::duration::for_people;
use crate::error::mongodb_words;
use crate::finding::Finding;
use crate::mongodb::code;

/// Clocks further apart than this make times in logs and alerts misleading.
const MAX_SKEW: Duration = Duration::from_secs(1);

/// A question that MongoDB did not answer.
pub(super) struct NoAnswer {
    pub(super) why: Why,
    pub(super) reason: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The user has no permission to ask.
    Denied,
    /// This server does not answer such a question, or not for this user.
    Withheld,
    /// The server refused the user or the password.
    BadCredentials,
    /// The question failed, or the time was up.
    Failed,
}

/// Waits for an answer for at most `timeout`.
pub(super) async fn within<T>(
    timeout: Duration,
    question: impl Future<Output = T>,
) -> Result<T, String> {
    tokio::time::timeout(timeout, question)
        .await
        .map_err(|_| format!("no answer within {}", for_people(timeout)))
}

/// Asks MongoDB one question.
pub(super) async fn ask<T>(
    timeout: Duration,
    question: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, NoAnswer> {
    let error = match within(timeout, question.into_future()).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(reason) => return Err(NoAnswer { why: Why::Failed, reason }),
    };

    let why = match &*error.kind {
        MongodbErrorKind::Command(error) if error.code == code::UNAUTHORIZED => Why::Denied,
        MongodbErrorKind::Command(error) if code::WITHHELD.contains(&error.code) => Why::Withheld,
        MongodbErrorKind::Authentication { .. } => Why::BadCredentials,
        _ => Why::Failed,
    };

    // The reason of one server says more than that none can be used.
    let of_server = match &*error.kind {
        MongodbErrorKind::ServerSelection { message, .. } => {
            let servers = unusable_servers(message);
            let reason = servers.iter().find_map(|server| server.error.clone());
            reason.or_else(|| Some(servers.first()?.what().to_owned()))
        }
        _ => None,
    };
    let reason = of_server.unwrap_or_else(|| mongodb_words(&error));

    Err(NoAnswer { why, reason })
}

/// The finding of an optional question without an answer: a missing permission is no fault, and a
/// hosted tier that lacks a command will always lack it.
pub(super) fn unknown(check: &'static str, at: &str, no_answer: &NoAnswer) -> Finding {
    match no_answer.why {
        Why::Denied => Finding::ok(check, at, "not checked: the user has no permission to ask"),
        Why::Withheld => {
            let found = format!("not checked: this MongoDB does not answer: {}", no_answer.reason);
            Finding::ok(check, at, found)
        }
        Why::BadCredentials | Why::Failed => Finding::warn(
            check,
            at,
            format!("not checked: {}", no_answer.reason),
            "$ outboxd check --timeout 30s",
        ),
    }
}

/// A server's clock, compared with this machine's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) ahead_ms: i64,
    /// How long the question took. The comparison is exact to half of it.
    pub(super) took: Duration,
}

impl Clock {
    /// Whether it differs by more than the comparison allows for.
    pub(super) fn is_off(&self) -> bool {
        Duration::from_millis(self.ahead_ms.unsigned_abs()) > MAX_SKEW + self.took / 2
    }

    /// Whether two servers' clocks differ by more than the comparison allows for.
    pub(super) fn differs_from(&self, other: Self) -> bool {
        let between = self.ahead_ms.abs_diff(other.ahead_ms);
        Duration::from_millis(between) > MAX_SKEW + (self.took + other.took) / 2
    }

    /// Takes the server's answer to a question that was sent at `asked`. The server read its clock
    /// between then and now.
    pub(super) fn new(server_ms: i64, asked: SystemTime) -> Self {
        let took = asked.elapsed().unwrap_or_default();
        let middle = (asked + took / 2).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let middle_ms = i64::try_from(middle.as_millis()).unwrap_or(i64::MAX);

        Self { ahead_ms: server_ms - middle_ms, took }
    }
}

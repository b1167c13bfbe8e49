//! The one table from what went wrong with a publish to its class and the operator's remedy.
//!
//! Whoever wants to know what a failure means looks here: the relay when it decides, `failures` in
//! the outbox by the code, `outboxd explain` for people. What isn't listed is [`Class::Unknown`]
//! while it is tried again in place and [`Class::Config`] once it is marked: somebody should look
//! at it.

/// What an outcome other than an ack means for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The message may be in the stream: no answer came. Tried again in place with the same message
    /// id; not counted.
    Unknown,
    /// The broker can't take it now. Tried again in place; not counted against the event.
    Transient,
    /// Somebody has to change a configuration. Marked as failed and counted.
    Config,
    /// No broker will ever take it. Dead at once.
    Poison,
}

impl Class {
    /// As written in `failures`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Transient => "transient",
            Self::Config => "config",
            Self::Poison => "poison",
        }
    }

    /// What the relay does with the event.
    pub fn treatment(self) -> &'static str {
        match self {
            Self::Unknown => {
                "tried again in place with the same message id; marked after retry.outage_grace, not counted"
            }
            Self::Transient => "tried again in place; marked after retry.outage_grace, not counted",
            Self::Config => {
                "marked and counted; tried again with growing waits, dead after retry.max_attempts"
            }
            Self::Poison => "dead at once: it stays in the outbox until a person decides",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// JetStream's error code, or a word of ours for what the client or the relay itself found.
    pub code: &'static str,
    /// What it means for the event.
    pub class: Class,
    /// What happened.
    pub meaning: &'static str,
    /// What to do, in one sentence.
    pub remedy: &'static str,
}

const fn rule(
    code: &'static str,
    class: Class,
    meaning: &'static str,
    remedy: &'static str,
) -> Rule {
    Rule { code, class, meaning, remedy }
}

/// Code of a publish whose ack did not come in time.
pub const TIMEOUT: &str = "timeout";
/// Code of a publish under which the connection broke.
pub const CONNECTION_LOST: &str = "connection-lost";
/// Code of a publish that nobody answered for, while a stream may yet come back.
pub const NO_RESPONDERS: &str = "no-responders";
/// Code of a publish that nobody answered for, because the stream doesn't take its subject.
pub const NOT_COVERED: &str = "not-covered";
/// Code of a document that doesn't follow the contract.
pub const MALFORMED: &str = "malformed";
/// Code of a header the client refuses.
pub const HEADER: &str = "header";
/// Code of a publish that the account has no permission for.
pub const NO_PERMISSION: &str = "no-permission";
/// Code of an ack from another stream than the one named.
pub const OTHER_STREAM: &str = "other-stream";
/// Code of an event that waited for a connection.
pub const DISCONNECTED: &str = "disconnected";

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Rule] = &[
    rule(TIMEOUT, Class::Unknown, "no ack came in time", "look at the server's load and disk"),
    rule(CONNECTION_LOST, Class::Unknown, "the connection broke under the publish", "nothing, if the connection comes back; else look at the network and the server"),
    rule("max-ack-pending", Class::Transient, "the client has too many acks pending", "nothing; lower dispatch.max_in_flight if it stays"),
    rule(DISCONNECTED, Class::Transient, "there is no connection to NATS", "start nats-server or mend the network, nats.url and credentials"),
    rule(NO_RESPONDERS, Class::Transient, "nobody takes the subject just now", "nothing during a leader election; else check that the stream exists and JetStream is enabled"),
    rule(NOT_COVERED, Class::Config, "no subject of the stream covers the event's", "add the subject to the stream (`outboxd check` has the line), or correct the writer's subject and discard the event"),
    rule(NO_PERMISSION, Class::Config, "the account may not publish to the subject", "allow the subject in the account's publish permissions; it goes out with the next retry"),
    rule(OTHER_STREAM, Class::Config, "another stream took the message", "two streams or a plain subscriber share the subject: keep the outbox's subjects to one stream"),
    rule("max-payload", Class::Poison, "the message is over the server's max_payload", "raise max_payload on the server and restart outboxd, which learns it on connecting, or store the content elsewhere and publish a reference"),
    rule(HEADER, Class::Poison, "a header can't be sent", "correct the writer's headers and discard the event"),
    rule(MALFORMED, Class::Poison, "the document doesn't follow the contract", "correct the writer; repair the document's fields or discard it"),
    rule("10002", Class::Transient, "the account's resource limits are reached", "raise the account's JetStream limits or free storage"),
    rule("10008", Class::Transient, "JetStream is temporarily unavailable", "nothing; look at the cluster's health if it stays"),
    rule("10009", Class::Transient, "the server is not the cluster's leader", "nothing; look at the cluster's health if it stays"),
    rule("10023", Class::Transient, "insufficient resources", "give the server more memory or disk, or lower the streams' limits"),
    rule("10028", Class::Transient, "insufficient memory resources", "raise max_memory_store of the server or free memory streams"),
    rule("10035", Class::Config, "the account is not found", "correct the credentials or the server's accounts"),
    rule("10039", Class::Config, "JetStream is not enabled for the account", "enable JetStream for the account"),
    rule("10047", Class::Transient, "insufficient storage resources", "raise max_file_store of the server or free disk"),
    rule("10053", Class::Transient, "a limit of the stream is reached", "raise the stream's limits or purge it"),
    rule("10054", Class::Poison, "the message is over the stream's max_msg_size", "raise max_msg_size of the stream, or publish a reference to the content"),
    rule("10060", Class::Config, "the subject belongs to another stream than stream.name", "correct stream.name, or the streams' subjects"),
    rule("10070", Class::Config, "wrong last message id", "outboxd never asks for it: look for a proxy or mapping that adds headers"),
    rule("10071", Class::Config, "wrong last sequence", "outboxd never asks for it: look for a proxy or mapping that adds headers"),
    rule("10076", Class::Transient, "JetStream is not enabled on the server", "start the server with JetStream"),
    rule("10077", Class::Transient, "the stream is full or its store failed", "raise the stream's max_bytes or max_msgs, purge it, or mend the server's disk"),
    rule("10097", Class::Poison, "the headers are over 64 KiB", "correct the writer's headers and discard the event"),
    rule("10109", Class::Config, "the stream is sealed", "name another stream: a sealed one takes no messages for ever"),
    rule("10118", Class::Transient, "the stream is offline", "bring the stream's servers back"),
    rule("10158", Class::Unknown, "the same message id is just being stored", "nothing: the next try tells whether it was stored"),
    rule("10163", Class::Unknown, "the subject's sequence is not ready", "nothing; look at the cluster's health if it stays"),
    rule("10167", Class::Transient, "too many requests", "nothing; lower dispatch.max_in_flight if it stays"),
    rule("10194", Class::Transient, "the stream is offline", "bring the stream's servers back, in a version that knows the stream's features"),
];

/// The line for a code.
pub fn look_up(code: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.code == code)
}

/// A publish that was not acked.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// What it means.
    pub class: Class,
    /// As in [`TABLE`], or JetStream's code if it isn't listed.
    pub code: String,
    /// The error in the words of whoever raised it.
    pub error: String,
}

impl Rejection {
    /// With the class of its code.
    pub fn new(code: impl Into<String>, error: impl Into<String>) -> Self {
        let code = code.into();
        Self {
            class: look_up(&code).map_or(Class::Unknown, |rule| rule.class),
            code,
            error: error.into(),
        }
    }

    /// What the operator should do.
    pub fn remedy(&self) -> &'static str {
        look_up(&self.code).map_or(
            "it is not in outboxd's table: look the code up in the server's documentation",
            |rule| rule.remedy,
        )
    }

    /// What it is once it has been tried again for long enough.
    #[must_use]
    pub fn given_up(self) -> Self {
        match look_up(&self.code) {
            Some(_) => self,
            None => Self { class: Class::Config, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_stands_once_with_a_remedy() {
        for (i, rule) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.code != rule.code), "{} twice", rule.code);
            assert!(!rule.remedy.is_empty() && !rule.meaning.is_empty(), "{}", rule.code);
        }
    }

    #[test]
    fn what_is_not_listed_is_unknown_first_and_config_when_given_up() {
        let rejection = Rejection::new("10999", "something new");
        assert_eq!(rejection.class, Class::Unknown);
        assert_eq!(rejection.given_up().class, Class::Config);
        assert_eq!(Rejection::new("timeout", "").given_up().class, Class::Unknown);
    }
}

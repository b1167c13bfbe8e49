//! The table of failures: from the code of a failed publish to its class and the operator's remedy.
//!
//! The relay decides by it, `failures` in the outbox name its codes, and `outboxd explain` prints
//! it. A code that isn't listed is [`Class::Unknown`] while the relay retries it in place, and
//! [`Class::Config`] once the event is marked, so that a person looks at it.

/// What an outcome other than an ack means for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No answer arrived, so the message may be in the stream. Retried in place with the same
    /// message id; not counted.
    Unknown,
    /// The broker can't accept the message now. Retried in place; not counted.
    Transient,
    /// A person has to change a configuration. Marked as failed and counted.
    Config,
    /// No broker will ever accept the message. Dead at once.
    Poison,
}

impl Class {
    /// The name in `failures`, metrics and JSON.
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
                "retried in place with the same message id; marked after retry.outage_grace, not counted"
            }
            Self::Transient => "retried in place; marked after retry.outage_grace, not counted",
            Self::Config => {
                "marked and counted; retried with growing waits, dead after retry.max_attempts"
            }
            Self::Poison => "dead at once; it stays in the outbox until a person decides",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// JetStream's error code, or outboxd's own word for an error of the client or the relay.
    pub code: &'static str,
    /// What the relay does with the event.
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

/// Code of a publish without an ack within `nats.ack_timeout`.
pub const TIMEOUT: &str = "timeout";
/// Code of a publish during which the connection broke.
pub const CONNECTION_LOST: &str = "connection-lost";
/// Code of a publish without a responder, while the stream may return.
pub const NO_RESPONDERS: &str = "no-responders";
/// Code of a publish without a responder, because no subject of the stream covers it.
pub const NOT_COVERED: &str = "not-covered";
/// Code of a document that violates the contract.
pub const MALFORMED: &str = "malformed";
/// Code of a header that the client can't send.
pub const HEADER: &str = "header";
/// Code of a publish to a subject that the account has no permission for.
pub const NO_PERMISSION: &str = "no-permission";
/// Code of an ack from another stream than the one named.
pub const OTHER_STREAM: &str = "other-stream";
/// Code of an event that waited for a connection.
pub const DISCONNECTED: &str = "disconnected";

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Rule] = &[
    rule(TIMEOUT, Class::Unknown, "no ack arrived within nats.ack_timeout", "run `outboxd check`, then check the server's load and disk"),
    rule(CONNECTION_LOST, Class::Unknown, "the connection broke during the publish", "nothing if the connection returns; otherwise check the network and the server"),
    rule("max-ack-pending", Class::Transient, "the client is waiting for too many acks", "nothing; if it persists, lower dispatch.max_in_flight"),
    rule(DISCONNECTED, Class::Transient, "there is no connection to NATS", "start nats-server, or fix the network, nats.url or the credentials"),
    rule(NO_RESPONDERS, Class::Transient, "no stream answers for the subject right now", "nothing during a leader election; otherwise check that the stream exists and JetStream is enabled"),
    rule(NOT_COVERED, Class::Config, "no subject of the stream covers the event's subject", "add the subject to the stream (`outboxd check` prints the command), or correct the writer's subject and discard the event"),
    rule(NO_PERMISSION, Class::Config, "the account has no permission to publish to the subject", "allow the subject in the account's publish permissions; the next retry publishes the event"),
    rule(OTHER_STREAM, Class::Config, "another stream stored the message", "two streams or a plain subscriber share the subject: keep the outbox's subjects to one stream"),
    rule("max-payload", Class::Poison, "the message is larger than the server's max_payload", "raise max_payload and restart outboxd, which reads it when it connects; or store the content elsewhere and publish a reference"),
    rule(HEADER, Class::Poison, "a header can't be sent", "correct the writer's headers and discard the event"),
    rule(MALFORMED, Class::Poison, "the document violates the contract", "correct the writer; then repair the document's fields or discard the event"),
    rule("10002", Class::Transient, "the account has reached its resource limits", "raise the account's JetStream limits or free storage"),
    rule("10008", Class::Transient, "JetStream is temporarily unavailable", "nothing; if it persists, check the cluster's health"),
    rule("10009", Class::Transient, "the server is not the cluster's leader", "nothing; if it persists, check the cluster's health"),
    rule("10023", Class::Transient, "the server lacks resources", "give the server more memory or disk, or lower the streams' limits"),
    rule("10028", Class::Transient, "the server lacks memory for the stream", "raise max_memory_store of the server, or free memory streams"),
    rule("10035", Class::Config, "the account does not exist", "correct the credentials or the server's accounts"),
    rule("10039", Class::Config, "JetStream is not enabled for the account", "enable JetStream for the account"),
    rule("10047", Class::Transient, "the server lacks storage for the stream", "raise max_file_store of the server, or free disk space"),
    rule("10053", Class::Transient, "the stream has reached a limit", "raise the stream's limits or purge it"),
    rule("10054", Class::Poison, "the message is larger than the stream's max_msg_size", "raise max_msg_size of the stream, or publish a reference to the content"),
    rule("10060", Class::Config, "the subject belongs to another stream than stream.name", "correct stream.name, or the streams' subjects"),
    rule("10070", Class::Config, "the server expected another last message id", "find the proxy or subject mapping that adds this header: outboxd never sends it"),
    rule("10071", Class::Config, "the server expected another last sequence", "find the proxy or subject mapping that adds this header: outboxd never sends it"),
    rule("10076", Class::Transient, "JetStream is not enabled on the server", "start the server with JetStream"),
    rule("10077", Class::Transient, "the stream is full, or its store failed", "raise the stream's max_bytes or max_msgs, purge it, or repair the server's disk"),
    rule("10097", Class::Poison, "the headers are larger than 64 KiB", "correct the writer's headers and discard the event"),
    rule("10109", Class::Config, "the stream is sealed", "name another stream: a sealed stream never accepts messages again"),
    rule("10118", Class::Transient, "the stream is offline", "start the stream's servers"),
    rule("10158", Class::Unknown, "the server is already storing a message with this id", "nothing: the next try shows whether the message was stored"),
    rule("10163", Class::Unknown, "the subject's sequence is not ready", "nothing; if it persists, check the cluster's health"),
    rule("10167", Class::Transient, "the server has too many requests", "nothing; if it persists, lower dispatch.max_in_flight"),
    rule("10194", Class::Transient, "the stream is offline: its servers do not know its features", "start the stream's servers in a version that knows the stream's features"),
];

/// The line for a code.
pub fn look_up(code: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.code == code)
}

/// A publish that was not acked.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The class of the code, or of the outcome after the last retry.
    pub class: Class,
    /// A code of [`TABLE`], or JetStream's code when it isn't listed.
    pub code: String,
    /// The error's text, from the server, the client or the relay.
    pub error: String,
}

impl Rejection {
    /// A rejection with the class of its code.
    pub fn new(code: impl Into<String>, error: impl Into<String>) -> Self {
        let code = code.into();
        Self {
            class: look_up(&code).map_or(Class::Unknown, |rule| rule.class),
            code,
            error: error.into(),
        }
    }

    /// What the operator should do, in one sentence.
    pub fn remedy(&self) -> &'static str {
        look_up(&self.code).map_or(
            "look the code up in the server's documentation: it is not in outboxd's table",
            |rule| rule.remedy,
        )
    }

    /// The rejection after the last retry in place.
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
    fn each_code_is_listed_once_with_a_remedy() {
        for (i, rule) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.code != rule.code), "{} twice", rule.code);
            assert!(!rule.remedy.is_empty() && !rule.meaning.is_empty(), "{}", rule.code);
        }
    }

    #[test]
    fn an_unlisted_code_is_unknown_at_first_and_config_when_given_up() {
        let rejection = Rejection::new("10999", "something new");
        assert_eq!(rejection.class, Class::Unknown);
        assert_eq!(rejection.given_up().class, Class::Config);
        assert_eq!(Rejection::new("timeout", "").given_up().class, Class::Unknown);
    }
}

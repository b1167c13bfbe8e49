//! The table of failures: from the code of a failed publish to its class and the operator's remedy.
//!
//! The relay decides by it, `failures` in the outbox name its codes, and `outboxd explain` prints
//! it. A code that isn't listed is [`Class::Unknown`] while the relay retries it in place, and
//! [`Class::Config`] once the event is marked, so that a person looks at it.
//!
//! Some of JetStream's codes have several meanings, and the text of the error tells them apart. Each
//! meaning has a code of its own here, which begins with JetStream's.

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
                "the event is published again with the same message id; after retry.outage_grace \
                 it is marked as failed, without counting an attempt"
            }
            Self::Transient => {
                "the event is published again; after retry.outage_grace it is marked as failed, \
                 without counting an attempt"
            }
            Self::Config => {
                "the event is marked as failed, which counts as an attempt, and retried after \
                 growing waits; after retry.max_attempts it is dead"
            }
            Self::Poison => {
                "the event is dead at once; it stays in the outbox until a person decides"
            }
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// JetStream's error code, with a word behind it for one of several meanings; or outboxd's own
    /// word for an error of the client or the relay.
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
/// Code of a scheduled event that the outbox doesn't take.
pub const NOT_MOVED: &str = "not-moved";
/// Code of a header that the client can't send.
pub const HEADER: &str = "header";
/// Code of a publish to a subject that the account has no permission for.
pub const NO_PERMISSION: &str = "no-permission";
/// Code of an ack from another stream than the one named.
pub const OTHER_STREAM: &str = "other-stream";
/// Code of an ack of a duplicate whose message the relay may not read.
pub const DUPLICATE_UNCHECKED: &str = "duplicate-unchecked";
/// Code of an ack that nothing bears out, because the relay may not read messages.
pub const ACK_UNCHECKED: &str = "ack-unchecked";
/// Code of an event of which the stream acks every message id as another's.
pub const FALSE_DUPLICATE: &str = "false-duplicate";
/// Code of an event that waited because no ack could arrive.
pub const NO_REPLIES: &str = "no-replies";
/// Code of an event that waited for a connection.
pub const DISCONNECTED: &str = "disconnected";

/// JetStream's code of a message that is not behind the one that it names.
pub const NOT_BEHIND: &str = "10070";
/// JetStream's code of a batch for a stream without `allow_atomic`.
pub const NO_BATCHES: &str = "10174";
/// JetStream's code of a store that took no message, and ours of a stream that is full.
pub const STREAM_FULL: &str = "10077";
/// Code of a message that is larger than the whole stream may become.
pub const LARGER_THAN_STREAM: &str = "10077-larger-than-stream";

/// The meanings of JetStream's codes that have several: the code, what the error's text contains, and
/// the code in [`TABLE`]. The first that fits counts, and an empty text always fits. The texts are
/// those of nats-server 2.10 to 2.15, `server/store.go`.
const MEANINGS: &[(&str, &str, &str)] = &[
    ("10077", "maximum messages per subject exceeded", "10077-subject"),
    ("10077", "maximum messages exceeded", STREAM_FULL),
    ("10077", "maximum bytes exceeded", STREAM_FULL),
    ("10077", "message too large", "10077-message"),
    // It is being closed, or an error of the disk.
    ("10077", "", "10077-store"),
];

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Rule] = &[
    rule(TIMEOUT, Class::Unknown, "no ack arrived within nats.ack_timeout", "run `outboxd check`, then check the server's load and disk"),
    rule(CONNECTION_LOST, Class::Unknown, "the connection broke during the publish", "nothing if the connection returns; otherwise check the network and the server"),
    rule("max-ack-pending", Class::Transient, "the client is waiting for too many acks", "nothing; if it persists, lower dispatch.max_in_flight"),
    rule(DISCONNECTED, Class::Transient, "there is no connection to NATS", "start nats-server, or fix the network, nats.url or the credentials"),
    rule(NO_REPLIES, Class::Transient, "no reply of NATS reaches the relay, so it publishes nothing", "allow the replies in the subscribe permissions of the relay's user (`outboxd privileges --role relay` prints the subject), or raise the limit of subscriptions that the error names; outboxd continues by itself"),
    rule(NO_RESPONDERS, Class::Transient, "no stream answers for the subject right now", "nothing during a leader election; otherwise check that the stream exists and JetStream is enabled"),
    rule(NOT_COVERED, Class::Config, "no subject of the stream covers the event's subject", "add the subject to the stream (`outboxd check` prints the command), or correct the writer's subject and discard the event"),
    rule(NO_PERMISSION, Class::Config, "the account has no permission to publish to the subject", "allow the subject in the account's publish permissions; the next retry publishes the event"),
    rule(OTHER_STREAM, Class::Config, "another stream stored the message, and stream.name does not take its subject", "add the subject to the stream that stream.name names, or correct the writer; check nats.domain, and let only one stream take the outbox's subjects"),
    rule(DUPLICATE_UNCHECKED, Class::Config, "the stream acked the event as a duplicate, and the user may not read the stored message to confirm it", "allow $JS.API.STREAM.MSG.GET.<stream> in the user's publish permissions (`outboxd privileges --role relay` prints them all); the next retry publishes the event"),
    rule(ACK_UNCHECKED, Class::Transient, "somebody else may have sent the ack, and the user may not read the stored message to confirm it", "allow $JS.API.STREAM.MSG.GET.<stream> in the user's publish permissions (`outboxd privileges --role relay` prints them all)"),
    rule(FALSE_DUPLICATE, Class::Config, "the stream has other messages under all message ids of the event", "wait for the end of the stream's duplicate_window, then run `outboxd retry-now`; give each event an _id of its own"),
    rule("max-payload", Class::Poison, "the message is larger than the server's max_payload", "raise max_payload and restart outboxd, which reads it when it connects; or store the content elsewhere and publish a reference"),
    rule(HEADER, Class::Poison, "a header can't be sent", "correct the writer's headers and discard the event"),
    rule(MALFORMED, Class::Poison, "the document violates the contract", "correct the writer"),
    rule(NOT_MOVED, Class::Poison, "MongoDB refuses to move the scheduled event into the outbox, which usually has another event with its _id", "read MongoDB's reason in the error; then discard the event, or correct it and publish it with `outboxd retry-now`"),
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
    rule("10063", Class::Transient, "the copies of the stream disagree about its last sequence", "nothing during a leader election; if it persists, check the cluster's health"),
    rule("10060", Class::Config, "the subject belongs to another stream than stream.name", "correct stream.name, or the streams' subjects"),
    rule(NOT_BEHIND, Class::Config, "the stream's last message id is not the one in the Nats-Expected-Last-Msg-Id header", "find what adds this header, such as a proxy: outboxd sends it within bursts only, and publishes an event without it before it marks the event"),
    rule("10071", Class::Config, "the last sequence of the stream, or of the subject, is not the one that the message expects", "find what adds a Nats-Expected-Last-Sequence or -Subject-Sequence header, such as a proxy: outboxd never sends them"),
    rule("10076", Class::Transient, "JetStream is not enabled on the server", "start the server with JetStream"),
    rule(STREAM_FULL, Class::Transient, "the stream is full", "raise the stream's max_bytes or max_msgs, or purge it"),
    rule("10077-subject", Class::Config, "the event's subject is full: the stream has max_msgs_per_subject messages of it and takes no more (discard_new_per_subject)", "raise max_msgs_per_subject of the stream, remove old messages of the subject (nats stream purge --subject), or give the events other subjects"),
    rule(LARGER_THAN_STREAM, Class::Poison, "the message is larger than the stream's max_bytes", "raise max_bytes of the stream, or publish a reference to the content"),
    rule("10077-message", Class::Poison, "the message is larger than a stream can store", "publish a reference to the content"),
    rule("10077-store", Class::Transient, "the stream's store failed or is being closed", "nothing if the stream is being moved or deleted; otherwise check the server's log and repair its disk"),
    rule("10097", Class::Poison, "the headers are larger than 64 KiB", "correct the writer's headers and discard the event"),
    rule("10109", Class::Config, "the stream is sealed", "name another stream: a sealed stream never accepts messages again"),
    rule("10120", Class::Transient, "the account has no JetStream limits for a stream with this number of copies", "give the account limits for the stream's tier, such as R3"),
    rule("10118", Class::Transient, "the stream is offline", "start the stream's servers"),
    rule("10158", Class::Unknown, "the server is already storing a message with this id", "nothing: the next try shows whether the message was stored"),
    rule("10163", Class::Unknown, "the subject's sequence is not ready", "nothing; if it persists, check the cluster's health"),
    rule("10167", Class::Transient, "the server has too many requests", "nothing; if it persists, lower dispatch.max_in_flight"),
    rule("10169", Class::Config, "the stream counts (allow_msg_counter) and accepts no other messages", "name another stream: a counter stream never accepts events"),
    rule("10194", Class::Transient, "the stream is offline: its servers do not know its features", "start the stream's servers in a version that knows the stream's features"),
];

/// The line for a code.
pub fn look_up(code: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.code == code)
}

/// The lines for a code and, if it is JetStream's, for its other meanings.
pub fn meanings(code: &str) -> impl Iterator<Item = &'static Rule> {
    TABLE.iter().filter(move |rule| {
        rule.code.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            && (rule.code == code || code.bytes().all(|byte| byte.is_ascii_digit()))
    })
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

    /// A refusal by JetStream, of the meaning that its code and text have together.
    pub fn of_jetstream(code: u64, error: String) -> Self {
        let code = code.to_string();
        let meaning = MEANINGS.iter().find(|(of, text, _)| *of == code && error.contains(text));
        Self::new(meaning.map_or(code, |(_, _, code)| (*code).to_owned()), error)
    }

    /// Whether the message was refused, whatever else may be wrong.
    pub fn is_definite(&self) -> bool {
        matches!(self.class, Class::Config | Class::Poison)
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
    fn code_and_text_decide_together() {
        for (code, text, meaning, class) in [
            (10077, "maximum messages exceeded", "10077", Class::Transient),
            (10077, "maximum bytes exceeded", "10077", Class::Transient),
            (10077, "maximum messages per subject exceeded", "10077-subject", Class::Config),
            (10077, "message too large", "10077-message", Class::Poison),
            (10077, "store is closed", "10077-store", Class::Transient),
            (10077, "write /data/1.blk: no space left on device", "10077-store", Class::Transient),
            (10054, "message size exceeds maximum allowed", "10054", Class::Poison),
            (10999, "maximum messages per subject exceeded", "10999", Class::Unknown),
        ] {
            // As async-nats prints an error.
            let error = format!("{text} (code 503, error code {code})");
            let rejection = Rejection::of_jetstream(code, error);
            assert_eq!((&*rejection.code, rejection.class), (meaning, class), "{text}");
        }

        for (_, _, code) in MEANINGS {
            assert!(look_up(code).is_some(), "{code}");
        }
    }

    #[test]
    fn jetstreams_code_has_all_its_meanings() {
        let codes = |code: &str| meanings(code).map(|rule| rule.code).collect::<Vec<_>>();
        assert_eq!(codes("10077").len(), 5, "{:?}", codes("10077"));
        assert_eq!(codes("10077-subject"), ["10077-subject"]);
        assert_eq!(codes("10054"), ["10054"]);
        assert_eq!(codes("no"), [""; 0]);
        assert_eq!(codes("duplicate"), [""; 0]);
    }

    #[test]
    fn an_unlisted_code_is_unknown_at_first_and_config_when_given_up() {
        let rejection = Rejection::new("10999", "something new");
        assert_eq!(rejection.class, Class::Unknown);
        assert_eq!(rejection.given_up().class, Class::Config);
        assert_eq!(Rejection::new("timeout", "").given_up().class, Class::Unknown);
    }
}

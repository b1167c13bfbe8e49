//! The one table from a publish error to its class and the operator's remedy.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use std::error::Error as StdError;

/// What an outcome other than an ack means for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The message may be in the stream: no answer came. Tried again in place with the same message id.
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
}

/// A publish that was not acked.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// What it means.
    pub class: Class,
    /// JetStream's error code, or a word of ours for errors of the client.
    pub code: String,
    /// The error in the words of whoever raised it.
    pub error: String,
}

/// Code of a publish that nobody answered for: HTTP's 503 in the reply's status.
pub const NO_RESPONDERS: &str = "no-responders";

/// JetStream's error codes.
const CODES: &[(u64, Class)] = &[
    (10008, Class::Transient), // JetStream system temporarily unavailable
    (10023, Class::Transient), // insufficient resources
    (10025, Class::Config),    // JetStream not enabled for the account
    (10039, Class::Config),    // JetStream not enabled for the account
    (10054, Class::Poison),    // message size exceeds maximum allowed
    (10060, Class::Config),    // expected stream does not match
    (10070, Class::Config),    // wrong last message id
    (10071, Class::Config),    // wrong last sequence
    (10074, Class::Transient), // replicas: not enough peers
    (10076, Class::Transient), // JetStream not enabled on this server
    (10077, Class::Transient), // stream store failed: maximum messages or bytes exceeded
    (10097, Class::Poison),    // header size exceeds maximum allowed of 64k
    (10109, Class::Config),    // stream is sealed
    (10118, Class::Transient), // stream is offline
    (10158, Class::Unknown),   // duplicate message id is in process
    (10164, Class::Config),    // wrong last sequence (constant)
    (10167, Class::Transient), // too many requests
];

/// Classifies what the client returned. Whatever isn't listed is [`Class::Unknown`]: the event is tried again.
pub fn classify(error: &PublishError) -> Rejection {
    use PublishErrorKind as K;
    let server = StdError::source(error).and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    let (class, code) = match (error.kind(), server) {
        (_, Some(server)) => {
            let code = server.error_code().0;
            let class = CODES.iter().find(|(listed, _)| *listed == code).map_or(Class::Unknown, |(_, class)| *class);
            (class, code.to_string())
        }
        (K::StreamNotFound, None) => (Class::Transient, NO_RESPONDERS.to_owned()),
        (K::TimedOut, None) => (Class::Unknown, "timeout".to_owned()),
        (K::BrokenPipe, None) => (Class::Unknown, "connection-lost".to_owned()),
        (K::MaxAckPending, None) => (Class::Transient, "max-ack-pending".to_owned()),
        (K::MaxPayloadExceeded, None) => (Class::Poison, "max-payload".to_owned()),
        (K::WrongLastMessageId | K::WrongLastSequence, None) => (Class::Config, "wrong-last".to_owned()),
        (K::Other, None) => (Class::Unknown, "other".to_owned()),
    };
    let text = server.map_or_else(|| error.to_string(), |server| server.to_string());
    Rejection { class, code, error: text }
}

//! What a running listener needs: its settings, and why it can't run with them.

use std::sync::Mutex;
use std::time::Duration;

use super::step::{Answers, Limits};
use crate::inbox::Inbox;

/// After this time without an ack or a heartbeat, the server gives a message to another instance.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Errors before a message is put aside: about a minute.
const MAX_DELIVERIES: u32 = 10;
/// Times that an earlier message may be missing: about a quarter of an hour.
const MAX_LATER: u32 = 100;
/// How long the message under way may take after the stop.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// Why a listener ended or could not begin. Everything that may pass is tried again for ever and is
/// not among them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The queue group can't name a consumer.
    #[error("queue group {0:?} can't name a consumer; use letters, digits, `-` and `_`")]
    Group(String),
    /// A setting is out of its bounds.
    #[error("{0}")]
    Setting(&'static str),
    /// The addresses or the options of the connection are refused.
    #[error("the connection to NATS can't be begun")]
    Connect(#[from] async_nats::ConnectError),
    /// The consumer of this name is not one that a listener can use.
    #[error("consumer {group} of stream {stream} {what}; delete it, or choose another queue group")]
    Consumer {
        /// The stream.
        stream: String,
        /// The consumer.
        group: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The inbox forgets ids that the stream may deliver again.
    #[error(
        "stream {stream} drops duplicates for {} s and the inbox keeps ids for {} s; keep them for longer",
        .window.as_secs(), .ttl.as_secs()
    )]
    Ttl {
        /// The stream.
        stream: String,
        /// Its duplicate window.
        window: Duration,
        /// How long the inbox keeps ids.
        ttl: Duration,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) subjects: Vec<String>,
    pub(super) max_ack_pending: i64,
    pub(super) ack_wait: Duration,
    pub(super) limits: Limits,
    pub(super) drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            subjects: Vec::new(),
            max_ack_pending: 1,
            ack_wait: DEFAULT_ACK_WAIT,
            limits: Limits { deliveries: MAX_DELIVERIES, later: MAX_LATER },
            drain: DEFAULT_DRAIN,
        }
    }
}

/// What a running listener needs.
pub(super) struct Parts {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) inbox: Inbox,
    pub(super) settings: Settings,
    pub(super) answers: Mutex<Answers>,
}

/// Refuses settings that no listener can run with.
pub(super) fn check(group: &str, settings: &Settings) -> Result<(), ListenError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if group.is_empty() || group.len() > 255 || !group.bytes().all(is_name) {
        return Err(ListenError::Group(group.to_owned()));
    }

    if settings.max_ack_pending < 1 {
        return Err(ListenError::Setting("max_ack_pending is 0; set 1 or more"));
    }

    if settings.ack_wait < Duration::from_secs(1) {
        return Err(ListenError::Setting("ack_wait is less than a second; set 1 s or more"));
    }

    if settings.limits.deliveries < 1 || settings.limits.later < 1 {
        return Err(ListenError::Setting("max_deliveries or max_later is 0; set 1 or more"));
    }

    Ok(())
}

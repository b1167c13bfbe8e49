//! A message on its way to the stream, and the stream's answer.

use bytes::Bytes;
use outboxd_client::{Headers, Subject};

/// A message to publish.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    pub(crate) subject: &'a Subject,
    /// The headers of the event, including those of its layout and its trace.
    pub(crate) headers: &'a Headers,
    /// `Nats-Msg-Id`: the stream drops a second message with the same one.
    pub(crate) id: &'a str,
    /// `Nats-Expected-Stream`: another stream refuses the message.
    pub(crate) stream: &'a str,
    /// `Nats-Expected-Last-Msg-Id`: the stream refuses the message unless its last one has this id.
    pub(crate) behind: Option<&'a str>,
    pub(crate) payload: Bytes,
}

/// The stream's answer to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The message's sequence in the stream.
    pub(crate) sequence: u64,
    /// Whether the stream had a message with this id already.
    pub(crate) duplicate: bool,
    /// Whether the stream was seen to have this very event there.
    pub(crate) seen: bool,
}

impl Ack {
    pub(crate) fn new(sequence: u64, duplicate: bool) -> Self {
        Self { sequence, duplicate, seen: false }
    }
}

/// How the stream keeps the order of events that leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Burst {
    /// It refuses a message that is not directly behind the one it names, whatever became of that.
    Chain,
    /// It stores all messages of a batch or none.
    Batch,
}

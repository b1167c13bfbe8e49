//! The outcome of a publish, and the proof that the stream has an event.

use std::time::Duration;

use outboxd_client::EventId;

use crate::failure::Rejection;

/// Proof that the stream has an event. Deleting an event takes one, and only `publish` makes one.
#[derive(Debug)]
pub(crate) struct Acked {
    id: EventId,
    pub(crate) message_id: String,
    /// Whether that is not the event's first one.
    pub(crate) is_renamed: bool,
    /// The sequence in the stream.
    pub(crate) sequence: u64,
    /// The connection over which it was published.
    pub(crate) connection: u64,
    /// Whether the stream was seen to have this very event there.
    pub(crate) seen: bool,
    /// From the first try to the ack.
    pub(crate) took: Duration,
    /// Whether the stream had it already.
    pub(crate) duplicate: bool,
    /// Set when the event got another message id, because the stream had acked it as a duplicate of
    /// a message that isn't this event.
    pub(crate) mistaken: Option<Box<FalseDuplicate>>,
}

impl Acked {
    /// Requires an ack of the right stream, and of this event if it is a duplicate's.
    pub(super) fn new(
        (id, message_id, is_renamed): (EventId, String, bool),
        took: Duration,
        (sequence, connection): (u64, u64),
        duplicate: bool,
        seen: bool,
        mistaken: Option<Box<FalseDuplicate>>,
    ) -> Self {
        Self { id, message_id, is_renamed, sequence, connection, seen, took, duplicate, mistaken }
    }

    pub(crate) fn id(&self) -> &EventId {
        &self.id
    }
}

/// A stored message, compared with the one that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// It has the same subject, message id and payload.
    This,
    /// It has another subject.
    OtherSubject(String),
    /// It has another payload.
    OtherPayload,
    /// It has another message id, or none.
    OtherId,
    /// The sequence is empty: the message was purged, consumed or evicted.
    Nothing,
}

impl Held {
    /// The end of a sentence about the sequence.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::This => "has this event".to_owned(),
            Self::OtherSubject(subject) => format!("has another event, of subject {subject}"),
            Self::OtherPayload => "has another event, with another payload".to_owned(),
            Self::OtherId => "has a message with another id".to_owned(),
            Self::Nothing => "is empty: the message was purged, consumed or evicted".to_owned(),
        }
    }
}

/// A message that the stream took an event for, and that isn't this event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FalseDuplicate {
    /// The message id under which the event was published.
    pub(crate) id: String,
    /// The sequence that the ack named.
    pub(crate) sequence: u64,
    /// What the stream has there.
    pub(crate) held: Held,
}

/// The outcome of a publish.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The stream has it.
    Acked(Acked),
    /// The message was refused, or no answer came within the grace.
    Rejected(Rejection),
    /// No answer came before the relay stopped or its lease lapsed. The event stays in the outbox
    /// as it is.
    Abandoned,
}

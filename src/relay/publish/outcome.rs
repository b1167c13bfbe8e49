//! The fate of a publish, and the proof that the stream has an event.

use std::time::Duration;

use outboxd_client::EventId;

use crate::failure::Rejection;

/// Proof that the stream has an event: the only thing that lets it be deleted. Made here alone.
#[derive(Debug)]
pub(crate) struct Acked {
    id: EventId,
    /// From the first send to the ack.
    pub(crate) took: Duration,
    /// Whether the stream had it already.
    pub(crate) duplicate: bool,
    /// What this ack shows of messages that were acked before and are gone.
    pub(crate) rewound: Option<Rewound>,
}

impl Acked {
    /// Only `publish` calls this, with an ack of the right stream in hand.
    pub(super) fn new(
        id: EventId,
        took: Duration,
        duplicate: bool,
        rewound: Option<Rewound>,
    ) -> Self {
        Self { id, took, duplicate, rewound }
    }

    pub(crate) fn id(&self) -> &EventId {
        &self.id
    }
}

/// A stream that went back: it was made anew, or restored from an old copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rewound {
    /// The newest sequence it had acked.
    pub(crate) from: u64,
    /// The sequence it gave to a message that was sent after that.
    pub(crate) to: u64,
}

/// The fate of a publish.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The stream has it.
    Acked(Acked),
    /// It was refused, or no answer came within the grace.
    Rejected(Rejection),
    /// Not tried, or not to the end, because the relay stops. It stays in the outbox as it is.
    Abandoned,
}

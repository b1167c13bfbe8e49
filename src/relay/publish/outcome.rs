//! The outcome of a publish, and the proof that the stream has an event.

use std::time::Duration;

use outboxd_client::EventId;

use crate::failure::Rejection;

/// Proof that the stream has an event. Deleting an event takes one, and only `publish` makes one.
#[derive(Debug)]
pub(crate) struct Acked {
    id: EventId,
    /// From the first try to the ack.
    pub(crate) took: Duration,
    /// Whether the stream had it already.
    pub(crate) duplicate: bool,
    /// Set when this ack shows that messages acked before are gone.
    pub(crate) rewound: Option<Rewound>,
}

impl Acked {
    /// Requires an ack of the right stream.
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

/// A stream that went back, because it was recreated or restored from an old copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rewound {
    /// The newest sequence it had acked.
    pub(crate) from: u64,
    /// The sequence it gave to a message that was sent after that.
    pub(crate) to: u64,
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

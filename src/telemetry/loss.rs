//! What a stream has lost of what it had acked, as an alert tells it.

use serde::Serialize;

/// What a stream has lost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Loss {
    pub(crate) stream: String,
    /// The newest sequence that it had acked, and its last one now.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// `went-back`, `recreated` or `overwritten`.
    pub(crate) how: &'static str,
    /// Lost events that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<u64>,
    /// Lost sequences of which no event is kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unrecoverable: Option<u64>,
    /// Whether the relay publishes the kept events again by itself.
    #[serde(skip)]
    pub(crate) is_repaired: bool,
}

impl Loss {
    /// The whole alert in one sentence.
    pub(super) fn text(&self) -> String {
        let Self { stream, from, to, kept, unrecoverable, is_repaired, .. } = self;
        let lost = format!(
            "the stream {stream} has gone back from sequence {from} to {to}: it was recreated or \
             restored from an old copy, and has lost messages that it had acked"
        );
        let (Some(kept), Some(unrecoverable)) = (kept, unrecoverable) else {
            return format!("{lost}; their events are no longer in the outbox");
        };

        let beyond = match unrecoverable {
            0 => "nothing else is lost".to_owned(),
            lost => format!("{lost} messages are not kept any more and can't be brought back"),
        };
        match is_repaired {
            true => format!("{lost}; outboxd publishes {kept} kept events again; {beyond}"),
            false => format!("{lost}; {kept} of their events are kept; {beyond}"),
        }
    }
}

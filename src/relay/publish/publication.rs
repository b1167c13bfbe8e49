//! An event on its way to the stream: its message, under the message id that it has now.

use bytes::Bytes;
use tokio::time::Instant;

use super::message_id;
use super::outcome::{FalseDuplicate, Held};
use crate::document::record::OutboxRecord;
use crate::relay::ports::Message;

/// An event on its way to the stream.
pub(super) struct Publication<'a> {
    pub(super) record: &'a OutboxRecord,
    message_id: String,
    pub(super) payload: Bytes,
    /// When the first try began.
    pub(super) began: Instant,
    /// The message id before the first rename.
    first_id: Option<Box<str>>,
    renames: usize,
    /// The message id of the event before it in its burst.
    behind: Option<Box<str>>,
    /// Why it was renamed last.
    pub(super) mistaken: Option<Box<FalseDuplicate>>,
}

impl<'a> Publication<'a> {
    pub(super) fn new(id_prefix: &str, record: &'a OutboxRecord, payload: Bytes) -> Self {
        Self {
            record,
            message_id: message_id::first(id_prefix, &record.id),
            payload,
            began: Instant::now(),
            first_id: None,
            renames: 0,
            behind: None,
            mistaken: None,
        }
    }

    /// Takes the message id `<id>#<n>` of the replay with this number.
    pub(super) fn is_replayed(&mut self, number: u64) {
        self.message_id = message_id::of_replay(&self.message_id, number);
    }

    /// Comes behind another in a burst.
    pub(super) fn follow(&mut self, before: &Self) {
        self.behind = Some(before.message_id.clone().into());
    }

    /// The message, under the id that the event has now.
    pub(super) fn message<'b>(&'b self, stream: &'b str) -> Message<'b> {
        Message {
            subject: &self.record.subject,
            headers: &self.record.headers,
            id: &self.message_id,
            stream,
            behind: self.behind.as_deref(),
            payload: self.payload.clone(),
        }
    }

    /// The message id that was acked. There is no further try.
    pub(super) fn take_message_id(&mut self) -> String {
        std::mem::take(&mut self.message_id)
    }

    /// How many message ids before this one the stream has had other messages under.
    pub(super) fn renames(&self) -> usize {
        self.renames
    }

    /// Takes another message id, because the stream has `held` under the one before.
    pub(super) fn rename(&mut self, sequence: u64, held: Held) {
        let before = std::mem::take(&mut self.message_id);
        let first = self.first_id.get_or_insert_with(|| before.clone().into());
        let subject = self.record.subject.as_str();
        self.message_id = message_id::another(first, subject, &self.payload, sequence);

        self.renames += 1;
        self.mistaken = Some(Box::new(FalseDuplicate { id: before, sequence, held }));
    }
}

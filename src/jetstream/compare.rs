//! Compares the stream with what it had acked.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::bus::{JetStream, Seen};
use super::facts::removes;
use super::stored;
use crate::failure::{DUPLICATE_UNCHECKED, NO_RESPONDERS, Rejection};
use crate::relay::watermark::{Compared, Epoch, Found, Watermark};

/// What the stream has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Its first sequence: what was before is removed.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Whether it removes messages by itself, so that one may be gone and not lost.
    pub(crate) removes: bool,
}

impl JetStream {
    /// What the stream has, once it has this sequence if it ever will.
    ///
    /// # Errors
    /// When the stream gives no answer.
    pub(crate) async fn extent(&self, newest: u64) -> Result<Extent, Rejection> {
        let Some(seen) = self.look_until(newest).await else { return Err(self.silent()) };
        let removes = removes(&seen.config) || seen.config.allow_message_ttl;
        Ok(Extent { first: seen.first_sequence, last: seen.last_sequence, removes })
    }

    fn silent(&self) -> Rejection {
        let error = format!("the stream {} does not describe itself", self.name);
        Rejection::new(NO_RESPONDERS, error)
    }

    /// Looks at the stream, and at its message at the sequence of the watermark.
    ///
    /// # Errors
    /// When the stream gives no answer.
    pub(super) async fn compare_with(
        &self,
        watermark: Option<&Watermark>,
    ) -> Result<Compared, Rejection> {
        let sequence = watermark.map_or(0, |watermark| watermark.sequence);
        let Some(seen) = self.look_until(sequence).await else { return Err(self.silent()) };

        let now = self.now(&seen);

        let loss = match watermark {
            // Only a message that is there has to be read.
            Some(mark) if mark.message_id.is_some() && seen.last_sequence >= mark.sequence => {
                let found = self.found_at(mark.sequence).await?;
                mark.loss(&now, &found)
            }
            Some(mark) => mark.loss(&now, &Found::Unreadable),
            None => None,
        };

        self.is_hurt.store(loss.is_some(), Ordering::Relaxed);
        self.created.store(seen.created_ms, Ordering::Relaxed);
        if loss.is_some() {
            // What the acks show of it is no news.
            self.reached.store(0, Ordering::Relaxed);
            self.reached_at.store(seen.last_ms, Ordering::Relaxed);
            *self.back.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }

        Ok(Compared { loss, now })
    }

    /// The message at this sequence.
    pub(super) async fn found_at(&self, sequence: u64) -> Result<Found, Rejection> {
        match stored::found(&self.nats, &self.name, sequence).await {
            Err(rejection) if rejection.code == DUPLICATE_UNCHECKED => Ok(Found::Unreadable),
            found => found,
        }
    }

    /// A message that the stream has acked.
    pub(super) fn watermark_of(&self, sequence: u64, message_id: &str) -> Option<Watermark> {
        let created_ms = self.created.load(Ordering::Relaxed);
        (created_ms != 0).then(|| Watermark {
            stream: self.name.clone(),
            created_ms,
            sequence,
            message_id: Some(message_id.to_owned()),
            epoch: Epoch::default(),
        })
    }

    fn now(&self, seen: &Seen) -> Watermark {
        Watermark {
            stream: self.name.clone(),
            created_ms: seen.created_ms,
            sequence: seen.last_sequence,
            message_id: None,
            epoch: Epoch::default(),
        }
    }
}

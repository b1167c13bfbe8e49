//! Events that are published later: written into a collection beside the outbox, from which the
//! relay moves each into the outbox when it is due.
//!
//! The relay moves an event in a transaction, and a caller takes it back in one. So of the two, one
//! comes first, and the other one finds nothing or is repeated and then finds nothing.

use bson::{Bson, DateTime, doc};
use mongodb::ClientSession;

use crate::enqueue::{EnqueueError, Outbox, raw, require_transaction};
use crate::event::{DeliverAt, Event, EventId};
use crate::field;

impl Outbox {
    /// Writes one event in the transaction under way on `session`, to be published at `at`: a
    /// [`bson::DateTime`] or a [`SystemTime`](std::time::SystemTime), in milliseconds, within the
    /// years 1970 to 9999. If `at` has passed, the event is due at once.
    ///
    /// MongoDB's clock decides when the event is due: the event is published after `at` by that
    /// clock, never before, and usually within 100 ms. It then comes after the events of its key
    /// that are in the outbox already. Scheduled events of one key are published in the order of
    /// their times.
    ///
    /// Keep the id to cancel the event: take the one that is returned, or set one of your own with
    /// [`Event::with_id`]. Use an id for one event only: if the outbox has an event with this id
    /// when it is due, the relay doesn't deliver the second one and reports it as dead.
    ///
    /// # Errors
    /// [`EnqueueError`], as for [`Outbox::enqueue`]. Nothing was written. A time out of bounds is an
    /// [`EventError::DeliverAt`](crate::EventError::DeliverAt).
    pub async fn schedule(
        &self,
        session: &mut ClientSession,
        event: Event,
        at: impl Into<DateTime>,
    ) -> Result<EventId, EnqueueError> {
        let at = DeliverAt::new(at);
        require_transaction(session).await?;

        let id = event.id.clone();
        let mut document = self.document(event)?;
        document.insert(field::DELIVER_AT, at?.date());

        self.scheduled.insert_one(raw(&document)?).session(session).await?;
        Ok(id)
    }

    /// Takes a scheduled event back, in the transaction under way on `session`.
    ///
    /// `true`: once the transaction has committed, the event will never be delivered. `false`: there
    /// is no such scheduled event. It was moved into the outbox and is published or about to be, or
    /// it was cancelled before, or never scheduled. Nothing changed.
    ///
    /// While the relay moves the event, MongoDB lets one of both transactions continue. If it is
    /// the relay's, this call or the commit fails with a write conflict, which has the driver's
    /// label `TransientTransactionError`. Run the transaction again, as `and_run` does: then the
    /// answer is `false`. Until the commit succeeded, `true` means nothing.
    ///
    /// # Errors
    /// [`EnqueueError::NotInTransaction`], or [`EnqueueError::Mongodb`]: abort the transaction, or
    /// run it again if the error has the label for that.
    pub async fn cancel(
        &self,
        session: &mut ClientSession,
        id: &EventId,
    ) -> Result<bool, EnqueueError> {
        require_transaction(session).await?;

        let event = doc! { field::ID: Bson::from(id.clone()) };
        let deleted = self.scheduled.delete_one(event).session(session).await?;
        Ok(deleted.deleted_count > 0)
    }

    /// Gives a scheduled event another time, in the transaction under way on `session`. The bounds
    /// of `at` are those of [`Outbox::schedule`].
    ///
    /// `true`: once the transaction has committed, the event is delivered at `at`, and not at its
    /// earlier time. `false`: no event with this id waits for its time. It was moved into the outbox,
    /// was cancelled, was never scheduled, or is dead and waits for an operator. Nothing changed.
    ///
    /// A relay that moves the event meanwhile makes a write conflict, as with [`Outbox::cancel`].
    ///
    /// # Errors
    /// Those of [`Outbox::cancel`], and
    /// [`EventError::DeliverAt`](crate::EventError::DeliverAt) for a time out of bounds.
    pub async fn reschedule(
        &self,
        session: &mut ClientSession,
        id: &EventId,
        at: impl Into<DateTime>,
    ) -> Result<bool, EnqueueError> {
        let at = DeliverAt::new(at);
        require_transaction(session).await?;

        let event = doc! { field::ID: Bson::from(id.clone()), field::DEAD_AT: Bson::Null };
        let later = doc! { "$set": { field::DELIVER_AT: at?.date() } };
        let updated = self.scheduled.update_one(event, later).session(session).await?;
        Ok(updated.matched_count > 0)
    }
}

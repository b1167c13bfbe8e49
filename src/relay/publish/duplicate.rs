//! An ack of a duplicate is checked before it is believed.
//!
//! The stream remembers message ids and not messages. It acks an event as a duplicate although it
//! holds another message, or none, under its id:
//!
//! - two events have the same `_id`, one after the other or in two outboxes with one name;
//! - the stream was purged, or a limit or a consumer's ack removed the message, and the event was
//!   put back into the outbox.
//!
//! So the relay reads the message that the ack names. If it is this event, the event is delivered.
//! Otherwise the event is published under another id, and an ack of a
//! duplicate of that is checked in the same way. An event whose message cannot be read stays in the
//! outbox.
//!
//! A message that is gone may have been consumed. The relay can't know, and publishes it again:
//! a copy is better than a loss.

use super::outcome::Held;
use super::publication::Publication;
use crate::failure::{FALSE_DUPLICATE, Rejection};
use crate::relay::ports::{Ack, EventBus};

/// Message ids that are tried for one event. Each after the second stands for a purge of the stream
/// within its dedupe window, or a consumer that has removed the copy before.
const MAX_IDS: usize = 64;

/// What an ack of a duplicate turned out to be.
pub(super) enum Duplicate {
    /// The stream has the event.
    Delivered,
    /// It hasn't. The publication has another id now.
    Renamed,
}

/// Checks the ack of a duplicate.
///
/// # Errors
/// When the message can't be read, or the event has had all its ids.
pub(super) async fn check<B: EventBus>(
    bus: &B,
    stream: &str,
    publication: &mut Publication<'_>,
    ack: Ack,
) -> Result<Duplicate, Rejection> {
    match bus.holds(ack.sequence, publication.message(stream)).await? {
        Held::This => Ok(Duplicate::Delivered),
        held if publication.renames() == MAX_IDS => {
            let error = format!(
                "{MAX_IDS} message ids of this event are taken; sequence {} of stream {stream} {}",
                ack.sequence,
                held.describe()
            );
            Err(Rejection::new(FALSE_DUPLICATE, error))
        }
        held => {
            publication.rename(ack.sequence, held);
            Ok(Duplicate::Renamed)
        }
    }
}

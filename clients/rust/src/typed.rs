//! Subjects that know the type of their payloads.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Event, EventError};
use crate::message::Message;
use crate::verdict::HandleError;

/// A subject together with the type of its payloads. A writer makes events of it, and a handler reads
/// its messages; another payload doesn't compile.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Ticket { id: String, price: u32 }
/// use outboxd_client::EventType;
///
/// const TICKET_CREATED: EventType<Ticket> = EventType::new("ticket.created");
///
/// let ticket = Ticket { id: "t1".to_owned(), price: 5 };
/// let event = TICKET_CREATED.event(&ticket)?.key("t1")?;
/// # Ok::<(), outboxd_client::EventError>(())
/// ```
///
/// ```compile_fail
/// # #[derive(serde::Serialize)]
/// # struct Ticket { id: String, price: u32 }
/// # const TICKET_CREATED: outboxd_client::EventType<Ticket> =
/// #     outboxd_client::EventType::new("ticket.created");
/// let event = TICKET_CREATED.event(&"not a ticket");
/// ```
pub struct EventType<T> {
    subject: &'static str,
    payload: PhantomData<fn(T) -> T>,
}

impl<T> EventType<T> {
    /// The subject is checked when an event is made of it.
    pub const fn new(subject: &'static str) -> Self {
        Self { subject, payload: PhantomData }
    }

    /// The subject.
    pub const fn subject(&self) -> &'static str {
        self.subject
    }
}

impl<T: Serialize> EventType<T> {
    /// Makes an event with a new ObjectId.
    ///
    /// # Errors
    /// Those of [`Event::new`].
    pub fn event(&self, payload: &T) -> Result<Event, EventError> {
        Event::new(self.subject, payload)
    }
}

impl<T: DeserializeOwned> EventType<T> {
    /// Reads the payload of one of its messages.
    ///
    /// # Errors
    /// Those of [`Message::json`].
    pub fn read(&self, message: &Message) -> Result<T, HandleError> {
        message.json()
    }
}

// Derived, these would ask the same of `T`.
impl<T> Clone for EventType<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for EventType<T> {}

impl<T> fmt::Debug for EventType<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventType").field(&self.subject).finish()
    }
}

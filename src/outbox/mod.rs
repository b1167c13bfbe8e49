//! The library half: what a service links to write events, and what the relay shares with it.
//!
//! A service calls [`Outbox::enqueue`] inside its own MongoDB transaction; the event becomes a
//! document that commits or rolls back together with the record it tells about. Nothing in here
//! knows NATS, HTTP or a command line.

#[cfg(feature = "relay")]
pub(crate) mod act;
mod enqueue;
pub mod event;
#[cfg(feature = "relay")]
pub(crate) mod inspect;
pub mod layout;
#[cfg(feature = "relay")]
pub(crate) mod mark;
pub mod payload;
pub mod record;
#[cfg(feature = "relay")]
pub(crate) mod selection;
#[cfg(feature = "relay")]
mod snapshot;
#[cfg(feature = "relay")]
pub(crate) mod store;
#[cfg(feature = "opentelemetry")]
pub(crate) mod trace;

pub use enqueue::{EnqueueError, Outbox};
pub use event::{Event, EventError, EventId, Headers, Key, Subject};
pub use payload::PayloadError;

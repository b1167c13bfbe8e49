//! The transactional outbox for MongoDB and NATS JetStream.
#[cfg(feature = "relay")]
pub mod config;
#[cfg(feature = "relay")]
pub mod error;
pub mod outbox;
pub use outbox::{Event, EventError, EventId, EnqueueError, Outbox};

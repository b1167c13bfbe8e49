//! The adapter to NATS JetStream.
//!
//! - `connection`: a client that is replaced when it has given up
//! - `acks`: one subscription for the acks of all publishes
//! - `bus`: publishes, and classifies errors
//! - `stream`: creates and verifies the stream
//! - `requirements`: whether a stream can serve an outbox

mod acks;
pub(crate) mod bus;
pub(crate) mod connection;
pub(crate) mod requirements;
pub(crate) mod stream;

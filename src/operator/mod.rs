//! What people do with an outbox, whether through the command line or the console: both stand on
//! these functions, so they show the same numbers and do the same.
//!
//! - `clients`: the clients of several outboxes
//! - `filter`: which events are meant
//! - `event`: one event, and what to do about it
//! - `groups`: similar failures, and what to do about them
//! - `look`, `flow`, `endpoint`: the outbox and its relay at one time, for whoever watches

pub(crate) mod clients;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod groups;
pub(crate) mod look;

//! What people do with an outbox, whether through the command line or the console: both stand on
//! these functions, so they show the same numbers and do the same.
//!
//! - `clients`: the clients of several outboxes
//! - `filter`: which events are meant
//! - `event`: one event, and what to do about it
//! - `groups`: similar failures, and what to do about them
//! - `act`, `discard`: what is done to events, with a record in the audit
//! - `audit`: who did what
//! - `outcomes`: what came of events that were made due
//! - `kept`, `replay`, `verify`: events that were published and are kept, publishing them again, and
//!   comparing them with the stream
//! - `look`, `flow`, `endpoint`: the outbox and its relay at one time, for whoever watches

pub(crate) mod act;
pub(crate) mod audit;
pub(crate) mod clients;
mod discard;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod groups;
pub(crate) mod kept;
pub(crate) mod look;
pub(crate) mod outcomes;
pub(crate) mod replay;
pub(crate) mod verify;

/// `1 event`, `2 events`.
pub(crate) fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

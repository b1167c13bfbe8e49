//! The core of the relay: events leave an outbox in order, at least once, and none is lost.
//!
//! The core names no collection, no connection and no HTTP: [`ports`] is what it needs of the
//! world, which is MongoDB and JetStream in the daemon and memory in the simulation.
//!
//! ```text
//!            ┌─ sweep ─┐
//!  [outbox] ─┤         ├─▶ dispatch ─▶ publish ─▶ [stream]
//!     ▲      ├─ tail ──┤      ▲            │
//!     │      └─ retry ─┘      │ settled    ▼ outcome
//!     └──────────────────── settle ◀───────┘
//! ```
//!
//! In the order that data passes them:
//!
//! - [`lease`]: which relay publishes
//! - [`repair`]: publishes again what the stream has lost; [`kept`]: the events that are kept for it;
//!   [`again`]: publishes those in order
//! - [`follow`]: finds what is unpublished (sweep, then tail); [`listing`]: ids that a sweep found
//! - [`shared`]: one change stream for the tails of many outboxes
//! - [`retry`]: reads what is unlocked and due
//! - [`dispatch`]: decides what may be published now
//! - [`publish`]: one event becomes one message
//! - [`verdict`]: what becomes of an event that failed
//! - [`settle`]: deletes, marks and parks; [`borne_out`]: whether the stream has what it acked
//! - [`mover`]: moves scheduled events into the outbox once they are due
//! - [`schedule`]: when the retrier looks
//! - [`wake`]: why it looks
//! - [`watermark`]: the newest message that the stream acked, and whether the stream still has it
//! - [`leadership`]: the loop that joins them, one for each term of the lease

pub(crate) mod again;
mod borne_out;
pub(crate) mod clock;
pub(crate) mod dispatch;
pub(crate) mod follow;
pub(crate) mod kept;
pub(crate) mod leadership;
pub(crate) mod lease;
pub(crate) mod listing;
pub(crate) mod mover;
pub(crate) mod ports;
pub(crate) mod publish;
mod repair;
pub(crate) mod retry;
pub(crate) mod schedule;
pub(crate) mod settle;
pub(crate) mod shared;
#[cfg(test)]
mod simulation;
mod verdict;
pub(crate) mod wake;
pub(crate) mod watermark;

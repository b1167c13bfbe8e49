//! The adapter to MongoDB: every query on an outbox, the lease and the audit is in here.
//!
//! - `collections`: names of the collections beside the outbox
//! - `code`, `error`: the server's error codes, and the driver's errors as the core knows them
//! - `clock`: the server's clock
//! - `collation`: compares texts by their bytes
//! - `foundation`: what lies under an outbox: whether its collection keeps what writers insert
//! - `migrations`: creates the collections, validators and indexes
//! - `lease`: the lease's document
//! - `snapshot`, `tail`, `mark`, `store`: the relay's consistent reads, its change stream, its
//!   updates, and its queries
//! - `backlog`: how many events wait, and the age of the oldest, for metrics and alerts
//! - `selection`, `inspect`: which events an operator means, and what an operator reads
//! - `act`: what an operator changes, and the record of it

pub(crate) mod act;
pub(crate) mod backlog;
mod clock;
mod code;
pub(crate) mod collation;
pub(crate) mod collections;
mod error;
pub(crate) mod foundation;
pub(crate) mod inspect;
pub(crate) mod lease;
mod mark;
pub mod migrations;
pub(crate) mod selection;
mod snapshot;
pub(crate) mod store;
mod tail;

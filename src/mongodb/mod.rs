//! The adapter to MongoDB: every query on an outbox, the lease and the audit is in here.
//!
//! - `collections`: names of the collections beside the outbox
//! - `migrations`: creates the collections, validators and indexes
//! - `store`: what the relay reads and writes; `snapshot` its consistent reads, `mark` its updates
//! - `error`: the driver's errors as the core tells them apart
//! - `lease`: the lease's document
//! - `inspect`, `selection`: what an operator reads
//! - `act`: what an operator changes, and the record of it

pub(crate) mod act;
pub(crate) mod collections;
mod error;
pub(crate) mod inspect;
pub(crate) mod lease;
mod mark;
pub mod migrations;
pub(crate) mod selection;
mod snapshot;
pub(crate) mod store;

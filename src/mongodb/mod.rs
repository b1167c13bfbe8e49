//! The adapter to MongoDB: every query on an outbox, the lease and the audit is in here.
//!
//! - `collections`: names of the collections beside the outbox
//! - `code`, `error`: the server's error codes, and the driver's errors as the core knows them
//! - `clock`: the server's clock
//! - `collation`: compares texts by their bytes
//! - `foundation`: what lies under an outbox: whether its collection keeps what writers insert
//! - `migrations`: creates the collections, validators and indexes
//! - `lease`: the lease's document
//! - `daemons`: the daemons that share the outboxes of a fleet
//! - `discovery`: finds the outboxes of a deployment
//! - `snapshot`, `index`: one moment of an outbox; the indexes that queries name
//! - `outbox`, `sweep`, `tail`, `due`, `mark`, `write`, `store`: the relay's outbox, what its sweeps,
//!   its change stream and its retrier read, its updates, its batches of writes, and its port
//! - `shared`: the change stream that many outboxes share; `wanted`, `pace`: what a stream
//!   brings, and how fast it is read
//! - `scheduled`: the events for later, and the transactions that move them into the outbox
//! - `backlog`: how many events wait, and the age of the oldest, for metrics and alerts
//! - `later`: the same for scheduled events
//! - `selection`, `selected`, `chosen`, `named`: which events an operator means
//! - `inspect`, `stats`, `groups`, `held`: what an operator reads, and what waits behind that
//! - `published`, `kept`: acked events that are kept, as the relay and as an operator reads them
//! - `subjects`: the subjects of the events, for `check` and `migrate`
//! - `bounded`: the bounds of those reads, in time and in bytes
//! - `act`: what an operator changes, and the record of it

pub(crate) mod act;
pub(crate) mod backlog;
pub(crate) mod bounded;
pub(crate) mod chosen;
mod clock;
pub(crate) mod code;
pub(crate) mod collation;
pub(crate) mod collections;
pub(crate) mod daemons;
pub(crate) mod discovery;
mod due;
mod error;
pub(crate) mod foundation;
pub(crate) mod groups;
mod held;
mod index;
pub(crate) mod inspect;
pub(crate) mod kept;
pub(crate) mod later;
pub(crate) mod lease;
mod mark;
pub mod migrations;
pub(crate) mod named;
pub(crate) mod outbox;
mod pace;
mod published;
mod scheduled;
mod selected;
pub(crate) mod selection;
pub(crate) mod shared;
mod snapshot;
pub(crate) mod stats;
mod store;
pub(crate) mod subjects;
mod sweep;
mod tail;
mod wanted;
pub(crate) mod write;

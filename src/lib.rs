//! The daemon `outboxd`: a transactional-outbox relay from MongoDB to NATS JetStream.
//!
//! A service writes a record and its event in one MongoDB transaction, with the crate
//! `outboxd-client` or in any other language. The daemon follows the outbox collection, publishes
//! each event to JetStream and deletes it on the ack. An event that cannot be published stays,
//! marked with its failure, and is retried.
//!
//! ```text
//!  service ──transaction──▶ [ records │ outbox ] ──sweep, tail──▶ outboxd ──publish──▶ [ JetStream ]
//!                                        ▲                           │
//!                                        └───────delete on ack───────┘
//! ```
//!
//! This library exists for the program, its tests and its documentation; it promises no stable
//! interface. The modules stand in layers, and each imports its own layer and those below:
//!
//! | layer | modules |
//! | --- | --- |
//! | program | [`program`] |
//! | command line | [`cli`] |
//! | web page | `console` |
//! | processes | `daemon`, `check`, `admin`, `operator`, `privileges` |
//! | adapters | [`mongodb`], `jetstream` |
//! | core | `relay` |
//! | services | [`config`], `telemetry` |
//! | ground | [`document`], [`failure`], [`finding`], [`error`], `group`, `driver_words`, `tls`, `backoff`, `duration`, `pattern`, `printable`, `shutdown`, `task`, `crash` |
//! | contract | the crate `outboxd-client` |

mod admin;
mod backoff;
mod check;
pub mod cli;
pub mod config;
mod console;
mod crash;
mod daemon;
pub mod document;
mod driver_words;
mod duration;
pub mod error;
pub mod failure;
pub mod finding;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod group;
mod jetstream;
pub mod mongodb;
mod operator;
mod pattern;
mod printable;
mod privileges;
pub mod program;
mod relay;
mod shutdown;
mod task;
mod telemetry;
mod tls;

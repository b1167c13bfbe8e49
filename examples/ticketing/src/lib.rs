//! The ticketing system: five services, and the frame that they share.
//!
//! Each service is a module in a folder of its own, which `ticketing SERVICE` runs, with its own
//! database, outbox and sidecar:
//!
//! | folder | owns | emits | hears |
//! | --- | --- | --- | --- |
//! | `auth` | users | `user:created` | |
//! | `tickets` | tickets | `ticket:created`, `ticket:updated` | `order:*` |
//! | `orders` | orders | `order:created`, `order:updated`, `order:cancelled` | `ticket:*`, `payment:created`, `expiration:complete` |
//! | `expiration` | the time of each order | `expiration:complete` | `order:created`, `order:cancelled`, `payment:created` |
//! | `payments` | charges | `payment:created`, `payment:refunded` | `order:*` |
//!
//! `demo` starts them all and drives them.
//!
//! Of the frame, `service` starts and stops one of them, `http` is the shape of its requests and answers,
//! `fields` checks a body, `token` tells who asks, `transaction` writes a record and its event or
//! neither, `status` says how an order's status changes, and `messages` and `subjects` are what the
//! services say to each other.
//!
//! Of the library they use what any service would: [`outboxd_client::Outbox`] and
//! [`outboxd_client::Event`] to write events, [`outboxd_client::Outbox::schedule`] for those of
//! later, and [`outboxd_client::Listener`], [`outboxd_client::Inbox`] and
//! [`outboxd_client::Replica`] to apply those of the other services.

#![allow(missing_docs, reason = "a sample: the names and the types document the fields")]

pub mod auth;
pub mod expiration;
pub mod failure;
pub mod fields;
mod hs256;
pub mod http;
pub mod messages;
pub mod orders;
pub mod payments;
pub mod refusal;
pub mod service;
pub mod settings;
pub mod status;
pub mod subjects;
pub mod tickets;
pub mod token;
pub mod traces;
pub mod transaction;

//! What the tickets and the orders service share: their frame, not their rules.
//!
//! `service` starts and stops one of them, `http` is the shape of its requests and answers,
//! `fields` checks a body, `token` tells who asks, `transaction` writes a record and its event or
//! neither, and `messages` and `subjects` are what they say to each other.
//!
//! Of the library they use what any service would: [`outboxd_client::Outbox`] and
//! [`outboxd_client::Event`] to write events, and [`outboxd_client::Listener`],
//! [`outboxd_client::Inbox`] and [`outboxd_client::Replica`] to apply those of the other service.

#![allow(missing_docs, reason = "a sample: the names and the types document the fields")]

pub mod failure;
pub mod fields;
pub mod http;
pub mod messages;
pub mod refusal;
pub mod service;
pub mod settings;
pub mod subjects;
pub mod token;
pub mod traces;
pub mod transaction;

//! What the tickets and the orders service share: their frame, not their rules.
//!
//! `service` starts and stops one of them, `http` is the shape of its requests and answers,
//! `fields` checks a body, `token` tells who asks, `transaction` writes a record and its event or
//! neither, `listener` applies what the other service says, and `messages` and `subjects` are what
//! they say to each other.
//!
//! Of the crate they use what any service would: [`outboxd::Outbox`] and [`outboxd::Event`].

pub(crate) mod fields;
pub(crate) mod http;
pub(crate) mod listener;
pub(crate) mod messages;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod subjects;
pub(crate) mod token;
pub(crate) mod transaction;

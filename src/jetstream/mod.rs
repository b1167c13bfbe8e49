//! The adapter to NATS JetStream.
//!
//! - `connection`: a client that is replaced when it has given up or is deaf
//! - `lines`: the connections that several outboxes share
//! - `port`: what listens at an address that no connection came from
//! - `hearing`: whether replies reach a client
//! - `denied`: the subjects that the server denied
//! - `servers`: which server a client tries when it reconnects
//! - `acks`: one subscription for the acks of all publishes
//! - `waiting`: the publishes that wait for a reply
//! - `reply`: whether a reply is the expected stream's answer
//! - `sequences`: whether the sequence of an ack fits those before it
//! - `forgeries`: signs that somebody other than the stream answers
//! - `examine`: which of several answers to a publish counts
//! - `fuzz`: arbitrary bytes in the place of what NATS answers
//! - `message`: an event's message as the client sends it
//! - `bus`: publishes, and classifies errors
//! - `bursts`: how the stream keeps the order of a burst
//! - `compare`: compares the stream with what it had acked
//! - `stored`: compares a stored message with one that was sent
//! - `stream`: creates and verifies the stream
//! - `creation`: the stream as it is created, and the refusals to create it
//! - `account`: what the servers say of the account's connections
//! - `absent`: where a stream may be that isn't where it was looked for
//! - `facts`: what is known of a stream when it is judged
//! - `rows`: the table of what harms events
//! - `remedies`: the lines that fix a stream
//! - `requirements`: judges a stream by the table

pub(crate) mod absent;
pub(crate) mod account;
pub(crate) mod acks;
pub(crate) mod bursts;
pub(crate) mod bus;
pub(crate) mod compare;
pub(crate) mod connection;
pub(crate) mod creation;
pub(crate) mod denied;
mod examine;
pub(crate) mod facts;
mod forgeries;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod hearing;
pub(crate) mod lines;
mod message;
pub(crate) mod port;
mod remedies;
pub(crate) mod reply;
pub(crate) mod requirements;
mod rows;
mod sequences;
mod servers;
pub(crate) mod stored;
pub(crate) mod stream;
mod waiting;

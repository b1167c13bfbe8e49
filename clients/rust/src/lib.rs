//! Writes events to a transactional outbox in MongoDB, in the service's own transaction.
//!
//! A service that saves a record and then publishes an event can crash in between, and then the
//! other services never receive the event. So the service writes both in one MongoDB transaction,
//! the event as a document of its *outbox* collection. The daemon `outboxd` follows that
//! collection, publishes each event to NATS JetStream and deletes it on the ack. An event that
//! cannot be published stays, marked with its failure, and is retried.
//!
//! ```text
//!  service ──transaction──▶ [ records │ outbox ] ──▶ outboxd ──publish──▶ [ JetStream ]
//!                                        ▲              │
//!                                        └─delete on ack┘
//! ```
//!
//! A committed event is published at least once, and never after a rollback. Events of one key are
//! published in order. Within the stream's dedupe window there are no duplicates.
//!
//! ```no_run
//! # async fn f(client: mongodb::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use outboxd_client::{Event, Outbox};
//!
//! let shop = client.database("shop");
//! let outbox = Outbox::new(&shop, "outbox");
//!
//! let mut session = client.start_session().await?;
//! session.start_transaction().await?;
//!
//! let ticket = bson::doc! { "_id": "t1", "title": "Hamlet", "price": 20, "version": 0 };
//! let payload = bson::doc! { "id": "t1", "title": "Hamlet", "price": 20, "version": 0 };
//! shop.collection::<bson::Document>("tickets").insert_one(&ticket).session(&mut session).await?;
//! outbox.enqueue(&mut session, Event::new("ticket.created", &payload)?.key("t1")?).await?;
//!
//! session.commit_transaction().await?;
//! # Ok(()) }
//! ```
//!
//! # Later
//!
//! [`Outbox::schedule`] writes an event that is published at a time in the future, and
//! [`Outbox::cancel`] takes it back. Both are part of the caller's transaction.
//!
//! ```no_run
//! # async fn f(client: mongodb::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, SystemTime};
//!
//! use outboxd_client::{Event, EventId, Outbox};
//!
//! let shop = client.database("shop");
//! let outbox = Outbox::new(&shop, "outbox");
//! let expiry = EventId::string("order-7-expired")?;
//!
//! // The order is placed, and expires in 15 minutes unless it is paid.
//! let mut session = client.start_session().await?;
//! session.start_transaction().await?;
//! let event = Event::new("order.expired", &bson::doc! { "id": "order-7" })?.key("order-7")?;
//! let at = SystemTime::now() + Duration::from_secs(15 * 60);
//! outbox.schedule(&mut session, event.with_id(expiry.clone())?, at).await?;
//! session.commit_transaction().await?;
//!
//! // The order is paid.
//! session.start_transaction().await?;
//! let is_in_time = outbox.cancel(&mut session, &expiry).await?;
//! // Save the payment here if `is_in_time`; refuse it otherwise.
//! session.commit_transaction().await?;
//! # let _ = is_in_time;
//! # Ok(()) }
//! ```
//!
//! # Modules
//!
//! [`Outbox`] and [`Event`] are all that a service needs. The modules [`field`], [`event`],
//! [`payload`] and `trace` are the event contract, which the daemon shares: what a document holds,
//! what is accepted, and which bytes are published.
//!
//! # Features
//!
//! `opentelemetry`: [`Outbox::enqueue`] and [`Outbox::schedule`] write the current OpenTelemetry span
//! into the headers `traceparent` and `tracestate` of the event, and a handler runs in a span of its
//! own, whose parent is the one that its message names.
//!
//! `listener`: `Listener`, a durable consumer that hands the messages of a stream to a handler. It
//! needs a NATS client; nothing else of this library does.
//!
//! `kit`: servers for a service's own tests.

mod enqueue;
pub mod event;
pub mod field;
mod inbox;
#[cfg(feature = "kit")]
pub mod kit;
#[cfg(feature = "listener")]
pub mod listener;
mod message;
pub mod payload;
mod replica;
mod schedule;
#[cfg(feature = "opentelemetry")]
pub mod trace;
mod typed;
mod validator;
mod verdict;

pub use enqueue::{EnqueueError, Outbox};
pub use event::{DeliverAt, Event, EventError, EventId, Headers, Key, Subject};
pub use field::scheduled_collection;
pub use inbox::{Apply, DEFAULT_TTL, Each, Inbox, InboxError, MIN_TTL};
#[cfg(feature = "listener")]
pub use listener::{ListenError, Listener};
pub use message::{Handle, Message};
pub use payload::PayloadError;
pub use replica::Replica;
pub use typed::EventType;
pub use verdict::{HandleError, Verdict};

/// The examples of the README compile.
#[cfg(all(doctest, feature = "listener"))]
#[doc = include_str!("../README.md")]
struct Readme;

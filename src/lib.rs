//! The transactional outbox for MongoDB and NATS JetStream.
//!
//! A service that saves a record and then publishes an event can crash in between; the others never
//! hear of it. So the service writes both in one MongoDB transaction, the event as a document of
//! its *outbox* collection. The daemon `outboxd` follows that collection, publishes each event to
//! JetStream and deletes it on the ack. An event that can't be published stays, marked with the
//! failure, and is tried again.
//!
//! ```text
//!  service ──transaction──▶ [ records │ outbox ] ──sweep, tail──▶ outboxd ──publish──▶ [ JetStream ]
//!                                        ▲                           │
//!                                        └───────delete on ack───────┘
//! ```
//!
//! What is promised: a committed event is published at least once; a rolled-back one never; events
//! of one key in order; no duplicate within the stream's dedupe window; nothing is given up
//! silently.
//!
//! A service needs only this half of the crate (`default-features = false`): [`Outbox`] and
//! [`Event`].
//!
//! ```no_run
//! # async fn f(client: mongodb::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use outboxd::{Event, Outbox};
//!
//! let shop = client.database("shop");
//! let outbox = Outbox::new(&shop, "outbox");
//! let mut session = client.start_session().await?;
//! session.start_transaction().await?;
//! let ticket = bson::doc! { "_id": "t1", "price": 5, "version": 0 };
//! shop.collection::<bson::Document>("tickets").insert_one(&ticket).session(&mut session).await?;
//! outbox.enqueue(&mut session, Event::new("ticket:created", &ticket)?.key("t1")?).await?;
//! session.commit_transaction().await?;
//! # Ok(()) }
//! ```

#[cfg(feature = "relay")]
pub mod admin;
#[cfg(feature = "relay")]
pub mod cli;
#[cfg(feature = "relay")]
pub mod config;
#[cfg(feature = "relay")]
pub mod error;
#[cfg(feature = "relay")]
pub mod migrations;
pub mod outbox;
#[cfg(feature = "relay")]
pub mod preflight;
#[cfg(feature = "relay")]
mod privileges;
#[cfg(feature = "relay")]
pub mod relay;
#[cfg(feature = "relay")]
pub mod telemetry;
#[cfg(feature = "relay")]
mod tls;

pub use outbox::{EnqueueError, Event, EventError, EventId, Outbox};

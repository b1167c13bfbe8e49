//! One record and its event, or neither.

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use mongodb::error::Result;
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession};
use outboxd::{Event, EventError};
use serde::Serialize;

/// What a transaction left behind, and when its commit returned.
#[derive(Debug, Clone)]
pub(crate) struct Committed<T> {
    pub(crate) value: T,
    pub(crate) at: SystemTime,
}

/// Runs `work` in a transaction and commits it. When two transactions meet on one document, the driver runs `work` again;
/// it must have no effect outside the session. What it needs is passed through `context`: a future that borrows from its
/// closure isn't known to be `Send`.
///
/// # Errors
/// What `work` returned or the driver gave up on; then nothing was written.
pub(crate) async fn run<T, C, F>(client: &Client, context: C, work: F) -> Result<Committed<T>>
where
    F: for<'s> FnMut(&'s mut ClientSession, &'s mut C) -> BoxFuture<'s, Result<T>>,
{
    let mut session = client.start_session().await?;
    let transaction = session.start_transaction().read_concern(ReadConcern::snapshot());
    let value = transaction.write_concern(WriteConcern::majority()).and_run(context, work).await?;
    Ok(Committed { value, at: SystemTime::now() })
}

/// An event about the record with this id.
///
/// # Errors
/// [`EventError`], in the form that leaves a transaction.
pub(crate) fn event(subject: &str, key: &str, message: &impl Serialize) -> Result<Event> {
    let event = || -> std::result::Result<Event, EventError> { Event::new(subject, message)?.key(key) };
    event().map_err(mongodb::error::Error::custom)
}

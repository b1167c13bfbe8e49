//! One record and its event, or neither.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mongodb::error::Result;
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession};
use outboxd_client::{Event, EventError};
use serde::Serialize;

use crate::refusal::ApiError;

/// Runs `work` in a transaction and commits it. When two transactions meet on one document, the
/// driver runs `work` again, but not after `patience`; it must have no effect outside the session.
/// What it needs is passed through `context`: a future that borrows from its closure isn't known to
/// be `Send`.
///
/// # Errors
/// What `work` returned or the driver gave up on; then nothing was written.
pub async fn run<T, C, F>(client: &Client, patience: Duration, context: C, mut work: F) -> Result<T>
where
    F: for<'s> FnMut(&'s mut ClientSession, &'s mut C) -> BoxFuture<'s, Result<T>>,
{
    let mut session = client.start_session().await?;
    let transaction = session.start_transaction().read_concern(ReadConcern::snapshot());
    let began = Instant::now();
    // The driver would go on for two minutes. A service that was killed in a transaction leaves its
    // documents locked for about one: until MongoDB ends the transaction
    // (`transactionLifetimeLimitSeconds`).
    let transaction = transaction.write_concern(WriteConcern::majority());

    let done = transaction.and_run(context, |session, context| match began.elapsed() > patience {
        true => async { Err(ApiError::busy().into()) }.boxed(),
        false => work(session, context),
    });

    done.await
}

/// An event about the record with this id.
///
/// # Errors
/// [`EventError`], in the form that leaves a transaction.
pub fn event(subject: &str, key: &str, message: &impl Serialize) -> Result<Event> {
    let event =
        || -> std::result::Result<Event, EventError> { Event::new(subject, message)?.key(key) };
    event().map_err(mongodb::error::Error::custom)
}

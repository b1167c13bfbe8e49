//! The outbox that the operator's verbs look at.

use std::time::{Duration, Instant};

use super::config::load;
use crate::config::{Config, MongodbConfig, Sources};
use crate::duration::for_people;
use crate::error::{Error, ErrorKind, MongodbContext, Result, is_silence};
use crate::mongodb::inspect::Inspect;
use crate::operator::kept;

/// How long a server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the outbox that is meant. The operator's verbs need only MongoDB.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no outbox: numbers of nothing would look like good news.
pub(super) async fn inspect(sources: &Sources) -> Result<(Config, Inspect)> {
    let config = load(sources)?;
    let inspect = inspect_of(&config).await?;
    Ok((config, inspect))
}

/// Opens this outbox over a client of its own.
///
/// # Errors
/// As [`inspect`].
pub(super) async fn inspect_of(config: &Config) -> Result<Inspect> {
    let client = config.mongodb.client("operator").await?;
    inspect_by(config, &client).await
}

/// The same, over this client.
pub(super) async fn inspect_by(config: &Config, client: &mongodb::Client) -> Result<Inspect> {
    let MongodbConfig { database, collection, .. } = &config.mongodb;
    let layout = config.event.layout.clone();
    let inspect = Inspect::new(client.database(database), collection, layout);
    if exists(&inspect).await.during("looking for the outbox")? {
        return Ok(inspect);
    }

    let message = format!(
        "there is no outbox {database}.{collection}: the database {database} has no collection \
         {collection}; correct the database in MONGODB_URI or mongodb.collection, or create the \
         outbox with `outboxd migrate`"
    );
    Err(Error::new(ErrorKind::NotFound, message))
}

/// Whether the outbox exists. An overloaded server, of all, is one that an operator looks at: one
/// that does not answer is waited for, one that refuses is not.
async fn exists(inspect: &Inspect) -> mongodb::error::Result<bool> {
    let began = Instant::now();
    loop {
        match inspect.exists().await {
            Err(error) if is_silence(&error) && began.elapsed() < PATIENCE => {
                eprintln!(
                    "outboxd: MongoDB does not answer; waiting for it, for {} in all",
                    for_people(PATIENCE)
                );
            }
            other => return other,
        }
    }
}

/// The configured outbox, of which only kept events are read.
///
/// # Errors
/// As [`inspect`].
pub(super) async fn kept(sources: &Sources) -> Result<kept::Outbox> {
    let config = load(sources)?;
    let client = config.mongodb.client("operator").await?;
    inspect_by(&config, &client).await?;
    Ok(kept::Outbox::new(config, client))
}

//! Connections to both sides, verified before anything relays over them.
//!
//! A relay that starts repeats these attempts until both sides are reached. A rotation makes one
//! attempt at a time beside the running relay, and hands over the connections once it succeeds.

use std::sync::Arc;

use super::pools::{Clients, Pools};
use super::sound::Sound;
use crate::config::{Config, MongodbConfig};
use crate::error::Result;
use crate::jetstream::connection::Nats;
use crate::jetstream::lines::Lines;
use crate::jetstream::{stored, stream};
use crate::mongodb::migrations::Migrations;
use crate::telemetry::alerts;
use crate::telemetry::metrics::Metrics;

/// Both sides.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) outbox: OutboxSide,
    pub(super) stream: StreamSide,
}

/// MongoDB, with the outbox's migrations applied, in a collection that loses no events.
#[derive(Debug)]
pub(super) struct OutboxSide {
    pub(super) clients: Arc<Clients>,
    pub(super) sound: Sound,
}

/// NATS, with a stream that can serve the outbox.
#[derive(Debug)]
pub(super) struct StreamSide {
    pub(super) nats: Nats,
    /// What is risky about the stream.
    pub(super) risks: Vec<String>,
}

impl Connections {
    /// Tries a configuration once, with everything that a relay needs of the world.
    ///
    /// # Errors
    /// Whatever would keep a relay with this configuration from relaying.
    pub(super) async fn attempt(
        config: &Config,
        pools: &Pools,
        lines: &Lines,
        metrics: &Metrics,
    ) -> Result<Self> {
        alerts::reopen(&config.alerts).await?;

        let (outbox, stream) = tokio::try_join!(
            OutboxSide::reach(config, pools),
            StreamSide::reach(config, metrics, lines)
        )?;
        Ok(Self { outbox, stream })
    }
}

impl OutboxSide {
    /// # Errors
    /// [`ErrorKind::Mongodb`](crate::error::ErrorKind::Mongodb) when a name can't be resolved or no
    /// server can be used; [`ErrorKind::Migration`](crate::error::ErrorKind::Migration) when
    /// migrations are missing; [`ErrorKind::Outbox`](crate::error::ErrorKind::Outbox) when the
    /// collection loses events.
    pub(super) async fn reach(config: &Config, pools: &Pools) -> Result<Self> {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let clients = pools.of(&config.mongodb).await?;
        let database = clients.queries.database(database);
        let migrations = Migrations::new(database, collection, config.event.layout.clone());
        let sound = Sound::require(&migrations).await?;
        Ok(Self { clients, sound })
    }
}

impl StreamSide {
    /// # Errors
    /// [`ErrorKind::Nats`](crate::error::ErrorKind::Nats) when no server can be reached;
    /// [`ErrorKind::Stream`](crate::error::ErrorKind::Stream) when the stream can't serve an
    /// outbox.
    pub(super) async fn reach(config: &Config, metrics: &Metrics, lines: &Lines) -> Result<Self> {
        let nats = Nats::connect(&config.nats, &config.stream.name, lines).await?;
        let mut risks = stream::require(&nats, config, metrics).await?;

        if stored::may_read(&nats, &config.stream.name).await == Some(false) {
            risks.push(
                "the user may not read its messages, so duplicates can't be confirmed, and their \
                 events stay in the outbox: run `outboxd privileges --role relay` and grant what \
                 it prints"
                    .to_owned(),
            );
        }

        Ok(Self { nats, risks })
    }
}

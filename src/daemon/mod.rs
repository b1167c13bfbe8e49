//! The daemon: reports about itself, relays, and starts over when secrets are rotated.
//!
//! ```text
//!  run ──▶ admin endpoint, registry of metrics: for the life of the process
//!   │
//!   └─▶ turn: connect, verify, relay ──▶ drained ──▶ turn with the rotated secrets …
//! ```
//!
//! When a file of secrets that the settings name is rotated, or a signal asks for a reload, the new
//! settings are tried first. Once they work, the relay drains as on SIGTERM and goes on with the new
//! connections, in the same process. Log, metrics, traces and the address of the admin endpoint
//! stay.

mod announce;
mod connect;
mod connections;
mod rotation;
mod sound;
mod stuck;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::connect::{Relay, Surroundings};
use self::connections::Connections;
use self::rotation::Rotation;
use crate::admin;
use crate::config::{Config, Sources};
use crate::error::Result;
use crate::relay::leadership::parts::{Readers, Totals};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// What a process is asked from outside.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Drain and end.
    pub(crate) stop: CancellationToken,
    /// Read the settings and the files that they name again.
    pub(crate) reload: Arc<Notify>,
}

/// Relays until `stop`, then drains.
///
/// # Errors
/// What a retry cannot fix: see [`Relay::connect`] and [`Relay::run`], and an admin endpoint that
/// cannot listen on the address from the settings.
pub(crate) async fn run(config: Config, sources: &Sources, asked: &Asked) -> Result<()> {
    let outbox = format!("{}.{}", config.mongodb.database, config.mongodb.collection);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        outbox,
        stream = config.stream.name,
        name = config.nats.client_id,
        "outboxd starts"
    );

    let health = Arc::<Health>::default();
    let registry = Registry::start()?;
    let metrics = registry.outbox(&outbox);
    let endpoint = admin::start(&config, registry, health.clone()).await?;

    let rotation = Rotation {
        sources: sources.clone(),
        reload: asked.reload.clone(),
        metrics: metrics.clone(),
    };
    let around = Surroundings { endpoint, health, metrics, readers: Readers::default() };
    let totals = turns(config, &rotation, &around, &asked.stop).await?;

    info!(
        published = totals.published,
        duplicates = totals.duplicates,
        failed = totals.failed,
        abandoned = totals.abandoned,
        "outboxd stops"
    );

    Ok(())
}

/// One turn per content of the secrets, until `stop`.
async fn turns(
    mut config: Config,
    rotation: &Rotation,
    around: &Surroundings,
    stop: &CancellationToken,
) -> Result<Totals> {
    let (mut totals, mut connections) = (Totals::default(), None);
    loop {
        let turn = stop.child_token();
        let rotated = tokio::spawn(rotation.clone().next(config.clone(), turn.clone()));
        let relayed = relay(config, connections.take(), around, &turn).await;

        turn.cancel();
        totals += relayed?;

        (config, connections) = match rotated.await {
            Ok(Some((config, connections))) if !stop.is_cancelled() => (*config, Some(connections)),
            _ => return Ok(totals),
        };
        around.health.starts();
    }
}

/// Relays with this configuration until `turn` is over.
async fn relay(
    config: Config,
    connections: Option<Connections>,
    around: &Surroundings,
    turn: &CancellationToken,
) -> Result<Totals> {
    match Relay::connect(config, connections, around, turn).await? {
        Some(relay) => relay.run(turn.clone()).await,
        None => Ok(Totals::default()),
    }
}

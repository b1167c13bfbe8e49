//! The daemon: reports about itself, relays, and starts over when secrets are rotated.
//!
//! ```text
//!  run ──▶ admin endpoint, registry of metrics: for the life of the process
//!   │
//!   └─▶ turn: connect, verify, relay ──▶ drained ──▶ turn with the rotated secrets …
//! ```
//!
//! When a file of secrets that the settings name is rotated, the relay drains as on SIGTERM and
//! connects again with the new content, in the same process. Log, metrics, traces and the address
//! of the admin endpoint stay.

mod connect;
mod rotation;
mod stuck;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use self::connect::Relay;
use crate::admin;
use crate::config::{Config, Sources};
use crate::error::Result;
use crate::relay::leadership::parts::Totals;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Metrics, Registry};

/// Relays until `stop`, then drains.
///
/// # Errors
/// What a retry cannot fix: see [`Relay::connect`] and [`Relay::run`], and an admin endpoint that
/// cannot listen on the address from the settings.
pub(crate) async fn run(config: Config, sources: &Sources, stop: &CancellationToken) -> Result<()> {
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

    let totals = turns(config, sources, &endpoint, &health, &metrics, stop).await?;

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
    sources: &Sources,
    endpoint: &admin::Endpoint,
    health: &Arc<Health>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<Totals> {
    let mut totals = Totals::default();
    loop {
        let turn = stop.child_token();
        let rotation =
            tokio::spawn(rotation::rotated(config.clone(), sources.clone(), turn.clone()));
        let relayed = relay(config, health.clone(), metrics.clone(), &turn).await;

        turn.cancel();
        totals += relayed?;

        match rotation.await {
            Ok(Some(rotated)) if !stop.is_cancelled() => config = rotated,
            _ => return Ok(totals),
        }

        endpoint.follow(&config).await?;
        health.starts();
    }
}

/// Relays with this configuration until `turn` is over.
async fn relay(
    config: Config,
    health: Arc<Health>,
    metrics: Metrics,
    turn: &CancellationToken,
) -> Result<Totals> {
    match Relay::connect(config, health, metrics, turn).await? {
        Some(relay) => relay.run(turn.clone()).await,
        None => Ok(Totals::default()),
    }
}

//! `outboxd run`: relays until SIGTERM or Ctrl-C, drains, exits 0.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin;
use crate::config::{Config, Sources};
use crate::error::{Error, ErrorKind, Result};
use crate::relay::Relay;
use crate::telemetry::{logs, metrics, traces};

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let config = Config::load(sources)?;
    logs::init(&config.log);
    traces::start("outboxd", &config.nats.client_id)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        outbox = format!("{}.{}", config.mongodb.database, config.mongodb.collection),
        stream = config.stream.name,
        name = config.nats.client_id,
        "outboxd starts"
    );
    let stop = stop_on_signals()?;
    let health = Arc::default();
    admin::start(&config, metrics::install()?, Arc::clone(&health)).await?;
    let Some(relay) = Relay::connect(config, health, &stop).await? else {
        return Ok(());
    };
    let totals = relay.run(stop).await;
    traces::stop().await;
    let totals = totals?;
    info!(
        published = totals.published,
        duplicates = totals.duplicates,
        failed = totals.failed,
        abandoned = totals.abandoned,
        "outboxd stops"
    );
    Ok(())
}

fn stop_on_signals() -> Result<CancellationToken> {
    let listen =
        |kind| signal(kind).map_err(|error| Error::with_source(ErrorKind::Os, "signals can't be received", error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("interrupted: stopping"),
        }
        stopping.cancel();
    });
    Ok(stop)
}

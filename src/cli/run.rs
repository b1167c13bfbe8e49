//! `outboxd run`: relays until SIGTERM or Ctrl-C, drains, exits 0.
//!
//! When a file of secrets that the settings name is rotated, the relay drains as on SIGTERM and
//! begins anew with what it holds now, in the same process. Log, metrics, traces and the admin
//! endpoint's address stay as they were.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin;
use crate::config::{Config, NamedFile, Sources};
use crate::daemon::Relay;
use crate::error::{Error, ErrorKind, Result};
use crate::relay::leadership::parts::Totals;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Metrics, Registry};
use crate::telemetry::{logs, traces};

/// How often the files are read: a secret is valid for some time after its successor is there, as a
/// rule.
const LOOK: Duration = Duration::from_secs(5);

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let mut config = Config::load(sources)?;
    logs::init(&config.log);
    traces::start("outboxd", &config.nats.client_id)?;
    let outbox = format!("{}.{}", config.mongodb.database, config.mongodb.collection);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        outbox,
        stream = config.stream.name,
        name = config.nats.client_id,
        "outboxd starts"
    );
    let stop = stop_on_signals()?;
    let health = Arc::<Health>::default();
    let registry = Registry::start()?;
    let metrics = registry.outbox(&outbox);
    let endpoint = admin::start(&config, registry, health.clone()).await?;
    let mut totals = Totals::default();
    let ended = loop {
        let turn = stop.child_token();
        let rotation = tokio::spawn(rotated(config.clone(), sources.clone(), turn.clone()));
        let relayed = relay(config, health.clone(), metrics.clone(), &turn).await;
        turn.cancel();
        match relayed {
            Ok(relayed) => totals += relayed,
            Err(error) => break Err(error),
        }
        match rotation.await {
            Ok(Some(anew)) if !stop.is_cancelled() => config = anew,
            _ => break Ok(()),
        }
        if let Err(error) = endpoint.follow(&config).await {
            break Err(error);
        }
        health.starts();
    };
    traces::stop().await;
    ended?;
    info!(
        published = totals.published,
        duplicates = totals.duplicates,
        failed = totals.failed,
        abandoned = totals.abandoned,
        "outboxd stops"
    );
    Ok(())
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

/// Waits until the files that the settings name hold something else, with which the configuration
/// loads; then ends `turn`.
async fn rotated(config: Config, sources: Sources, turn: CancellationToken) -> Option<Config> {
    let (config, sources) = (Arc::new(config), Arc::new(sources));
    let mut refused = Vec::new();
    loop {
        tokio::select! {
            () = turn.cancelled() => return None,
            () = tokio::time::sleep(LOOK), if config.names_files() => {}
        }
        // A volume that hangs holds up this task and no other.
        let (looks, sources) = (config.clone(), sources.clone());
        let looked = spawn_blocking(move || match looks.rotated() {
            rotated if rotated.is_empty() => None,
            rotated => Some((Config::load(&sources), rotated)),
        });
        let looked = tokio::select! {
            () = turn.cancelled() => return None,
            looked = looked => looked.ok()?,
        };
        match looked {
            None => refused.clear(),
            Some((Ok(anew), rotated)) => {
                info!(files = named(&rotated), "secrets changed: connecting anew");
                turn.cancel();
                return Some(anew);
            }
            Some((Err(error), rotated)) if rotated != refused => {
                warn!(error = %error.report(), files = named(&rotated), "secrets changed, but can't be used; going on with the old ones");
                refused = rotated;
            }
            Some((Err(_), _)) => {}
        }
    }
}

fn named(files: &[NamedFile]) -> String {
    files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn stop_on_signals() -> Result<CancellationToken> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Error::with_source(ErrorKind::Os, "signals can't be received", error))
    };
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
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

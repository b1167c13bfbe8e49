//! Rotation of secrets: watches the files that the settings name, and reloads on a signal.
//!
//! What changed is tried before anything is given up for it. Only when both sides were reached with
//! the new content does the turn end, and the next one takes over the connections that were made.
//! Until then the old connections stay, and the new content is tried again with each look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connections::Connections;
use super::pools::Pools;
use super::settings::Settings;
use crate::config::{Config, NamedFile};
use crate::error::{Error, ErrorKind, Result};
use crate::jetstream::lines::Lines;
use crate::telemetry::alerts;
use crate::telemetry::metrics::Metrics;

/// How often the files are read. A secret usually stays valid for a while after its successor is in
/// place.
const LOOK: Duration = Duration::from_secs(5);
/// How often new content that can't be used is reported while it stays the same.
const REMIND: Duration = Duration::from_secs(60);

/// What a rotation is made of.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    pub(super) settings: Settings,
    /// Whether the outbox is one of several, so that it is known by its name.
    pub(super) in_fleet: bool,
    /// Asks for a reload at once.
    pub(super) reload: Arc<Notify>,
    pub(super) metrics: Metrics,
    pub(super) pools: Pools,
    pub(super) lines: Lines,
}

/// A configuration that works, and its connections.
pub(super) type Rotated = (Box<Config>, Connections);

/// The last report of content that can't be used.
struct Report {
    files: Vec<NamedFile>,
    at: Instant,
}

/// Why the settings are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Look,
    Signal,
}

impl Rotation {
    /// Waits until a named file has other content, or a signal asks for a reload, and a relay could
    /// work with what the settings are then; ends `turn` and returns that. `None` when `turn` ended
    /// otherwise.
    pub(super) async fn next(self, config: Config, turn: CancellationToken) -> Option<Rotated> {
        let mut reported = None;
        loop {
            let cause = tokio::select! {
                () = turn.cancelled() => return None,
                () = self.reload.notified() => Cause::Signal,
                () = tokio::time::sleep(LOOK), if config.names_files() => Cause::Look,
            };

            // Dropped half-way when the turn ends: nothing is given up yet.
            let tried = tokio::select! {
                () = turn.cancelled() => return None,
                tried = self.look(&config, cause, &mut reported) => tried,
            };

            if let Some(rotated) = tried {
                turn.cancel();
                return Some(rotated);
            }
        }
    }

    /// Reads the settings again and tries them if they changed.
    async fn look(
        &self,
        config: &Config,
        cause: Cause,
        reported: &mut Option<Report>,
    ) -> Option<Rotated> {
        if cause == Cause::Signal {
            info!("reloading");
            match alerts::reopen(&config.alerts).await {
                Ok(()) => {
                    info!(file = %config.alerts.file.get().display(), "reopened the alert log")
                }
                Err(error) => warn!(error = %error.report(), "cannot reopen the alert log"),
            }
        }

        // A volume that hangs holds up this task and no other.
        let named = config.clone();
        let files = spawn_blocking(move || named.rotated()).await.ok()?;
        if files.is_empty() && cause == Cause::Look {
            *reported = None;
            return None;
        }

        let name = self.in_fleet.then(|| config.outbox());
        let loaded = self.settings.outbox(name.as_deref()).await;

        match self.attempt(config, loaded).await {
            Ok(Some(rotated)) => {
                let changed = if files.is_empty() { "settings" } else { "secrets" };
                info!(files = shown(&files), "{changed} changed: reconnecting");
                rotated.0.warnings().iter().for_each(|warning| warn!("{warning}"));
                Some(rotated)
            }
            Ok(None) => {
                info!("the settings are the same: nothing to reload");
                None
            }
            Err(error) => {
                report(&error, files, cause, reported);
                None
            }
        }
    }

    /// The connections with the loaded configuration; `None` if it is the one in force.
    async fn attempt(&self, config: &Config, loaded: Result<Config>) -> Result<Option<Rotated>> {
        let loaded = Box::new(loaded?);
        if loaded.is_same(config) {
            return Ok(None);
        }

        if loaded.outbox() != config.outbox() {
            let message = format!(
                "they name the outbox {}; restart outboxd to leave {}",
                loaded.outbox(),
                config.outbox()
            );
            return Err(Error::new(ErrorKind::Config, message));
        }

        let connections =
            Connections::attempt(&loaded, &self.pools, &self.lines, &self.metrics).await?;
        Ok(Some((loaded, connections)))
    }
}

/// Reports what can't be used: once per content, and again from time to time.
fn report(error: &Error, files: Vec<NamedFile>, cause: Cause, reported: &mut Option<Report>) {
    let names = shown(&files);
    let is_known =
        reported.as_ref().is_some_and(|last| last.files == files && last.at.elapsed() < REMIND);

    if is_known && cause == Cause::Look {
        debug!(error = %error.report(), files = names, "the changed secrets still cannot be used");
        return;
    }

    let changed = if files.is_empty() { "settings" } else { "secrets" };
    warn!(
        error = %error.report(),
        files = names,
        "{changed} changed, but cannot be used: keeping the old ones"
    );
    *reported = Some(Report { files, at: Instant::now() });
}

fn shown(files: &[NamedFile]) -> String {
    files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

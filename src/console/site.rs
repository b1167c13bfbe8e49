//! What every page needs: the people and the outboxes, which follow rotated secrets.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::Access;
use super::guesses::Guesses;
use super::jobs::Jobs;
use super::outbox::Outbox;
use crate::config::{Config, Fleet, Sources};
use crate::error::Result;
use crate::operator::clients::Clients;

/// How often the files of secrets are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What every page needs.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) access: Access,
    pub(super) guesses: Guesses,
    pub(super) jobs: Jobs,
    /// By their names in addresses, which are those of database and collection.
    pub(super) outboxes: Vec<Arc<Outbox>>,
}

/// Reads the settings again whenever a file of secrets has changed.
pub(super) fn follow(site: Arc<Site>, fleet: Fleet, sources: Sources, stop: CancellationToken) {
    if !fleet.outboxes().iter().any(Config::names_files) {
        return;
    }

    tokio::spawn(async move {
        let mut fleet = fleet;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK) => {}
            }

            let (named, sources) = (fleet.clone(), sources.clone());
            let looked = spawn_blocking(move || {
                let is_rotated = |config: &Config| !config.rotated().is_empty();
                let meant = |fleet: Fleet| fleet.meant(sources.outbox.as_deref());
                let is_changed = named.outboxes().iter().any(is_rotated);
                is_changed.then(|| (Fleet::people(&sources), Fleet::load(&sources).and_then(meant)))
            });

            let Ok(Some((people, reloaded))) = looked.await else { continue };
            // A token that is taken out ends, whatever else is wrong with the settings.
            people.inspect(|people| site.access.keep(people));
            let reloaded = match reloaded {
                Ok(loaded) => site.rotate(&loaded).await.map(|()| loaded),
                Err(error) => Err(error),
            };

            match reloaded {
                Ok(loaded) => {
                    info!("secrets changed: the console uses the new ones");
                    fleet = loaded;
                }
                Err(error) => {
                    let error = error.report();
                    warn!(%error, "secrets changed, but the console can't use them yet");
                }
            }
        }
    });
}

impl Site {
    /// Changes to other secrets.
    async fn rotate(&self, fleet: &Fleet) -> Result<()> {
        self.access.rotate(&fleet.any().console);

        let mut clients = Clients::default();
        for config in fleet.outboxes() {
            // A table that was added since the start is not shown.
            let Some(outbox) = self.outbox(&config.outbox()) else { continue };
            outbox.rotate(config, clients.of(config).await?);
        }

        Ok(())
    }

    /// The outbox of this name.
    pub(super) fn outbox(&self, name: &str) -> Option<&Arc<Outbox>> {
        self.outboxes.iter().find(|outbox| outbox.name == name)
    }
}

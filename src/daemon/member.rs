//! One outbox of the process: relays, and starts over when its secrets are rotated.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connect::{Relay, Surroundings};
use super::connections::Connections;
use super::process::Process;
use super::rotation::Rotation;
use crate::config::Config;
use crate::error::Result;
use crate::relay::leadership::parts::{Readers, Totals};
use crate::task;
use crate::telemetry::health::Health;

/// An outbox.
#[derive(Debug)]
pub(super) struct Member {
    around: Surroundings,
    rotation: Rotation,
}

impl Member {
    /// `reload` asks it to read the settings again.
    pub(super) fn new(outbox: &str, process: &Process, reload: Arc<Notify>) -> Self {
        let Process { endpoint, registry, settings, pools, lines, schedules } = process.clone();
        let (health, metrics) = (Arc::<Health>::default(), registry.outbox(outbox));
        endpoint.add(outbox, health.clone());

        let in_fleet = pools.are_shared();
        let rotation = Rotation {
            settings,
            in_fleet,
            reload,
            metrics: metrics.clone(),
            pools: pools.clone(),
            lines: lines.clone(),
        };
        let readers = Readers::default();
        let around = Surroundings { endpoint, health, metrics, readers, pools, lines, schedules };
        Self { around, rotation }
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.around.health
    }

    /// One turn per content of the secrets, until `stop`.
    ///
    /// # Errors
    /// What a retry cannot fix: see [`Relay::connect`] and [`Relay::run`].
    pub(super) async fn turns(
        &self,
        mut config: Config,
        stop: &CancellationToken,
    ) -> Result<Totals> {
        let (mut totals, mut connections) = (Totals::default(), None);
        loop {
            let turn = stop.child_token();
            let rotated = task::spawn(self.rotation.clone().next(config.clone(), turn.clone()));
            let relayed = self.relay(config, connections.take(), &turn).await;

            turn.cancel();
            totals += relayed?;

            (config, connections) = match rotated.await {
                Ok(Some((config, connections))) if !stop.is_cancelled() => {
                    (*config, Some(connections))
                }
                _ => return Ok(totals),
            };
            self.around.health.starts();
        }
    }

    /// Relays with this configuration until `turn` is over.
    async fn relay(
        &self,
        config: Config,
        connections: Option<Connections>,
        turn: &CancellationToken,
    ) -> Result<Totals> {
        match Relay::connect(config, connections, &self.around, turn).await? {
            Some(relay) => relay.run(turn.clone()).await,
            None => Ok(Totals::default()),
        }
    }
}

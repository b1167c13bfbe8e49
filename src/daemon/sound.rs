//! What a relay was started on: the outbox's collection and the stream. It requires both to be
//! sound at the start, and looks again while it runs, since anybody may change them at any time.
//!
//! A change is logged once. One by which events are lost is an alert too: the relay continues,
//! because an event that is published is not lost.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::jetstream::connection::Nats;
use crate::jetstream::stream;
use crate::mongodb::foundation::{Foundation, Soundness};
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::migrations::Migrations;
use crate::telemetry::alert::Alert;
use crate::telemetry::alerts::Alerts;
use crate::telemetry::metrics::Metrics;

/// Looks per `alerts.stuck_after`.
const LOOKS: u32 = 4;
/// Longest wait between looks at the stream. A look is one request.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The faults of the last look.
#[derive(Debug, Default)]
struct Known(Vec<String>);

impl Known {
    /// Takes the faults of this look; returns those that are new.
    fn news(&mut self, faults: Vec<String>) -> Vec<String> {
        let new = faults.iter().filter(|fault| !self.0.contains(fault)).cloned().collect();
        self.0 = faults;
        new
    }

    fn warn(&mut self, what: &str, risks: Vec<String>) {
        for risk in self.news(risks) {
            warn!("{what} is risky: {}", one_line(&risk));
        }
    }
}

/// A remedy may have several lines.
fn one_line(fault: &str) -> String {
    fault.replace('\n', "; then ")
}

/// The outbox, in a collection that loses no events.
#[derive(Debug)]
pub(super) struct Sound {
    foundation: Foundation,
    losses: Known,
    risks: Known,
}

impl Sound {
    /// Looks at the collection and its migrations.
    ///
    /// # Errors
    /// [`ErrorKind::Outbox`] when the collection loses events, and as
    /// [`Migrations::require_applied`].
    pub(super) async fn require(migrations: &Migrations) -> Result<Self> {
        let foundation = migrations.foundation();
        let mut risks = foundation.require_sound().await?;
        risks.extend(migrations.require_applied().await?);

        Ok(Self { foundation, losses: Known::default(), risks: Known(risks) })
    }

    /// Logs what is risky about it.
    pub(super) fn reported(mut self) -> Self {
        let risks = std::mem::take(&mut self.risks.0);
        self.risks.warn("the outbox", risks);
        self
    }

    /// Looks again. Of several relays, the one that holds the lease raises the alert.
    pub(super) async fn look(
        &mut self,
        lease: &LeaseDocument,
        alerts: &Alerts,
    ) -> mongodb::error::Result<()> {
        let Some(Soundness { losses, risks }) = self.foundation.soundness().await? else {
            return Ok(());
        };

        let is_ours = losses.is_empty() || !lease.is_anothers().await?;
        for fault in self.losses.news(losses) {
            error!("the outbox loses events: {}", one_line(&fault));
            if is_ours {
                alerts.raise(Alert::Unsound { fault });
            }
        }

        self.risks.warn("the outbox", risks);
        Ok(())
    }
}

/// A stream that can serve the outbox.
pub(super) struct SoundStream {
    nats: Nats,
    config: Config,
    metrics: Metrics,
    risks: Known,
}

impl SoundStream {
    /// Logs what is risky about it.
    pub(super) fn new(nats: Nats, config: &Config, metrics: &Metrics, risks: Vec<String>) -> Self {
        let (config, metrics) = (config.clone(), metrics.clone());
        let mut stream = Self { nats, config, metrics, risks: Known::default() };
        stream.risks.warn("the stream", risks);
        stream
    }

    /// Looks at it from time to time, until `stop`.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let wait = (self.config.alerts.stuck_after / LOOKS).min(MAX_WAIT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = async {
                    tokio::time::sleep(wait).await;
                    self.look().await;
                } => {}
            }
        }
    }

    async fn look(&mut self) {
        match stream::verify(&self.nats, &self.config, &self.metrics).await {
            Ok(found) => self.risks.warn("the stream", found),
            Err(error) if error.kind() == ErrorKind::Stream => {
                self.risks.warn("the stream", vec![error.report().to_string()]);
            }
            // That is a matter for the publishes.
            Err(error) => debug!(error = %error.report(), "cannot read the stream's configuration"),
        }
    }
}

//! Watches the age of the oldest event: raises an alert once when an event is stuck, and once when
//! none is any more.
//!
//! The watch runs from the moment the outbox is known, not only while this relay holds the lease,
//! so an operator also learns that no relay holds it, or that NATS has been unreachable since the
//! start. While another relay holds the lease, that relay alerts, and this one measures: whoever
//! watches a standby's metrics sees what waits, whatever the leader reports.

use std::time::Duration;

use bson::Bson;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::sound::Sound;
use crate::duration::for_people;
use crate::error::mongodb_reason;
use crate::mongodb::backlog::{BacklogStore, Described, Oldest};
use crate::mongodb::lease::LeaseDocument;
use crate::telemetry::alert::{Alert, StuckEvent};
use crate::telemetry::alerts::Alerts;
use crate::telemetry::metrics::Backlog;

/// Looks per `alerts.stuck_after`: an alert is at most a quarter of it late.
const LOOKS: u32 = 4;
/// Longest wait between looks.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The watch over one outbox.
pub(super) struct Stuck {
    /// Looks at the collection on the same occasions.
    pub(super) sound: Sound,
    pub(super) store: BacklogStore,
    pub(super) lease: LeaseDocument,
    pub(super) alerts: Alerts,
    pub(super) backlog: Backlog,
    pub(super) after: Duration,
    /// Whether the newest alert said that events are stuck.
    pub(super) was_stuck: bool,
    /// The oldest event, if its age is unknown, and when this watch first saw it.
    pub(super) seen: Option<(Option<Bson>, Instant)>,
}

impl Stuck {
    /// Looks at the outbox from time to time, until `stop`.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let wait = (self.after / LOOKS).min(MAX_WAIT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }

            let sounded = self.sound.look(&self.lease, &self.alerts).await;
            if let Err(error) = sounded {
                warn!(error = mongodb_reason(&error), "cannot look at the outbox's collection");
            }

            if let Err(error) = self.look().await {
                warn!(error = mongodb_reason(&error), "cannot look for stuck events");
            }
        }
    }

    async fn look(&mut self) -> mongodb::error::Result<()> {
        let numbers = self.store.numbers().await?;
        let age_seconds = self.age(numbers.oldest.as_ref());
        self.backlog.set(numbers.events, numbers.dead, age_seconds);

        if self.lease.is_anothers().await? {
            return Ok(());
        }

        let stuck = numbers.oldest.filter(|_| age_seconds > self.after.as_secs());
        match stuck {
            Some(oldest) if !self.was_stuck => self.stuck(&oldest, age_seconds).await?,
            None if self.was_stuck => self.recovered(),
            _ => {}
        }

        Ok(())
    }

    /// The age of the oldest event. If the event has no time, its age is at least the time for which
    /// it has been the oldest here.
    fn age(&mut self, oldest: Option<&Oldest>) -> u64 {
        let Some(Oldest { id, age_seconds: None }) = oldest else {
            self.seen = None;
            return oldest.and_then(|oldest| oldest.age_seconds).unwrap_or(0);
        };

        match &self.seen {
            Some((seen, since)) if seen == id => since.elapsed().as_secs(),
            _ => {
                self.seen = Some((id.clone(), Instant::now()));
                0
            }
        }
    }

    async fn stuck(&mut self, oldest: &Oldest, age_seconds: u64) -> mongodb::error::Result<()> {
        // The count may miss it: it was asked for later.
        let events = self.store.older_than(self.after).await?.max(1);
        let Described { id, subject, key, attempts, last_failure } =
            self.store.describe(oldest).await?;
        let age = for_people(Duration::from_secs(age_seconds));
        error!(id, age, events, last_failure, "events are stuck");

        let oldest = StuckEvent { id, subject, key, attempts, error: last_failure };
        self.alerts.raise(Alert::Stuck { oldest, oldest_seconds: age_seconds, events });
        self.was_stuck = true;

        Ok(())
    }

    fn recovered(&mut self) {
        info!("no event is stuck any more");
        self.alerts.raise(Alert::Recovered);
        self.was_stuck = false;
    }
}

//! Watches the age of the oldest event, whatever the reason for it: raises one alert when an event
//! is stuck, and one when none is stuck any more.
//!
//! It runs from the moment the outbox is known, not only while this relay holds the lease: an
//! operator must be told when no relay holds it, or when NATS has been away since the start. While
//! another relay holds the lease, that relay raises the alerts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::mongodb_says;
use crate::mongodb::backlog::{BacklogStore, Described, Oldest};
use crate::mongodb::lease::LeaseDocument;
use crate::telemetry::alerts::{About, Alert, Alerts, Kind};
use crate::telemetry::metrics::Backlog;

/// Looks per `alerts.stuck_after`: an alert comes at most a quarter of it late.
const LOOKS: u32 = 4;
/// Longest wait between looks.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What is looked at, and what was said last.
pub(super) struct Stuck {
    pub(super) store: BacklogStore,
    pub(super) lease: LeaseDocument,
    pub(super) alerts: Alerts,
    pub(super) backlog: Backlog,
    pub(super) after: Duration,
    pub(super) was_stuck: bool,
}

impl Stuck {
    /// Looks now and then, until `stop`.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let wait = (self.after / LOOKS).min(MAX_WAIT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match self.look().await {
                Ok(()) => {}
                Err(error) => {
                    warn!(error = mongodb_says(&error), "could not look for stuck events")
                }
            }
        }
    }

    async fn look(&mut self) -> mongodb::error::Result<()> {
        if self.lease.is_anothers().await? {
            self.backlog.set(0, 0, 0);
            return Ok(());
        }

        let numbers = self.store.numbers().await?;
        let age_seconds = numbers.oldest.as_ref().map_or(0, |oldest| oldest.age_seconds);
        self.backlog.set(numbers.events, numbers.dead, age_seconds);

        let stuck = numbers.oldest.filter(|oldest| oldest.age_seconds > self.after.as_secs());
        match stuck {
            Some(oldest) if !self.was_stuck => self.stuck(&oldest).await?,
            None if self.was_stuck => {
                info!("no event is stuck any more");
                let text = "no event is older than alerts.stuck_after any more".to_owned();
                self.alerts.raise(Alert {
                    kind: Kind::Recovered,
                    text,
                    event: None,
                    oldest_seconds: None,
                });
                self.was_stuck = false;
            }
            _ => {}
        }
        Ok(())
    }

    async fn stuck(&mut self, oldest: &Oldest) -> mongodb::error::Result<()> {
        // The count may miss it: it was asked for later.
        let events = self.store.older_than(self.after).await?.max(1);
        let Described { id, subject, key, attempts, last_failure } =
            self.store.describe(oldest).await?;
        let age_seconds = oldest.age_seconds;

        let age = humantime::format_duration(Duration::from_secs(age_seconds)).to_string();
        error!(id, age, events, last_failure, "events are stuck");
        let text = format!(
            "{events} events have waited for longer than alerts.stuck_after; the oldest, {id}, for {age}"
        );
        let event = About {
            id,
            subject,
            key,
            attempts,
            class: None,
            code: None,
            error: last_failure,
            remedy: None,
        };
        let kind = Kind::Stuck;
        self.alerts.raise(Alert {
            kind,
            text,
            event: Some(event),
            oldest_seconds: Some(age_seconds),
        });
        self.was_stuck = true;
        Ok(())
    }
}

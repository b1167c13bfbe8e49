//! Watches the age of the oldest event, whoever is to blame: alerts once when one is stuck, once
//! when none is any more.
//!
//! Runs from the moment the outbox is known, not only while this relay holds the lease: that nobody
//! holds it, or that NATS has been away since the start, is what somebody should hear of. While
//! another relay holds it, that one speaks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::duration::for_people;
use crate::error::mongodb_reason;
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::store::{Oldest, Store};
use crate::telemetry::alerts::{About, Alert, Alerts, Kind};
use crate::telemetry::metrics::Backlog;

/// Looks per `alerts.stuck_after`: an alert comes at most a quarter of it late.
const LOOKS: u32 = 4;
/// Longest wait between looks.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What is looked at, and what was said last.
pub(super) struct Stuck {
    pub(super) store: Store,
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
                    warn!(error = mongodb_reason(&error), "could not look for stuck events")
                }
            }
        }
    }

    async fn look(&mut self) -> mongodb::error::Result<()> {
        if self.lease.is_anothers().await? {
            self.backlog.set(0, 0, 0);
            return Ok(());
        }
        let (events, dead, first_seconds) = self.store.backlog().await?;
        let oldest = self.store.oldest(self.after).await?;
        self.backlog.set(
            events,
            dead,
            oldest.as_ref().map_or(first_seconds, |oldest| oldest.age_seconds),
        );
        match oldest {
            Some(oldest) if !self.was_stuck => self.stuck(oldest),
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

    fn stuck(&mut self, oldest: Oldest) {
        let Oldest { id, subject, key, attempts, last_failure, age_seconds, events } = oldest;
        let age = for_people(Duration::from_secs(age_seconds));
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
    }
}

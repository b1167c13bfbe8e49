//! Watches the age of the oldest event: raises an alert once when an event is stuck, and once when
//! none is any more. Likewise of scheduled events that are due and stay where they are.
//!
//! The watch runs from the moment the outbox is known, not only while this relay holds the lease,
//! so an operator also learns that no relay holds it, or that NATS has been unreachable since the
//! start. While another relay holds the lease, that relay alerts, and this one measures: whoever
//! watches a standby's metrics sees what waits, whatever the leader reports.

use std::time::Duration;

use bson::{Bson, DateTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::sound::Sound;
use crate::duration::for_people;
use crate::error::mongodb_reason;
use crate::mongodb::backlog::{BacklogStore, Described, Oldest};
use crate::mongodb::later::{Later, LaterStore};
use crate::mongodb::lease::LeaseDocument;
use crate::telemetry::alert::{Alert, StuckEvent};
use crate::telemetry::alerts::{Alerts, Before};
use crate::telemetry::metrics::Backlog;

/// Looks per `alerts.stuck_after`: an alert is at most a quarter of it late.
const LOOKS: u32 = 4;
/// Longest wait between looks.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Of so many looks, one is at the collection too: that takes seven commands. MongoDB itself expires
/// documents once a minute.
const LOOKS_PER_COLLECTION: u32 = 2;

/// The watch over one outbox.
pub(super) struct Stuck {
    /// Looks at the collection on some of the same occasions.
    pub(super) sound: Sound,
    pub(super) store: BacklogStore,
    /// The scheduled events, unless nobody moves them.
    pub(super) later: Option<LaterStore>,
    pub(super) lease: LeaseDocument,
    pub(super) alerts: Alerts,
    pub(super) backlog: Backlog,
    pub(super) after: Duration,
    /// What the newest alerts said.
    pub(super) before: Before,
    /// The oldest event, if its age is unknown, and when this watch first saw it.
    pub(super) seen: Option<(Option<Bson>, Instant)>,
}

impl Stuck {
    /// Looks at the outbox from time to time, until `stop`.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let wait = (self.after / LOOKS).min(MAX_WAIT);
        for look in 1_u32.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }

            if look.is_multiple_of(LOOKS_PER_COLLECTION)
                && let Err(error) = self.sound.look(&self.lease, &self.alerts).await
            {
                warn!(
                    error = mongodb_reason(&error),
                    "cannot read the options of the outbox's collection"
                );
            }

            if let Err(error) = self.look().await {
                warn!(error = mongodb_reason(&error), "cannot count the stuck events");
            }
        }
    }

    /// Whether there are no events, and no alert is open. Then two reads of one document are enough.
    async fn is_quiet(&self) -> mongodb::error::Result<bool> {
        if self.before.was_stuck || self.before.was_overdue || !self.store.is_empty().await? {
            return Ok(false);
        }
        match &self.later {
            // What the user may not read, the numbers leave out.
            Some(later) => Ok(later.is_empty().await.unwrap_or(false)),
            None => Ok(true),
        }
    }

    async fn look(&mut self) -> mongodb::error::Result<()> {
        if self.is_quiet().await? {
            self.seen = None;
            self.backlog.set(0, 0, 0);

            if self.later.is_some() {
                self.backlog.set_scheduled(0, 0);
            }
            return Ok(());
        }

        let numbers = self.store.numbers().await?;
        let is_standby = self.lease.is_anothers().await?;
        let dead_scheduled = self.look_at_scheduled(numbers.at, is_standby).await;
        let age_seconds = self.age(numbers.oldest.as_ref());
        self.backlog.set(numbers.events, numbers.dead + dead_scheduled, age_seconds);

        if is_standby {
            return Ok(());
        }

        let stuck = numbers.oldest.filter(|_| age_seconds > self.after.as_secs());
        match stuck {
            Some(oldest) if !self.before.was_stuck => self.stuck(&oldest, age_seconds).await?,
            None if self.before.was_stuck => self.recovered(),
            _ => {}
        }

        Ok(())
    }

    /// Returns how many scheduled events are dead. An error here hides no stuck event.
    /// A standby measures, and leaves the alerts to the leader.
    async fn look_at_scheduled(&mut self, now: DateTime, is_standby: bool) -> u64 {
        let later = match &self.later {
            Some(later) => later.numbers(now).await,
            None => return 0,
        };
        let later = match later {
            // The start and `outboxd check` report a user without the right.
            Ok(later) => later.unwrap_or_default(),
            Err(error) => {
                warn!(error = mongodb_reason(&error), "cannot count the scheduled events");
                return 0;
            }
        };

        let Later { events, dead, overdue, overdue_seconds, most_overdue, .. } = later;
        self.backlog.set_scheduled(events, overdue_seconds);
        if is_standby {
            return dead;
        }

        let is_overdue = overdue > 0 && overdue_seconds > self.after.as_secs();
        let id = most_overdue.unwrap_or_else(|| "(unreadable)".to_owned());
        match (is_overdue, self.before.was_overdue) {
            (true, false) => {
                let due_for = for_people(Duration::from_secs(overdue_seconds));
                error!(id, due_for, events = overdue, "scheduled events are overdue");
                self.alerts.raise(Alert::Overdue { id, overdue_seconds, events: overdue });
            }
            (false, true) => {
                info!("no scheduled event is overdue any more");
                self.alerts.raise(Alert::OnTime);
            }
            _ => {}
        }

        self.before.was_overdue = is_overdue;
        dead
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
        self.before.was_stuck = true;

        Ok(())
    }

    fn recovered(&mut self) {
        info!("no event is stuck any more");
        self.alerts.raise(Alert::Recovered);
        self.before.was_stuck = false;
    }
}

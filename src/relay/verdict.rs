//! What becomes of an event whose publish failed: when it is tried again or that it is dead, and
//! who is told.

use std::time::Duration;

use bson::Bson;
use tracing::{error, warn};

use outboxd_client::{Key, Subject};

use super::clock;
use super::ports::{Mark, Next};
use super::publish::outcome::Rewound;
use super::retry;
use crate::config::RetryConfig;
use crate::document::record::{OutboxRecord, shown_id};
use crate::failure::{Class, Rejection};
use crate::telemetry::alerts::{Alert, Alerts, RefusedEvent};

/// Longest error written down: a thousand marks fit in one command.
const MAX_ERROR_BYTES: usize = 2048;

/// An event that failed.
#[derive(Debug)]
pub(super) struct Failed<'a> {
    pub(super) id: Bson,
    pub(super) subject: Option<&'a Subject>,
    pub(super) key: Option<&'a Key>,
    /// Counted refusals before this one.
    pub(super) attempts: u32,
}

impl<'a> Failed<'a> {
    pub(super) fn new(record: &'a OutboxRecord) -> Self {
        Self {
            id: record.id.clone().into(),
            subject: Some(&record.subject),
            key: record.key.as_ref(),
            attempts: record.attempts,
        }
    }
}

/// Decides.
#[derive(Debug)]
pub(super) struct Judge {
    retry: RetryConfig,
    /// Who says so.
    relay: String,
    alerts: Alerts,
    /// What the log hasn't been told yet: one entry per code and state, however many events fail
    /// alike.
    untold: Vec<Untold>,
}

/// Failures that are alike.
#[derive(Debug)]
struct Untold {
    events: u64,
    /// The first of them.
    id: String,
    class: &'static str,
    code: String,
    error: String,
    remedy: &'static str,
    dead: bool,
}

impl Judge {
    pub(super) fn new(retry: &RetryConfig, relay: &str, alerts: &Alerts) -> Self {
        Self {
            retry: retry.clone(),
            relay: relay.to_owned(),
            alerts: alerts.clone(),
            untold: Vec::new(),
        }
    }

    /// Logs what failed since the last time.
    pub(super) fn tell(&mut self) {
        for Untold { events, id, class, code, error, remedy, dead } in self.untold.drain(..) {
            match dead {
                true => error!(events, id, class, code, error, remedy, "event is dead"),
                false => warn!(events, id, class, code, error, remedy, "event failed"),
            }
        }
    }

    fn keep_untold(&mut self, id: &str, rejection: &Rejection, dead: bool) {
        match self
            .untold
            .iter_mut()
            .find(|untold| untold.code == rejection.code && untold.dead == dead)
        {
            Some(untold) => untold.events += 1,
            None => {
                let (class, remedy) = (rejection.class.as_str(), rejection.remedy());
                let Rejection { code, error, .. } = rejection.clone();
                self.untold.push(Untold {
                    events: 1,
                    id: id.to_owned(),
                    class,
                    code,
                    error,
                    remedy,
                    dead,
                });
            }
        }
    }

    /// Tells a person that the stream has lost what it had acked: it is deleted from the outbox,
    /// and only a person can say what that means for those who read the stream.
    pub(super) fn rewound(&self, stream: &str, Rewound { from, to }: Rewound) {
        error!(
            stream,
            from, to, "the stream has gone back: it has lost messages that it had acked"
        );
        self.alerts.raise(Alert::Rewound { stream: stream.to_owned(), from, to });
    }

    /// The mark to write. Raises an alert when the event comes into a state that a person should
    /// know of.
    pub(super) fn mark(&mut self, failed: &Failed<'_>, mut rejection: Rejection) -> Mark {
        rejection.error.truncate(rejection.error.floor_char_boundary(MAX_ERROR_BYTES));
        // An outage isn't the event's fault.
        let counted = matches!(rejection.class, Class::Config | Class::Poison);
        let attempts = failed.attempts.saturating_add(u32::from(counted));
        let next = match rejection.class {
            Class::Poison => Next::Dead,
            Class::Config if attempts >= self.retry.max_attempts => Next::Dead,
            Class::Config => Next::RetryAfter(retry::backoff(&self.retry, attempts)),
            // Due as soon as the broker answers; until then no tick looks.
            Class::Unknown | Class::Transient => Next::RetryAfter(Duration::ZERO),
        };
        let id = shown_id(&failed.id);
        self.keep_untold(&id, &rejection, next == Next::Dead);
        let remedy = rejection.remedy();
        let Rejection { class, code, error } = rejection;
        let class = class.as_str();
        let alert: Option<fn(RefusedEvent) -> Alert> = match next {
            Next::Dead => Some(Alert::Dead),
            // Attempts rise one by one, so this is true once.
            Next::RetryAfter(_) if counted && attempts == self.alerts.after_failures => {
                Some(Alert::Failing)
            }
            Next::RetryAfter(_) => None,
        };
        if let Some(alert) = alert {
            let (code, error) = (code.clone(), error.clone());
            let subject = failed.subject.map(|subject| subject.as_str().to_owned());
            let key = failed.key.map(|key| key.as_str().to_owned());
            let event = RefusedEvent { id, subject, key, attempts, class, code, error, remedy };
            self.alerts.raise(alert(event));
        }
        Mark {
            id: failed.id.clone(),
            at: clock::now(),
            attempts,
            class,
            code,
            error,
            relay: self.relay.clone(),
            next,
        }
    }
}

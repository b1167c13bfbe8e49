//! What becomes of an event whose publish failed: when it is tried again or that it is dead, and who is told.

use std::time::Duration;

use bson::{Bson, DateTime};
use tracing::{error, warn};

use super::policy::{Class, Rejection};
use super::retry;
use crate::config::RetryConfig;
use crate::outbox::mark::{Mark, Next};
use crate::outbox::record::OutboxRecord;
use crate::outbox::store::shown_id;
use crate::outbox::{Key, Subject};
use crate::telemetry::alerts::{About, Alert, Alerts, Kind};

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
    pub(super) retry: RetryConfig,
    /// Who says so.
    pub(super) relay: String,
    pub(super) alerts: Alerts,
}

impl Judge {
    /// The mark to write. Raises an alert when the event comes into a state that a person should know of.
    pub(super) fn mark(&self, failed: &Failed<'_>, rejection: Rejection) -> Mark {
        let remedy = rejection.remedy();
        let Rejection { class, code, mut error } = rejection;
        error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
        // An outage isn't the event's fault.
        let counted = matches!(class, Class::Config | Class::Poison);
        let attempts = failed.attempts.saturating_add(u32::from(counted));
        let next = match class {
            Class::Poison => Next::Dead,
            Class::Config if attempts >= self.retry.max_attempts => Next::Dead,
            Class::Config => Next::RetryAfter(retry::backoff(&self.retry, attempts)),
            // Due as soon as the broker answers; until then no tick looks.
            Class::Unknown | Class::Transient => Next::RetryAfter(Duration::ZERO),
        };
        let (id, class) = (shown_id(&failed.id), class.as_str());
        match next {
            Next::Dead => error!(id, class, code, attempts, error, remedy, "event is dead"),
            Next::RetryAfter(wait) => warn!(id, class, code, attempts, ?wait, error, remedy, "event failed"),
        }
        let state = match next {
            Next::Dead => Some((Kind::Dead, "is dead")),
            // Attempts rise one by one, so this is true once.
            Next::RetryAfter(_) if counted && attempts == self.alerts.after_failures => {
                Some((Kind::Failing, "keeps failing"))
            }
            Next::RetryAfter(_) => None,
        };
        if let Some((kind, state)) = state {
            let subject = failed.subject.map(|subject| subject.as_str().to_owned());
            let s = if attempts == 1 { "" } else { "s" };
            let text = format!(
                "event {id} ({}) {state} after {attempts} refusal{s}: {code}: {error}; {remedy}",
                subject.as_deref().unwrap_or("no valid subject"),
            );
            let key = failed.key.map(|key| key.as_str().to_owned());
            let (class, code, error) = (Some(class), Some(code.clone()), Some(error.clone()));
            let event = About { id, subject, key, attempts, class, code, error, remedy: Some(remedy) };
            self.alerts.raise(Alert { kind, text, event: Some(event), oldest_seconds: None });
        }
        Mark {
            id: failed.id.clone(),
            at: DateTime::now(),
            attempts,
            class,
            code,
            error,
            relay: self.relay.clone(),
            next,
        }
    }
}

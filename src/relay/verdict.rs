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

/// Decides what becomes of failed events, and reports it: in the log, and as alerts.
#[derive(Debug)]
pub(super) struct Verdicts {
    retry: RetryConfig,
    /// The name of this relay, as it stands in each mark.
    relay: String,
    alerts: Alerts,
    /// What isn't logged yet: one entry per code and state, however many events fail alike.
    unlogged: Vec<FailedAlike>,
}

/// Events that failed alike.
#[derive(Debug)]
struct FailedAlike {
    events: u64,
    /// The first of them.
    id: String,
    class: &'static str,
    code: String,
    error: String,
    remedy: &'static str,
    dead: bool,
}

impl Verdicts {
    pub(super) fn new(retry: &RetryConfig, relay: &str, alerts: &Alerts) -> Self {
        Self {
            retry: retry.clone(),
            relay: relay.to_owned(),
            alerts: alerts.clone(),
            unlogged: Vec::new(),
        }
    }

    /// Logs what failed since the last time.
    pub(super) fn log(&mut self) {
        for FailedAlike { events, id, class, code, error, remedy, dead } in self.unlogged.drain(..)
        {
            match dead {
                true => error!(events, id, class, code, error, remedy, "event is dead"),
                false => warn!(events, id, class, code, error, remedy, "event failed"),
            }
        }
    }

    fn keep_for_log(&mut self, id: &str, rejection: &Rejection, dead: bool) {
        match self
            .unlogged
            .iter_mut()
            .find(|failed| failed.code == rejection.code && failed.dead == dead)
        {
            Some(failed) => failed.events += 1,
            None => {
                let (class, remedy) = (rejection.class.as_str(), rejection.remedy());
                let Rejection { code, error, .. } = rejection.clone();
                self.unlogged.push(FailedAlike {
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
        let text = format!(
            "the stream {stream} has gone back from sequence {from} to {to}: it was made anew or restored from an old copy, \
             and has lost messages that it had acked; their events are no longer in the outbox"
        );
        self.alerts.raise(Alert { kind: Kind::Rewound, text, event: None, oldest_seconds: None });
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
        self.keep_for_log(&id, &rejection, next == Next::Dead);
        let remedy = rejection.remedy();
        let Rejection { class, code, error } = rejection;
        let class = class.as_str();
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
            // What is malformed may have none.
            let of = subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
            let text = format!(
                "event {id}{of} {state} after {attempts} refusal{s}: {code}: {error}; {remedy}"
            );
            let key = failed.key.map(|key| key.as_str().to_owned());
            let (class, code, error) = (Some(class), Some(code.clone()), Some(error.clone()));
            let event =
                About { id, subject, key, attempts, class, code, error, remedy: Some(remedy) };
            self.alerts.raise(Alert { kind, text, event: Some(event), oldest_seconds: None });
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

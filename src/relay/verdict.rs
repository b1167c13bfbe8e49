//! The verdict on an event whose publish failed: when it is tried again or whether it is dead, what
//! is logged and which alert is raised.

use std::time::Duration;

use bson::Bson;
use outboxd_client::{Key, Subject};
use tracing::{error, warn};

use super::clock;
use super::listing::RawId;
use super::ports::{Forged, Mark, Next};
use super::publish::outcome::FalseDuplicate;
use super::retry;
use super::settle::{Refusal, Settled};
use crate::config::RetryConfig;
use crate::document::record::{OutboxRecord, shown_id};
use crate::failure::{Class, Rejection};
use crate::group;
use crate::telemetry::alert::{Alert, MistakenEvent, RefusedEvent};
use crate::telemetry::alerts::Alerts;
use crate::telemetry::metrics::Events;

/// Longest error that a mark keeps, so that a thousand marks fit in one command.
const MAX_ERROR_BYTES: usize = 2048;

/// Reasons that are logged at once. A hostile writer can make each event fail for another.
const MOST_REASONS: usize = 32;

/// Cuts an error that is longer than a mark keeps, and gives its memory back: a thousand errors may
/// wait for their marks.
fn shorten(error: &mut String) {
    if error.len() > MAX_ERROR_BYTES {
        error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
        error.shrink_to_fit();
    }
}

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
    /// What isn't logged yet: one entry per code, reason and state, however many events fail alike.
    unlogged: Vec<FailedAlike>,
    /// Events that failed for more reasons than are logged at once.
    unnamed: u64,
    /// The events that got another message id and aren't logged yet: the first and their number.
    mistaken: Option<MistakenEvent>,
    /// What MongoDB refused to write and isn't logged yet: the first refusal of each kind of write,
    /// and their number.
    unwritable: Vec<(u64, Refusal)>,
}

/// Events that failed alike.
#[derive(Debug)]
struct FailedAlike {
    events: u64,
    /// The first of the events.
    id: String,
    class: &'static str,
    code: String,
    /// The error without what differs between events.
    reason: String,
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
            unnamed: 0,
            mistaken: None,
            unwritable: Vec::new(),
        }
    }

    /// Logs what failed since the last time, and raises the alert for what got another message id: a
    /// restored outbox may hold a hundred thousand such events.
    pub(super) fn log(&mut self) {
        if let Some(mistaken) = self.mistaken.take() {
            let MistakenEvent { events, id, message_id, sequence, found, .. } = &mistaken;
            warn!(
                events,
                id,
                message_id,
                sequence,
                found,
                "the stream took events for duplicates by mistake; outboxd published them under \
                 other message ids"
            );
            self.alerts.raise(Alert::FalseDuplicate(mistaken));
        }

        self.log_unwritable();

        for FailedAlike { events, id, class, code, reason, error, remedy, dead } in
            self.unlogged.drain(..)
        {
            let group = group::id(&code, &reason);
            match dead {
                true => error!(events, group, id, class, code, error, remedy, "event is dead"),
                false => warn!(events, group, id, class, code, error, remedy, "event failed"),
            }
        }

        let events = std::mem::take(&mut self.unnamed);
        if events > 0 {
            warn!(events, "more events failed, for other reasons: run `outboxd groups`");
        }
    }

    /// One line and one alert for each kind of write, however many events there are.
    fn log_unwritable(&mut self) {
        for (events, Refusal { write, id, error }) in self.unwritable.drain(..) {
            match &id {
                Some(id) => error!(
                    events,
                    id,
                    error,
                    "MongoDB can't {write} events; they are left as they are, and their keys wait"
                ),
                None => error!(
                    error,
                    "MongoDB refuses to {write} events; repeating until a person has fixed it: \
                     run `outboxd check`"
                ),
            }
            self.alerts.raise(Alert::Unwritable { write, events, id, error });
        }
    }

    /// Keeps for the log and for an alert that MongoDB refused a write for good.
    pub(super) fn refused(&mut self, mut refusal: Refusal) {
        shorten(&mut refusal.error);
        let reason = group::reason(&refusal.error, None);
        let is_full = self.unwritable.len() >= MOST_REASONS;
        let alike = |(_, first): &&mut (u64, Refusal)| {
            let is_write = first.write == refusal.write;
            is_write
                && first.id.is_some() == refusal.id.is_some()
                && (is_full || group::reason(&first.error, None) == reason)
        };

        match self.unwritable.iter_mut().find(alike) {
            Some((events, _)) => *events += 1,
            None => {
                self.unwritable.push((1, refusal));
            }
        }
    }

    /// Counts, and keeps for the log, what was written and what was refused.
    pub(super) fn written(&mut self, settled: &Settled, events: &Events) {
        let refusal = match settled {
            Settled::Marked(unmarked, mark) => {
                events.dead.increment((mark.next == Next::Dead).into());
                return self.marked(unmarked.key.as_ref(), mark);
            }
            Settled::MarkRefused(_, refusal)
            | Settled::ParkRefused(_, _, Some(refusal))
            | Settled::DeleteRefused(_, refusal) => {
                events.unwritable.increment(1);
                refusal
            }
            Settled::CommandRefused(refusal) => refusal,
            _ => return,
        };

        self.refused(refusal.clone());
    }

    /// Keeps for the log that this mark of an event is written. Not before: MongoDB may refuse it,
    /// and then the event is not what the mark says.
    fn marked(&mut self, key: Option<&Key>, mark: &Mark) {
        let Mark { class, code, error, next, .. } = mark;
        let (dead, reason) = (*next == Next::Dead, group::reason(error, key.map(Key::as_str)));
        let is_full = self.unlogged.len() >= MOST_REASONS;
        let is_alike = |failed: &&mut FailedAlike| {
            failed.code == *code && failed.dead == dead && failed.reason == reason
        };

        match self.unlogged.iter_mut().find(is_alike) {
            Some(failed) => failed.events += 1,
            None if is_full => self.unnamed += 1,
            None => {
                let remedy = Rejection::new(code.clone(), "").remedy();
                let (code, error) = (code.clone(), error.clone());
                let (events, id) = (1, mark.id.shown());
                let alike = FailedAlike { events, id, class, code, reason, error, remedy, dead };
                self.unlogged.push(alike);
            }
        }
    }

    /// Reports signs of forged acks, and raises the alert if there was none for long.
    pub(super) fn forged(&self, stream: &str, Forged { signs, first, begins }: &Forged) {
        warn!(
            stream,
            signs, first, "somebody other than the stream answers publishes; every ack is verified"
        );
        if *begins {
            let (stream, sign) = (stream.to_owned(), first.clone());
            self.alerts.raise(Alert::ForgedAck { stream, sign });
        }
    }

    /// Keeps for the log that an event got another message id.
    pub(super) fn false_duplicate(&mut self, record: &OutboxRecord, mistaken: &FalseDuplicate) {
        if let Some(first) = &mut self.mistaken {
            first.events += 1;
            return;
        }

        self.mistaken = Some(MistakenEvent {
            events: 1,
            id: shown_id(&record.id.clone().into()),
            subject: record.subject.as_str().to_owned(),
            message_id: mistaken.id.clone(),
            sequence: mistaken.sequence,
            found: mistaken.held.describe(),
        });
    }

    /// The mark to write. Raises an alert when the event enters a state that an operator should
    /// know about: before the write, so that a crash between the two repeats the alert instead of
    /// losing it.
    pub(super) fn mark(&self, failed: &Failed<'_>, mut rejection: Rejection) -> Mark {
        shorten(&mut rejection.error);

        // An outage isn't the event's fault.
        let counted = matches!(rejection.class, Class::Config | Class::Poison);
        let attempts = failed.attempts.saturating_add(u32::from(counted));
        let next = match rejection.class {
            Class::Poison => Next::Dead,
            Class::Config if attempts >= self.retry.max_attempts => Next::Dead,
            Class::Config => Next::RetryAfter(retry::delay(&self.retry, attempts)),
            // Due at once. While the broker does not answer, due events are read only if nothing is
            // in flight.
            Class::Unknown | Class::Transient => Next::RetryAfter(Duration::ZERO),
        };

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
            let id = shown_id(&failed.id);
            let event = RefusedEvent { id, subject, key, attempts, class, code, error, remedy };
            self.alerts.raise(alert(event));
        }

        Mark {
            id: RawId::new(&failed.id),
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

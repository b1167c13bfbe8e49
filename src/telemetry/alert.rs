//! One alert: what happened and to whom, in a sentence and as a line of JSON.

use std::time::Duration;

use bson::DateTime;
use serde::Serialize;
use tracing::warn;

use super::loss::Loss;
use crate::duration::for_people;
use crate::printable::printable_json;

/// What happened, and to whom.
#[derive(Debug, Clone)]
pub(crate) enum Alert {
    /// An event was refused `alerts.after_failures` times.
    Failing(RefusedEvent),
    /// An event is dead.
    Dead(RefusedEvent),
    /// The oldest event is older than `alerts.stuck_after`.
    Stuck {
        oldest: StuckEvent,
        oldest_seconds: u64,
        /// How many events are older than that.
        events: u64,
    },
    /// No event is older than `alerts.stuck_after` any more.
    Recovered,
    /// A scheduled event has been due for longer than `alerts.stuck_after`.
    Overdue {
        /// The first that was due.
        id: String,
        overdue_seconds: u64,
        /// How many are due.
        events: u64,
    },
    /// No scheduled event has been due for so long any more.
    OnTime,
    /// The stream lost messages that it had acked.
    Rewound(Loss),
    /// Somebody else than the stream answers publishes. Raised once until it has been quiet.
    ForgedAck { stream: String, sign: String },
    /// The stream took events for duplicates of other messages.
    FalseDuplicate(MistakenEvent),
    /// MongoDB began to delete events by itself, or the outbox is no collection any more.
    Unsound {
        /// What it is, and the lines that fix it.
        fault: String,
    },
    /// MongoDB refuses for good to write events, or refuses a command as a whole.
    Unwritable {
        /// What it refuses, as a verb.
        write: &'static str,
        events: u64,
        /// The first of the events. None if it is the whole command.
        id: Option<String>,
        error: String,
    },
}

/// An event that the broker refused, without its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RefusedEvent {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) class: &'static str,
    pub(crate) code: String,
    pub(crate) error: String,
    pub(crate) remedy: &'static str,
}

/// An event that waits, without its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StuckEvent {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) attempts: u32,
    /// The error of its newest failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Events that got another message id within a second, by the first of them, without its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MistakenEvent {
    #[serde(skip)]
    pub(crate) events: u64,
    pub(crate) id: String,
    pub(crate) subject: String,
    /// The message id that the stream took for another message's.
    pub(crate) message_id: String,
    /// The sequence of that message.
    pub(crate) sequence: u64,
    /// What the stream has there.
    pub(crate) found: String,
}

/// The word for what happened: in the file, at the webhook and as a label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Failing,
    Dead,
    Stuck,
    Recovered,
    Overdue,
    OnTime,
    Rewound,
    ForgedAck,
    FalseDuplicate,
    Unsound,
    Unwritable,
}

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::Failing,
        Self::Dead,
        Self::Stuck,
        Self::Recovered,
        Self::Overdue,
        Self::OnTime,
        Self::Rewound,
        Self::ForgedAck,
        Self::FalseDuplicate,
        Self::Unsound,
        Self::Unwritable,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Dead => "dead",
            Self::Stuck => "stuck",
            Self::Recovered => "recovered",
            Self::Overdue => "overdue",
            Self::OnTime => "on-time",
            Self::Rewound => "rewound",
            Self::ForgedAck => "forged-ack",
            Self::FalseDuplicate => "false-duplicate",
            Self::Unsound => "unsound",
            Self::Unwritable => "unwritable",
        }
    }

    /// The kind of the alert that one of this kind takes back.
    pub(super) fn ends(self) -> Option<Self> {
        match self {
            Self::Recovered => Some(Self::Stuck),
            Self::OnTime => Some(Self::Overdue),
            _ => None,
        }
    }
}

/// Where alerts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlet {
    File,
    Webhook,
    /// `alerts.subject`.
    Subject,
}

impl Outlet {
    /// With the label of the metric.
    pub(super) const ALL: [(Self, &'static str); 3] =
        [(Self::File, "file"), (Self::Webhook, "webhook"), (Self::Subject, "subject")];
}

impl Alert {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Failing(_) => Kind::Failing,
            Self::Dead(_) => Kind::Dead,
            Self::Stuck { .. } => Kind::Stuck,
            Self::Recovered => Kind::Recovered,
            Self::Overdue { .. } => Kind::Overdue,
            Self::OnTime => Kind::OnTime,
            Self::Rewound(_) => Kind::Rewound,
            Self::ForgedAck { .. } => Kind::ForgedAck,
            Self::FalseDuplicate(_) => Kind::FalseDuplicate,
            Self::Unsound { .. } => Kind::Unsound,
            Self::Unwritable { .. } => Kind::Unwritable,
        }
    }

    /// How many events it counts for.
    pub(super) fn events(&self) -> u64 {
        match self {
            Self::FalseDuplicate(MistakenEvent { events, .. })
            | Self::Unwritable { events, id: Some(_), .. } => *events,
            _ => 1,
        }
    }

    /// The whole alert in one sentence, which chat webhooks show.
    fn text(&self) -> String {
        match self {
            Self::Failing(event) => event.text("keeps failing"),
            Self::Dead(event) => event.text("is dead"),
            Self::Stuck { oldest, oldest_seconds, events } => {
                let age = for_people(Duration::from_secs(*oldest_seconds));
                format!(
                    "{events} events have waited for longer than alerts.stuck_after; the oldest, \
                     {}, for {age}",
                    oldest.id
                )
            }
            Self::Recovered => "no event is older than alerts.stuck_after any more".to_owned(),
            Self::Overdue { id, overdue_seconds, events } => format!(
                "{events} scheduled events are due and not in the outbox; the first, {id}, for {}; \
                 run `outboxd check`",
                for_people(Duration::from_secs(*overdue_seconds))
            ),
            Self::OnTime => "scheduled events reach the outbox in time again".to_owned(),
            Self::Rewound(loss) => loss.text(),
            Self::ForgedAck { stream, sign } => format!(
                "somebody other than the stream {stream} answers publishes: {sign}; the relay \
                 verifies every ack until there was no sign for an hour; `outboxd privileges` prints \
                 the NATS permissions that prevent this"
            ),
            Self::FalseDuplicate(MistakenEvent { events, id, sequence, found, .. }) => format!(
                "the stream took {events} events for duplicates by mistake, and outboxd published \
                 them under other message ids; the first is {id}: sequence {sequence} {found}"
            ),
            Self::Unsound { fault } => format!("the outbox loses events: {fault}"),
            Self::Unwritable { write, events, id: Some(id), error } => format!(
                "MongoDB can't {write} {events} events; they are left as they are, and their keys \
                 wait; the first is {id}: {error}; repair or remove them, then restart outboxd"
            ),
            Self::Unwritable { write, id: None, error, .. } => format!(
                "MongoDB refuses to {write} events: {error}; outboxd repeats the write until that \
                 is fixed; run `outboxd check`"
            ),
        }
    }
}

impl RefusedEvent {
    fn text(&self, state: &str) -> String {
        let Self { id, subject, attempts, code, error, remedy, .. } = self;
        let s = if *attempts == 1 { "" } else { "s" };
        // A malformed event may have no subject.
        let of = subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
        format!("event {id}{of} {state} after {attempts} refusal{s}: {code}: {error}; {remedy}")
    }
}

/// Alerts of one group, on their way to people.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) kind: Kind,
    pub(super) group: String,
    pub(super) events: u64,
    /// The line of the first alert, or of the newest where only that one is true.
    pub(super) alert: serde_json::Value,
}

/// The outbox that alerts are about, and the relay that raises them.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) outbox: String,
    pub(super) relay: String,
}

impl Origin {
    /// The alert as a line of JSON, without the line break.
    pub(super) fn render(&self, alert: &Alert) -> Option<String> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Event<'a> {
            Refused(&'a RefusedEvent),
            Stuck(&'a StuckEvent),
            Mistaken(&'a MistakenEvent),
            Overdue { id: &'a str },
        }

        #[derive(Serialize)]
        struct Line<'a> {
            at: String,
            outbox: &'a str,
            relay: &'a str,
            kind: &'static str,
            text: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            event: Option<Event<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            oldest_seconds: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            overdue_seconds: Option<u64>,
            #[serde(flatten)]
            loss: Option<&'a Loss>,
        }

        let (mut oldest, mut overdue) = (None, None);
        let event = match alert {
            Alert::Failing(event) | Alert::Dead(event) => Some(Event::Refused(event)),
            Alert::Stuck { oldest: event, oldest_seconds, .. } => {
                oldest = Some(*oldest_seconds);
                Some(Event::Stuck(event))
            }
            Alert::Overdue { id, overdue_seconds, .. } => {
                overdue = Some(*overdue_seconds);
                Some(Event::Overdue { id })
            }
            Alert::FalseDuplicate(event) => Some(Event::Mistaken(event)),
            Alert::Recovered
            | Alert::OnTime
            | Alert::Rewound(_)
            | Alert::ForgedAck { .. }
            | Alert::Unsound { .. }
            | Alert::Unwritable { .. } => None,
        };

        let line = Line {
            at: DateTime::now().try_to_rfc3339_string().unwrap_or_default(),
            outbox: &self.outbox,
            relay: &self.relay,
            kind: alert.kind().as_str(),
            text: alert.text(),
            event,
            oldest_seconds: oldest,
            overdue_seconds: overdue,
            loss: match alert {
                Alert::Rewound(loss) => Some(loss),
                _ => None,
            },
        };

        serde_json::to_string(&line)
            .map(|line| printable_json(&line))
            .inspect_err(|error| warn!(%error, "cannot write an alert as JSON"))
            .ok()
    }
}

#[cfg(test)]
mod tests;

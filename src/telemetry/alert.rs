//! One alert: what happened and to whom, in a sentence and as a line of JSON.

use std::time::Duration;

use bson::DateTime;
use serde::Serialize;
use tracing::warn;

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
    /// The stream lost messages that it had acked.
    Rewound {
        stream: String,
        /// The newest sequence that it had acked, and its last one now.
        from: u64,
        to: u64,
        /// `went-back`, `recreated` or `overwritten`.
        how: &'static str,
    },
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
    Rewound,
    ForgedAck,
    FalseDuplicate,
    Unsound,
    Unwritable,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Failing,
        Self::Dead,
        Self::Stuck,
        Self::Recovered,
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
            Self::Rewound => "rewound",
            Self::ForgedAck => "forged-ack",
            Self::FalseDuplicate => "false-duplicate",
            Self::Unsound => "unsound",
            Self::Unwritable => "unwritable",
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
            Self::Rewound { .. } => Kind::Rewound,
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
            Self::Rewound { stream, from, to, .. } => format!(
                "the stream {stream} has gone back from sequence {from} to {to}: it was recreated \
                 or restored from an old copy, and has lost messages that it had acked; their \
                 events are no longer in the outbox"
            ),
            Self::ForgedAck { stream, sign } => format!(
                "somebody else than the stream {stream} answers publishes: {sign}; the relay \
                 verifies every ack until there was no sign for an hour; `outboxd privileges` prints \
                 the NATS permissions that prevent this"
            ),
            Self::FalseDuplicate(MistakenEvent { events, id, sequence, found, .. }) => format!(
                "the stream took {events} events for duplicates that they are not, and they were \
                 published under other message ids; the first is {id}: sequence {sequence} {found}"
            ),
            Self::Unsound { fault } => format!("the outbox loses events: {fault}"),
            Self::Unwritable { write, events, id: Some(id), error } => format!(
                "MongoDB can't {write} {events} events; they are left as they are, and their keys \
                 wait; the first is {id}: {error}; repair or remove them, then restart outboxd"
            ),
            Self::Unwritable { write, id: None, error, .. } => format!(
                "MongoDB refuses to {write} events: {error}; outboxd repeats it until that is \
                 fixed; run `outboxd check`"
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
            #[serde(flatten)]
            loss: Option<Loss<'a>>,
        }

        #[derive(Serialize)]
        struct Loss<'a> {
            stream: &'a str,
            from: u64,
            to: u64,
            how: &'static str,
        }

        let (event, oldest_seconds) = match alert {
            Alert::Failing(event) | Alert::Dead(event) => (Some(Event::Refused(event)), None),
            Alert::Stuck { oldest, oldest_seconds, .. } => {
                (Some(Event::Stuck(oldest)), Some(*oldest_seconds))
            }
            Alert::FalseDuplicate(event) => (Some(Event::Mistaken(event)), None),
            Alert::Recovered
            | Alert::Rewound { .. }
            | Alert::ForgedAck { .. }
            | Alert::Unsound { .. }
            | Alert::Unwritable { .. } => (None, None),
        };

        let line = Line {
            at: DateTime::now().try_to_rfc3339_string().unwrap_or_default(),
            outbox: &self.outbox,
            relay: &self.relay,
            kind: alert.kind().as_str(),
            text: alert.text(),
            event,
            oldest_seconds,
            loss: match alert {
                Alert::Rewound { stream, from, to, how } => {
                    Some(Loss { stream, from: *from, to: *to, how })
                }
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
mod tests {
    use super::*;

    /// What consumers of the file and the webhook parse.
    #[test]
    fn each_kind_is_written_in_its_documented_form() {
        let origin = Origin { outbox: "shop.outbox".to_owned(), relay: "r1".to_owned() };
        let refused = |subject: Option<&str>, attempts| RefusedEvent {
            id: "e1".to_owned(),
            subject: subject.map(str::to_owned),
            key: None,
            attempts,
            class: "config",
            code: "no-responders".to_owned(),
            error: "no \"subject\"\ncovers it".to_owned(),
            remedy: "add it",
        };

        let oldest = StuckEvent {
            id: "e2".to_owned(),
            subject: Some("shop.made".to_owned()),
            key: Some("k".to_owned()),
            attempts: 0,
            error: None,
        };

        for (alert, rest) in [
            (
                Alert::Failing(refused(Some("shop.made"), 3)),
                concat!(
                    r#""kind":"failing","text":"event e1 (shop.made) keeps failing after 3 "#,
                    r#"refusals: no-responders: no \"subject\"\ncovers it; add it","#,
                    r#""event":{"id":"e1","subject":"shop.made","attempts":3,"class":"config","#,
                    r#""code":"no-responders","error":"no \"subject\"\ncovers it","#,
                    r#""remedy":"add it"}}"#
                ),
            ),
            (
                Alert::Dead(refused(None, 1)),
                concat!(
                    r#""kind":"dead","text":"event e1 is dead after 1 refusal: no-responders: "#,
                    r#"no \"subject\"\ncovers it; add it","event":{"id":"e1","attempts":1,"#,
                    r#""class":"config","code":"no-responders","#,
                    r#""error":"no \"subject\"\ncovers it","remedy":"add it"}}"#
                ),
            ),
            (
                Alert::Stuck { oldest, oldest_seconds: 390, events: 2 },
                concat!(
                    r#""kind":"stuck","text":"2 events have waited for longer than "#,
                    r#"alerts.stuck_after; the oldest, e2, for 6m 30s","event":{"id":"e2","#,
                    r#""subject":"shop.made","key":"k","attempts":0},"oldest_seconds":390}"#
                ),
            ),
            (
                Alert::Recovered,
                concat!(
                    r#""kind":"recovered","#,
                    r#""text":"no event is older than alerts.stuck_after any more"}"#
                ),
            ),
            (
                Alert::FalseDuplicate(MistakenEvent {
                    events: 2,
                    id: "e1".to_owned(),
                    subject: "shop.made".to_owned(),
                    message_id: "shop.outbox.e1".to_owned(),
                    sequence: 7,
                    found: "is empty".to_owned(),
                }),
                concat!(
                    r#""kind":"false-duplicate","text":"the stream took 2 events for duplicates "#,
                    r#"that they are not, and they were published under other message ids; the "#,
                    r#"first is e1: sequence 7 is empty","event":{"id":"e1","subject":"shop.made","#,
                    r#""message_id":"shop.outbox.e1","sequence":7,"found":"is empty"}}"#
                ),
            ),
            (
                Alert::Unsound { fault: "a TTL index: drop it".to_owned() },
                r#""kind":"unsound","text":"the outbox loses events: a TTL index: drop it"}"#,
            ),
            (
                Alert::Unwritable {
                    write: "mark",
                    events: 3,
                    id: Some("e1".to_owned()),
                    error: "no room".to_owned(),
                },
                concat!(
                    r#""kind":"unwritable","text":"MongoDB can't mark 3 events; they are left as "#,
                    r#"they are, and their keys wait; the first is e1: no room; repair or remove "#,
                    r#"them, then restart outboxd"}"#
                ),
            ),
            (
                Alert::ForgedAck { stream: "SHOP".to_owned(), sign: "two answers".to_owned() },
                concat!(
                    r#""kind":"forged-ack","text":"somebody else than the stream SHOP answers "#,
                    r#"publishes: two answers; the relay verifies every ack until there was no "#,
                    r#"sign for an hour; `outboxd privileges` prints the NATS permissions that "#,
                    r#"prevent this"}"#
                ),
            ),
            (
                Alert::Rewound { stream: "SHOP".to_owned(), from: 9, to: 1, how: "recreated" },
                concat!(
                    r#""kind":"rewound","text":"the stream SHOP has gone back from sequence 9 "#,
                    r#"to 1: it was recreated or restored from an old copy, and has lost "#,
                    r#"messages that it had acked; their events are no longer in the outbox","#,
                    r#""stream":"SHOP","from":9,"to":1,"how":"recreated"}"#
                ),
            ),
        ] {
            let line = origin.render(&alert).expect("a line");
            let (at, rest_of_line) = line.split_at(line.find(",\"outbox\"").expect("the outbox"));
            assert!(at.starts_with("{\"at\":\"20") && at.ends_with("Z\""), "{line}");
            let origin = r#","outbox":"shop.outbox","relay":"r1","#;
            assert_eq!(rest_of_line, format!("{origin}{rest}"));
        }
    }
}

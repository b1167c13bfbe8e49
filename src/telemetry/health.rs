//! The health of one outbox's relay, as its parts last reported it. The admin endpoint reads it
//! without asking MongoDB or NATS.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// How long the relay's loop may be silent; it reports every second.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection, as the relay last saw it.
#[derive(Debug)]
enum Link {
    /// The relay is starting.
    Unknown,
    Up,
    Down(String),
}

/// One outbox's health.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Parts>);

#[derive(Debug)]
struct Parts {
    started: Instant,
    /// When the relay's loop last turned.
    turned: Instant,
    mongodb: Link,
    nats: Link,
    /// Term of the lease, while this relay holds it.
    term: Option<i64>,
    standby: bool,
    /// Another relay held the lease when this one asked for it last.
    outrun: bool,
    /// Why the outbox can't be relayed at all.
    problem: Option<String>,
    /// Another daemon is to relay it.
    rests: bool,
}

/// A part of the answer to `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) ready: bool,
    pub(crate) detail: String,
}

/// The answer to `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    pub(crate) ready: bool,
    mongodb: Part,
    nats: Part,
    lease: Part,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Default for Parts {
    fn default() -> Self {
        let now = Instant::now();
        let (mongodb, nats) = (Link::Unknown, Link::Unknown);
        Self {
            started: now,
            turned: now,
            mongodb,
            nats,
            term: None,
            standby: false,
            outrun: false,
            problem: None,
            rests: false,
        }
    }
}

impl Health {
    fn with<T>(&self, what: impl FnOnce(&mut Parts) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The relay starts over, with no server reached yet.
    pub(crate) fn starts(&self) {
        self.with(|parts| *parts = Parts::default());
    }

    /// The relay rests: it is the turn of other daemons. What was wrong is still known.
    pub(crate) fn rests(&self) {
        let rests = |parts: &mut Parts| {
            let problem = parts.problem.take();
            *parts = Parts { rests: true, problem, ..Parts::default() };
        };
        self.with(rests);
    }

    /// Whether this relay holds the lease.
    pub(crate) fn is_leading(&self) -> bool {
        self.with(|parts| parts.term.is_some())
    }

    /// Whether another relay held the lease when this one asked for it last.
    pub(crate) fn is_outrun(&self) -> bool {
        self.with(|parts| parts.outrun)
    }

    /// Whether publishes may leave to NATS.
    pub(crate) fn can_deliver(&self) -> bool {
        self.with(|parts| matches!(parts.nats, Link::Up))
    }

    /// The relay's loop turned.
    pub(crate) fn turned(&self) {
        self.with(|parts| parts.turned = Instant::now());
    }

    /// The outbox can't be relayed until this is repaired.
    pub(crate) fn problem(&self, problem: String) {
        self.with(|parts| parts.problem = Some(problem));
    }

    /// Whether MongoDB answered.
    pub(crate) fn mongodb(&self, answered: bool) {
        let link = if answered { Link::Up } else { Link::Down("does not answer".to_owned()) };
        self.with(|parts| parts.mongodb = link);
    }

    /// Whether publishes may leave to NATS, or why not.
    pub(crate) fn nats(&self, state: Result<(), String>) {
        self.with(|parts| parts.nats = state.map_or_else(Link::Down, |()| Link::Up));
    }

    /// The term of this relay; `None` when another relay holds the lease.
    pub(crate) fn lease(&self, term: Option<i64>) {
        self.with(|parts| {
            (parts.term, parts.standby, parts.outrun) = (term, term.is_none(), false);
        });
    }

    /// Another relay holds the lease that this one asked for.
    pub(crate) fn outrun(&self) {
        self.lease(None);
        self.with(|parts| parts.outrun = true);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.with(|parts| parts.turned.elapsed() < SILENCE)
    }

    pub(crate) fn ready(&self) -> Ready {
        self.with(|parts| {
            let part = |link: &Link| match link {
                Link::Unknown if parts.rests => {
                    Part { ready: true, detail: "not used while another daemon relays".to_owned() }
                }
                Link::Unknown => Part {
                    ready: false,
                    detail: format!("not reached in {:?}", parts.started.elapsed()),
                },
                Link::Up => Part { ready: true, detail: "ok".to_owned() },
                Link::Down(why) => Part { ready: false, detail: why.clone() },
            };
            let lease = match (parts.term, parts.standby) {
                (Some(term), _) => Part { ready: true, detail: format!("held, term {term}") },
                (None, true) => {
                    Part { ready: true, detail: "held by another relay; standing by".to_owned() }
                }
                (None, false) if parts.rests => {
                    Part { ready: true, detail: "left to another daemon".to_owned() }
                }
                (None, false) => Part { ready: false, detail: "not asked for yet".to_owned() },
            };

            let (mongodb, nats) = (part(&parts.mongodb), part(&parts.nats));
            let problem = parts.problem.clone();
            let ready = mongodb.ready && nats.ready && lease.ready && problem.is_none();
            Ready { ready, mongodb, nats, lease, problem }
        })
    }
}

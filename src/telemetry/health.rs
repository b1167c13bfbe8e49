//! How the relay is doing, as its parts last said: read by the admin endpoint without asking
//! anybody.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// How long the loop of a relay may be silent; it says something every second.
const SILENCE: Duration = Duration::from_secs(30);

/// What a part last said.
#[derive(Debug, Clone, Copy)]
enum Said {
    /// Nothing yet: the relay is starting.
    Nothing,
    Well,
    Ill(&'static str),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Parts>);

#[derive(Debug)]
struct Parts {
    started: Instant,
    loops: Instant,
    mongodb: Said,
    nats: Said,
    /// Term of the lease, while this relay holds it.
    term: Option<i64>,
    standby: bool,
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
}

impl Default for Parts {
    fn default() -> Self {
        let now = Instant::now();
        let (mongodb, nats) = (Said::Nothing, Said::Nothing);
        Self { started: now, loops: now, mongodb, nats, term: None, standby: false }
    }
}

impl Health {
    fn with<T>(&self, what: impl FnOnce(&mut Parts) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The relay begins anew: it has yet to reach anybody.
    pub(crate) fn starts(&self) {
        self.with(|parts| *parts = Parts::default());
    }

    /// The relay's loop came round.
    pub(crate) fn turned(&self) {
        self.with(|parts| parts.loops = Instant::now());
    }

    /// MongoDB answered, or didn't.
    pub(crate) fn mongodb(&self, well: bool) {
        let said = if well { Said::Well } else { Said::Ill("does not answer") };
        self.with(|parts| parts.mongodb = said);
    }

    /// The connection to NATS stands, or doesn't.
    pub(crate) fn nats(&self, well: bool) {
        let said = if well { Said::Well } else { Said::Ill("not connected") };
        self.with(|parts| parts.nats = said);
    }

    /// The lease is this relay's, or another's.
    pub(crate) fn lease(&self, term: Option<i64>) {
        self.with(|parts| (parts.term, parts.standby) = (term, term.is_none()));
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.with(|parts| parts.loops.elapsed() < SILENCE)
    }

    pub(crate) fn ready(&self) -> Ready {
        self.with(|parts| {
            let part = |said: Said| match said {
                Said::Nothing => Part {
                    ready: false,
                    detail: format!("not reached in {:?}", parts.started.elapsed()),
                },
                Said::Well => Part { ready: true, detail: "ok".to_owned() },
                Said::Ill(why) => Part { ready: false, detail: why.to_owned() },
            };
            let lease = match (parts.term, parts.standby) {
                (Some(term), _) => Part { ready: true, detail: format!("held, term {term}") },
                (None, true) => {
                    Part { ready: true, detail: "another relay's; standing by".to_owned() }
                }
                (None, false) => Part { ready: false, detail: "not asked for yet".to_owned() },
            };
            let (mongodb, nats) = (part(parts.mongodb), part(parts.nats));
            Ready { ready: mongodb.ready && nats.ready && lease.ready, mongodb, nats, lease }
        })
    }
}

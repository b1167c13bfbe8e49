//! The relays that are measured, and what each of them guarantees. Fetches those of other projects.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The binary under test. Cargo builds it with the profile of this benchmark.
const OUTBOXD: &str = env!("CARGO_BIN_EXE_outboxd");

/// The script that fetches and runs the peers of other projects.
pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/peers");

/// The most events that a slow peer gets, so that its turn ends in reasonable time.
const MAX_EVENTS_OF_SLOW_PEERS: u32 = 5000;

/// A relay from MongoDB to JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Outboxd,
    /// Another build of outboxd. It lives as long as the program.
    Against(&'static Build),
    /// One daemon for many outboxes.
    Fleet,
    /// A daemon for each of them.
    Sidecars,
    BareFind,
    BareOne,
    BareStream,
    Naive,
    Connector,
    Debezium,
    /// No relay at all: what a service achieves on its own.
    NoRelay,
}

/// A binary of outboxd that was named by `--against`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    name: String,
    program: PathBuf,
}

impl Build {
    /// Reads `PATH` or `LABEL=PATH`.
    ///
    /// # Errors
    /// If there is no program at that path, or if `PATH --version` fails.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (label, path) = text.split_once('=').unwrap_or((text, text));

        let program = Path::new(path).canonicalize().map_err(|error| error.to_string())?;
        let version = Command::new(&program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run it: {error}"))?;
        if !version.status.success() {
            return Err(format!("`{path} --version` failed: {}", version.status));
        }

        Ok(Self { name: format!("outboxd ({label})"), program })
    }
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outboxd => "outboxd",
            Self::Against(build) => &build.name,
            Self::Fleet => "outboxd, one for all",
            Self::Sidecars => "outboxd, one for each",
            Self::BareFind => "bare loop, find",
            Self::BareOne => "bare loop, one at a time",
            Self::BareStream => "bare loop, change stream",
            Self::Naive => "naive relay, Node",
            Self::Connector => "mongodb-nats-connector",
            Self::Debezium => "Debezium Server",
            Self::NoRelay => "no relay",
        }
    }

    /// What the peer guarantees, in a few words.
    pub(crate) fn guarantees(self) -> &'static str {
        match self {
            Self::Outboxd | Self::Against(_) | Self::Fleet | Self::Sidecars => {
                "at least once, order per key, no copies within the window, failures kept"
            }
            Self::BareFind | Self::BareStream => "none: no order, and the first error ends it",
            Self::BareOne => "order, as long as nothing fails",
            Self::Naive => "order, as long as nothing fails; failed events stay",
            Self::Connector => "order; every change of the collection; never empties the outbox",
            Self::Debezium => "at least once, order; never empties the outbox",
            Self::NoRelay => "",
        }
    }

    /// The binary of the peer, if the peer is a build of outboxd.
    pub(crate) fn outboxd(self) -> Option<&'static Path> {
        match self {
            Self::Outboxd | Self::Fleet | Self::Sidecars => Some(Path::new(OUTBOXD)),
            Self::Against(build) => Some(&build.program),
            _ => None,
        }
    }

    /// Whether the peer deletes the events that it has published.
    pub(crate) fn empties_outbox(self) -> bool {
        !matches!(self, Self::Connector | Self::Debezium | Self::NoRelay)
    }

    /// How many of `events` this peer gets: slow peers get fewer.
    pub(crate) fn limit(self, events: u32) -> u32 {
        match self.script_name() {
            Some(_) => events.min(MAX_EVENTS_OF_SLOW_PEERS),
            None => events,
        }
    }

    /// The peer's name on the command line of [`SCRIPT`]; `None` if the script doesn't run it.
    pub(crate) fn script_name(self) -> Option<&'static str> {
        match self {
            Self::Naive => Some("naive"),
            Self::Connector => Some("connector"),
            Self::Debezium => Some("debezium"),
            _ => None,
        }
    }

    /// Fetches the peer unless it is already there.
    ///
    /// # Errors
    /// The reason why the peer can't be run on this machine.
    pub(crate) fn fetch(self) -> Result<(), String> {
        let Some(name) = self.script_name() else { return Ok(()) };

        let setup = Command::new(SCRIPT).args(["setup", name]).stdin(Stdio::null()).output();
        let setup = setup.map_err(|error| format!("cannot run {SCRIPT}: {error}"))?;
        if setup.status.success() {
            return Ok(());
        }

        let errors = String::from_utf8_lossy(&setup.stderr);
        Err(errors.lines().last().unwrap_or("its setup failed without a message").to_owned())
    }
}

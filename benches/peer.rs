//! Who is measured: a process, its processor time and its memory.

use std::process::{Child, Command, Stdio};

use super::stage::Stage;

/// The binary under test, built with the same profile as this.
const OUTBOXD: &str = env!("CARGO_BIN_EXE_outboxd");
/// Fetches and runs the peers that are other people's.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/peers");
/// Events for a peer that is far slower, so that its turn ends.
const FEW: u32 = 5000;

/// A way to bring events from MongoDB to JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Outboxd,
    BareFind,
    BareOne,
    BareStream,
    Naive,
    Connector,
    Debezium,
    /// For what a service does without one.
    Nobody,
}

/// A peer at work.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    child: Child,
    /// For its files.
    _scratch: tempfile::TempDir,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outboxd => "outboxd",
            Self::BareFind => "bare loop, find",
            Self::BareOne => "bare loop, one at a time",
            Self::BareStream => "bare loop, change stream",
            Self::Naive => "naive relay, Node",
            Self::Connector => "mongodb-nats-connector",
            Self::Debezium => "Debezium Server",
            Self::Nobody => "no relay",
        }
    }

    /// What of an outbox it is.
    pub(crate) fn guarantees(self) -> &'static str {
        match self {
            Self::Outboxd => {
                "at least once, order per key, no copies within the window, failures kept"
            }
            Self::BareOne => "order, as long as nothing fails",
            Self::BareFind | Self::BareStream => "none: no order, and what fails ends it",
            Self::Naive => "order, as long as nothing fails; what failed stays",
            Self::Connector => "order; every change of the collection; the outbox is never emptied",
            Self::Debezium => "at least once, order; the outbox is never emptied",
            Self::Nobody => "",
        }
    }

    /// Whether it empties the outbox.
    pub(crate) fn deletes(self) -> bool {
        !matches!(self, Self::Connector | Self::Debezium | Self::Nobody)
    }

    /// How many events it gets where the others get so many.
    pub(crate) fn share(self, events: u32) -> u32 {
        match self.of_others() {
            Some(_) => events.min(FEW),
            None => events,
        }
    }

    /// Its name for `benches/peers/peers`.
    fn of_others(self) -> Option<&'static str> {
        match self {
            Self::Naive => Some("naive"),
            Self::Connector => Some("connector"),
            Self::Debezium => Some("debezium"),
            _ => None,
        }
    }

    /// Fetches it, if it isn't here.
    ///
    /// # Errors
    /// Why it can't be run.
    pub(crate) fn fetch(self) -> Result<(), String> {
        let Some(name) = self.of_others() else { return Ok(()) };
        let fetched = Command::new(PEERS).args(["setup", name]).stdin(Stdio::null()).output();
        let fetched = fetched.map_err(|error| format!("{PEERS} can't be run: {error}"))?;
        if fetched.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&fetched.stderr);
        Err(said.lines().last().unwrap_or("it didn't say why").to_owned())
    }

    /// Makes what it needs besides outbox and stream.
    pub(crate) fn prepare(self, stage: &Stage) {
        if self == Self::Outboxd {
            let made = Command::new(OUTBOXD)
                .arg("migrate")
                .env_clear()
                .envs(stage.env())
                .output()
                .expect("it runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    /// Starts it. `since` is a time before the first event, in seconds since 1970.
    pub(crate) fn start(self, stage: &Stage, since: u64) -> Running {
        let this = std::env::current_exe().expect("this program");
        let mut command = match self {
            Self::Outboxd => Command::new(OUTBOXD),
            _ if self.of_others().is_some() => Command::new(PEERS),
            _ => Command::new(this),
        };
        match self {
            Self::Outboxd => command.args(["run"]),
            Self::BareFind => command.args(["bare", "find"]),
            Self::BareOne => command.args(["bare", "one"]),
            Self::BareStream => command.args(["bare", "stream"]),
            Self::Nobody => unreachable!("nobody isn't started"),
            Self::Naive | Self::Connector | Self::Debezium => {
                command.args(["run", self.of_others().unwrap_or_default()])
            }
        };
        let scratch = tempfile::tempdir().expect("a folder");
        let kept = ["PATH", "HOME", "XDG_CACHE_HOME", "OUTBOXD_CACHE", "JAVA_HOME"];
        let kept = kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(kept).envs(stage.env());
        command.env("BENCH_SINCE", since.to_string()).env("BENCH_DIR", scratch.path());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Running { peer: self, child: child.expect("the peer starts"), _scratch: scratch }
    }
}

impl Running {
    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the peer runs")
    }

    /// Processor time so far, user and system, in microseconds.
    pub(crate) fn processor_us(&self) -> f64 {
        let stat = self.proc("stat");
        // After the name, which may hold anything: fields 14 and 15, in hundredths of a second.
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |place: usize| {
            fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).expect("a number")
        };
        (ticks(11) + ticks(12)) * 10_000.0
    }

    fn memory_mb(&self, line: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|found| found.strip_prefix(line)).expect("a line");
        line.trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse::<f64>()
            .expect("a number")
            / 1024.0
    }

    /// The most memory it has had, in MB.
    pub(crate) fn peak_mb(&self) -> f64 {
        self.memory_mb("VmHWM")
    }

    /// The memory it has, in MB.
    pub(crate) fn resident_mb(&self) -> f64 {
        self.memory_mb("VmRSS")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

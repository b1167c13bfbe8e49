//! Who is measured: a process, its processor time and its memory.

use std::process::{Child, Command, Stdio};

use super::stage::Stage;

/// The binary under test, built with the same profile as this.
const OUTBOXD: &str = env!("CARGO_BIN_EXE_outboxd");

/// A way to bring events from MongoDB to JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Outboxd,
    BareFind,
    BareOne,
    BareStream,
}

/// A peer at work.
pub(crate) struct Running(Child);

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outboxd => "outboxd",
            Self::BareFind => "bare loop, find",
            Self::BareOne => "bare loop, one at a time",
            Self::BareStream => "bare loop, change stream",
        }
    }

    /// What of an outbox it is.
    pub(crate) fn guarantees(self) -> &'static str {
        match self {
            Self::Outboxd => "at least once, order per key, no duplicates within the window",
            Self::BareOne => "order, as long as nothing fails",
            Self::BareFind | Self::BareStream => "none: no order, and what fails ends it",
        }
    }

    /// Makes what it needs besides outbox and stream.
    pub(crate) fn prepare(self, stage: &Stage) {
        if self == Self::Outboxd {
            let made = Command::new(OUTBOXD).arg("migrate").env_clear().envs(stage.env()).output().expect("it runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    /// Starts it. `since` is a time before the first event, in seconds since 1970.
    pub(crate) fn start(self, stage: &Stage, since: u64) -> Running {
        let this = std::env::current_exe().expect("this program");
        let mut command = match self {
            Self::Outboxd => Command::new(OUTBOXD),
            _ => Command::new(this),
        };
        match self {
            Self::Outboxd => command.args(["run"]),
            Self::BareFind => command.args(["bare", "find"]),
            Self::BareOne => command.args(["bare", "one"]),
            Self::BareStream => command.args(["bare", "stream"]),
        };
        command.env_clear().envs(stage.env()).env("BENCH_SINCE", since.to_string());
        Running(
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the peer starts"),
        )
    }
}

impl Running {
    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).expect("the peer runs")
    }

    /// Processor time so far, user and system, in microseconds.
    pub(crate) fn processor_us(&self) -> f64 {
        let stat = self.proc("stat");
        // After the name, which may hold anything: fields 14 and 15, in hundredths of a second.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).expect("a number");
        (ticks(11) + ticks(12)) * 10_000.0
    }

    /// The most memory it has had, in MB.
    pub(crate) fn peak_mb(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

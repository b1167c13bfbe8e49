//! Prepares a stage for a peer, and starts the peer's process on it.

use std::process::{Command, Stdio};

use super::peer::{Peer, SCRIPT};
use super::process::Running;
use super::stage::Stage;

/// The variables of this process that a peer inherits.
const INHERITED: [&str; 5] = ["PATH", "HOME", "XDG_CACHE_HOME", "OUTBOXD_CACHE", "JAVA_HOME"];

impl Peer {
    /// Creates what the peer needs besides outbox and stream: for outboxd, its migrations.
    pub(crate) fn prepare(self, stage: &Stage) {
        let Some(outboxd) = self.outboxd() else { return };

        let migrate = Command::new(outboxd)
            .arg("migrate")
            .env_clear()
            .envs(stage.env())
            .output()
            .expect("outboxd migrate starts");
        assert!(migrate.status.success(), "{}", String::from_utf8_lossy(&migrate.stderr));
    }

    /// Starts the peer. `since` is a time before the first event, in seconds since 1970.
    pub(crate) fn start(self, stage: &Stage, since: u64) -> Running {
        self.start_with(stage, since, &[])
    }

    /// The same, with files of these texts, each named by a variable.
    pub(crate) fn start_with(self, stage: &Stage, since: u64, files: &[(&str, &str)]) -> Running {
        let mut command = self.command();

        let inherited =
            INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(inherited).envs(stage.env());

        let scratch = tempfile::tempdir().expect("a directory for the peer's files");
        command.env("BENCH_SINCE", since.to_string()).env("BENCH_DIR", scratch.path());

        for (variable, text) in files {
            let path = scratch.path().join(variable);
            std::fs::write(&path, text).expect("the file is written");
            command.env(variable, path);
        }

        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the peer starts");
        Running::new(self, child, scratch)
    }

    fn command(self) -> Command {
        match self {
            Self::Outboxd | Self::Against(_) | Self::Fleet | Self::Sidecars => {
                with_args(self.outboxd().expect("a build of outboxd"), &["run"])
            }
            Self::BareFind => bare("find"),
            Self::BareOne => bare("one"),
            Self::BareStream => bare("stream"),
            Self::Naive | Self::Connector | Self::Debezium => {
                with_args(SCRIPT, &["run", self.script_name().expect("a peer of the script")])
            }
            Self::NoRelay => unreachable!("no relay has no process"),
        }
    }
}

/// A bare loop is this program itself, started once more.
fn bare(which: &str) -> Command {
    let this = std::env::current_exe().expect("the path of this program");
    with_args(this, &["bare", which])
}

fn with_args(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

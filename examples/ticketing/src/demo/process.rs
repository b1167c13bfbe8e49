//! One process: its start, its log, its end. A process that outlives the demo is known again by its
//! id and start time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ticketing::failure::Failure;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a process may take to end after SIGTERM. The services and outboxd give themselves 10 s.
const STOP_TIME: Duration = Duration::from_secs(15);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Who ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// This demo, whatever happens to it.
    Ours,
    /// A later demo.
    Detached,
}

/// What to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) log: PathBuf,
}

/// What was started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) plan: Plan,
    pid: u32,
    /// In clock ticks since the machine's start; tells the process from a later one with its id.
    started: u64,
    #[serde(skip)]
    child: Option<Child>,
}

impl Plan {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Settings of this shell for some other outboxd would win over ours.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("NATS_")
                || name.starts_with("MONGO")
                || (name.starts_with("OUTBOXD_") && name.contains("__"))
            {
                command.env_remove(&*name);
            }
        }

        command.args(&self.args).envs(&self.env).stdin(Stdio::null());
        command
    }

    /// Starts it, in a process group of its own: a Ctrl-C is for the demo, which then ends the
    /// others in order.
    pub(crate) fn start(self, lifetime: Lifetime) -> Result<Process, Failure> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(lifetime == Lifetime::Ours);

        let child = command
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", self.program.display()))?;
        let pid = child.id().ok_or("a process ended while it was started")?;
        let started = start_time(pid).unwrap_or_default();

        Ok(Process { plan: self, pid, started, child: Some(child) })
    }
}

impl Process {
    /// Whether it runs.
    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Waits for the first line of its log from `offset` on that begins with `start`, and returns
    /// the rest of that line.
    pub(crate) async fn line(
        &self,
        start: &str,
        offset: usize,
        patience: Duration,
    ) -> Result<String, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let alive = self.is_alive();
            let log = std::fs::read_to_string(&self.plan.log).unwrap_or_default();
            let lines = log.get(offset..).unwrap_or_default();

            if let Some(rest) = lines.lines().find_map(|line| line.strip_prefix(start)) {
                return Ok(rest.trim().to_owned());
            }

            if !alive {
                return Err(self.died());
            }

            if Instant::now() > deadline {
                return Err(format!(
                    "{} was not ready in {patience:?}; its log:\n{}",
                    self.plan.name,
                    self.tail()
                )
                .into());
            }

            sleep(LOOK).await;
        }
    }

    /// That it ended by itself, with the end of its log.
    pub(crate) fn died(&self) -> Failure {
        format!("{} ended by itself; its log:\n{}", self.plan.name, self.tail()).into()
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.plan.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("  {line}\n")).collect()
    }

    /// SIGTERM, and SIGKILL if that is not enough.
    ///
    /// # Errors
    /// It did not stop in time, or said by its exit code that it could not stop well.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        self.signal("TERM").await?;
        let deadline = Instant::now() + STOP_TIME;
        while self.is_alive() {
            if Instant::now() > deadline {
                self.kill().await?;
                return Err(format!(
                    "{} did not stop in {STOP_TIME:?} and was killed",
                    self.plan.name
                )
                .into());
            }
            sleep(LOOK).await;
        }

        match &mut self.child {
            Some(child) => match child.wait().await? {
                status if status.success() => Ok(()),
                status => Err(format!(
                    "{} stopped with {status}; its log:\n{}",
                    self.plan.name,
                    self.tail()
                )
                .into()),
            },
            None => Ok(()),
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        self.signal("KILL").await?;
        while self.is_alive() {
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The standard library only knows SIGKILL.
    async fn signal(&self, signal: &str) -> Result<(), Failure> {
        if self.is_alive() {
            let kill = format!("kill -{signal} {}", self.pid);
            // It may end by itself just before.
            Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().await?;
        }
        Ok(())
    }
}

/// The start time of a process that runs.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    if fields.next()? == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

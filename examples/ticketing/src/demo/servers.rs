//! A mongod and a nats-server of the demo's own, which it may kill. `deploy/local/servers` starts
//! and ends them; `members` adds more mongods.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ticketing::failure::Failure;
use tokio::process::Command;
use tokio::time::sleep;

use crate::process::start_time;
use crate::stage::Servers;

/// Starts and ends the servers. The demo is run in the project's root.
const SCRIPT: &str = "deploy/local/servers";
/// How often a server that was killed is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Their programs.
pub(crate) const SERVERS: [&str; 2] = [MONGOD, "nats-server"];
pub(crate) const MONGOD: &str = "mongod";

/// The servers whose data and list of processes are in this directory.
pub(crate) struct Own(PathBuf);

impl Own {
    pub(crate) fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Starts both.
    pub(crate) async fn start(&self, suffix: &str) -> Result<Servers, Failure> {
        let output = Command::new(SCRIPT).arg("up").arg(&self.0).output().await;
        let output =
            output.map_err(|error| format!("{SCRIPT}: {error}; run this in the project's root"))?;

        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }

        Ok(Servers {
            mongodb_uri: self.variable("OUTBOXD_TEST_MONGODB_URI").await?,
            nats_url: self.variable("OUTBOXD_TEST_NATS_URL").await?,
            suffix: suffix.to_owned(),
            stream: format!("TICKETING{}", suffix.to_uppercase()),
        })
    }

    /// The file is shell: let the shell read it.
    async fn variable(&self, name: &str) -> Result<String, Failure> {
        let script = format!(". \"$0\" && printf %s \"${name}\"");
        let output =
            Command::new("sh").arg("-c").arg(script).arg(self.0.join("env")).output().await?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ends all of them, if they were started, and removes their data.
    pub(crate) async fn end(&self) -> Result<(), Failure> {
        if self.0.join("pids").exists()
            && !Command::new(SCRIPT).arg("down").arg(&self.0).status().await?.success()
        {
            return Err(format!("`{SCRIPT} down {}` failed", self.0.display()).into());
        }
        Ok(())
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// Kills (-9) one of them, the one on this port if one is given. Returns its command line.
    pub(crate) async fn kill(
        &self,
        name: &str,
        port: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let (pid, args) = self.running(name, port)?;
        let start = start_time(pid);
        Command::new("kill").args(["-KILL", &pid.to_string()]).status().await?;
        while start.is_some() && start_time(pid) == start {
            sleep(LOOK).await;
        }

        Ok(args)
    }

    /// Starts one again that was killed, on the address it had.
    pub(crate) fn start_again(
        &self,
        name: &str,
        mut args: Vec<String>,
        nats_url: &str,
    ) -> Result<(), Failure> {
        let port = argument(&mut args, "--port")?;
        if port == "-1" {
            // It chose its port itself.
            *port = nats_url.rsplit(':').next().unwrap_or_default().to_owned();
        }

        let log = match argument(&mut args, "--dbpath") {
            Ok(data) => Path::new(data).with_extension("log"),
            Err(_) => self.0.join(format!("{name}.log")),
        };
        self.spawn(&args, &log)?;
        Ok(())
    }

    /// Starts a server, which `end` ends. Returns its process id.
    pub(crate) fn spawn(&self, args: &[String], log: &Path) -> Result<u32, Failure> {
        let log = File::options().append(true).create(true).open(log)?;
        let mut command = std::process::Command::new(&args[0]);
        command.args(&args[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let pid = command.process_group(0).spawn()?.id();

        let mut pids = File::options().append(true).open(self.0.join("pids"))?;
        writeln!(pids, "{pid} {}", start_time(pid).unwrap_or_default())?;
        Ok(pid)
    }

    /// The process that runs this server, on this port if one is given, with its command line.
    pub(crate) fn running(
        &self,
        name: &str,
        port: Option<&str>,
    ) -> Result<(u32, Vec<String>), Failure> {
        for line in std::fs::read_to_string(self.0.join("pids"))?.lines() {
            let mut fields = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(pid)), Some(Ok(started))) = (fields.next(), fields.next()) else {
                continue;
            };
            let Ok(pid) = u32::try_from(pid) else { continue };
            if start_time(pid) != Some(started) {
                continue;
            }

            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            let mut args: Vec<_> = line.split_terminator('\0').map(str::to_owned).collect();
            let program = args.first().and_then(|program| Path::new(program).file_name());
            let is_it = program.is_some_and(|program| program.to_string_lossy().starts_with(name));
            let is_there = |port| argument(&mut args, "--port").is_ok_and(|its| its == port);
            if is_it && port.is_none_or(is_there) {
                return Ok((pid, args));
            }
        }

        Err(format!("{name} is not running").into())
    }
}

/// What follows this option.
pub(crate) fn argument<'a>(
    args: &'a mut [String],
    option: &str,
) -> Result<&'a mut String, Failure> {
    let at = args.iter().position(|arg| arg == option);
    let value = at.and_then(|at| args.get_mut(at + 1));
    value.ok_or_else(|| format!("the server was started without {option}").into())
}

//! Servers for a service's own tests: a MongoDB replica set of one, a nats-server with JetStream,
//! and relays between them.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use outboxd_client::kit::Kit;
//!
//! let kit = Kit::start().await?;
//! let relay = kit.relay("shop", "SHOP", &["order.>"]).await?;
//! let client = mongodb::Client::with_uri_str(kit.mongodb_uri()).await?;
//! // Write to the database `shop`, and read the stream SHOP at `kit.nats_url()`.
//! # drop((relay, client));
//! # Ok(()) }
//! ```
//!
//! The programs `mongod`, `nats-server` and `outboxd` are looked for in the variables
//! `OUTBOXD_MONGOD`, `OUTBOXD_NATS_SERVER` and `OUTBOXD_BIN`, on `PATH`, and in the cache of
//! outboxd (`OUTBOXD_CACHE`, or `outboxd` in `XDG_CACHE_HOME` or `~/.cache`). If
//! `OUTBOXD_TEST_MONGODB_URI` and `OUTBOXD_TEST_NATS_URL` are set, the kit uses those servers and
//! starts none.
//!
//! Everything that was started ends with its value, and with the process, also when that is
//! killed. Needs a Unix system with `sh`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::doc;
use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::time::{Instant, sleep};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const TICK: Duration = Duration::from_millis(50);
/// Lines of a log in an error.
const LOG_LINES: usize = 5;
/// Runs a program until this process closes the pipe, which it also does when it is killed.
const SHELL: &str = r#"exec 3<&0
"$@" 3<&- </dev/null &
program=$!
(cat <&3 >/dev/null; kill -9 "$program" 2>/dev/null) &
exec 3<&-
wait "$program""#;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// A program is neither named by its variable nor on `PATH` nor in the cache.
    #[error(
        "{program} was not found; put it on PATH, or set {variable} to its path, or run `deploy/local/servers fetch` of outboxd"
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// The variable that may name its path.
        variable: &'static str,
    },
    /// A program ended or did not become ready.
    #[error("{program} did not start: {log}")]
    Start {
        /// The program.
        program: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// A file or a process of this machine.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The MongoDB server refused a command.
    #[error(transparent)]
    Mongodb(#[from] mongodb::error::Error),
}

/// Paths of the programs. One that is left out is looked for, see the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// `mongod`, 6.0 or newer.
    pub mongod: Option<PathBuf>,
    /// `nats-server`, 2.10 or newer.
    pub nats_server: Option<PathBuf>,
    /// `outboxd`.
    pub outboxd: Option<PathBuf>,
}

/// Running servers.
#[derive(Debug)]
pub struct Kit {
    mongodb_uri: String,
    nats_url: String,
    programs: Programs,
    _servers: Vec<Server>,
    folder: Folder,
}

impl Kit {
    /// Starts a MongoDB server and a NATS server, and waits until both are ready; or uses those
    /// that the environment names.
    ///
    /// # Errors
    /// [`KitError`]. Then nothing is left running.
    pub async fn start() -> Result<Self, KitError> {
        let there = given("OUTBOXD_TEST_MONGODB_URI").zip(given("OUTBOXD_TEST_NATS_URL"));
        let Some((mongodb_uri, nats_url)) = there else {
            return Self::start_with(Programs::default()).await;
        };

        let (mongodb_uri, nats_url) = (text(mongodb_uri), text(nats_url));
        let (programs, folder) = (Programs::default(), Folder::new()?);
        Ok(Self { mongodb_uri, nats_url, programs, _servers: Vec::new(), folder })
    }

    /// Starts servers of its own, with these programs.
    ///
    /// # Errors
    /// As [`Kit::start`].
    pub async fn start_with(programs: Programs) -> Result<Self, KitError> {
        let folder = Folder::new()?;
        let mongod = find(programs.mongod.as_deref(), "mongod", "OUTBOXD_MONGOD")?;
        let nats = find(programs.nats_server.as_deref(), "nats-server", "OUTBOXD_NATS_SERVER")?;

        let (mongod, mongodb_uri) = start_mongod(&mongod, &folder.0).await?;
        let (nats, nats_url) = start_nats(&nats, &folder.0).await?;
        Ok(Self { mongodb_uri, nats_url, programs, _servers: vec![mongod, nats], folder })
    }

    /// The MongoDB server, without a database in the path.
    pub fn mongodb_uri(&self) -> &str {
        &self.mongodb_uri
    }

    /// The NATS server.
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// Makes the outbox of `database` and the stream, which takes `subjects`, and starts a relay
    /// between them.
    ///
    /// # Errors
    /// [`KitError`].
    pub async fn relay(
        &self,
        database: &str,
        stream: &str,
        subjects: &[&str],
    ) -> Result<Relay, KitError> {
        let uri = &self.mongodb_uri;
        let (server, options) = uri.split_once("/?").unwrap_or((uri.trim_end_matches('/'), ""));
        let outboxd = find(self.programs.outboxd.as_deref(), "outboxd", "OUTBOXD_BIN")?;
        let mut command = Command::new(outboxd);
        command
            .current_dir(&self.folder.0)
            .env_clear()
            .env("MONGODB_URI", format!("{server}/{database}?{options}"))
            .env("NATS_URL", &self.nats_url)
            .env("NATS_CLUSTER_ID", stream)
            .env("NATS_CLIENT_ID", format!("kit-{}-{database}", std::process::id()))
            .env("OUTBOXD_STREAM__SUBJECTS", subjects.join(","))
            .env("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0");

        let migrated = copy(&command).arg("migrate").stdin(Stdio::null()).output()?;
        if !migrated.status.success() {
            let log = String::from_utf8_lossy(&migrated.stderr);
            return Err(KitError::Start { program: "outboxd", log: last_lines(&log) });
        }

        let log = self.folder.0.join(format!("outboxd-{database}.log"));
        let server = Server::start("outboxd", copy(&command).arg("run"), &log)?;
        Ok(Relay { command, log, server: Some(server) })
    }
}

/// A relay that runs. A test may kill it and start it again.
#[derive(Debug)]
pub struct Relay {
    command: Command,
    log: PathBuf,
    server: Option<Server>,
}

impl Relay {
    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again if it was killed.
    ///
    /// # Errors
    /// [`KitError::Io`].
    pub fn start_again(&mut self) -> Result<(), KitError> {
        if self.server.is_none() {
            let mut command = copy(&self.command);
            self.server = Some(Server::start("outboxd", command.arg("run"), &self.log)?);
        }
        Ok(())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A program that ends with this value.
#[derive(Debug)]
struct Server {
    program: &'static str,
    shell: Child,
    /// The program ends when this is closed.
    alive: Option<ChildStdin>,
    log: PathBuf,
}

impl Server {
    fn start(program: &'static str, command: &Command, log: &Path) -> Result<Self, KitError> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            // Its environment is its own; `sh` needs a PATH for `cat` and `kill`.
            shell
                .current_dir(folder)
                .env_clear()
                .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        }
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }

        shell.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        let mut shell = shell.spawn()?;
        let alive = shell.stdin.take();
        Ok(Self { program, shell, alive, log: log.to_owned() })
    }

    fn has_ended(&mut self) -> Result<bool, KitError> {
        Ok(self.shell.try_wait()?.is_some())
    }

    fn failed(&self) -> KitError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        KitError::Start { program: self.program, log: last_lines(&log) }
    }

    /// Polls until `ready` gives something.
    async fn until<T>(&mut self, ready: impl AsyncFn() -> Option<T>) -> Result<T, KitError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = ready().await {
                return Ok(found);
            }
            if self.has_ended()? || Instant::now() > deadline {
                return Err(self.failed());
            }
            sleep(TICK).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

/// A folder that is removed with this value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = bson::oid::ObjectId::new();
        let path = std::env::temp_dir().join(format!("outboxd-kit-{id}-{number}"));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn start_mongod(program: &Path, folder: &Path) -> Result<(Server, String), KitError> {
    let data = folder.join("mongod");
    std::fs::create_dir(&data)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();

    let mut command = Command::new(program);
    command.args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"]);
    command.args(["--wiredTigerCacheSizeGB", "0.25", "--port", &port.to_string()]);
    command.arg("--dbpath").arg(&data);
    let mut server = Server::start("mongod", &command, &folder.join("mongod.log"))?;

    let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let mut options = ClientOptions::parse(&direct).await?;
    options.server_selection_timeout = Some(Duration::from_secs(2));
    let admin = Client::with_options(options)?.database("admin");

    let member = doc! { "_id": 0, "host": format!("127.0.0.1:{port}") };
    let set = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
    server.until(async || admin.run_command(set.clone()).await.ok()).await?;

    let is_primary = async || {
        let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
        hello.get_bool("isWritablePrimary").ok()?.then_some(())
    };
    server.until(is_primary).await?;

    Ok((server, format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0")))
}

async fn start_nats(program: &Path, folder: &Path) -> Result<(Server, String), KitError> {
    let mut command = Command::new(program);
    command.args(["--addr", "127.0.0.1", "--port", "-1", "--jetstream"]);
    command.arg("--ports_file_dir").arg(folder).arg("--store_dir").arg(folder.join("nats"));
    let mut server = Server::start("nats-server", &command, &folder.join("nats-server.log"))?;

    let url = server.until(async || nats_url(folder)).await?;
    Ok((server, url))
}

/// What nats-server writes once it listens: a file named after its program and process.
fn nats_url(folder: &Path) -> Option<String> {
    let mut files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let ports =
        files.find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
    ports["nats"][0].as_str().map(str::to_owned)
}

/// A variable of the environment that isn't empty.
fn given(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|text| !text.is_empty())
}

fn text(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// The path of a program.
fn find(
    chosen: Option<&Path>,
    program: &'static str,
    variable: &'static str,
) -> Result<PathBuf, KitError> {
    if let Some(path) = chosen.map(Path::to_owned).or_else(|| given(variable).map(PathBuf::from)) {
        return Ok(std::path::absolute(path)?);
    }

    let on_path = given("PATH");
    let on_path = on_path.iter().flat_map(std::env::split_paths).map(|folder| folder.join(program));
    let cache = given("OUTBOXD_CACHE").map(PathBuf::from).or_else(|| {
        let caches = given("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(PathBuf::from(given("HOME")?).join(".cache")));
        Some(caches?.join("outboxd"))
    });
    let found =
        on_path.chain(cache.and_then(|cache| newest(&cache, program))).find(|path| path.is_file());
    found.ok_or(KitError::Missing { program, variable })
}

/// The newest version of a program in the cache: `mongod-6.0.5`.
fn newest(cache: &Path, program: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(cache).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix(program)?;
        let is_version = version.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'.');
        let parts = version.split(['-', '.']).map(|part| part.parse().unwrap_or(0));
        is_version.then(|| (parts.collect::<Vec<u32>>(), entry.path()))
    });
    versions.max().map(|(_, path)| path)
}

/// The same command once more.
fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).env_clear();
    copy.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    copy
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_cache_is_taken_by_number() {
        let cache = Folder::new().expect("it works");
        for name in
            ["nats-server-2.9.1", "nats-server-2.15.1", "nats-server-2.10.26", "mongod-6.0.5"]
        {
            std::fs::write(cache.0.join(name), "").expect("it works");
        }
        assert_eq!(newest(&cache.0, "nats-server"), Some(cache.0.join("nats-server-2.15.1")));
        assert_eq!(newest(&cache.0, "outboxd"), None);
    }

    #[test]
    fn a_program_ends_with_its_value() {
        let folder = Folder::new().expect("it works");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >pid; exec sleep 600"]).current_dir(&folder.0);
        let server = Server::start("sleep", &command, &folder.0.join("log")).expect("it works");
        let pid = loop {
            let pid = std::fs::read_to_string(folder.0.join("pid")).unwrap_or_default();
            match pid.trim().parse::<u32>() {
                Ok(pid) => break pid,
                Err(_) => std::thread::sleep(TICK),
            }
        };
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}/cmdline")).exists(), "{pid} still runs");
    }
}

//! `outboxd` as a process of its own, ended with the test.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::ports::free_ports;
use super::privileges::NatsUsers;
use super::{Scene, until};

/// The binary under test.
pub(crate) const OUTBOXD: &str = env!("CARGO_BIN_EXE_outboxd");

/// Runs `outboxd` to its end; returns its exit code and everything it said.
pub(crate) fn outboxd(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    outboxd_with(scene, args, &[])
}

/// What it says as JSON.
#[track_caller]
pub(crate) fn json(scene: &Scene, args: &[&str]) -> serde_json::Value {
    let (code, said) = outboxd(scene, &[args, &["--output", "json"]].concat());
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// What it says, which has all of these.
#[track_caller]
pub(crate) fn says(scene: &Scene, args: &[&str], wanted: &[&str]) -> String {
    let (code, said) = outboxd(scene, args);
    assert_eq!(code, Some(0), "{said}");
    wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "no {wanted:?} in:\n{said}"));
    said
}

/// The same, with settings on top of the scene's.
pub(crate) fn outboxd_with(
    scene: &Scene,
    args: &[&str],
    settings: &[(&str, &str)],
) -> (Option<i32>, String) {
    let verb = args.first().copied().unwrap_or_default();
    let output = command(scene, verb)
        .args(args)
        .envs(settings.iter().copied())
        .output()
        .expect("outboxd runs");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), said.concat())
}

/// `outboxd` for this verb's user, without the verb itself.
pub(crate) fn command(scene: &Scene, verb: &str) -> Command {
    let mut command = Command::new(OUTBOXD);
    command.env_clear().envs(scene.env_of(verb)).stdin(Stdio::null());
    command
}

/// A nats-server of a test's own, with JetStream.
pub(crate) struct NatsServer {
    child: Child,
    pub(crate) url: String,
    /// Who may do what, unless its configuration says so.
    pub(crate) users: Option<NatsUsers>,
    data: tempfile::TempDir,
}

impl NatsServer {
    /// Where each verb's user may do what `outboxd privileges` says, for a scene's stream of all
    /// that begins with its name.
    pub(crate) async fn start() -> Self {
        Self::with(Some(NatsUsers::new(None)), "").await
    }

    /// The same, for a stream of these subjects.
    pub(crate) async fn taking(subjects: &str) -> Self {
        Self::with(Some(NatsUsers::new(Some(subjects))), "").await
    }

    /// With a configuration file, and the users that it names.
    pub(crate) async fn with_config(config: &str) -> Self {
        Self::with(None, config).await
    }

    async fn with(users: Option<NatsUsers>, config: &str) -> Self {
        let data = tempfile::tempdir().expect("a folder for the data");
        configure(data.path(), users.as_ref(), config);
        let child = nats_server(data.path(), &free_ports(1)[0].to_string());
        let url = until("nats-server says its port", async || {
            // The file is named after the binary and the process.
            let mut files =
                std::fs::read_dir(data.path()).ok()?.flatten().map(|entry| entry.path());
            let ports = files
                .find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
            let ports = std::fs::read_to_string(ports).ok()?;
            let ports: serde_json::Value = serde_json::from_str(&ports).ok()?;
            ports["nats"][0].as_str().map(str::to_owned)
        })
        .await;
        Self { child, url, users, data }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("nats-server is killed");
        self.child.wait().expect("nats-server has ended");
    }

    /// Changes the configuration that the next start takes.
    pub(crate) fn configure(&self, config: &str) {
        configure(self.data.path(), self.users.as_ref(), config);
    }

    /// Takes another configuration, without a restart.
    pub(crate) fn reload(&self, config: &str) {
        self.configure(config);
        signal(&self.child, "-HUP");
    }

    /// SIGSTOP: its connections stand, and nobody answers.
    pub(crate) fn pause(&self) {
        signal(&self.child, "-STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        signal(&self.child, "-CONT");
    }

    /// From now on no file of it may grow over so many bytes, until it is started again.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: None };
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit)
            .expect("the limit is set");
    }

    /// A copy of everything JetStream has stored.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder for the copy");
        copy_folder(&self.data.path().join("jetstream"), copy.path());
        copy
    }

    /// Puts an old copy in the place of what it has.
    pub(crate) fn restore(&self, copy: &tempfile::TempDir) {
        std::fs::remove_dir_all(self.data.path().join("jetstream")).expect("the store is removed");
        copy_folder(&copy.path().join("jetstream"), self.data.path());
    }

    /// Has the store of a stream that is not there yet fail: a file is where its folder would be.
    pub(crate) fn block_stream(&self, name: &str) {
        let streams = self.data.path().join("jetstream/$G/streams");
        std::fs::create_dir_all(&streams).expect("a folder for streams");
        std::fs::write(streams.join(name), "").expect("a file");
    }

    /// Cuts the newest third off the file that has the newest messages, as a power cut may.
    pub(crate) fn cut_last_block(&self) {
        let mut blocks = Vec::new();
        files(&self.data.path().join("jetstream"), &mut blocks);
        blocks.retain(|file| file.extension().is_some_and(|end| end == "blk"));
        let size = |file: &std::path::PathBuf| file.metadata().map(|file| file.len()).unwrap_or(0);
        let block = blocks.into_iter().max_by_key(size).expect("a block");
        let length = size(&block) * 2 / 3;
        let file = std::fs::OpenOptions::new().write(true).open(block).expect("the block");
        file.set_len(length).expect("it is cut off");
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        read(&self.data.path().join("log"))
    }

    /// Starts again where it was, with what it had.
    pub(crate) fn start_again(&mut self) {
        let port = self.url.rsplit(':').next().expect("a URL with a port");
        self.child = nats_server(self.data.path(), port);
    }
}

/// JetStream stands in the file, not in the arguments: a reload would turn it off.
fn configure(data: &Path, users: Option<&NatsUsers>, config: &str) {
    let users = users.map(NatsUsers::config).unwrap_or_default();
    let config = format!("jetstream {{ store_dir: \"{}\" }}\n{users}{config}\n", data.display());
    std::fs::write(data.join("conf"), config).expect("the configuration is written");
}

/// All files below a folder.
fn files(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        match entry.path() {
            path if path.is_dir() => files(&path, into),
            path => into.push(path),
        }
    }
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(copied.success());
}

fn nats_server(data: &Path, port: &str) -> Child {
    let binary = std::env::var("OUTBOXD_NATS_SERVER")
        .expect("run the tests with `make test`, which finds nats-server");
    let folder = data.to_str().expect("a path in UTF-8");
    Command::new(binary)
        .args(["--addr", "127.0.0.1", "--port", port, "--ports_file_dir", folder])
        .args(["--log", &format!("{folder}/log"), "--config", &format!("{folder}/conf")])
        .spawn()
        .expect("nats-server starts")
}

pub(super) fn signal(child: &Child, signal: &str) {
    let sent =
        Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running relay.
pub(crate) struct Relay {
    child: Child,
    name: String,
    log: tempfile::NamedTempFile,
}

impl Relay {
    /// Starts one, with settings on top of the scene's.
    pub(crate) fn start(scene: &Scene, settings: &[(&str, &str)]) -> Self {
        Self::start_with(scene, settings, |_| {})
    }

    /// The same; the closure may replace its standard output and its log.
    pub(crate) fn start_with(
        scene: &Scene,
        settings: &[(&str, &str)],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file for the log");
        let mut command = command(scene, "run");
        command
            .arg("run")
            .envs(settings.iter().copied())
            .stderr(File::options().append(true).open(log.path()).expect("the log opens"));
        change(&mut command);
        let child = command.spawn().expect("outboxd starts");
        let name = settings
            .iter()
            .find(|(name, _)| *name == "NATS_CLIENT_ID")
            .map_or("", |(_, name)| name)
            .to_owned();
        Self { child, name, log }
    }

    /// Starts one and waits until it holds the lease.
    pub(crate) async fn leading(scene: &Scene, settings: &[(&str, &str)]) -> Self {
        let relay = Self::start(scene, settings);
        relay.says("holding the lease").await;
        relay
    }

    /// Waits for a line in its log.
    pub(crate) async fn says(&self, what: &str) {
        until(&format!("the relay says {what:?}"), async || {
            self.log().contains(what).then_some(())
        })
        .await;
    }

    /// Where its admin endpoint listens.
    pub(crate) async fn admin(&self) -> String {
        until("the relay says where its admin endpoint listens", async || {
            let log = self.log();
            let rest = log.split("the admin endpoint listens address=").nth(1)?;
            Some(rest.split_whitespace().next()?.to_owned())
        })
        .await
    }

    /// What one of its metrics without labels is at; 0 for what it never counted.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let value = self.metric_once_there(name).await;
        value.unwrap_or_else(|| panic!("no {name}"))
    }

    /// The same of one that is there once it was measured.
    pub(crate) async fn metric_once_there(&self, name: &str) -> Option<u64> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let metrics = reqwest::get(format!("http://{}/metrics", self.admin().await))
            .await
            .expect("an answer");
        let metrics = metrics.text().await.expect("its text");
        let value = metrics.lines().find_map(|line| {
            let (metric, value) = line.rsplit_once(' ')?;
            metric.strip_prefix(name)?.starts_with("{outbox=").then_some(value)
        });
        value.map(|value| value.parse().expect("a whole number"))
    }

    /// Its `NATS_CLIENT_ID`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        signal(&self.child, "-STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        signal(&self.child, "-CONT");
    }

    /// Whether it hasn't ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it have so many bytes of memory, besides that of its program. Without more it ends.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: None };
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Data, limit)
            .expect("the limit is set");
    }

    /// The most it ever had, in kB.
    pub(crate) fn peak_rss(&self) -> u64 {
        memory(self.pid(), "VmHWM:")
    }

    /// The same without the pages of the program and its libraries.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_rss() - memory(self.pid(), "RssFile:")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        read(self.log.path())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the relay is killed");
        self.child.wait().expect("the relay has ended");
    }

    /// Waits until it has ended by itself; returns the signal that ended it.
    pub(crate) async fn ended_by(&mut self) -> Option<i32> {
        let child = Mutex::new(&mut self.child);
        let status =
            until("the relay has ended", async || child.lock().ok()?.try_wait().expect("a child"))
                .await;
        status.signal()
    }

    /// Sends it a signal, such as `-HUP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// SIGTERM; returns its exit code.
    pub(crate) fn stop(self) -> Option<i32> {
        self.stop_by("-TERM")
    }

    /// Sends it a signal that stops it; returns its exit code.
    pub(crate) fn stop_by(mut self, name: &str) -> Option<i32> {
        signal(&self.child, name);
        self.child.wait().expect("the relay has ended").code()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the relay ---\n{}", self.log());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the log is read")
}

/// A process's memory, in kB.
pub(crate) fn memory(pid: u32, which: &str) -> u64 {
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

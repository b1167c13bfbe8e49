//! The configuration: one struct per part, each with argued defaults, resolved from flags over
//! environment over file over defaults before anything is bound.
//!
//! Every mistake is reported at once. Secrets are a type that doesn't print. The library reads no
//! environment itself: [`Sources`] carries what `main` found there. `config/outboxd.toml` lists
//! every setting with its reason.

mod connect;
mod files;
mod read;
mod reader;
mod schema;
mod setting;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use self::files::NamedFile;
use self::read::secs;
pub use self::reader::Shown;
use self::reader::{ReadUp, Reader};
use crate::document::layout::Layout;
use crate::error::{Error, ErrorKind, Result};

/// Where settings come from, lowest precedence first: the defaults, `file`, `env`, `set`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment, as name and value.
    pub env: Vec<(String, String)>,
    /// `key=value` from flags. Secrets are refused here.
    pub set: Vec<String>,
}

/// The whole configuration, valid by construction.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the outbox is.
    pub mongodb: MongodbConfig,
    /// Where events go.
    pub nats: NatsConfig,
    /// The JetStream stream.
    pub stream: StreamConfig,
    /// What a document is as an event.
    pub event: EventConfig,
    /// How much is under way at once.
    pub dispatch: DispatchConfig,
    /// What nothing else finds.
    pub sweep: SweepConfig,
    /// What happens to a failed event.
    pub retry: RetryConfig,
    /// What a person is told.
    pub alerts: AlertsConfig,
    /// What is told over HTTP.
    pub admin: AdminConfig,
    /// Which relay publishes.
    pub lease: LeaseConfig,
    /// How a stop goes.
    pub shutdown: ShutdownConfig,
    /// What is logged.
    pub log: LogConfig,
    shown: Vec<Shown>,
    files: Vec<NamedFile>,
}

/// `[mongodb]`
#[derive(Debug, Clone)]
pub struct MongodbConfig {
    /// Connection string.
    pub uri: SecretString,
    /// Database of the outbox; from the URI's path unless set.
    pub database: String,
    /// Collection of the outbox.
    pub collection: String,
    app_name: String,
}

/// `[nats]`
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// One or more server URLs, separated by commas.
    pub url: SecretString,
    /// Name of the connection and of the lease's holder: the pod's name.
    pub client_id: String,
    /// Path of a `.creds` file.
    pub creds: Option<String>,
    /// Seed of an nkey.
    pub nkey: Option<SecretString>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Token.
    pub token: Option<SecretString>,
    /// Path of the client certificate (PEM).
    pub tls_cert: Option<String>,
    /// Path of the client certificate's key (PEM).
    pub tls_key: Option<String>,
    /// Path of the CA's certificates (PEM).
    pub tls_ca: Option<String>,
    /// What the subjects of its replies begin with.
    pub inbox_prefix: String,
    /// How often the connection is probed; it counts as lost after two probes without an answer.
    pub ping_interval: Duration,
    /// How long one publish waits for its ack.
    pub ack_timeout: Duration,
}

/// `[stream]`
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Name of the stream; every publish names it as the one it expects.
    pub name: String,
    /// Subjects it is created with.
    pub subjects: Vec<String>,
    /// Whether the subjects were given, so that an existing stream must cover them.
    pub subjects_given: bool,
    /// How long the stream remembers message ids.
    pub duplicate_window: Duration,
    /// Copies of each message (1 to 5).
    pub replicas: usize,
    /// How long messages are kept; zero for ever.
    pub max_age: Duration,
}

/// `[event]`
#[derive(Debug, Clone)]
pub struct EventConfig {
    /// Where the parts of an event stand, and what is made of them.
    pub layout: Arc<Layout>,
}

/// `[dispatch]`
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Publishes under way at once.
    pub max_in_flight: usize,
    /// Events in memory at once.
    pub max_buffered_events: usize,
    /// Bytes of events in memory at once.
    pub max_buffered_bytes: usize,
    /// Which events wait for each other.
    pub ordering: Ordering,
    /// What a dead event does to its key.
    pub on_dead: OnDead,
}

/// `dispatch.ordering`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Events of one key leave in their order.
    Key,
    /// None do.
    None,
}

/// `dispatch.on_dead`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDead {
    /// The later events of its key wait until a person decides.
    Hold,
    /// They go on without it.
    Skip,
}

/// `[sweep]`
#[derive(Debug, Clone)]
pub struct SweepConfig {
    /// How often locked events older than a minute are looked for that nothing has brought.
    pub interval: Duration,
}

/// `[retry]`
#[derive(Debug, Clone)]
pub struct RetryConfig {
    /// When the retrier looks for due events, as a cron expression with seconds.
    pub cron: String,
    /// Wait after the first failure; doubles with each.
    pub base_delay: Duration,
    /// Longest wait.
    pub max_delay: Duration,
    /// Counted rejections after which an event is dead.
    pub max_attempts: u32,
    /// How long a publish without a definite answer is tried again in place before the event is
    /// marked as failed.
    pub outage_grace: Duration,
}

/// `[alerts]`
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Path of the alert log: JSON lines, rotated.
    pub file: PathBuf,
    /// Whether it was given, so that it must be writable.
    pub file_given: bool,
    /// Counted refusals of one event that raise an alert.
    pub after_failures: u32,
    /// Age of the oldest event that raises an alert.
    pub stuck_after: Duration,
    /// Where each alert is posted too.
    pub webhook: Option<SecretString>,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Address of the admin endpoint.
    pub listen: SocketAddr,
    /// Whether it was given, so that it must be free.
    pub listen_given: bool,
    /// What a request must bring.
    pub token: Option<SecretString>,
}

/// `[lease]`
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// How long a holder that is never heard of again keeps others waiting.
    pub ttl: Duration,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct ShutdownConfig {
    /// How long publishes under way may take to finish after SIGTERM.
    pub grace: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
    /// A filter such as `info` or `warn,outboxd=debug`.
    pub level: String,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub fn load(sources: &Sources) -> Result<Self> {
        let (config, ReadUp { mistakes, missing, .. }) = Self::read(sources);
        refuse(&[missing, mistakes].concat(), "the configuration")?;
        Ok(config)
    }

    /// Checks a file by itself. Returns what still has to be given elsewhere: required settings and
    /// files of secrets that it lacks.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub fn check(file: &Path) -> Result<Vec<String>> {
        let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
        let (_, ReadUp { mistakes, missing, .. }) = Self::read(&sources);
        refuse(&mistakes, &file.display().to_string())?;
        Ok(missing)
    }

    fn read(sources: &Sources) -> (Self, ReadUp) {
        let mut reader = Reader::new(sources);
        let stream = StreamConfig::read(&mut reader);
        let nats = NatsConfig::read(&mut reader, &stream.name);
        let mongodb = MongodbConfig::read(&mut reader, &nats.client_id);
        let event = EventConfig::read(&mut reader, &mongodb);
        let dispatch = DispatchConfig::read(&mut reader);
        let sweep = SweepConfig {
            interval: reader.within("sweep.interval", secs(300), secs(1)..=secs(86_400)),
        };
        let retry = RetryConfig::read(&mut reader);
        let alerts = AlertsConfig::read(&mut reader);
        let admin = AdminConfig::read(&mut reader);
        let lease = LeaseConfig { ttl: reader.within("lease.ttl", secs(10), secs(1)..=secs(300)) };
        let shutdown = ShutdownConfig {
            grace: reader.within("shutdown.grace", secs(10), secs(0)..=secs(600)),
        };
        let log = LogConfig::read(&mut reader);
        let read = reader.finish(sources);
        let (shown, files) = (read.shown.clone(), read.files.clone());
        (
            Self {
                mongodb,
                nats,
                stream,
                event,
                dispatch,
                sweep,
                retry,
                alerts,
                admin,
                lease,
                shutdown,
                log,
                shown,
                files,
            },
            read,
        )
    }
}

fn refuse(mistakes: &[String], what: &str) -> Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let count = mistakes.len();
    let lines: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    Err(Error::new(ErrorKind::Config, format!("{count} {noun} in {what}:{lines}")))
}

/// Every setting with its value and origin, as TOML; secrets are masked.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.shown.clone();
        shown.sort_by_key(|line| line.key);
        let mut section = "";
        for Shown { key, value, origin } in &shown {
            let (in_section, name) = key.split_once('.').unwrap_or(("", key));
            if in_section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{in_section}]")?;
                section = in_section;
            }
            let line = if value == "(not set)" {
                format!("# {name} =")
            } else {
                format!("{name} = {value}")
            };
            writeln!(f, "{line:<44} # {origin}")?;
        }
        Ok(())
    }
}

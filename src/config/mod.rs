//! The configuration: one struct per part, each with argued defaults, resolved from flags over environment over file over
//! defaults before anything is bound.
//!
//! Every mistake is reported at once. Secrets are a type that doesn't print. The library reads no environment itself:
//! [`Sources`] carries what `main` found there. `config/outboxd.toml` lists every setting with its reason.

mod connect;
mod reader;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::options::ConnectionString;
use secrecy::{ExposeSecret, SecretString};

use self::reader::Reader;
pub use self::reader::Shown;
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
    /// How much is under way at once.
    pub dispatch: DispatchConfig,
    /// What nothing else finds.
    pub sweep: SweepConfig,
    /// What happens to a failed event.
    pub retry: RetryConfig,
    /// Which relay publishes.
    pub lease: LeaseConfig,
    /// How a stop goes.
    pub shutdown: ShutdownConfig,
    /// What is logged.
    pub log: LogConfig,
    shown: Vec<Shown>,
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
    /// How long a publish without a definite answer is tried again in place before the event is marked as failed.
    pub outage_grace: Duration,
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
        let mut reader = Reader::new(sources);
        let nats = NatsConfig::read(&mut reader);
        let mongodb = MongodbConfig::read(&mut reader, &nats.client_id);
        let stream = StreamConfig::read(&mut reader);
        let dispatch = DispatchConfig::read(&mut reader);
        let sweep = SweepConfig { interval: reader.within("sweep.interval", secs(300), secs(1)..=secs(86_400)) };
        let retry = RetryConfig::read(&mut reader);
        let lease = LeaseConfig { ttl: reader.within("lease.ttl", secs(10), secs(1)..=secs(300)) };
        let shutdown = ShutdownConfig { grace: reader.within("shutdown.grace", secs(10), secs(0)..=secs(600)) };
        let log = LogConfig::read(&mut reader);
        match reader.finish(sources) {
            Ok(shown) => Ok(Self { mongodb, nats, stream, dispatch, sweep, retry, lease, shutdown, log, shown }),
            Err(mistakes) => {
                let count = mistakes.len();
                let lines: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
                let noun = if count == 1 { "mistake" } else { "mistakes" };
                Err(Error::new(ErrorKind::Config, format!("{count} {noun} in the configuration:{lines}")))
            }
        }
    }
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
            let line = if value == "(not set)" { format!("# {name} =") } else { format!("{name} = {value}") };
            writeln!(f, "{line:<44} # {origin}")?;
        }
        Ok(())
    }
}

impl MongodbConfig {
    fn read(reader: &mut Reader, client_id: &str) -> Self {
        let uri = reader.secret("mongodb.uri", "mongodb.uri_file");
        let mut in_path = None;
        match &uri {
            None => reader.mistake("mongodb.uri", "is not set; give MONGODB_URI=mongodb://host/database?replicaSet=…"),
            Some(uri) => match ConnectionString::parse(uri.expose_secret()) {
                Ok(parsed) => in_path = parsed.default_database,
                // The driver's message may repeat parts of the URI.
                Err(_) => reader
                    .mistake("mongodb.uri", "is not a connection string such as mongodb://host/database?replicaSet=…"),
            },
        }
        let database = reader.optional("mongodb.database").or(in_path).unwrap_or_else(|| {
            if uri.is_some() {
                reader.mistake("mongodb.database", "is not set; put the database in the URI's path or set it");
            }
            String::new()
        });
        Self {
            uri: uri.unwrap_or_default(),
            database,
            collection: reader.take("mongodb.collection", "outbox".to_owned()),
            app_name: format!("outboxd {client_id}"),
        }
    }
}

impl NatsConfig {
    fn read(reader: &mut Reader) -> Self {
        let default_id = format!("outboxd-{}", std::process::id());
        let nats = Self {
            url: reader
                .secret("nats.url", "nats.url_file")
                .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned().into()),
            client_id: reader.take("nats.client_id", default_id),
            creds: reader.optional("nats.creds"),
            nkey: reader.secret("nats.nkey", "nats.nkey_file"),
            user: reader.optional("nats.user"),
            password: reader.secret("nats.password", "nats.password_file"),
            token: reader.secret("nats.token", "nats.token_file"),
            tls_cert: reader.optional("nats.tls_cert"),
            tls_key: reader.optional("nats.tls_key"),
            tls_ca: reader.optional("nats.tls_ca"),
            ping_interval: reader.within("nats.ping_interval", secs(5), secs(1)..=secs(120)),
            ack_timeout: reader.within("nats.ack_timeout", secs(5), Duration::from_millis(100)..=secs(60)),
        };
        if nats.servers().is_none() {
            reader.mistake("nats.url", "is not one or more URLs such as nats://host:4222, separated by commas");
        }
        if nats.user.is_some() != nats.password.is_some() {
            reader.mistake("nats.user", "user and password go together");
        }
        if nats.tls_cert.is_some() != nats.tls_key.is_some() {
            reader.mistake("nats.tls_cert", "certificate and key go together");
        }
        for (key, path) in
            [("creds", &nats.creds), ("tls_cert", &nats.tls_cert), ("tls_key", &nats.tls_key), ("tls_ca", &nats.tls_ca)]
        {
            if let Some(Err(error)) = path.as_ref().map(std::fs::metadata) {
                reader.mistake(&format!("nats.{key}"), format!("the file can't be read: {error}"));
            }
        }
        nats
    }
}

impl StreamConfig {
    fn read(reader: &mut Reader) -> Self {
        let stream = Self {
            name: reader.take("stream.name", String::new()),
            subjects_given: reader.is_given("stream.subjects"),
            subjects: reader.take("stream.subjects", vec!["*".to_owned()]),
            duplicate_window: reader.within(
                "stream.duplicate_window",
                secs(1800),
                Duration::from_millis(100)..=secs(86_400),
            ),
            replicas: to_usize(reader.within("stream.replicas", 1, 1..=5)),
            max_age: reader.take("stream.max_age", Duration::ZERO),
        };
        if stream.name.is_empty() {
            reader.mistake("stream.name", "is not set; give the JetStream stream, or NATS_CLUSTER_ID");
        } else if stream.name.len() > 255
            || stream.name.contains(|c: char| !c.is_ascii_graphic() || "*>./\\".contains(c))
        {
            reader.mistake("stream.name", "a stream's name has no spaces and none of `* > . / \\`");
        }
        if stream.subjects.is_empty() {
            reader.mistake("stream.subjects", "is empty; give at least one subject");
        }
        if !stream.max_age.is_zero() && stream.max_age < stream.duplicate_window {
            reader.mistake("stream.max_age", "is shorter than stream.duplicate_window; the server refuses that");
        }
        stream
    }
}

impl DispatchConfig {
    fn read(reader: &mut Reader) -> Self {
        Self {
            max_in_flight: to_usize(reader.within("dispatch.max_in_flight", 1024, 1..=4096)),
            max_buffered_events: to_usize(reader.within("dispatch.max_buffered_events", 8192, 1..=1_000_000)),
            max_buffered_bytes: to_usize(reader.within("dispatch.max_buffered_bytes", 16 << 20, 1 << 16..=1 << 32)),
            ordering: reader.one_of("dispatch.ordering", &[("key", Ordering::Key), ("none", Ordering::None)]),
            on_dead: reader.one_of("dispatch.on_dead", &[("hold", OnDead::Hold), ("skip", OnDead::Skip)]),
        }
    }
}

impl RetryConfig {
    fn read(reader: &mut Reader) -> Self {
        let retry = Self {
            cron: reader.take("retry.cron", "*/10 * * * * *".to_owned()),
            base_delay: reader.within("retry.base_delay", secs(5), Duration::from_millis(100)..=secs(3600)),
            max_delay: reader.within("retry.max_delay", secs(300), secs(1)..=secs(86_400)),
            max_attempts: u32::try_from(reader.within("retry.max_attempts", 20, 1..=10_000)).unwrap_or(u32::MAX),
            outage_grace: reader.within("retry.outage_grace", secs(30), secs(0)..=secs(3600)),
        };
        if retry.max_delay < retry.base_delay {
            reader.mistake("retry.max_delay", "is shorter than retry.base_delay");
        }
        if tokio_cron_scheduler::Job::new(retry.cron.as_str(), |_, _| {}).is_err() {
            let wanted = "is not a cron expression with seconds, such as \"*/10 * * * * *\" for every ten seconds";
            reader.mistake("retry.cron", wanted);
        }
        retry
    }
}

impl LogConfig {
    fn read(reader: &mut Reader) -> Self {
        let format = reader.one_of("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let level = reader.take("log.level", "warn,outboxd=info".to_owned());
        if level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            reader.mistake("log.level", "is not a filter such as \"info\" or \"warn,outboxd=debug\"");
        }
        Self { format, level }
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Bounded by the caller's range, all of which fits on 64-bit machines; a smaller one gets its largest.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

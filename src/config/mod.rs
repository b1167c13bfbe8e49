//! The configuration: resolved from flags over environment over file over defaults, and valid,
//! before anything is bound.
//!
//! Data passes the files in this order:
//!
//! | file | holds |
//! | --- | --- |
//! | `sources` | what flags, environment and file give, each value with its source |
//! | `setting` | the types a setting can have |
//! | `info` | what a setting is, as pages and schema show it |
//! | `named_file` | a file that a setting names, as it was when it was read |
//! | `unknown` | what the sources hold and no setting asked for |
//! | `reader` | reads one setting after the other and gathers all mistakes |
//! | `files` | what the named files must hold |
//! | `uri` | what MongoDB's connection string must hold |
//! | `sections` | each section: its struct, its settings with their descriptions |
//! | `mod` | the whole: [`Config`] |
//! | `schema` | the settings as JSON Schema |
//! | `fuzz` | arbitrary bytes in the place of a file, flags and the environment |
//!
//! Every mistake is reported at once. Secrets are a type that doesn't print. The library reads no
//! environment itself: [`Sources`] carries what `main` found there. `config/outboxd.toml` and the
//! handbook's page are generated from [`Config::settings`].

mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod info;
mod named_file;
mod reader;
mod schema;
mod sections;
mod setting;
mod sources;
mod unknown;
mod uri;

use std::fmt;
use std::path::Path;

pub use self::info::{SettingInfo, Unset};
pub use self::named_file::NamedFile;
use self::reader::{NOT_SET, Reader, Reading};
pub use self::sections::{
    AdminConfig, AlertsConfig, Api, Compression, DiscoveredServers, DispatchConfig, EventConfig,
    KeepConfig, LeaseConfig, LogConfig, LogFormat, MongodbConfig, NatsConfig, OnDead, Ordering,
    Repair, RetryConfig, ScheduledConfig, ShutdownConfig, Storage, StreamConfig, SweepConfig,
    VerifyAcks, WebhookFormat,
};
pub use self::setting::Given;
pub use self::sources::Sources;
use crate::error::{Error, ErrorKind, Result};

/// In the place of a database that the settings don't name. MongoDB takes no name with a point.
pub(crate) const UNKNOWN_DATABASE: &str = "<mongodb.database>";

/// The whole configuration, valid by construction.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the outbox is.
    pub mongodb: MongodbConfig,
    /// Where events go.
    pub nats: NatsConfig,
    /// The JetStream stream.
    pub stream: StreamConfig,
    /// How a document is an event.
    pub event: EventConfig,
    /// Which events are published later.
    pub scheduled: ScheduledConfig,
    /// How much is under way at once.
    pub dispatch: DispatchConfig,
    /// How long acked events are kept.
    pub keep: KeepConfig,
    /// How often to look for what nothing else finds.
    pub sweep: SweepConfig,
    /// What happens to a failed event.
    pub retry: RetryConfig,
    /// When a person is alerted.
    pub alerts: AlertsConfig,
    /// The endpoint that answers over HTTP.
    pub admin: AdminConfig,
    /// Which relay publishes.
    pub lease: LeaseConfig,
    /// How outboxd stops.
    pub shutdown: ShutdownConfig,
    /// What is logged.
    pub log: LogConfig,
    shown: Vec<Shown>,
    files: Vec<NamedFile>,
    warnings: Vec<String>,
    /// The file of the settings themselves.
    own_file: Option<NamedFile>,
}

/// What `outboxd config check` finds in a file without a mistake.
#[derive(Debug, Default)]
pub struct Checked {
    /// What still has to be given elsewhere: required settings, and files that settings name.
    pub missing: Vec<String>,
    /// What works, and an operator should know about.
    pub warnings: Vec<String>,
}

/// One line of `outboxd config print`.
#[derive(Debug, Clone)]
struct Shown {
    key: String,
    /// As TOML; masked for a secret.
    value: String,
    source: String,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub fn load(sources: &Sources) -> Result<Self> {
        let (config, Reading { mistakes, missing, .. }) = Self::read(sources);
        refuse(&[missing, mistakes].concat(), "the configuration")?;
        Ok(config)
    }

    /// Reads and checks every setting that is given, for what connects to no server. A database that
    /// nothing names is [`UNKNOWN_DATABASE`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub(crate) fn load_unconnected(sources: &Sources) -> Result<Self> {
        let (mut config, Reading { mistakes, .. }) = Self::read(sources);
        refuse(&mistakes, "the configuration")?;
        if config.mongodb.database.is_empty() {
            UNKNOWN_DATABASE.clone_into(&mut config.mongodb.database);
        }
        Ok(config)
    }

    /// Checks a file by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub fn check(file: &Path) -> Result<Checked> {
        let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
        let (_, Reading { mistakes, missing, warnings, .. }) = Self::read(&sources);
        refuse(&mistakes, &file.display().to_string())?;
        Ok(Checked { missing, warnings })
    }

    /// Every setting, in the order of `config/outboxd.toml` and the handbook.
    pub fn settings() -> Vec<SettingInfo> {
        let (_, Reading { settings, .. }) = Self::read(&Sources::default());
        let mut settings: Vec<_> = settings.into_iter().map(|read| read.info).collect();

        let section = |setting: &SettingInfo| {
            sections::ORDER.iter().position(|section| *section == setting.place().0)
        };
        settings.sort_by_key(section);
        settings
    }

    /// JSON Schema (2020-12) of the file.
    pub fn schema() -> serde_json::Value {
        schema::of(&Self::settings())
    }

    /// Whether any setting names a file.
    pub fn names_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// The named files whose content changed since the configuration was read, as they are now.
    pub fn rotated(&self) -> Vec<NamedFile> {
        self.files.iter().filter_map(NamedFile::changed).collect()
    }

    /// What works, and an operator should know about: one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether another reading of the same sources found the same: in the file of the settings and
    /// in every file that they name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.own_file == other.own_file && self.files == other.files
    }

    fn read(sources: &Sources) -> (Self, Reading) {
        // Read before the settings: a change in between shows as a change.
        let own_file = sources.file.as_deref().map(NamedFile::now);
        let (mut config, reading) = reader::read(sources, Self::read_sections);

        config.shown = reading.settings.iter().map(Shown::of).collect();
        config.files.clone_from(&reading.files);
        config.warnings.clone_from(&reading.warnings);
        config.own_file = own_file;
        (config, reading)
    }

    fn read_sections(root: &mut Reader<'_>) -> Self {
        let stream = root.section("stream", StreamConfig::read);
        let nats = root.section("nats", |reader| NatsConfig::read(reader, &stream.name));
        let mongodb =
            root.section("mongodb", |reader| MongodbConfig::read(reader, &nats.client_id));
        let event = root.section("event", |reader| EventConfig::read(reader, &mongodb));

        let keep = root.section("keep", |reader| KeepConfig::read(reader, &event.layout));
        let alerts = root.section("alerts", |reader| AlertsConfig::read(reader, &stream));

        Self {
            mongodb,
            nats,
            stream,
            event,
            scheduled: root.section("scheduled", ScheduledConfig::read),
            dispatch: root.section("dispatch", DispatchConfig::read),
            keep,
            sweep: root.section("sweep", SweepConfig::read),
            retry: root.section("retry", RetryConfig::read),
            alerts,
            admin: root.section("admin", AdminConfig::read),
            lease: root.section("lease", LeaseConfig::read),
            shutdown: root.section("shutdown", ShutdownConfig::read),
            log: root.section("log", LogConfig::read),
            shown: Vec::new(),
            files: Vec::new(),
            warnings: Vec::new(),
            own_file: None,
        }
    }
}

impl Shown {
    fn of(read: &reader::Read) -> Self {
        let source = read.found.as_ref().map_or("default", |origin| &origin.source);
        Self { key: read.info.key.clone(), value: read.shown.clone(), source: source.to_owned() }
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

/// Every setting with its value and source, as TOML. Secrets are masked.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: Vec<_> = self.shown.iter().collect();
        shown.sort_by_key(|line| &line.key);

        let mut section = "";
        for Shown { key, value, source } in shown {
            let (in_section, name) = key.rsplit_once('.').unwrap_or(("", key));
            if in_section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{in_section}]")?;
                section = in_section;
            }

            let line =
                if value == NOT_SET { format!("# {name} =") } else { format!("{name} = {value}") };
            writeln!(f, "{line:<44} # {source}")?;
        }

        Ok(())
    }
}

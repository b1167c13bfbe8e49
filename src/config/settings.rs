//! The settings of one outbox: those of its table and of the root.

use std::fmt;

use super::named_file::NamedFile;
use super::reader::apart::Apart;
use super::reader::{NOT_SET, Read, Reader};
use super::sections::{
    AdminConfig, AlertsConfig, ConsoleConfig, DispatchConfig, EventConfig, KeepConfig, LeaseConfig,
    LogConfig, MongodbConfig, NatsConfig, RetryConfig, ScheduledConfig, ShutdownConfig,
    StreamConfig, SweepConfig,
};

/// All settings of one outbox, valid by construction.
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
    /// The web page for people.
    pub console: ConsoleConfig,
    /// Which relay publishes.
    pub lease: LeaseConfig,
    /// How outboxd stops.
    pub shutdown: ShutdownConfig,
    /// What is logged.
    pub log: LogConfig,
    pub(super) shown: Vec<Shown>,
    files: Vec<NamedFile>,
    pub(super) warnings: Vec<String>,
}

/// What all outboxes of a process share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    admin: AdminConfig,
    console: ConsoleConfig,
    shutdown: ShutdownConfig,
    log: LogConfig,
}

/// One line of `outboxd config print`.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) key: String,
    /// As TOML; masked for a secret.
    value: String,
    source: String,
    mark: u64,
    /// Whether the outbox's table holds it.
    pub(super) is_own: bool,
}

impl Shared {
    pub(super) fn read(root: &mut Reader<'_>) -> Self {
        Self {
            admin: root.section("admin", AdminConfig::read),
            console: root.section("console", ConsoleConfig::read),
            shutdown: root.section("shutdown", ShutdownConfig::read),
            log: root.section("log", LogConfig::read),
        }
    }
}

impl Shown {
    pub(super) fn of(read: &Read) -> Self {
        let source = read.found.as_ref().map_or("default", |origin| &origin.source);
        Self {
            key: read.info.key.clone(),
            value: read.shown.clone(),
            source: source.to_owned(),
            mark: read.mark,
            is_own: read.is_own,
        }
    }
}

impl Config {
    /// Reads the sections of an outbox from the root or from a table of it. `of_all` is what was
    /// read of the shared ones.
    pub(super) fn read(table: &mut Reader<'_>, shared: &Shared, of_all: &Apart) -> Self {
        let (mut config, Apart { settings, files }) =
            table.apart(|table| Self::read_sections(table, shared.clone()));

        let of_all_shown =
            of_all.settings.iter().map(|read| Shown { is_own: false, ..Shown::of(read) });
        config.shown = settings.iter().map(Shown::of).chain(of_all_shown).collect();
        config.files = [files, of_all.files.clone()].concat();
        config
    }

    fn read_sections(table: &mut Reader<'_>, shared: Shared) -> Self {
        let stream = table.section("stream", StreamConfig::read);
        let nats = table.section("nats", |reader| NatsConfig::read(reader, &stream.name));
        let mongodb =
            table.section("mongodb", |reader| MongodbConfig::read(reader, &nats.client_id));
        let event = table.section("event", |reader| EventConfig::read(reader, &mongodb));

        let keep = table.section("keep", |reader| KeepConfig::read(reader, &event.layout));
        let alerts = table.section("alerts", |reader| AlertsConfig::read(reader, &stream));
        let Shared { admin, console, shutdown, log } = shared;

        Self {
            mongodb,
            nats,
            stream,
            event,
            scheduled: table.section("scheduled", ScheduledConfig::read),
            dispatch: table.section("dispatch", DispatchConfig::read),
            keep,
            sweep: table.section("sweep", SweepConfig::read),
            retry: table.section("retry", RetryConfig::read),
            alerts,
            admin,
            console,
            lease: table.section("lease", LeaseConfig::read),
            shutdown,
            log,
            shown: Vec::new(),
            files: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The outbox's name: its database and its collection, with a point between them.
    pub fn outbox(&self) -> String {
        format!("{}.{}", self.mongodb.database, self.mongodb.collection)
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

    /// Whether another reading found the same: the same values, and the same in every file that the
    /// settings name.
    pub fn is_same(&self, other: &Self) -> bool {
        let mark = |line: &Shown| (line.key.clone(), line.mark);
        let is_same = self.shown.iter().map(mark).eq(other.shown.iter().map(mark));
        is_same && self.files == other.files
    }
}

/// Every setting with its value and source, as TOML. Secrets are masked.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, "", &self.shown.iter().collect::<Vec<_>>())
    }
}

/// Writes settings as TOML, in the table with this prefix.
pub(super) fn write(f: &mut fmt::Formatter<'_>, prefix: &str, shown: &[&Shown]) -> fmt::Result {
    let mut shown = shown.to_vec();
    shown.sort_by_key(|line| &line.key);

    let mut section = "";
    for Shown { key, value, source, .. } in shown {
        let (in_section, name) = key.rsplit_once('.').unwrap_or(("", key));
        if in_section != section {
            let gap = if section.is_empty() && prefix.is_empty() { "" } else { "\n" };
            writeln!(f, "{gap}[{prefix}{in_section}]")?;
            section = in_section;
        }

        let line =
            if value == NOT_SET { format!("# {name} =") } else { format!("{name} = {value}") };
        writeln!(f, "{line:<44} # {source}")?;
    }

    Ok(())
}

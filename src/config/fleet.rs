//! Every outbox that the configuration has.
//!
//! Settings without a table are one outbox. With tables `[[outbox]]` each table is an outbox, and
//! what a table doesn't set, it takes from the root. All outboxes share the sections `[admin]`,
//! `[console]`, `[shutdown]` and `[log]`. An outbox that was found by `outboxes.discover` is one more table.

use std::fmt;
use std::path::Path;

use super::info::SettingInfo;
use super::reader::{self, Reader, Reading};
use super::sections::{OutboxesConfig, PersonConfig};
use super::settings::{self, Config, Shared};
use super::sources::Sources;
use super::{schema, sections};
use crate::error::{Error, ErrorKind, Result};

/// In the place of a database that the settings don't name. MongoDB takes no name with a point.
pub(crate) const UNKNOWN_DATABASE: &str = "<mongodb.database>";
/// The list of tables.
const TABLES: &str = "outbox";
/// Most tables. Each outbox costs a lease and some memory; see the page about fleets.
const MAX_TABLES: usize = 1000;

/// Every outbox of the configuration, in the order of the tables.
#[derive(Debug, Clone)]
pub struct Fleet {
    outboxes: Vec<Config>,
    /// The settings outside of the tables, if there are tables or outboxes are to be found.
    root: Option<Config>,
    discovers: OutboxesConfig,
}

/// What `outboxd config check` finds in a file without a mistake.
#[derive(Debug, Default)]
pub struct Checked {
    /// What still has to be given elsewhere: required settings, and files that settings name.
    pub missing: Vec<String>,
    /// What works, and an operator should know about.
    pub warnings: Vec<String>,
}

impl Fleet {
    /// Reads and checks every setting of every outbox.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub fn load(sources: &Sources) -> Result<Self> {
        let (fleet, Reading { mistakes, missing, .. }) = Self::read(sources);
        refuse(&[missing, mistakes].concat(), "the configuration")?;
        Ok(fleet)
    }

    /// Reads and checks every setting that is given, for what connects to no server. A database that
    /// nothing names is [`UNKNOWN_DATABASE`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with one line per mistake, all of them.
    pub(crate) fn load_unconnected(sources: &Sources) -> Result<Self> {
        let (mut fleet, Reading { mistakes, .. }) = Self::read(sources);
        refuse(&mistakes, "the configuration")?;

        for Config { mongodb, .. } in &mut fleet.outboxes {
            if mongodb.database.is_empty() {
                UNKNOWN_DATABASE.clone_into(&mut mongodb.database);
            }
        }
        Ok(fleet)
    }

    /// Who may sign in at the console, whatever mistakes the settings have. `None` while the tokens
    /// can't be read.
    pub(crate) fn people(sources: &Sources) -> Option<Vec<PersonConfig>> {
        let (fleet, Reading { settings, .. }) = Self::read(sources);
        let tokens = settings.iter().find(|read| read.info.key == "console.tokens")?;
        let any = fleet.outboxes.first().or(fleet.root.as_ref())?;
        tokens.found.is_some().then(|| any.console.people.clone())
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

    /// The outboxes, in the order of the tables.
    pub fn outboxes(&self) -> &[Config] {
        &self.outboxes
    }

    /// Whether the configuration has tables of outboxes, be it a single one, or finds outboxes.
    pub fn is_fleet(&self) -> bool {
        self.root.is_some()
    }

    /// Which outboxes are to be found besides these, with the settings by which they are found.
    pub fn discovers(&self) -> Option<(&OutboxesConfig, &Config)> {
        let root = self.root.as_ref()?;
        (!self.discovers.discover.is_empty()).then_some((&self.discovers, root))
    }

    /// Settings with what all outboxes share.
    pub fn any(&self) -> &Config {
        let any = self.outboxes.first().or(self.root.as_ref());
        any.expect("without tables there is one outbox")
    }

    /// Where the daemons of this fleet meet: in the root's database if outboxes are found, else in
    /// that of the first table. `None` while there is neither.
    pub fn home(&self) -> Option<&Config> {
        let root = self.discovers().map(|(_, root)| root);
        root.filter(|root| !root.mongodb.database.is_empty()).or(self.outboxes.first())
    }

    /// What works, and an operator should know about: one line each.
    pub fn warnings(&self) -> &[String] {
        self.any().warnings()
    }

    /// The outboxes that are meant: all of them, or the one of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is no outbox of this name.
    pub fn meant(mut self, name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Ok(self) };
        self.discovers.discover.clear();

        let named = |config: &Config| config.outbox() == name;
        let in_database = |config: &Config| config.mongodb.database == name;
        let by_name = self.outboxes.iter().position(named);
        let mut by_database =
            (0..self.outboxes.len()).filter(|at| in_database(&self.outboxes[*at]));

        let found = match (by_name, by_database.next(), by_database.next()) {
            (Some(at), ..) | (None, Some(at), None) => at,
            _ => {
                let message = format!("--outbox {name}: there is no such outbox; {}", self.names());
                return Err(Error::new(ErrorKind::Usage, message));
            }
        };

        self.outboxes = vec![self.outboxes.swap_remove(found)];
        Ok(self)
    }

    /// The only outbox that is meant.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there are several, or none of this name.
    pub fn only(self, name: Option<&str>) -> Result<Config> {
        let mut meant = self.meant(name)?;
        match meant.outboxes.len() {
            1 => Ok(meant.outboxes.swap_remove(0)),
            0 => {
                let message = "outboxes.discover found no outbox: create one with `outboxd migrate`, \
                               with mongodb.database set to its database";
                Err(Error::new(ErrorKind::NotFound, message))
            }
            several => {
                let names = meant.names();
                let message = format!("there are {several} outboxes: name one; {names}");
                Err(Error::new(ErrorKind::Usage, message))
            }
        }
    }

    /// The outbox of this name, or the only one that is meant.
    ///
    /// # Errors
    /// As [`Fleet::only`].
    pub(crate) fn outbox(&self, name: Option<&str>) -> Result<Config> {
        let named = |config: &&Config| name == Some(config.outbox().as_str());
        match self.outboxes.iter().find(named) {
            Some(config) => Ok(config.clone()),
            None => self.clone().only(name),
        }
    }

    /// What can be given to `--outbox`.
    fn names(&self) -> String {
        const SHOWN: usize = 10;

        let names: Vec<_> = self.outboxes.iter().take(SHOWN).map(Config::outbox).collect();
        let more = match self.outboxes.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" or one of {more} more"),
        };
        format!("give --outbox {}{more}", names.join(" or "))
    }

    fn read(sources: &Sources) -> (Self, Reading) {
        let (fleet, reading) = reader::read(sources, Self::read_tables);
        fleet.warned(reading)
    }

    /// The same of other values.
    #[cfg(any(test, fuzzing))]
    pub(super) fn read_values(
        values: &super::sources::Values,
        mistakes: Vec<String>,
    ) -> (Self, Reading) {
        let (fleet, reading) = reader::read_values(values, mistakes, Self::read_tables);
        fleet.warned(reading)
    }

    fn warned(mut self, mut reading: Reading) -> (Self, Reading) {
        if self.root.is_some() {
            reading.missing = of_root(&reading.missing, self.outboxes.len());
        }

        for config in self.outboxes.iter_mut().chain(&mut self.root) {
            config.warnings.clone_from(&reading.warnings);
        }
        (self, reading)
    }

    fn read_tables(root: &mut Reader<'_>) -> Self {
        let ((discovers, shared), of_all) =
            root.apart(|root| (root.section("outboxes", OutboxesConfig::read), Shared::read(root)));
        let read = |table: &mut Reader<'_>| Config::read(table, &shared, &of_all);

        // Read in either case: it makes the list known.
        let tables = root.count(TABLES);
        let outboxes = root.tables(TABLES, 0..=MAX_TABLES, read);
        let settings = match (tables, discovers.discover.is_empty()) {
            (0, true) => return Self { outboxes: vec![read(root)], root: None, discovers },
            (0, false) => root.lacking("mongodb.database", read),
            _ => root.known(read),
        };

        refuse_twins(root, &outboxes);
        Self { outboxes, root: Some(settings), discovers }
    }
}

impl Config {
    /// Reads and checks every setting of the one outbox that is meant.
    ///
    /// # Errors
    /// As [`Fleet::load`] and [`Fleet::only`].
    pub fn load(sources: &Sources) -> Result<Self> {
        Fleet::load(sources)?.only(sources.outbox.as_deref())
    }
}

/// What every table lacks is missing in the root: one line instead of one for each table.
fn of_root(missing: &[String], tables: usize) -> Vec<String> {
    let in_table = |at: usize, line: &str| format!("{TABLES}[{at}].{line}");
    let lack_it = |line: &str| (0..tables).all(|at| missing.contains(&in_table(at, line)));

    let mut lines = Vec::new();
    for line in missing {
        let own = line.split_once("].").map(|(_, rest)| rest).filter(|rest| lack_it(rest));
        let line = own.unwrap_or(line).to_owned();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Two relays of one process must not compete for a lease.
fn refuse_twins(root: &mut Reader<'_>, outboxes: &[Config]) {
    for (at, config) in outboxes.iter().enumerate() {
        let (name, is_known) = (config.outbox(), !config.mongodb.database.is_empty());
        let twin = outboxes[..at].iter().position(|other| other.outbox() == name);
        if let Some(twin) = twin.filter(|_| is_known) {
            let reason = format!("{TABLES}[{twin}] has the outbox {name}, too; keep one");
            root.mistake(&format!("{TABLES}[{at}]"), reason);
        }
    }
}

pub(super) fn refuse(mistakes: &[String], what: &str) -> Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }

    let count = mistakes.len();
    let lines: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
    let noun = if count == 1 { "mistake" } else { "mistakes" };

    Err(Error::new(ErrorKind::Config, format!("{count} {noun} in {what}:{lines}")))
}

/// Every setting with its value and source, as TOML. A table has what it sets itself.
impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(root) = &self.root else {
            return self.outboxes.iter().try_for_each(|config| write!(f, "{config}"));
        };

        write!(f, "{root}")?;
        for config in &self.outboxes {
            writeln!(f, "\n[[{TABLES}]] # {}", config.outbox())?;
            let own: Vec<_> = config.shown.iter().filter(|line| line.is_own).collect();
            settings::write(f, "outbox.", &own)?;
        }
        Ok(())
    }
}

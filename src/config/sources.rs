//! Where settings come from: flags over the environment over the file over the defaults.
//!
//! Every value keeps the name of its source, so that `outboxd config print` and every mistake can
//! name it. Only the file can hold a list of tables (`[[name]]`). Its tables have their place, from
//! zero, in the names of their settings: `name[2].stream.replicas`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Prefix of the environment's own form: `OUTBOXD_MONGODB__URI` is `mongodb.uri`.
const PREFIX: &str = "OUTBOXD_";

/// Where settings come from, lowest precedence first: the defaults, `file`, `env`, `set`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment, as name and value.
    pub env: Vec<(String, String)>,
    /// `key=value` from flags. A secret is rejected here.
    pub set: Vec<String>,
    /// The one outbox that is meant, of those that the configuration has: `shop.outbox`, or its
    /// database where no other outbox has that.
    pub outbox: Option<String>,
    /// Database and collection of outboxes that were found. Each is one more table.
    pub found: Vec<(String, String)>,
}

/// Short names in a table `[[outbox]]`, for what nearly every outbox sets.
pub(super) const SHORT: [(&str, &str); 4] = [
    ("database", "mongodb.database"),
    ("collection", "mongodb.collection"),
    ("stream", "stream.name"),
    ("subjects", "stream.subjects"),
];

/// A value as a source gives it. Flags and the environment give texts only.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) value: Value,
    /// The file's path, `environment NAME` or `flag --set`.
    pub(super) origin: String,
}

/// Everything the sources hold, by dotted name.
pub(super) struct Values {
    /// From flags, and from variables in the environment's own form.
    direct: BTreeMap<String, Found>,
    /// The names that flags set.
    flags: Vec<String>,
    /// Every variable that isn't empty.
    env: Vec<(String, String)>,
    file: BTreeMap<String, Found>,
    /// How many tables each list of the file has.
    lists: BTreeMap<String, usize>,
}

impl Values {
    /// Reads the sources. What can't be read at all is added to `mistakes`.
    pub(super) fn of(sources: &Sources, mistakes: &mut Vec<String>) -> Self {
        let mut values = Self::without_file(sources, mistakes);

        if let Some(path) = &sources.file {
            match std::fs::read_to_string(path) {
                Ok(text) => values.add_file(path, &text, mistakes),
                Err(error) => mistakes.push(format!(
                    "{}: {error}; give the right path or leave it out",
                    path.display()
                )),
            }
        }

        for (database, collection) in &sources.found {
            values.add_found(database, collection);
        }

        values
    }

    /// What flags and the environment hold.
    pub(super) fn without_file(sources: &Sources, mistakes: &mut Vec<String>) -> Self {
        let is_set = |(_, text): &&(String, String)| !text.is_empty();
        let mut values = Self {
            direct: BTreeMap::new(),
            flags: Vec::new(),
            env: sources.env.iter().filter(is_set).cloned().collect(),
            file: BTreeMap::new(),
            lists: BTreeMap::new(),
        };

        for (name, text) in &values.env {
            if let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains("__")) {
                let key = path.to_ascii_lowercase().replace("__", ".");
                values.direct.insert(key, Found::text(format!("environment {name}"), text));
            }
        }

        for flag in &sources.set {
            match flag.split_once('=') {
                Some((key, text)) => {
                    let found = Found::text("flag --set".to_owned(), text.trim());
                    values.direct.insert(key.trim().to_owned(), found);
                    values.flags.push(key.trim().to_owned());
                }
                None => mistakes.push(format!("--set {flag}: write --set key=value")),
            }
        }

        values
    }

    /// Adds what the text of a file holds.
    pub(super) fn add_file(&mut self, path: &Path, text: &str, mistakes: &mut Vec<String>) {
        match text.parse::<Table>() {
            Ok(table) => self.flatten(&path.display().to_string(), "", table, mistakes),
            // The first line is the place. The lines below it repeat the file's line, which may
            // hold a secret.
            Err(error) => {
                let error = error.to_string();
                let place = error.lines().next().unwrap_or_default();
                mistakes.push(format!("{}: {place}", path.display()));
            }
        }
    }

    /// Adds a table for an outbox that was found.
    fn add_found(&mut self, database: &str, collection: &str) {
        let stream =
            self.find("stream.name", &["NATS_CLUSTER_ID", "NATS_STREAM"].map(str::to_owned));
        let stream = stream.and_then(|found| found.value.as_str().map(str::to_owned));
        let stream = stream.unwrap_or_default();
        let named = stream.replace("{database}", database).replace("{collection}", collection);

        let tables = self.lists.entry("outbox".to_owned()).or_default();
        let prefix = format!("outbox[{tables}].");
        *tables += 1;

        let values = [("mongodb.database", database), ("mongodb.collection", collection)];
        let stream = (named != stream).then_some(("stream.name", named.as_str()));
        for (name, text) in values.into_iter().chain(stream) {
            let found = Found::text("outboxes.discover".to_owned(), text);
            self.file.insert(format!("{prefix}{name}"), found);
        }
    }

    fn flatten(&mut self, origin: &str, prefix: &str, table: Table, mistakes: &mut Vec<String>) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value {
                Value::Table(inner) => self.flatten(origin, &format!("{key}."), inner, mistakes),
                Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_table) => {
                    self.lists.insert(key.clone(), list.len());
                    for (place, value) in list.into_iter().enumerate() {
                        if let Value::Table(inner) = value {
                            let prefix = format!("{key}[{place}].");
                            self.flatten(origin, &prefix, inner, mistakes);
                        }
                    }
                }
                value => {
                    let full = full_name(prefix, &name).unwrap_or_else(|| key.clone());
                    let found = Found { value, origin: origin.to_owned() };
                    if self.file.insert(full.clone(), found).is_some() {
                        let line = format!("{key}: is the same as `{full}`; keep one ({origin})");
                        mistakes.push(line);
                    }
                }
            }
        }
    }

    /// The value of `key`, from the source with the highest precedence. `variables` are the other
    /// names that the setting has in the environment, the strongest first.
    pub(super) fn find(&self, key: &str, variables: &[String]) -> Option<Found> {
        let by_variable = |wanted: &String| {
            let (name, text) = self.env.iter().find(|(name, _)| name == wanted)?;
            Some(Found::text(format!("environment {name}"), text))
        };

        self.direct
            .get(key)
            .cloned()
            .or_else(|| variables.iter().find_map(by_variable))
            .or_else(|| self.in_file(key))
    }

    /// Another variable of the same setting with another value than that of `origin`.
    pub(super) fn contradicts(&self, origin: &str, variables: &[String]) -> Option<&str> {
        let is_named = |name: &String| variables.contains(name);
        let mut set = self.env.iter().filter(|(name, _)| is_named(name));
        let counts = set.clone().find(|(name, _)| origin == format!("environment {name}"))?;

        set.find(|(_, text)| *text != counts.1).map(|(name, _)| name.as_str())
    }

    /// The value that the file alone gives to `key`.
    pub(super) fn in_file(&self, key: &str) -> Option<Found> {
        self.file.get(key).cloned()
    }

    /// How many tables `[[key]]` the file has.
    pub(super) fn tables(&self, key: &str) -> usize {
        self.lists.get(key).copied().unwrap_or(0)
    }

    /// Whether a flag sets `key`.
    pub(super) fn is_flag(&self, key: &str) -> bool {
        self.flags.iter().any(|flag| flag == key)
    }

    /// Whether the environment has the variable `<name>_FILE`.
    pub(super) fn has_file_variable(&self, name: &str) -> bool {
        self.env.iter().any(|(taken, _)| taken.strip_suffix("_FILE") == Some(name))
    }

    /// The names that flags and the environment set.
    pub(super) fn direct(&self) -> impl Iterator<Item = (&str, &str)> {
        names(&self.direct)
    }

    /// The names that the file sets.
    pub(super) fn file(&self) -> impl Iterator<Item = (&str, &str)> {
        names(&self.file)
    }

    /// Variables such as `OUTBOXD_MONGODB_URI`, which lack an underscore, each with the right
    /// name. Other variables with the prefix aren't outboxd's to reject: Kubernetes sets
    /// `OUTBOXD_PORT` and the like for a service of that name.
    pub(super) fn misspelt(&self, known: &[&str]) -> Vec<(String, String)> {
        let wrong = |(name, _): &(String, String)| {
            let path = name.strip_prefix(PREFIX).filter(|path| !path.contains("__"))?;
            let key = known.iter().find(|key| key.replace('.', "_").eq_ignore_ascii_case(path))?;
            Some((name.clone(), variable(key)))
        };
        self.env.iter().filter_map(wrong).collect()
    }
}

impl Found {
    fn text(origin: String, text: &str) -> Self {
        Self { value: Value::String(text.to_owned()), origin }
    }
}

/// The full name of a setting that has a short one in this place.
fn full_name(prefix: &str, name: &str) -> Option<String> {
    let is_table = prefix.starts_with("outbox[") && prefix.ends_with("].");
    let (_, full) = SHORT.iter().find(|(short, _)| is_table && *short == name)?;
    Some(format!("{prefix}{full}"))
}

/// Each name with its source.
fn names(values: &BTreeMap<String, Found>) -> impl Iterator<Item = (&str, &str)> {
    values.iter().map(|(key, found)| (key.as_str(), found.origin.as_str()))
}

/// The environment's own name of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

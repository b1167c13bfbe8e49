//! Reads settings one by one from layered sources and gathers every mistake instead of stopping at
//! the first.
//!
//! A setting is known because something took it; what nothing took is unknown and refused, with the
//! nearest known name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider};
use secrecy::SecretString;
use serde_json::Value as Json;

use super::setting::Setting;
use super::{NamedFile, Sources};

/// The names people already use, and the settings they stand for. A name further down wins.
const CONVENTIONAL: &[(&str, &str)] = &[
    ("MONGO_URI", "mongodb.uri"),
    ("MONGODB_URI", "mongodb.uri"),
    ("NATS_URL", "nats.url"),
    ("NATS_CREDS", "nats.creds"),
    ("NATS_NKEY", "nats.nkey"),
    ("NATS_USER", "nats.user"),
    ("NATS_PASSWORD", "nats.password"),
    ("NATS_TOKEN", "nats.token"),
    ("NATS_CERT", "nats.tls_cert"),
    ("NATS_KEY", "nats.tls_key"),
    ("NATS_CA", "nats.tls_ca"),
    ("NATS_CLIENT_ID", "nats.client_id"),
    ("NATS_CLUSTER_ID", "stream.name"),
];

/// Prefix of the environment's own form: `OUTBOXD_MONGODB__URI` is `mongodb.uri`.
const PREFIX: &str = "OUTBOXD_";

/// The environment variables of a setting: the names people already use, of which the first wins,
/// and then outboxd's own name, which wins over all of them.
pub(super) fn variables(key: &str) -> Vec<String> {
    let (base, suffix) = key.strip_suffix("_file").map_or((key, ""), |secret| (secret, "_FILE"));

    let names = CONVENTIONAL.iter().rev().filter(|(_, of)| *of == base);
    let own = format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase());
    names.map(|(name, _)| format!("{name}{suffix}")).chain([own]).collect()
}

/// One line of `outboxd config print`.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The setting's dotted name.
    pub key: &'static str,
    /// Its value as TOML; `"***"` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

pub(super) struct Reader {
    values: BTreeMap<String, (Value, String)>,
    known: Vec<&'static str>,
    secret: Vec<&'static str>,
    flags: Vec<String>,
    shown: Vec<Shown>,
    /// What the settings name.
    pub(super) files: Vec<NamedFile>,
    schema: Vec<(&'static str, Json)>,
    mistakes: Vec<String>,
    missing: Vec<String>,
}

/// What reading came to.
pub(super) struct ReadUp {
    /// Every setting.
    pub(super) shown: Vec<Shown>,
    /// The files that they name.
    pub(super) files: Vec<NamedFile>,
    /// What each may be, as JSON Schema.
    pub(super) schema: Vec<(&'static str, Json)>,
    /// What is wrong.
    pub(super) mistakes: Vec<String>,
    /// What is still to be given: by another source, or on another machine.
    pub(super) missing: Vec<String>,
}

impl Reader {
    pub(super) fn new(sources: &Sources) -> Self {
        let mut figment = Figment::new();
        let mut mistakes = Vec::new();
        if let Some(path) = &sources.file {
            match std::fs::read_to_string(path) {
                Ok(text) => figment = figment.merge(Layer::file(path, &text, &mut mistakes)),
                Err(error) => mistakes.push(format!(
                    "{}: {error}; give the right path or leave it out",
                    path.display()
                )),
            }
        }
        for (name, key) in CONVENTIONAL {
            for (name, key) in [
                ((*name).to_owned(), (*key).to_owned()),
                (format!("{name}_FILE"), format!("{key}_file")),
            ] {
                if let Some((_, text)) =
                    sources.env.iter().find(|(taken, text)| *taken == name && !text.is_empty())
                {
                    figment =
                        figment.merge(Layer::text(&format!("environment {name}"), &key, text));
                }
            }
        }
        for (name, text) in sources.env.iter().filter(|(_, text)| !text.is_empty()) {
            if let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains("__")) {
                let key = path.to_ascii_lowercase().replace("__", ".");
                figment = figment.merge(Layer::text(&format!("environment {name}"), &key, text));
            }
        }
        let mut flags = Vec::new();
        for flag in &sources.set {
            match flag.split_once('=') {
                Some((key, text)) => {
                    figment = figment.merge(Layer::text("flag --set", key.trim(), text.trim()));
                    flags.push(key.trim().to_owned());
                }
                None => mistakes.push(format!("--set {flag}: write --set key=value")),
            }
        }
        let mut values = BTreeMap::new();
        match figment.extract::<Dict>() {
            Ok(dict) => flatten(&figment, "", dict, &mut values),
            Err(error) => mistakes.push(error.to_string()),
        }
        let (known, secret, shown, files, schema, missing) = Default::default();
        Self { values, known, secret, flags, shown, files, schema, mistakes, missing }
    }

    /// A setting with a default.
    pub(super) fn take<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.schema.push((key, T::schema()));
        self.describe("default", &default);
        let (value, origin) = match self.lookup(key) {
            Some((value, origin)) => (value, origin),
            None => (default, "default".to_owned()),
        };
        self.shown.push(Shown { key, value: value.show(), origin });
        value
    }

    /// A setting that may be absent.
    pub(super) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.schema.push((key, T::schema()));
        let found = self.lookup::<T>(key);
        let (value, origin) = match &found {
            Some((value, origin)) => (value.show(), origin.clone()),
            None => ("(not set)".to_owned(), "default".to_owned()),
        };
        self.shown.push(Shown { key, value, origin });
        found.map(|(value, _)| value)
    }

    /// A setting with a default and bounds.
    pub(super) fn within<T>(
        &mut self,
        key: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T
    where
        T: Setting + PartialOrd,
    {
        let value = self.take(key, default);
        // Those of a duration stand in its description: JSON Schema bounds numbers alone.
        self.describe("minimum", bounds.start());
        self.describe("maximum", bounds.end());
        if !bounds.contains(&value) {
            self.mistake(
                key,
                format!(
                    "{} is out of range; give {} to {}",
                    value.show(),
                    bounds.start().show(),
                    bounds.end().show()
                ),
            );
        }
        value
    }

    /// One of a few words, each with what it stands for; the first is the default.
    pub(super) fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> T {
        let (default, meaning) = words[0];
        let given = self.take(key, default.to_owned());
        self.describe(
            "enum",
            &words.iter().map(|(word, _)| (*word).to_owned()).collect::<Vec<_>>(),
        );
        match words.iter().find(|(word, _)| *word == given) {
            Some((_, meaning)) => *meaning,
            None => {
                let known = words
                    .iter()
                    .map(|(word, _)| format!("{word:?}"))
                    .collect::<Vec<_>>()
                    .join(" or ");
                self.mistake(key, format!("{given:?} is not known; give {known}"));
                meaning
            }
        }
    }

    /// A secret, given by `key` or as the content of the file that `key_file` names.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        key_file: &'static str,
    ) -> Option<SecretString> {
        self.secret.push(key);
        self.schema.extend([(key, String::schema()), (key_file, String::schema())]);
        if self.flags.iter().any(|flag| flag == key) {
            self.mistake(
                key,
                "a secret in an argument is seen by every process; use the environment or a file"
                    .to_owned(),
            );
        }
        let direct = self.lookup::<String>(key);
        let file = self.lookup::<String>(key_file);
        if direct.is_some() && file.is_some() {
            self.mistake(key, format!("is set by `{key}` and by `{key_file}`; keep one"));
        }
        let (value, origin) = match (direct, file) {
            (Some((text, origin)), _) => (Some(text), origin),
            (None, Some((path, origin))) => match std::fs::read_to_string(&path) {
                Ok(text) => {
                    if text.trim().is_empty() {
                        self.missing(key_file, format!("{path} is empty"));
                    }
                    self.remember(Path::new(&path), text.as_bytes());
                    (
                        Some(text.trim_end_matches(['\n', '\r']).to_owned()),
                        format!("file {path}, {origin}"),
                    )
                }
                Err(error) => {
                    self.missing(key_file, format!("{path}: {error}"));
                    (None, origin)
                }
            },
            (None, None) => (None, "default".to_owned()),
        };
        let shown = if value.is_some() { "\"***\"" } else { "(not set)" };
        self.shown.push(Shown { key, value: shown.to_owned(), origin });
        value.map(SecretString::from)
    }

    /// Records what is wrong with a setting.
    pub(super) fn mistake(&mut self, key: &str, reason: impl Display) {
        self.mistakes.push(format!("{key}: {reason}{}", self.origin(key)));
    }

    /// Records what is needed and not there: a setting, or the file that one names.
    pub(super) fn missing(&mut self, key: &str, reason: impl Display) {
        self.missing.push(format!("{key}: {reason}{}", self.origin(key)));
    }

    fn origin(&self, key: &str) -> String {
        self.values.get(key).map(|(_, origin)| format!(" ({origin})")).unwrap_or_default()
    }

    /// Adds to what the last setting may be.
    fn describe(&mut self, word: &'static str, value: &impl Setting) {
        let value = value.show().parse().unwrap_or(Json::Null);
        let is_bound = ["minimum", "maximum"].contains(&word);
        if let Some((_, Json::Object(schema))) = self.schema.last_mut()
            && (value.is_number() || !is_bound)
        {
            schema.insert(word.to_owned(), value);
        }
    }

    /// Whether someone gave this setting a value.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// When everything has been read.
    pub(super) fn finish(mut self, sources: &Sources) -> ReadUp {
        let unknown: Vec<_> =
            self.values.keys().filter(|key| !self.known.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            let nearest = nearest(&key, &self.known);
            self.mistake(&key, format!("there is no such setting; the nearest is `{nearest}`"));
        }
        for (name, _) in &sources.env {
            let Some(path) = name.strip_prefix(PREFIX).filter(|path| !path.contains("__")) else {
                continue;
            };
            // `OUTBOXD_MONGODB_URI` is a slip that would be passed over in silence. Other names
            // aren't ours to judge: Kubernetes sets `OUTBOXD_PORT` and the like for a service of
            // that name.
            if let Some(key) =
                self.known.iter().find(|key| key.replace('.', "_").eq_ignore_ascii_case(path))
            {
                let right = key.replace('.', "__").to_ascii_uppercase();
                self.mistakes.push(format!(
                    "environment {name}: two underscores nest; write {PREFIX}{right}"
                ));
            }
        }
        let Self { shown, files, schema, mistakes, missing, .. } = self;
        ReadUp { shown, files, schema, mistakes, missing }
    }

    fn lookup<T: Setting>(&mut self, key: &'static str) -> Option<(T, String)> {
        self.known.push(key);
        let (value, origin) = self.values.get(key)?;
        match T::read(value) {
            Ok(read) => Some((read, origin.clone())),
            Err(reason) => {
                // The value of a secret is never repeated.
                let shown = if self.secret.contains(&key) {
                    String::new()
                } else {
                    format!(", not {}", show_raw(value))
                };
                self.mistake(key, format!("{reason}{shown}"));
                None
            }
        }
    }
}

/// One source's settings, with a name for messages.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Layer {
    fn file(path: &Path, text: &str, mistakes: &mut Vec<String>) -> Self {
        let data = Toml::string(text).data();
        let dict = match data {
            Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
            Err(error) => {
                // Only its place: the rest of the message repeats the line, which may hold a
                // secret.
                let place = error.to_string().lines().next().unwrap_or_default().to_owned();
                mistakes.push(format!("{}: {place}", path.display()));
                Dict::new()
            }
        };
        Self { origin: path.display().to_string(), dict }
    }

    fn text(origin: &str, key: &str, text: &str) -> Self {
        let data = Serialized::default(key, text).data();
        let dict = data
            .ok()
            .and_then(|mut profiles| profiles.remove(&Profile::Default))
            .unwrap_or_default();
        Self { origin: origin.to_owned(), dict }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<figment::value::Map<Profile, Dict>> {
        Ok([(Profile::Default, self.dict.clone())].into())
    }
}

fn flatten(
    figment: &Figment,
    prefix: &str,
    dict: Dict,
    into: &mut BTreeMap<String, (Value, String)>,
) {
    for (name, value) in dict {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, nested) => flatten(figment, &key, nested, into),
            leaf => {
                let origin = figment
                    .get_metadata(leaf.tag())
                    .map_or_else(String::new, |metadata| metadata.name.to_string());
                into.insert(key, (leaf, origin));
            }
        }
    }
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> &'a str {
    known
        .iter()
        .copied()
        .min_by_key(|candidate| strsim::damerau_levenshtein(key, candidate))
        .unwrap_or("(none)")
}

fn show_raw(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        other => other
            .to_i128()
            .map(|number| number.to_string())
            .or_else(|| other.to_bool().map(|flag| flag.to_string()))
            .or_else(|| other.to_f64().map(|number| number.to_string()))
            .unwrap_or_else(|| "a list".to_owned()),
    }
}

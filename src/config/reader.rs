//! Reads settings one by one and gathers every mistake instead of stopping at the first.
//!
//! A [`Reader`] stands at one table: the root of the configuration, a section of it, or a table of
//! a list (`[[name]]`). Each table is read by the same functions, whatever table it stands in. What
//! a table of a list doesn't hold, it takes from the root, so its entries override those of the
//! root; flags and the environment reach the root only.
//!
//! A setting is known because something read it. Everything else is rejected, with the nearest
//! known name.

use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::LazyLock;

use secrecy::SecretString;

use super::info::{SettingInfo, Unset};
use super::named_file::NamedFile;
use super::setting::{Given, Setting, show_raw};
use super::sources::{Found, Sources, Values};
use super::unknown;

pub(super) mod apart;

/// How a setting without a value is shown.
pub(super) const NOT_SET: &str = "(not set)";

/// Reads the settings of one table.
pub(super) struct Reader<'a> {
    values: &'a Values,
    reading: &'a mut Reading,
    /// What the names of the table's settings begin with: "", "stream.", "outbox[2].stream.".
    at: String,
    /// What they would begin with outside of any list. A table of a list takes from there what it
    /// doesn't hold.
    base: String,
}

/// What reading found.
#[derive(Default)]
pub(super) struct Reading {
    /// Every setting, in the order they were read.
    pub(super) settings: Vec<Read>,
    /// The files that settings name.
    pub(super) files: Vec<NamedFile>,
    /// What is wrong.
    pub(super) mistakes: Vec<String>,
    /// What works, and an operator should know about.
    pub(super) warnings: Vec<String>,
    /// What is still to be given, by another source or on another machine.
    pub(super) missing: Vec<String>,
    /// The names of the lists of tables.
    lists: Vec<String>,
}

/// A setting that was read.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) info: SettingInfo,
    /// The value as TOML: masked for a secret, [`NOT_SET`] where there is none.
    pub(super) shown: String,
    /// Nothing when the default applies.
    pub(super) found: Option<Origin>,
    /// Differs where the value differs, that of a secret too. Of one process only.
    pub(super) mark: u64,
    /// Whether the table itself holds it, not the root.
    pub(super) is_own: bool,
}

/// Where a value came from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// The name it was found under. A table of a list may have taken it from the root.
    key: String,
    /// Its source.
    pub(super) source: String,
}

/// Reads the whole configuration with `read`, and rejects what it didn't ask for.
pub(super) fn read<T>(sources: &Sources, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Reading) {
    let mut mistakes = Vec::new();
    let values = Values::of(sources, &mut mistakes);
    read_values(&values, mistakes, read)
}

/// The same of values that were read with these mistakes.
pub(super) fn read_values<T>(
    values: &Values,
    mistakes: Vec<String>,
    read: impl FnOnce(&mut Reader<'_>) -> T,
) -> (T, Reading) {
    let mut reading = Reading { mistakes, ..Reading::default() };
    let (at, base) = (String::new(), String::new());
    let mut root = Reader { values, reading: &mut reading, at, base };
    let read = read(&mut root);

    let settings: Vec<_> = reading.settings.iter().map(|read| &read.info).collect();
    for line in unknown::lines(values, &settings, &reading.lists) {
        push_new(&mut reading.mistakes, line);
    }

    (read, reading)
}

impl<'a> Reader<'a> {
    /// Reads the section `[name]`. A missing section has its defaults.
    pub(super) fn section<T>(&mut self, name: &str, read: impl FnMut(&mut Reader<'_>) -> T) -> T {
        self.tables(name, 1..=1, read).pop().expect("a section is read once")
    }

    /// Reads each table of the list `[[name]]`, in the order of the file. `count` bounds how many
    /// there may be; a list of exactly one is a section, written `[name]`.
    pub(super) fn tables<T>(
        &mut self,
        name: &str,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(&mut Reader<'_>) -> T,
    ) -> Vec<T> {
        let key = format!("{}{name}", self.at);
        if count == (1..=1) {
            let base = format!("{}{name}.", self.base);
            return vec![read(&mut self.table(format!("{key}."), base))];
        }

        let found = self.values.tables(&key);
        if !count.contains(&found) {
            let (least, most) = (count.start(), count.end());
            self.mistake(name, format!("has {found} tables [[{key}]]; give {least} to {most}"));
        }

        self.reading.lists.push(key.clone());

        // A table of a list overrides settings of the table that holds the list, by the same names.
        let base = self.base.clone();
        let read_at = |place| read(&mut self.table(format!("{key}[{place}]."), base.clone()));
        (0..found.min(*count.end())).map(read_at).collect()
    }

    fn table(&mut self, at: String, base: String) -> Reader<'_> {
        Reader { values: self.values, reading: self.reading, at, base }
    }

    /// A setting of this table, with its description: what it does, its unit, and the reason for
    /// its default.
    pub(super) fn setting(&mut self, name: &'static str, doc: &'static str) -> Entry<'_, 'a> {
        let info = SettingInfo::new(format!("{}{name}", self.at), doc);
        Entry { reader: self, name, info, remedy: None }
    }

    /// Records what is wrong with a setting of this table.
    pub(super) fn mistake(&mut self, name: &str, reason: impl Display) {
        let line = self.line(name, reason);
        push_new(&mut self.reading.mistakes, line);
    }

    /// Records what an operator should know about a setting that works.
    pub(super) fn warning(&mut self, name: &str, reason: impl Display) {
        let line = self.line(name, reason);
        push_new(&mut self.reading.warnings, line);
    }

    /// Records what is needed and isn't there: a setting, or the file that one names.
    pub(super) fn missing(&mut self, name: &str, reason: impl Display) {
        let line = self.line(name, reason);
        push_new(&mut self.reading.missing, line);
    }

    /// Remembers what a file holds that a setting names.
    pub(super) fn remember(&mut self, path: &Path, content: &[u8]) {
        let file = NamedFile::new(path, Some(content));
        if !self.reading.files.contains(&file) {
            self.reading.files.push(file);
        }
    }

    /// A line about a setting, under the name and with the source of its value.
    fn line(&self, name: &str, reason: impl Display) -> String {
        let key = format!("{}{name}", self.at);
        let read = self.reading.settings.iter().rfind(|read| read.info.key == key);
        match read.and_then(|read| read.found.as_ref()) {
            Some(Origin { key, source }) => format!("{key}: {reason} ({source})"),
            None => format!("{key}: {reason}"),
        }
    }

    /// What the sources hold under `name`: first of this table itself, then of the root.
    fn find(&self, name: &str, variables: &[String]) -> Option<(String, Found)> {
        let (own, base) = (format!("{}{name}", self.at), format!("{}{name}", self.base));
        if own != base
            && let Some(found) = self.values.in_file(&own)
        {
            return Some((own, found));
        }

        self.values.find(&base, variables).map(|found| (base, found))
    }

    /// The value of `name`, if there is one and it can be read.
    fn look_up<T: Setting>(
        &mut self,
        name: &str,
        variables: &[String],
        is_secret: bool,
    ) -> Option<(T, Origin)> {
        let (key, Found { value, origin }) = self.find(name, variables)?;
        if let Some(other) = self.values.contradicts(&origin, variables) {
            let line = format!("{key}: {other} has another value, which is ignored ({origin})");
            push_new(&mut self.reading.warnings, line);
        }

        match T::read(&value) {
            Ok(read) => Some((read, Origin { key, source: origin })),
            Err(reason) => {
                // The value of a secret is never repeated.
                let raw =
                    if is_secret { String::new() } else { format!(", not {}", show_raw(&value)) };
                push_new(&mut self.reading.mistakes, format!("{key}: {reason}{raw} ({origin})"));
                None
            }
        }
    }
}

/// One setting, between its description and the call that reads it.
pub(super) struct Entry<'r, 'a> {
    reader: &'r mut Reader<'a>,
    name: &'static str,
    info: SettingInfo,
    /// What to do about a required setting that isn't set.
    remedy: Option<&'static str>,
}

impl Entry<'_, '_> {
    /// Other names in the environment, which people already use. The first one wins.
    pub(super) fn variables(mut self, names: &'static [&'static str]) -> Self {
        self.info.variables = names;
        self
    }

    /// A value, as TOML, for the file that lists every setting.
    pub(super) fn example(mut self, value: &'static str) -> Self {
        self.info.example = Some(value);
        self
    }

    /// The default in words, where it depends on something else.
    pub(super) fn computed(mut self, words: &'static str) -> Self {
        self.info.unset = Unset::Computed(words);
        self
    }

    /// Someone has to set it; `remedy` states how.
    pub(super) fn required(mut self, remedy: &'static str) -> Self {
        self.info.unset = Unset::Required;
        self.remedy = Some(remedy);
        self
    }

    /// Reads it. Nothing when it isn't set.
    pub(super) fn read<T: Setting>(mut self) -> Option<T> {
        self.resolve(None)
    }

    /// Reads it, with its default.
    pub(super) fn or<T: Setting>(self, default: T) -> T {
        match self.given_or(default) {
            Given::Set(value) | Given::Default(value) => value,
        }
    }

    /// Reads it, with its default, and keeps whether someone set it.
    pub(super) fn given_or<T: Setting>(mut self, default: T) -> Given<T> {
        match self.resolve(Some(&default)) {
            Some(value) => Given::Set(value),
            None => Given::Default(default),
        }
    }

    /// Reads it, with its default and bounds.
    pub(super) fn within<T>(mut self, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd,
    {
        let plain = |bound: &T| bound.show().trim_matches('"').to_owned();
        self.info.bounds = Some((plain(bounds.start()), plain(bounds.end())));

        let value = self.resolve(Some(&default)).unwrap_or(default);
        if !bounds.contains(&value) {
            let (least, most) = (bounds.start().show(), bounds.end().show());
            let reason = format!("{} is out of range; give {least} to {most}", value.show());
            self.reader.mistake(self.name, reason);
        }

        value
    }

    /// Reads one of a few words, each with its meaning. The first one is the default.
    pub(super) fn one_of<T: Copy>(mut self, words: &[(&'static str, T)]) -> T {
        let (default, meaning) = words[0];
        self.info.words = words.iter().map(|(word, _)| *word).collect();

        let given = self.resolve(Some(&default.to_owned())).unwrap_or(default.to_owned());
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given) {
            return *meaning;
        }

        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let reason = format!("{given:?} is not known; give {}", known.join(" or "));
        self.reader.mistake(self.name, reason);

        meaning
    }

    /// Reads a secret: given directly, or as the content of the file that `<name>_file` names.
    pub(super) fn secret(mut self) -> Option<SecretString> {
        self.info.is_secret = true;
        self.info.kind = String::schema();

        let (name, name_file) = (self.name, format!("{}_file", self.name));
        let variables: Vec<_> = self.info.variables.iter().map(|name| (*name).to_owned()).collect();
        let file_variables: Vec<_> = variables.iter().map(|name| format!("{name}_FILE")).collect();

        let reader = &mut *self.reader;
        if reader.values.is_flag(&self.info.key) {
            reader.mistake(
                name,
                "a secret in an argument is seen by every process; use the environment or a file",
            );
        }

        let mut direct = reader.look_up::<String>(name, &variables, true);
        let mut file = reader.look_up::<String>(&name_file, &file_variables, true);
        if let (Some((_, one)), Some((_, other))) = (&direct, &file) {
            let own = [one, other].map(|origin| origin.key.starts_with(&reader.at));
            match own {
                // The table's own form overrides the other form at the root.
                [true, false] => file = None,
                [false, true] => direct = None,
                _ => {
                    let reason =
                        format!("is set by `{}` and by `{}`; keep one", one.key, other.key);
                    let line = format!("{}: {reason} ({})", one.key, one.source);
                    push_new(&mut reader.reading.mistakes, line);
                }
            }
        }

        let found = match (direct, file) {
            (Some(direct), _) => Some(direct),
            (None, Some((path, origin))) => reader.secret_file(&path, origin),
            (None, None) => None,
        };

        // One rule for every source: editors and `echo` end a line, and no secret does.
        let found = found.map(|(secret, origin)| {
            let secret = secret.trim_end_matches(['\n', '\r']).to_owned();
            if secret.trim().is_empty() {
                let line = format!("{}: is blank ({})", origin.key, origin.source);
                push_new(&mut reader.reading.missing, line);
            }
            (secret, origin)
        });

        let (secret, origin) = found.unzip();
        let shown = secret.as_ref().map(|_| "\"***\"".to_owned());
        self.record(shown, mark(secret.as_deref()), origin);
        secret.map(SecretString::from)
    }

    /// Looks the value up and records the setting.
    fn resolve<T: Setting>(&mut self, default: Option<&T>) -> Option<T> {
        self.info.kind = T::schema();
        if let Some(default) = default
            && self.info.unset == Unset::Absent
        {
            self.info.unset = Unset::Default(default.show());
        }

        let variables: Vec<_> = self.info.variables.iter().map(|name| (*name).to_owned()).collect();
        let (value, origin) = self.reader.look_up(self.name, &variables, false).unzip();
        let shown = value.as_ref().or(default).map(T::show);

        let mark = mark(shown.as_deref());
        self.record(shown, mark, origin);
        value
    }

    fn record(&mut self, shown: Option<String>, mark: u64, found: Option<Origin>) {
        let (info, shown) = (self.info.clone(), shown.unwrap_or_else(|| NOT_SET.to_owned()));
        let is_set = found.is_some();
        let read = Read { info, shown, found, mark, is_own: true };
        self.reader.reading.settings.push(read);

        if let Some(remedy) = self.remedy
            && !is_set
        {
            self.reader.missing(self.name, format!("is not set; {remedy}"));
        }
    }
}

impl Reader<'_> {
    /// The secret in the file at `path`.
    fn secret_file(&mut self, path: &str, origin: Origin) -> Option<(String, Origin)> {
        let Origin { key, source } = origin;
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.remember(Path::new(path), text.as_bytes());

                let key = key.strip_suffix("_file").unwrap_or(&key).to_owned();
                Some((text, Origin { key, source: format!("file {path}, {source}") }))
            }
            Err(error) => {
                push_new(&mut self.reading.missing, format!("{key}: {path}: {error} ({source})"));
                None
            }
        }
    }
}

/// A number that differs where the value does. Nobody can find a secret by it: its key is random.
fn mark(value: Option<&str>) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(value)
}

/// A value that several tables take from the root is reported once.
fn push_new(lines: &mut Vec<String>, line: String) {
    if !lines.contains(&line) {
        lines.push(line);
    }
}

#[cfg(test)]
mod tests;

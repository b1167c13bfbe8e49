//! What a setting is: everything that `config/outboxd.toml`, the handbook and the JSON Schema show
//! of it.

use serde_json::Value;

use super::sources::variable;

/// A setting, described beside the line that reads it.
#[derive(Debug, Clone)]
pub struct SettingInfo {
    /// Its dotted name.
    pub key: String,
    /// What it does, in which unit, and why its default is what it is.
    pub doc: &'static str,
    /// Its type in the terms of JSON Schema.
    pub kind: Value,
    /// What applies without a value.
    pub unset: Unset,
    /// The least and the greatest value, as an operator writes them.
    pub bounds: Option<(String, String)>,
    /// The only values, if there are just a few.
    pub words: Vec<&'static str>,
    /// The names that it has in the environment besides its own. The first one wins.
    pub variables: &'static [&'static str],
    /// A value for the file that lists every setting. A setting with a default needs none.
    pub example: Option<&'static str>,
    /// Whether its value is masked, and can be read from a file that `<key>_file` names.
    pub is_secret: bool,
}

/// What applies when a setting has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unset {
    /// This value, as TOML.
    Default(String),
    /// A value that depends on something else, in words.
    Computed(&'static str),
    /// Nothing: outboxd needs the setting.
    Required,
    /// Nothing: outboxd works without it.
    Absent,
}

impl SettingInfo {
    pub(super) fn new(key: String, doc: &'static str) -> Self {
        Self {
            key,
            doc,
            kind: Value::Null,
            unset: Unset::Absent,
            bounds: None,
            words: Vec::new(),
            variables: &[],
            example: None,
            is_secret: false,
        }
    }

    /// The section it stands in, and its name there.
    pub fn place(&self) -> (&str, &str) {
        self.key.rsplit_once('.').unwrap_or(("", &self.key))
    }

    /// Every variable that sets it. The first one wins.
    pub fn all_variables(&self) -> Vec<String> {
        let others = self.variables.iter().map(|name| (*name).to_owned());
        std::iter::once(variable(&self.key)).chain(others).collect()
    }

    /// Every variable that names the file of a secret. The first one wins.
    pub fn file_variables(&self) -> Vec<String> {
        self.all_variables().iter().map(|name| format!("{name}_FILE")).collect()
    }

    /// The description, followed by what its type can't express.
    pub fn description(&self) -> String {
        let mut text = self.doc.to_owned();

        match &self.unset {
            Unset::Required => text += " Required.",
            Unset::Computed(words) => text += &format!(" Default: {words}."),
            Unset::Default(_) | Unset::Absent => {}
        }

        if let Some((least, most)) = &self.bounds {
            text += &format!(" Range: {least} to {most}.");
        }

        if !self.variables.is_empty() {
            text += &format!(" Environment: {}.", self.variables.join(", "));
        }

        text
    }
}

//! The configuration file as JSON Schema, for editors and for CI.
//!
//! `x-environment` lists the environment variables that set the same. The first one wins.

use serde_json::{Map, Value, json};

use super::info::{SettingInfo, Unset};
use super::setting::Setting;

/// JSON Schema (2020-12) of a file with these settings.
pub(super) fn of(settings: &[SettingInfo]) -> Value {
    let mut sections = Map::new();
    for setting in settings {
        let (section, name) = setting.place();
        let stub = json!({ "type": "object", "additionalProperties": false, "properties": {} });
        let properties = &mut sections.entry(section).or_insert(stub)["properties"];

        properties[name] = property(setting);
        if setting.is_secret {
            let mut file = String::schema();
            let description =
                format!("Path of a file that holds `{}`. {}", setting.key, setting.doc);
            file["description"] = description.into();
            file["x-environment"] = setting.file_variables().into();
            properties[format!("{name}_file")] = file;
        }
    }

    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of outboxd",
        "type": "object",
        "additionalProperties": false,
        "properties": sections,
    })
}

fn property(setting: &SettingInfo) -> Value {
    let mut schema = setting.kind.clone();

    if let Unset::Default(default) = &setting.unset {
        schema["default"] = as_json(default);
    }

    if !setting.words.is_empty() {
        schema["enum"] = json!(setting.words);
    }

    if let Some((least, most)) = &setting.bounds {
        // JSON Schema has bounds for numbers only. The description has those of durations.
        for (word, bound) in [("minimum", as_json(least)), ("maximum", as_json(most))] {
            if bound.is_number() {
                schema[word] = bound;
            }
        }
    }

    schema["description"] = setting.description().into();
    schema["x-environment"] = setting.all_variables().into();
    schema
}

/// A value as TOML, which for the types of the settings is JSON, too.
fn as_json(toml: &str) -> Value {
    toml.parse().unwrap_or(Value::Null)
}

//! The configuration file as JSON Schema, for editors and for CI.
//!
//! `x-environment` lists the environment variables that set the same. The first one wins.

use serde_json::{Map, Value, json};

use super::info::{SettingInfo, Unset};
use super::sections::SHARED;
use super::setting::Setting;
use super::sources::SHORT;

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

    let tables = tables(&sections);
    sections.insert("outbox".to_owned(), tables);

    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of outboxd",
        "type": "object",
        "additionalProperties": false,
        "properties": sections,
    })
}

/// The tables `[[outbox]]`: each may have the sections that outboxes don't share, and short names.
fn tables(sections: &Map<String, Value>) -> Value {
    let own = sections.iter().filter(|(name, _)| !SHARED.contains(&name.as_str()));
    let mut properties: Map<_, _> = own.map(|(name, of)| (name.clone(), of.clone())).collect();

    for (short, full) in SHORT {
        let (section, name) = full.split_once('.').unwrap_or(("", full));
        let mut property = sections[section]["properties"][name].clone();
        if let Some(of) = property.as_object_mut() {
            of.remove("x-environment");
        }

        match properties.get_mut(short) {
            Some(table) => *table = json!({ "anyOf": [property, table.take()] }),
            None => _ = properties.insert(short.to_owned(), property),
        }
    }

    json!({
        "type": "array",
        "description": "Outboxes of one daemon. What a table doesn't set, it takes from the sections.",
        "items": { "type": "object", "additionalProperties": false, "properties": properties },
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

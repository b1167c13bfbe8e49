//! The configuration file as JSON Schema, for editors and for CI.
//!
//! Types, defaults and bounds are those the settings are read with; descriptions are the comments
//! of `config/outboxd.toml`. `x-environment` lists the variables that set the same.

use serde_json::{Map, Value, json};

use super::{Config, Sources, reader};

/// Every setting with its reason.
const SHIPPED: &str = include_str!("../../config/outboxd.toml");

impl Config {
    /// JSON Schema (2020-12) of the file.
    pub fn schema() -> Value {
        let (_, read) = Self::read(&Sources::default());
        let mut sections = Map::new();
        for (key, mut schema) in read.schema {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            if let Some(description) = description(section, name) {
                schema["description"] = description.into();
            }
            schema["x-environment"] = reader::variables(key).into();
            let stub = json!({ "type": "object", "additionalProperties": false, "properties": {} });
            sections.entry(section).or_insert(stub)["properties"][name] = schema;
        }
        // Not defaults but stand-ins: one is made from the process's id, the other is required.
        for (section, name) in [("nats", "client_id"), ("stream", "name")] {
            if let Some(schema) = sections[section]["properties"][name].as_object_mut() {
                schema.remove("default");
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
}

/// The comment above a setting; settings that follow each other without one share it.
fn description(section: &str, name: &str) -> Option<String> {
    // The file form of a secret.
    let name = name.strip_suffix("_file").unwrap_or(name);
    let rest = SHIPPED.split_once(&format!("\n[{section}]\n"))?.1;
    let (mut comment, mut fresh) = (String::new(), true);
    for line in rest.lines().take_while(|line| !line.starts_with('[')) {
        let text = line.strip_prefix("# ").unwrap_or(line);
        match text.split_once(" = ") {
            Some((setting, _))
                if setting.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') =>
            {
                if setting == name {
                    return Some(comment).filter(|comment| !comment.is_empty());
                }
                fresh = true;
            }
            _ => {
                if std::mem::take(&mut fresh) {
                    comment.clear();
                }
                comment = format!("{comment} {text}").trim().to_owned();
            }
        }
    }
    None
}

//! The types that a setting can have: how each is read, shown and described.

use std::time::Duration;

use figment::value::Value;
use serde_json::{Value as Json, json};

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// Its type in the words of JSON Schema.
    fn schema() -> Json;
    fn read(value: &Value) -> Result<Self, String>;
    /// As TOML, which for these types is JSON too.
    fn show(&self) -> String;
}

impl Setting for String {
    fn schema() -> Json {
        json!({ "type": "string" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(_, text) if !text.is_empty() => Ok(text.clone()),
            _ => Err("give a text".to_owned()),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for u64 {
    fn schema() -> Json {
        json!({ "type": "integer" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::String(_, text) => text.replace('_', "").parse().ok(),
            other => {
                let signed = other.to_i128().and_then(|number| u64::try_from(number).ok());
                signed.or_else(|| other.to_u128().and_then(|number| u64::try_from(number).ok()))
            }
        };
        number.ok_or_else(|| "give a whole number".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*(\d+\s*[a-zA-Z]+\s*)+$" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(_, text) => humantime::parse_duration(text).ok(),
            _ => None,
        }
        .ok_or_else(|| "give a duration with its unit, such as \"10s\" or \"500ms\"".to_owned())
    }

    fn show(&self) -> String {
        format!("\"{}\"", humantime::format_duration(*self))
    }
}

/// From the environment: separated by commas.
impl Setting for Vec<String> {
    fn schema() -> Json {
        json!({ "type": "array", "items": { "type": "string" } })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(_, text) => Ok(text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()),
            Value::Array(_, values) => values.iter().map(String::read).collect(),
            _ => Err("give a list of texts".to_owned()),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

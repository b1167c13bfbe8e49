//! The types that a setting can have: how each is read, shown and described to JSON Schema.

use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::Value;

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// The type in the terms of JSON Schema.
    fn schema() -> Json;
    /// Reads a value of a TOML file, or a text from a flag or the environment. An error names what
    /// to give instead.
    fn read(value: &Value) -> Result<Self, String>;
    /// The value as TOML. For these types that is JSON, too.
    fn show(&self) -> String;
}

impl Setting for String {
    fn schema() -> Json {
        json!({ "type": "string" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
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
            Value::String(text) => text.replace('_', "").parse().ok(),
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        };

        number.ok_or_else(|| "give a whole number".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        let flag = match value {
            Value::String(text) => text.parse().ok(),
            Value::Boolean(flag) => Some(*flag),
            _ => None,
        };

        flag.ok_or_else(|| "give true or false".to_owned())
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
            Value::String(text) => humantime::parse_duration(text).ok(),
            _ => None,
        }
        .ok_or_else(|| "give a duration with its unit, such as \"10s\" or \"500ms\"".to_owned())
    }

    fn show(&self) -> String {
        format!("\"{}\"", humantime::format_duration(*self))
    }
}

/// In the environment and in flags, commas separate the texts, or they stand in brackets as in a
/// file: `["a", "b"]`.
impl Setting for Vec<String> {
    fn schema() -> Json {
        json!({ "type": "array", "items": { "type": "string" } })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if text.trim_start().starts_with('[') => in_brackets(text),
            Value::String(text) => Ok(text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()),
            Value::Array(values) => values.iter().map(String::read).collect(),
            _ => Err("give a list of texts".to_owned()),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

/// The texts of an array, which TOML and JSON write alike.
fn in_brackets(text: &str) -> Result<Vec<String>, String> {
    let table = format!("list = {}", text.trim()).parse::<toml::Table>();
    match table.as_ref().map(|table| (table.len(), table.get("list"))) {
        Ok((1, Some(list @ Value::Array(_)))) => Vec::read(list),
        _ => Err("give a list, such as a,b or [\"a\", \"b\"]".to_owned()),
    }
}

/// A value, and whether an operator chose it. A chosen value that can't be used is an error; a
/// default that can't be used costs a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given<T> {
    /// A source set the value.
    Set(T),
    /// No source set it.
    Default(T),
}

impl<T> Given<T> {
    /// The value, chosen or not.
    pub fn get(&self) -> &T {
        match self {
            Self::Set(value) | Self::Default(value) => value,
        }
    }

    /// The value, if a source set it.
    pub fn set(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Default(_) => None,
        }
    }

    /// The same with another value in it.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        match self {
            Self::Set(value) => Given::Set(change(value)),
            Self::Default(value) => Given::Default(change(value)),
        }
    }
}

/// Seconds as a duration.
pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds as a duration.
pub(super) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A count whose bounds every machine with 64 bits can hold. A smaller machine gets its largest.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A count whose bounds stay under four billion.
pub(super) fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A value of a source for messages; never one of a secret.
pub(super) fn show_raw(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(time) => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_list_with_commas_or_in_brackets() {
        let read = |text: &str| Vec::<String>::read(&Value::String(text.to_owned()));
        for text in [
            "a,b.>",
            " a , b.>,",
            r#"["a","b.>"]"#,
            r#" [ "a", "b.>" ] "#,
            "['a', 'b.>']",
            "[\n  \"a\",\n  \"b.>\",\n]\n",
        ] {
            assert_eq!(read(text), Ok(vec!["a".to_owned(), "b.>".to_owned()]), "{text}");
        }
        assert_eq!(read("[]"), Ok(Vec::new()));

        for text in ["[a,b]", "[", r#"["a""#, r#"["a", 1]"#, r#"["a"] "b""#, "[\"a\"]\nb = 1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_flag_is_true_or_false() {
        for (value, flag) in [
            (Value::Boolean(true), Ok(true)),
            (Value::String("false".to_owned()), Ok(false)),
            (Value::String("yes".to_owned()), Err("give true or false".to_owned())),
        ] {
            assert_eq!(bool::read(&value), flag);
        }
    }
}

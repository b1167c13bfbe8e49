//! The fields of a request's body, taken one by one; every mistake is reported at once, each with
//! its field.

use bson::oid::ObjectId;
use serde_json::{Map, Value};

use crate::refusal::{ApiError, Complaint};

/// A JSON object under examination. A field that is wrong yields a stand-in; [`Fields::check`]
/// tells.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    complaints: Vec<Complaint>,
}

impl Fields {
    pub fn new(object: Map<String, Value>) -> Self {
        Self { object, complaints: Vec::new() }
    }

    /// A text of 1 to `max` characters, without white space around it.
    pub fn text(&mut self, field: &'static str, max: usize) -> String {
        match self.object.get(field) {
            Some(Value::String(text))
                if !text.trim().is_empty() && text.trim().chars().count() <= max =>
            {
                text.trim().to_owned()
            }
            _ => {
                self.complain(field, format!("must be a text of 1 to {max} characters"));
                String::new()
            }
        }
    }

    /// A password: 8 to `max` characters, every one of which counts.
    pub fn password(&mut self, field: &'static str, max: usize) -> String {
        match self.object.get(field) {
            Some(Value::String(text)) if (8..=max).contains(&text.chars().count()) => text.clone(),
            _ => {
                self.complain(field, format!("must be a text of 8 to {max} characters"));
                String::new()
            }
        }
    }

    /// An e-mail address, in lower case. Whether mail arrives there is not known.
    pub fn email(&mut self, field: &'static str) -> String {
        let given = self.object.get(field).and_then(Value::as_str).unwrap_or_default();
        let email = given.trim().to_lowercase();
        let is_one = match email.split_once('@') {
            Some((user, host)) => {
                !user.is_empty() && !host.is_empty() && !host.contains('@') && email.len() <= 254
            }
            None => false,
        };
        if !is_one || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.complain(field, "must be an e-mail address");
        }
        email
    }

    /// A finite number greater than 0.
    pub fn price(&mut self, field: &'static str) -> f64 {
        match self.object.get(field).and_then(Value::as_f64) {
            Some(price) if price.is_finite() && price > 0.0 => price,
            _ => {
                self.complain(field, "must be a number greater than 0");
                0.0
            }
        }
    }

    /// A record's version, if the field is there.
    pub fn version_if_given(&mut self, field: &'static str) -> Option<i64> {
        let value = self.object.get(field).filter(|value| !value.is_null())?;
        let version = value.as_i64().filter(|version| *version >= 0);
        if version.is_none() {
            self.complain(field, "must be a whole number, 0 or more");
        }
        version
    }

    /// A record's id.
    pub fn id(&mut self, field: &'static str) -> ObjectId {
        let id = self
            .object
            .get(field)
            .and_then(Value::as_str)
            .and_then(|text| ObjectId::parse_str(text).ok());
        id.unwrap_or_else(|| {
            self.complain(field, "must be an id of 24 hexadecimal digits");
            ObjectId::default()
        })
    }

    /// Passes if nothing was wrong.
    pub fn check(self) -> Result<(), ApiError> {
        if self.complaints.is_empty() {
            Ok(())
        } else {
            Err(ApiError::bad_request(self.complaints))
        }
    }

    fn complain(&mut self, field: &'static str, reason: impl std::fmt::Display) {
        self.complaints
            .push(Complaint { message: format!("{field} {reason}"), field: Some(field) });
    }
}

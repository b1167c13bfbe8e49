//! Where the parts of an event stand in a document: in the fields of the event contract, or in
//! those of an outbox that was there before.
//!
//! A layout of other fields takes documents as they are. Such a writer does not know the relay, so
//! `isLocked`, `ts` and `failures` may be missing, and keys and parts of subjects may be ids and
//! numbers as well as strings.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::{Bson, Document, RawBsonRef, RawDocument, Timestamp, doc};
use outboxd_client::{EventError, Headers, Key, field, payload};

use super::cloudevents::{CloudEvents, Facts};
use super::template::{Fields, LayoutError, Part, Template, Values, check_name};
use super::written::FIRST_TIME;

/// The fields that hold the parts of an event. [`Layout::default`] is that of the event contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    is_own: bool,
    key: Box<str>,
    payload: Box<str>,
    headers: Box<str>,
    subject: Template,
    extra_headers: Vec<(Box<str>, Template)>,
    cloudevents: Option<CloudEvents>,
    /// Those that the templates name.
    fields: Fields,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            is_own: true,
            key: field::KEY.into(),
            payload: field::PAYLOAD.into(),
            headers: field::HEADERS.into(),
            subject: Template::of_field(0),
            extra_headers: Vec::new(),
            cloudevents: None,
            fields: Fields::one(field::SUBJECT),
        }
    }
}

impl Layout {
    /// A layout of other fields, for documents that were not written for outboxd.
    ///
    /// # Errors
    /// A name that is empty, has a dot, a brace or a leading `$`, or is one of the relay's own
    /// fields.
    pub fn of_fields(key: &str, payload: &str, headers: &str) -> Result<Self, LayoutError> {
        for name in [key, payload, headers] {
            check_name(name)?;
        }

        Ok(Self {
            is_own: false,
            key: key.into(),
            payload: payload.into(),
            headers: headers.into(),
            ..Self::default()
        })
    }

    /// Makes the subject of this template, behind a prefix. Call it first: it forgets the fields
    /// that an earlier template named.
    ///
    /// # Errors
    /// A brace without its other half, a bad name of a field, or more than
    /// [`MAX_FIELDS`](super::MAX_FIELDS) fields.
    pub fn with_subject(mut self, prefix: &str, template: &str) -> Result<Self, LayoutError> {
        if prefix.contains(['{', '}']) {
            return Err(LayoutError::Prefix(prefix.to_owned()));
        }

        self.fields = Fields::default();
        self.subject = self.fields.template(&format!("{prefix}{template}"))?;
        Ok(self)
    }

    /// Adds a header made of fields. An event that lacks one of them does not get the header.
    ///
    /// # Errors
    /// As [`Layout::with_subject`].
    pub fn with_header(mut self, name: &str, template: &str) -> Result<Self, LayoutError> {
        let template = self.fields.template(template)?;
        self.extra_headers.push((name.into(), template));
        Ok(self)
    }

    /// Adds the attributes of CloudEvents 1.0 as `ce-` headers (binary mode). The type is that of
    /// the template, or the subject.
    ///
    /// # Errors
    /// As [`Layout::with_subject`].
    pub fn with_cloudevents(
        mut self,
        source: &str,
        kind: Option<&str>,
    ) -> Result<Self, LayoutError> {
        let kind = kind.map(|kind| self.fields.template(kind)).transpose()?;
        self.cloudevents = Some(CloudEvents::new(source, kind));
        Ok(self)
    }

    /// Whether documents follow the event contract.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// The field that holds the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The field that holds the payload.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// The field that holds the headers.
    pub fn headers(&self) -> &str {
        &self.headers
    }

    /// The key of a document, if it has one that an event may have.
    pub(crate) fn key_of(&self, document: &RawDocument) -> Option<Key> {
        let key = document.get(self.key()).ok().flatten()?;
        Key::new(self.text(key).ok()?).ok()
    }

    /// The place among the [`Values`] of a field that a template names.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.fields.place(name)
    }

    /// The text of a field that makes a key or a part of a subject, or the types that it may have.
    pub(super) fn text<'a>(&self, value: RawBsonRef<'a>) -> Result<Cow<'a, str>, &'static str> {
        match value {
            RawBsonRef::String(text) => Ok(text.into()),
            _ if self.is_own => Err("a string"),
            RawBsonRef::ObjectId(id) => Ok(id.to_hex().into()),
            RawBsonRef::Int32(number) => Ok(number.to_string().into()),
            RawBsonRef::Int64(number) => Ok(number.to_string().into()),
            RawBsonRef::Double(number) if number.fract() == 0.0 => {
                Ok(payload::double(number).ok_or("a finite number")?.into())
            }
            RawBsonRef::Binary(binary) if binary.subtype == bson::spec::BinarySubtype::Uuid => {
                let bytes = binary.bytes.try_into().map_err(|_| "a UUID of the right length")?;
                Ok(bson::Uuid::from_bytes(bytes).to_string().into())
            }
            _ => Err("a string, an ObjectId, a UUID or a whole number"),
        }
    }

    /// The subject, or the name of a field that it lacks.
    pub(super) fn subject<'a>(&'a self, values: &'a Values<'_>) -> Result<Cow<'a, str>, &'a str> {
        self.fields.fill(&self.subject, values)
    }

    /// Adds the headers that are made of other parts of the event. A header that the event has
    /// already stays as it is.
    pub(super) fn add_headers(
        &self,
        headers: &mut Headers,
        facts: &Facts<'_>,
        values: &Values<'_>,
    ) -> Result<(), EventError> {
        for (name, template) in &self.extra_headers {
            if let Ok(text) = self.fields.fill(template, values)
                && headers.get(name).is_none()
            {
                headers.insert_made(name, &text)?;
            }
        }

        match &self.cloudevents {
            Some(cloudevents) => cloudevents.add(headers, facts, &self.fields, values),
            None => Ok(()),
        }
    }

    /// In a query: what a locked event has in `isLocked`.
    pub(super) fn locked(&self) -> Bson {
        match self.is_own {
            true => true.into(),
            false => doc! { "$in": self.locked_values() }.into(),
        }
    }

    /// In a query: what locked events have in `isLocked`, where null stands for no field.
    pub(crate) fn locked_values(&self) -> Vec<Bson> {
        match self.is_own {
            true => vec![true.into()],
            false => vec![true.into(), Bson::Null],
        }
    }

    /// In a query: what an event of this key has in the key's field.
    pub fn of_key(&self, key: &str) -> Bson {
        match <[Bson; 1]>::try_from(self.forms(key)) {
            Ok([only]) => only,
            Err(forms) => doc! { "$in": forms }.into(),
        }
    }

    /// In a query: the values of the key's field that make this key.
    pub fn forms(&self, key: &str) -> Vec<Bson> {
        let mut forms = vec![Bson::from(key)];
        if self.is_own {
            return forms;
        }

        // Not the other ways to write the same: those are other keys.
        let id = ObjectId::parse_str(key).ok();
        forms.extend(id.filter(|id| id.to_hex() == key).map(Bson::from));
        let id = bson::Uuid::parse_str(key).ok();
        forms.extend(id.filter(|id| id.to_string() == key).map(Bson::from));
        // A number is found by its value, whatever its type. The text of a double beyond 2^53 may
        // have other digits than its value.
        let number = key.parse::<i64>().ok();
        forms.extend(number.filter(|number| number.to_string() == key).map(Bson::from));
        let double = key.parse::<f64>().ok();
        let double = double.filter(|number| payload::double(*number).as_deref() == Some(key));
        forms.extend(double.map(Bson::from));

        forms
    }

    /// Adds to a query: the event was written before this time. Without `ts`, or with one that the
    /// server never filled, the time in an ObjectId counts. An event of unknown age was written
    /// before no time.
    pub fn before(&self, filter: &mut Document, time: Timestamp) {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&time.time.to_be_bytes());

        let by_id = doc! {
            field::TS: { "$not": { "$gte": FIRST_TIME } },
            field::ID: { "$lt": ObjectId::from_bytes(id) },
        };
        filter.insert("$or", [doc! { field::TS: { "$gte": FIRST_TIME, "$lt": time } }, by_id]);
    }

    /// In an aggregation: the subject, or null where a part of it is missing or no text.
    pub fn subject_of_document(&self) -> Bson {
        let text = |at: &usize| {
            let path = format!("${}", self.fields.name(*at));
            if self.is_own {
                return Bson::from(path);
            }
            doc! { "$convert": {
                "input": path, "to": "string", "onError": Bson::Null, "onNull": Bson::Null,
            } }
            .into()
        };

        if let [Part::Field(only)] = &self.subject.0[..] {
            return text(only);
        }

        let parts = self.subject.0.iter().map(|part| match part {
            Part::Text(fixed) => doc! { "$literal": &**fixed }.into(),
            Part::Field(at) => {
                let is_text = doc! { "$eq": [{ "$type": text(at) }, "string"] };
                doc! { "$cond": [is_text, text(at), Bson::Null] }.into()
            }
        });

        doc! { "$concat": parts.collect::<Vec<Bson>>() }.into()
    }

    /// In a query: documents whose subject matches a regular expression.
    pub fn subject_matches(&self, regex: String) -> Document {
        match &self.subject.0[..] {
            [Part::Field(only)] if self.is_own => {
                doc! { self.fields.name(*only): { "$regex": regex } }
            }
            _ => {
                let is_text = doc! { "$eq": [{ "$type": self.subject_of_document() }, "string"] };
                let matches =
                    doc! { "$regexMatch": { "input": self.subject_of_document(), "regex": regex } };
                doc! { "$expr": { "$cond": [is_text, matches, false] } }
            }
        }
    }

    /// Adds to a projection: the fields that key and subject are made of.
    pub fn project(&self, projection: &mut Document) {
        for name in self.fields.names().chain([self.key()]) {
            projection.insert(name, 1);
        }
    }

    /// The subject of a document whose fields `get` returns, if it has one; for people.
    pub fn shown_subject(&self, get: impl Fn(&str) -> Option<Bson>) -> Option<String> {
        let mut values = Values::default();
        for (value, name) in values.iter_mut().zip(self.fields.names()) {
            *value = get(name).and_then(|value| self.shown(value)).map(Cow::from);
        }
        self.subject(&values).ok().map(Cow::into_owned)
    }

    /// The key of a document whose fields `get` returns, if it has one; for people.
    pub fn shown_key(&self, get: impl Fn(&str) -> Option<Bson>) -> Option<String> {
        self.shown(get(&self.key)?)
    }

    fn shown(&self, value: Bson) -> Option<String> {
        let raw = bson::serialize_to_raw_document_buf(&doc! { "value": value }).ok()?;
        self.text(raw.get("value").ok()??).ok().map(Cow::into_owned)
    }
}

#[cfg(test)]
mod tests;

//! Where the parts of an event stand in a document: in the fields of the event contract, or in
//! those of an outbox that was there before.
//!
//! A layout that is not the contract's own takes documents as they are: what a writer there doesn't
//! leave (`isLocked`, `ts`, `failures`) may be missing, and keys and parts of subjects may be ids
//! and numbers as well as strings.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::{Bson, Document, RawBsonRef, Timestamp, doc};

use outboxd_client::field;

use super::record::OutboxRecord;

/// Most fields that the templates of a layout name, all together.
pub const MAX_FIELDS: usize = 8;
/// The relay's own fields, and `ts`: none of them can be a part of an event.
const BOOKKEEPING: [&str; 8] = [
    field::TS,
    field::IS_LOCKED,
    field::FAILURES,
    field::ATTEMPTS,
    field::NEXT_ATTEMPT_AT,
    field::DEAD_AT,
    field::RETRY_REQUESTED_AT,
    field::DISCARD_REQUESTED_AT,
];

/// What the fields that templates name hold in one document, by their place in [`Layout::fields`].
pub(super) type Values<'a> = [Option<Cow<'a, str>>; MAX_FIELDS];

/// A text with the names of fields in braces: `outbox.event.{aggregatetype}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// Place in [`Layout::fields`].
    Field(usize),
}

/// CloudEvents' attributes of each event, as headers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CloudEvents {
    source: Box<str>,
    /// `None`: the subject.
    kind: Option<Template>,
}

/// See the module. [`Layout::default`] is that of the event contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    is_own: bool,
    key: Box<str>,
    payload: Box<str>,
    headers: Box<str>,
    subject: Template,
    extra_headers: Vec<(Box<str>, Template)>,
    cloudevents: Option<CloudEvents>,
    /// Named in templates.
    fields: Vec<Box<str>>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            is_own: true,
            key: field::KEY.into(),
            payload: field::PAYLOAD.into(),
            headers: field::HEADERS.into(),
            subject: Template(vec![Part::Field(0)]),
            extra_headers: Vec::new(),
            cloudevents: None,
            fields: vec![field::SUBJECT.into()],
        }
    }
}

impl Layout {
    /// A layout of other fields, for documents that were not written for outboxd.
    ///
    /// # Errors
    /// A name that is empty, has a dot, a brace or a leading `$`, or is one of the relay's own
    /// fields.
    pub fn of_fields(key: &str, payload: &str, headers: &str) -> Result<Self, String> {
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

    /// Makes the subject of this template, behind a prefix. Comes first: what an earlier template
    /// named is forgotten.
    ///
    /// # Errors
    /// A brace without its other half, a bad name of a field, or more than [`MAX_FIELDS`] fields.
    pub fn with_subject(mut self, prefix: &str, template: &str) -> Result<Self, String> {
        if prefix.contains(['{', '}']) {
            return Err(format!(
                "{prefix:?} has a brace; fields belong into the subject's template"
            ));
        }
        self.fields.clear();
        self.subject = self.template(&format!("{prefix}{template}"))?;
        Ok(self)
    }

    /// Adds a header made of fields; it is left out where one of them is missing.
    ///
    /// # Errors
    /// As [`Layout::with_subject`].
    pub fn with_header(mut self, name: &str, template: &str) -> Result<Self, String> {
        let template = self.template(template)?;
        self.extra_headers.push((name.into(), template));
        Ok(self)
    }

    /// Adds the attributes of CloudEvents 1.0 as `ce-` headers (binary mode). The type is that of
    /// the template, or the subject.
    ///
    /// # Errors
    /// As [`Layout::with_subject`].
    pub fn with_cloudevents(mut self, source: &str, kind: Option<&str>) -> Result<Self, String> {
        let kind = kind.map(|kind| self.template(kind)).transpose()?;
        self.cloudevents = Some(CloudEvents { source: source.into(), kind });
        Ok(self)
    }

    fn template(&mut self, text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (fixed, after) = rest.split_once('{').unwrap_or((rest, ""));
            if fixed.contains('}') {
                return Err(format!("{text:?} has a `}}` without its `{{`"));
            }
            if !fixed.is_empty() {
                parts.push(Part::Text(fixed.into()));
            }
            if fixed.len() == rest.len() {
                break;
            }
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("{text:?} has a `{{` without its `}}`"))?;
            check_name(name)?;
            let at = self.fields.iter().position(|known| **known == *name).unwrap_or_else(|| {
                self.fields.push(name.into());
                self.fields.len() - 1
            });
            parts.push(Part::Field(at));
            rest = after;
        }
        match self.fields.len() {
            ..=MAX_FIELDS => Ok(Template(parts)),
            _ => Err(format!(
                "{text:?} names one field too many: {MAX_FIELDS} in all templates are the most"
            )),
        }
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

    /// The place among the [`Values`] of a field that a template names.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|known| **known == *name)
    }

    /// The text in a field that makes a key or a part of a subject; `Err` says what it must be.
    pub(super) fn text<'a>(&self, value: RawBsonRef<'a>) -> Result<Cow<'a, str>, &'static str> {
        match value {
            RawBsonRef::String(text) => Ok(text.into()),
            _ if self.is_own => Err("a string"),
            RawBsonRef::ObjectId(id) => Ok(id.to_hex().into()),
            RawBsonRef::Int32(number) => Ok(number.to_string().into()),
            RawBsonRef::Int64(number) => Ok(number.to_string().into()),
            RawBsonRef::Binary(binary) if binary.subtype == bson::spec::BinarySubtype::Uuid => {
                let bytes = binary.bytes.try_into().map_err(|_| "a UUID of the right length")?;
                Ok(bson::Uuid::from_bytes(bytes).to_string().into())
            }
            _ => Err("a string, an ObjectId, a UUID or a whole number"),
        }
    }

    /// The subject, or the name of a field that it lacks.
    pub(super) fn subject<'a>(&self, values: &'a Values<'_>) -> Result<Cow<'a, str>, &str> {
        self.fill(&self.subject, values)
    }

    fn fill<'a>(&self, template: &Template, values: &'a Values<'_>) -> Result<Cow<'a, str>, &str> {
        let value = |at: usize| values[at].as_deref().ok_or(&*self.fields[at]);
        if let [Part::Field(only)] = template.0[..] {
            return value(only).map(Cow::Borrowed);
        }
        let mut filled = String::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Field(at) => filled.push_str(value(*at)?),
            }
        }
        Ok(filled.into())
    }

    /// Adds the headers that are made of other parts of the event. One that the event has itself
    /// stays as it is.
    pub(super) fn complete(
        &self,
        record: &mut OutboxRecord,
        values: &Values<'_>,
        is_json: bool,
    ) -> Result<(), outboxd_client::EventError> {
        for (name, template) in &self.extra_headers {
            if let Ok(text) = self.fill(template, values)
                && record.headers.get(name).is_none()
            {
                record.headers.insert(name, &text)?;
            }
        }
        let Some(CloudEvents { source, kind }) = &self.cloudevents else { return Ok(()) };
        let content_type = record.headers.get("content-type").map(str::to_owned);
        // What the writer made a CloudEvent of itself stays one.
        if content_type.as_deref().is_some_and(|text| text.starts_with("application/cloudevents"))
            || record.headers.get("ce-specversion").is_some()
        {
            return Ok(());
        }
        let kind = kind.as_ref().and_then(|kind| self.fill(kind, values).ok());
        let kind = kind.unwrap_or_else(|| record.subject.as_str().to_owned().into());
        let at = i64::from(record.ts.time) * 1000;
        let time = bson::DateTime::from_millis(at).try_to_rfc3339_string().ok().filter(|_| at > 0);
        for (name, text) in [
            ("ce-specversion", Some("1.0".into())),
            ("ce-id", Some(record.id.to_string().into())),
            ("ce-source", Some(Cow::from(&**source))),
            ("ce-type", Some(kind)),
            ("ce-subject", record.key.as_ref().map(|key| key.as_str().to_owned().into())),
            ("ce-time", time.map(Cow::from)),
            (
                "ce-datacontenttype",
                content_type.map(Cow::from).or_else(|| is_json.then(|| "application/json".into())),
            ),
        ] {
            if let Some(text) = text
                && record.headers.get(name).is_none()
            {
                record.headers.insert(name, &percent_encoded(&text))?;
            }
        }
        Ok(())
    }

    /// In a query: what an event that is on its way has in `isLocked`.
    pub fn locked(&self) -> Bson {
        match self.is_own {
            true => true.into(),
            false => doc! { "$ne": false }.into(),
        }
    }

    /// In a query: what an event of this key has in the key's field.
    pub fn of_key(&self, key: &str) -> Bson {
        if self.is_own {
            return key.into();
        }
        let mut forms = vec![Bson::from(key)];
        forms.extend(ObjectId::parse_str(key).ok().map(Bson::from));
        forms.extend(bson::Uuid::parse_str(key).ok().map(Bson::from));
        // A number is found by its value, whatever its type.
        forms.extend(key.parse::<i64>().ok().map(Bson::from));
        doc! { "$in": forms }.into()
    }

    /// Adds to a query: whatever was written before this time. Without `ts`, the time in an
    /// ObjectId counts.
    pub fn before(&self, filter: &mut Document, time: Timestamp) {
        if self.is_own {
            filter.insert(field::TS, doc! { "$lt": time });
            return;
        }
        let mut id = [0; 12];
        id[..4].copy_from_slice(&time.time.to_be_bytes());
        let by_id = doc! { field::TS: { "$not": { "$type": "timestamp" } }, field::ID: { "$lt": ObjectId::from_bytes(id) } };
        filter.insert("$or", [doc! { field::TS: { "$lt": time } }, by_id]);
    }

    /// In an aggregation: the subject, or null where a part of it is missing or no text.
    pub fn subject_of_document(&self) -> Bson {
        let text = |at: &usize| {
            let path = format!("${}", self.fields[*at]);
            match self.is_own {
                true => Bson::from(path),
                false => {
                    doc! { "$convert": { "input": path, "to": "string", "onError": Bson::Null, "onNull": Bson::Null } }
                        .into()
                }
            }
        };
        if let [Part::Field(only)] = &self.subject.0[..] {
            return text(only);
        }
        let parts = self.subject.0.iter().map(|part| match part {
            Part::Text(fixed) => doc! { "$literal": &**fixed }.into(),
            Part::Field(at) => {
                doc! { "$cond": [{ "$eq": [{ "$type": text(at) }, "string"] }, text(at), Bson::Null] }.into()
            }
        });
        doc! { "$concat": parts.collect::<Vec<Bson>>() }.into()
    }

    /// In a query: documents whose subject matches a regular expression.
    pub fn subject_matches(&self, regex: String) -> Document {
        match &self.subject.0[..] {
            [Part::Field(only)] if self.is_own => {
                doc! { &*self.fields[*only]: { "$regex": regex } }
            }
            _ => {
                let is_text = doc! { "$eq": [{ "$type": self.subject_of_document() }, "string"] };
                let matches =
                    doc! { "$regexMatch": { "input": self.subject_of_document(), "regex": regex } };
                doc! { "$expr": { "$cond": [is_text, matches, false] } }
            }
        }
    }

    /// In a projection: what key and subject are made of.
    pub fn project(&self, projection: &mut Document) {
        for name in self.fields.iter().chain([&self.key]) {
            projection.insert(&**name, 1);
        }
    }

    /// The subject of a document whose fields `get` gives, as far as there is one; for people.
    pub fn shown_subject(&self, get: impl Fn(&str) -> Option<Bson>) -> Option<String> {
        let mut values = Values::default();
        for (value, name) in values.iter_mut().zip(&self.fields) {
            *value = get(name).and_then(|value| self.shown(value)).map(Cow::from);
        }
        self.subject(&values).ok().map(Cow::into_owned)
    }

    /// The key of such a document, likewise.
    pub fn shown_key(&self, get: impl Fn(&str) -> Option<Bson>) -> Option<String> {
        self.shown(get(&self.key)?)
    }

    fn shown(&self, value: Bson) -> Option<String> {
        let raw = bson::serialize_to_raw_document_buf(&doc! { "value": value }).ok()?;
        self.text(raw.get("value").ok()??).ok().map(Cow::into_owned)
    }
}

/// The name of a field at the top of a document, none of the relay's own.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.starts_with('$') || name.contains(['.', '{', '}', '\0']) {
        return Err(format!("{name:?} is not the name of a field at the top of a document"));
    }
    if BOOKKEEPING.contains(&name) {
        return Err(format!(
            "`{name}` is a field that the relay writes; it can't be a part of an event"
        ));
    }
    Ok(())
}

/// As the HTTP binding of CloudEvents has it: printable ASCII but space, `"` and `%` as it is.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!' | b'#'..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests;

//! The attributes of CloudEvents 1.0 as headers of a message (binary mode, `ce-…`).

use std::borrow::Cow;

use bson::Timestamp;
use outboxd_client::event::MAX_HEADER_BYTES;
use outboxd_client::{EventError, EventId, Headers, Key, Subject};

use super::template::{Fields, Template, Values};

/// The attributes that every event of an outbox gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CloudEvents {
    source: Box<str>,
    /// `None`: the subject.
    kind: Option<Template>,
}

/// The parts of one event that its attributes are made of.
pub(super) struct Facts<'a> {
    pub(super) id: &'a EventId,
    pub(super) ts: Timestamp,
    pub(super) subject: &'a Subject,
    pub(super) key: Option<&'a Key>,
    /// Whether the payload is published as JSON.
    pub(super) is_json: bool,
}

impl CloudEvents {
    pub(super) fn new(source: &str, kind: Option<Template>) -> Self {
        Self { source: source.into(), kind }
    }

    /// Adds the attributes to the headers of an event. A header that the writer set stays as it is,
    /// and an event that the writer made a CloudEvent of gets none.
    pub(super) fn add(
        &self,
        headers: &mut Headers,
        facts: &Facts<'_>,
        fields: &Fields,
        values: &Values<'_>,
    ) -> Result<(), EventError> {
        let content_type = headers.get("content-type").map(str::to_owned);
        let is_cloudevent = |text: &str| text.starts_with("application/cloudevents");
        if content_type.as_deref().is_some_and(is_cloudevent)
            || headers.get("ce-specversion").is_some()
        {
            return Ok(());
        }

        let kind = self.kind.as_ref().and_then(|kind| fields.fill(kind, values).ok());
        let content_type = content_type.map(Cow::from);
        let content_type = content_type.or(facts.is_json.then_some("application/json".into()));
        let attributes = [
            ("ce-specversion", Some("1.0".into())),
            ("ce-id", Some(facts.id.to_string().into())),
            ("ce-source", Some(Cow::from(&*self.source))),
            ("ce-type", Some(kind.unwrap_or_else(|| facts.subject.as_str().into()))),
            ("ce-subject", facts.key.map(|key| key.as_str().into())),
            ("ce-time", time(facts.ts).map(Cow::from)),
            ("ce-datacontenttype", content_type),
        ];

        for (name, text) in attributes {
            if let Some(text) = text
                && headers.get(name).is_none()
            {
                headers.insert_made(name, &percent_encoded(&text))?;
            }
        }

        Ok(())
    }
}

/// The time of the insert. There is none for an event without `ts` whose `_id` holds no time.
fn time(ts: Timestamp) -> Option<String> {
    let at = i64::from(ts.time) * 1000;
    bson::DateTime::from_millis(at).try_to_rfc3339_string().ok().filter(|_| at > 0)
}

/// As the HTTP binding of CloudEvents has it: printable ASCII stays, except space, `"` and `%`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    // Beyond the limit it is refused; the text may have megabytes.
    for byte in text.bytes().take(MAX_HEADER_BYTES + 1) {
        match byte {
            b'!' | b'#'..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }

    encoded
}

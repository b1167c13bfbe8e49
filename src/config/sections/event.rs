//! `[event]`: where the parts of an event stand in its document, and what its message gets.

use std::sync::Arc;

use outboxd_client::{Headers, field};

use super::mongodb::MongodbConfig;
use crate::config::reader::Reader;
use crate::document::layout::Layout;

/// `[event]`
#[derive(Debug, Clone)]
pub struct EventConfig {
    /// Where the parts of an event stand, and what is made of them.
    pub layout: Arc<Layout>,
    /// Prefix of every message id.
    pub id_prefix: String,
}

/// Longest `event.id_prefix`: a name of a cluster or region fits.
const MAX_ID_PREFIX: usize = 64;

/// The defaults of `[event]` for one `event.layout`.
struct Preset {
    subject: &'static str,
    key: &'static str,
    extra_headers: &'static [&'static str],
    /// `None`: the subject.
    cloudevents_type: Option<&'static str>,
}

/// The event contract.
const OUTBOXD: Preset =
    Preset { subject: "{subject}", key: field::KEY, extra_headers: &[], cloudevents_type: None };

/// Debezium's outbox event router for MongoDB, with its own defaults.
const DEBEZIUM: Preset = Preset {
    subject: "outbox.event.{aggregatetype}",
    key: "aggregateid",
    extra_headers: &["id={_id}", "eventType={type}"],
    cloudevents_type: Some("{type}"),
};

/// The attributes of CloudEvents that each message gets.
struct CloudEvents {
    source: String,
    /// `None`: the subject.
    kind: Option<String>,
}

/// The settings as they are written, before the layout is made.
struct Fields {
    is_own: bool,
    subject: String,
    prefix: String,
    key: String,
    payload: String,
    headers: String,
    extra_headers: Vec<String>,
    /// `None`: no such headers.
    cloudevents: Option<CloudEvents>,
}

impl EventConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, mongodb: &MongodbConfig) -> Self {
        let layout = Fields::read(reader, mongodb).layout().unwrap_or_else(|(name, error)| {
            reader.mistake(name, error);
            Layout::default()
        });

        Self { layout: layout.into(), id_prefix: id_prefix(reader) }
    }
}

fn id_prefix(reader: &mut Reader<'_>) -> String {
    let prefix: Option<String> = reader
        .setting(
            "id_prefix",
            "Prefix of every message id, such as \"eu.\". The stream drops a message whose id it has \
             stored, so two outboxes with the same database, collection and ids, such as those of \
             two clusters, need different prefixes in one stream. Change it only while the outbox \
             is empty: with another prefix, an event in flight is another event to the stream.",
        )
        .example("\"eu.\"")
        .read();

    let prefix = prefix.unwrap_or_default();
    if prefix.len() > MAX_ID_PREFIX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        reader.mistake(
            "id_prefix",
            format!("is not {MAX_ID_PREFIX} or fewer printable ASCII characters without spaces"),
        );
    }

    prefix
}

impl Fields {
    fn read(reader: &mut Reader<'_>, mongodb: &MongodbConfig) -> Self {
        let (preset, is_own) = reader
            .setting(
                "layout",
                "Whose documents the outbox holds. \"outboxd\": documents of the event contract. \
                 \"debezium\": documents of Debezium's outbox event router, with its defaults: \
                 subject \"outbox.event.{aggregatetype}\", key \"aggregateid\", headers \"id\" and \
                 \"eventType\". With \"debezium\", or with another value in one of the next four \
                 settings, outboxd takes the documents as they are: `isLocked`, `ts` and \
                 `failures` may be missing, and `outboxd migrate` doesn't change the collection's \
                 validator.",
            )
            .one_of(&[("outboxd", (&OUTBOXD, true)), ("debezium", (&DEBEZIUM, false))]);

        let extra = preset.extra_headers.iter().map(|text| (*text).to_owned()).collect();
        Self {
            is_own,
            subject: reader
                .setting(
                    "subject",
                    "The subject: a template. {name} is replaced by the text in that field of the \
                     document.",
                )
                .or(preset.subject.to_owned()),
            key: reader
                .setting("key", "Field at the top of the document that holds the key.")
                .or(preset.key.to_owned()),
            payload: reader
                .setting("payload", "Field at the top of the document that holds the payload.")
                .or(field::PAYLOAD.to_owned()),
            headers: reader
                .setting("headers", "Field at the top of the document that holds the headers.")
                .or(field::HEADERS.to_owned()),
            prefix: reader
                .setting(
                    "subject_prefix",
                    "Prefix of every subject, such as \"staging.\". The stream's subjects include \
                     it.",
                )
                .example("\"staging.\"")
                .read()
                .unwrap_or_default(),
            extra_headers: reader
                .setting(
                    "extra_headers",
                    "Headers made from other fields, such as \"eventType={type}\". outboxd leaves \
                     a header out if one of its fields is missing, or if the event itself has \
                     that header.",
                )
                .or(extra),
            cloudevents: CloudEvents::read(reader, preset, mongodb),
        }
    }

    /// The layout, or the setting that is wrong and what is wrong with it.
    fn layout(&self) -> Result<Layout, (&'static str, String)> {
        let fields = [&*self.subject, &*self.key, &*self.payload, &*self.headers];
        let own = [OUTBOXD.subject, field::KEY, field::PAYLOAD, field::HEADERS];
        let mut layout = if self.is_own && fields == own {
            Layout::default()
        } else {
            Layout::of_fields(&self.key, &self.payload, &self.headers)
                .map_err(|error| ("key", error.to_string()))?
        };

        layout = layout
            .with_subject(&self.prefix, &self.subject)
            .map_err(|error| ("subject", error.to_string()))?;

        for header in &self.extra_headers {
            layout = with_header(layout, header).map_err(|error| ("extra_headers", error))?;
        }

        match &self.cloudevents {
            None => Ok(layout),
            Some(CloudEvents { source, kind }) => layout
                .with_cloudevents(source, kind.as_deref())
                .map_err(|error| ("cloudevents_type", error.to_string())),
        }
    }
}

impl CloudEvents {
    fn read(reader: &mut Reader<'_>, preset: &Preset, mongodb: &MongodbConfig) -> Option<Self> {
        let is_on = reader
            .setting(
                "cloudevents",
                "\"binary\": each message has the attributes of CloudEvents 1.0 in `ce-` headers, \
                 and the payload as it is. \"off\": no such headers.",
            )
            .one_of(&[("off", false), ("binary", true)]);

        let source = reader
            .setting(
                "cloudevents_source",
                "The `ce-source`: a URI reference that names the service.",
            )
            .computed("/<mongodb.database>/<mongodb.collection>")
            .example("\"/shop/tickets\"")
            .read()
            .unwrap_or_else(|| format!("/{}/{}", mongodb.database, mongodb.collection));

        let kind = reader
            .setting("cloudevents_type", "The `ce-type`: a template like that of the subject.")
            .computed("the subject; for Debezium's layout {type}")
            .example("\"com.example.{type}\"")
            .read()
            .or_else(|| preset.cloudevents_type.map(str::to_owned));

        is_on.then_some(Self { source, kind })
    }
}

/// Adds a header such as `eventType={type}`.
fn with_header(layout: Layout, header: &str) -> Result<Layout, String> {
    let (name, template) = header.split_once('=').unwrap_or((header, ""));
    if template.is_empty() || Headers::default().insert(name, "").is_err() {
        return Err(format!(
            "{header:?} is not a header and its text, such as \"eventType={{type}}\""
        ));
    }

    layout.with_header(name, template).map_err(|error| error.to_string())
}

//! *Event*: one event, why it is where it is, and what to do. Its payload and headers are shown to
//! whoever asks for them, and the audit has who did.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::response::IntoResponse as _;
use bson::{Bson, Document};
use outboxd_client::field;
use serde::Deserialize;

use super::events::{Row, row};
use super::frame::{Frame, Page, Problem, render};
use crate::console::access::Person;
use crate::console::outbox::Connection;
use crate::console::redact::redact;
use crate::console::site::Site;
use crate::console::text::{age_or_dash, due, encoded, events, second, with_code};
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::error::MongodbContext as _;
use crate::mongodb::act::AuditEntry;
use crate::mongodb::inspect::text;
use crate::operator::event::{Known, Means, size};

/// Most fields, headers and failures shown.
const MOST: usize = 100;
/// Characters shown of one value.
const MAX_VALUE: usize = 2048;
/// Characters shown of a payload.
const MAX_PAYLOAD: usize = 256 << 10;
/// In the place of a header's value that nobody asked for.
const HIDDEN: &str = "hidden";
/// The header that names the trace.
const TRACEPARENT: &str = "traceparent";

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    frame: Frame,
    path: String,
    id: String,
    scheduled: bool,
    state: &'static str,
    meaning: &'static str,
    age: String,
    due: Option<String>,
    key: Option<(String, String)>,
    /// What it waits behind.
    head: Option<Row>,
    behind: Option<String>,
    /// As markup.
    what_to_do: String,
    failures: Vec<Failure>,
    fields: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    trace: Option<String>,
    /// What is said in the place of the payload.
    payload_hidden: String,
    /// Whether there is something that is shown to whoever asks.
    is_hidden: bool,
    payload: Option<String>,
}

/// One entry of the timeline.
struct Failure {
    at: String,
    attempt: String,
    code: String,
    class: String,
    error: String,
    relay: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    id: String,
    #[serde(default)]
    scheduled: bool,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    csrf: String,
    id: String,
    #[serde(default)]
    scheduled: bool,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Page {
    show(&site, &person, &name, wanted, false).await
}

/// The same page with the payload, which the audit records first.
pub(super) async fn with_payload(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Form(Asked { csrf, id, scheduled }): Form<Asked>,
) -> Page {
    person.sent(&csrf)?;
    show(&site, &person, &name, Wanted { id, scheduled }, true).await
}

async fn show(
    site: &Site,
    person: &Person,
    name: &str,
    Wanted { id, scheduled }: Wanted,
    with_payload: bool,
) -> Page {
    let outbox = site.wanted(name)?;
    let connection = outbox.connection();
    let layout = &*connection.config.event.layout;
    let known = Known::read(&connection.inspect, layout, &id, scheduled, Means::Buttons).await?;
    let Some(known) = known else {
        return Err(Problem::not_found(format!(
            "No event {id} is in the outbox or scheduled: it was published, discarded, cancelled, or \
             never written."
        )));
    };

    let has_hidden =
        [layout.payload(), layout.headers()].map(|name| known.event.contains_key(name));
    let is_asked = with_payload && has_hidden.contains(&true);
    if is_asked {
        record(&connection, person, &known.event).await?;
    }

    let frame = site.frame_of(outbox, person, "Event", "events");
    Ok(render(&event_page(frame, &connection, known, is_asked)).into_response())
}

/// Records that somebody looks at payload and headers. Without the record nobody does.
async fn record(
    connection: &Connection,
    person: &Person,
    event: &Document,
) -> crate::error::Result<()> {
    let act = connection.act();
    let id = event.get(field::ID).cloned().unwrap_or(Bson::Null);
    let (who, selection) = (person.who(), shown_id(&id));
    let entry =
        AuditEntry { who: &who, action: "show-payload", selection: &selection, reason: None };

    let request = act.record_request(&entry, (&[id], 1), None).await;
    let request = request.during("recording in outboxd_audit that the payload is shown")?;
    let outcome = act.record_outcome(&entry, request, 1).await;
    outcome.during("recording in outboxd_audit that the payload is shown")
}

fn event_page(frame: Frame, connection: &Connection, known: Known, is_asked: bool) -> EventPage {
    let console = &connection.config.console;
    let redacted = &*console.redact;
    let layout = &*connection.config.event.layout;
    let path = format!("/o/{}", encoded(frame.outbox.as_deref().unwrap_or_default()));
    let event = &known.event;
    let key = layout.shown_key(|name| event.get(name).cloned());
    let headers = headers(event, layout, (redacted, is_asked));
    let payload = event.get(layout.payload());

    EventPage {
        id: event.get(field::ID).map(shown_id).unwrap_or_default(),
        scheduled: known.is_scheduled,
        state: known.state.word(),
        meaning: known.state.meaning(),
        age: age_or_dash(known.waited),
        due: known.due_in.map(due),
        key: key.map(|key| (format!("{path}/key?key={}", encoded(&key)), key)),
        head: known.head.as_ref().map(|head| row(head, &path)),
        behind: (known.behind > 0).then(|| events(known.behind)),
        what_to_do: with_code(&known.what_to_do),
        failures: failures(event),
        fields: fields(event, layout, redacted),
        trace: trace(&headers, console.trace_url.as_deref()),
        is_hidden: !is_asked && (payload.is_some() || !headers.is_empty()),
        headers,
        payload_hidden: match payload {
            Some(payload) => format!("Hidden, about {} bytes.", size(payload)),
            None => "The event has no payload.".to_owned(),
        },
        payload: payload
            .filter(|_| is_asked)
            .map(|payload| shown_payload(layout.payload(), payload.clone(), redacted)),
        frame,
        path,
    }
}

/// The timeline, oldest first.
fn failures(event: &Document) -> Vec<Failure> {
    let failures = event.get_array(field::FAILURES).map(Vec::as_slice).unwrap_or_default();
    let newest = failures.len().saturating_sub(MOST);
    let failures = failures[newest..].iter().filter_map(Bson::as_document);
    let read = failures.map(|failure| {
        let field = |name: &str| text(failure, name).unwrap_or_default();
        let at = failure.get_datetime("at").ok().and_then(|at| at.try_to_rfc3339_string().ok());
        let attempt = failure.get("attempt").map(value).unwrap_or_default();
        Failure {
            at: at.as_deref().map(second).unwrap_or_default(),
            attempt,
            code: field("code"),
            class: field("class"),
            error: field("error"),
            relay: field("relay"),
        }
    });

    read.collect()
}

/// The other fields of the document, without what the settings redact.
fn fields(event: &Document, layout: &Layout, redacted: &[String]) -> Vec<(String, String)> {
    let shown_elsewhere = [
        field::ID,
        field::IS_LOCKED,
        field::FAILURES,
        field::TS,
        layout.payload(),
        layout.headers(),
        layout.key(),
    ];
    let fields = event.iter().filter(|(name, _)| !shown_elsewhere.contains(&name.as_str()));
    listed(fields.map(|(name, value)| (name.clone(), value.clone())).collect(), redacted)
}

/// The headers, without what the settings redact, and without values unless somebody asked for them;
/// the trace is no secret.
fn headers(
    event: &Document,
    layout: &Layout,
    (redacted, is_asked): (&[String], bool),
) -> Vec<(String, String)> {
    let headers = event.get_document(layout.headers()).ok().cloned();
    let mut headers = listed(headers.unwrap_or_default(), redacted);
    for (name, value) in &mut headers {
        if !is_asked && !name.eq_ignore_ascii_case(TRACEPARENT) {
            HIDDEN.clone_into(value);
        }
    }

    headers
}

fn listed(fields: Document, redacted: &[String]) -> Vec<(String, String)> {
    let Bson::Document(fields) = redact(fields.into(), redacted) else { return Vec::new() };
    let fields = fields.iter().take(MOST);
    fields.map(|(name, content)| (cut(name, MAX_VALUE), value(content))).collect()
}

/// Where the event's trace is shown.
fn trace(headers: &[(String, String)], url: Option<&str>) -> Option<String> {
    let is_parent = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(TRACEPARENT);
    let (_, parent) = headers.iter().find(is_parent)?;
    let id = parent.split('-').nth(1)?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some(url?.replace("{trace_id}", id)).filter(|_| is_id)
}

fn value(value: &Bson) -> String {
    match value {
        Bson::String(text) => cut(text, MAX_VALUE),
        Bson::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_default(),
        other => cut(&other.clone().into_relaxed_extjson().to_string(), MAX_VALUE),
    }
}

/// The payload as JSON, without what the settings redact: by paths in it, and by paths that begin
/// with its field.
fn shown_payload(field: &str, payload: Bson, redacted: &[String]) -> String {
    let begin = format!("{field}.");
    let own = redacted.iter().filter_map(|path| path.strip_prefix(&begin));
    let paths: Vec<_> = redacted.iter().cloned().chain(own.map(str::to_owned)).collect();
    let shown = serde_json::to_string_pretty(&redact(payload, &paths).into_relaxed_extjson());
    cut(&shown.unwrap_or_else(|error| error.to_string()), MAX_PAYLOAD)
}

fn cut(text: &str, most: usize) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        shown.push_str("… (cut here)");
    }

    shown
}

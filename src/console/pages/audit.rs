//! *Audit*: who did what to which events.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;

use super::frame::{Frame, Page, render};
use crate::console::access::Person;
use crate::console::site::Site;
use crate::console::text::{number, second};
use crate::operator::audit::Record;

/// Records on the page, the newest first.
const LIMIT: i64 = 100;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    records: Vec<Row>,
}

struct Row {
    at: String,
    who: String,
    action: String,
    events: String,
    selection: String,
    reason: String,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let records = Record::newest(&outbox.connection().act(), LIMIT).await?;
    let frame = site.frame_of(outbox, &person, "Audit", "audit");
    let records = records.into_iter().map(row).collect();
    Ok(render(&AuditPage { frame, records }).into_response())
}

fn row(record: Record) -> Row {
    Row {
        at: second(&record.at),
        who: record.who,
        action: record.action,
        events: record.events.map_or_else(|| "unknown".to_owned(), number),
        selection: record.selection,
        reason: record.reason.unwrap_or_default(),
    }
}

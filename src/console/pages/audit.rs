//! *Audit*: who did what to which events.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;

use super::frame::{Frame, Page, render};
use crate::console::access::Person;
use crate::console::jobs::Job;
use crate::console::site::Site;
use crate::console::text::{number, second};
use crate::operator::audit::Record;

/// Records on the page, the newest first.
const LIMIT: i64 = 100;
/// Actions on the page.
const JOBS: usize = 20;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    /// What was done here since the console started, the newest first.
    jobs: Vec<JobRow>,
    records: Vec<Row>,
}

struct JobRow {
    href: String,
    action: &'static str,
    who: String,
    selection: String,
    done: String,
    state: &'static str,
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
    let mut jobs = site.jobs.of(&name);
    // Those under way come first.
    jobs.sort_by_key(|job| !job.is_running());
    let jobs = jobs.iter().take(JOBS).map(|job| job_row(job)).collect();
    Ok(render(&AuditPage { frame, jobs, records }).into_response())
}

fn job_row(job: &Job) -> JobRow {
    let progress = job.progress.borrow();
    JobRow {
        href: job.path(),
        action: job.action,
        who: job.who.clone(),
        selection: job.selection.clone(),
        done: format!("{} of {}", number(progress.done), number(job.events)),
        state: match &progress.ended {
            None => "under way",
            Some(Ok(())) => "finished",
            Some(Err(_)) => "ended early",
        },
    }
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

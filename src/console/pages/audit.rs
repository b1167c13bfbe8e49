//! *Audit*: who did what to which events.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Deserialize;

use super::frame::{Frame, Page, Problem, render};
use super::paging::{LIMIT, Paging};
use crate::console::access::Person;
use crate::console::jobs::Job;
use crate::console::site::Site;
use crate::console::text::{encoded, number, second};
use crate::mongodb::act::AuditFilter;
use crate::operator::audit::Record;

/// Actions on the page.
const JOBS: usize = 20;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    /// What was done here since the console started, the newest first.
    jobs: Vec<JobRow>,
    records: Vec<Row>,
    path: String,
    asked: Asked,
    newer: Option<String>,
    older: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    action: String,
    who: String,
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
    Query(asked): Query<Asked>,
    Query(paging): Query<Paging>,
) -> Page {
    let outbox = site.wanted(&name)?;
    // BSON has no pattern with such a character.
    if asked.who.contains('\0') {
        let message = "A name can't have a NUL character.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }

    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let wanted = AuditFilter { action: given(&asked.action), who: given(&asked.who) };
    let skip = paging.skip();
    let act = outbox.connection().act();
    let mut records = Record::newest(&act, &wanted, skip, LIMIT + 1).await?;
    let to = skip + records.len() as u64;
    records.truncate(LIMIT.unsigned_abs() as usize);

    let path = format!("/o/{}", encoded(&name));
    let words = [("action", &asked.action), ("who", &asked.who)];
    let words = words.map(|(name, text)| format!("{name}={}&", encoded(text))).concat();
    let at = |page: u64| format!("{path}/audit?{words}page={page}");
    let (newer, older) = paging.neighbours((skip + records.len() as u64, to), at);
    let frame = site.frame_of(outbox, &person, "Audit", "audit");
    let records = records.into_iter().map(row).collect();
    let mut jobs = site.jobs.of(&name);
    // Those under way come first.
    jobs.sort_by_key(|job| !job.is_running());
    let jobs = jobs.iter().take(JOBS).map(|job| job_row(job)).collect();
    Ok(render(&AuditPage { frame, jobs, records, path, asked, newer, older }).into_response())
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

//! An action under way, with its outcome as it comes.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::response::{IntoResponse as _, Redirect};
use serde::Deserialize;

use super::frame::{Frame, Page, Problem, part as rendered, render};
use crate::console::access::Person;
use crate::console::jobs::{Came, Job, Progress};
use crate::console::site::Site;
use crate::console::text::{encoded, number};
use crate::operator::act::Action;

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    path: String,
    id: String,
    action: &'static str,
    who: String,
    selection: String,
    part: Arc<str>,
    is_running: bool,
    /// Why this person can't stop it.
    disabled: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "job_part.html")]
struct JobPart<'a> {
    id: &'a str,
    total: String,
    done: String,
    /// Of a hundred.
    percent: u64,
    came: &'a [Came],
    named: Vec<Named<'a>>,
    ended: Option<&'a Result<(), String>>,
}

#[derive(Deserialize)]
pub(super) struct Stop {
    csrf: String,
}

struct Named<'a> {
    id: &'a str,
    /// Its page, if it has one.
    href: Option<String>,
    why: &'a str,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path((name, id)): Path<(String, String)>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let job = wanted(&site, &name, &id)?;

    let page = JobPage {
        frame: site.frame_of(outbox, &person, "Action", "events"),
        path: format!("/o/{}", encoded(&name)),
        action: job.action,
        who: job.who.clone(),
        selection: job.selection.clone(),
        part: part(&job, &job.progress.borrow()),
        is_running: job.is_running(),
        disabled: person.denied(),
        id,
    };

    Ok(render(&page).into_response())
}

/// Stops an action. What it has begun is ended, and its page reports how far it came.
pub(super) async fn stop(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path((name, id)): Path<(String, String)>,
    Form(Stop { csrf }): Form<Stop>,
) -> Page {
    person.acts(&csrf)?;

    let job = wanted(&site, &name, &id)?;
    job.stop(&person);
    Ok(Redirect::to(&job.path()).into_response())
}

fn wanted(site: &Site, outbox: &str, id: &str) -> Result<Arc<Job>, Problem> {
    site.jobs.job(id).filter(|job| job.outbox == outbox).ok_or_else(|| {
        Problem::not_found("This action is forgotten; the page Audit has what came of it.")
    })
}

/// How far the action is, as a part of its page.
pub(in crate::console) fn part(job: &Job, progress: &Progress) -> Arc<str> {
    let Progress { done, came, named, ended } = progress;
    let is_stuck = job.action == Action::RetryNow.name();
    let path = format!("/o/{}/event?id=", encoded(&job.outbox));
    let named = named.iter().map(|(id, why)| Named {
        id,
        href: is_stuck.then(|| format!("{path}{}", encoded(id))),
        why,
    });

    rendered(&JobPart {
        id: &job.id,
        total: number(job.events),
        done: number(*done),
        percent: done.saturating_mul(100) / job.events.max(1),
        came,
        named: named.collect(),
        ended: ended.as_ref(),
    })
}

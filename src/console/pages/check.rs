//! *Check*: what `outboxd check` finds, when somebody asks for it.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;

use super::frame::{Frame, Page, render};
use crate::console::access::Person;
use crate::console::outbox::Checked;
use crate::console::site::Site;
use crate::finding::{Finding, Level};

/// How old findings may be that this page shows.
const FRESH: Duration = Duration::from_secs(30);

#[derive(Template)]
#[template(path = "check.html")]
struct CheckPage {
    frame: Frame,
    /// Failures first, then warnings.
    bad: Vec<Finding>,
    ok: Vec<Finding>,
    /// Whether the user that checked has fewer rights than the relay's.
    is_partial: bool,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let Checked { findings, is_partial, .. } = outbox.check(FRESH).await;
    let (ok, mut bad): (Vec<_>, Vec<_>) =
        findings.iter().cloned().partition(|finding| finding.level == Level::Ok);
    bad.sort_by_key(|finding| finding.level != Level::Fail);
    let frame = site.frame_of(outbox, &person, "Check", "check");
    Ok(render(&CheckPage { frame, bad, ok, is_partial }).into_response())
}

/// A finding as its page shows it.
impl Finding {
    pub(super) fn word(&self) -> &'static str {
        match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

//! The confirmation of what somebody was shown: it is checked, and done once.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use serde::Deserialize;

use super::act::{ConfirmForm, Words, words_of};
use super::frame::{Frame, Page, Problem, render};
use crate::console::access::Person;
use crate::console::jobs::{Preview, What};
use crate::console::site::Site;
use crate::console::text::{encoded, events};

/// Highest rate that a form takes.
const MAX_RATE: u32 = 100_000;
/// Longest reason for the audit.
const MAX_REASON: usize = 1000;

/// The same form once more, because of what was typed.
#[derive(Template)]
#[template(path = "again.html")]
struct AgainPage {
    frame: Frame,
    title: &'static str,
    total: String,
    error: String,
    form: ConfirmForm,
}

#[derive(Deserialize)]
pub(super) struct Confirmed {
    csrf: String,
    preview: String,
    #[serde(default)]
    typed: String,
    #[serde(default)]
    rate: String,
    #[serde(default)]
    reason: String,
}

/// Does what was shown.
pub(super) async fn confirmed(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Form(form): Form<Confirmed>,
) -> Page {
    person.acts(&form.csrf)?;

    let outbox = site.wanted(&name)?;
    let gone = || {
        let message = "What you were shown is too old to be confirmed, or was confirmed already. \
                       Go back and look again. Nothing is done.";
        Problem::new(StatusCode::CONFLICT, message)
    };

    let look = |preview: &Preview| {
        (preview.outbox == name).then(|| (words_of_preview(preview), preview.what.events()))
    };
    let shown = site.jobs.previews.look(&person, &form.preview, look).flatten();
    let (words, count) = shown.ok_or_else(gone)?;
    let must_type = words.must_type.then_some(count);
    let (rate, reason) = match checked(&form, must_type, site.jobs.is_full()) {
        Ok(checked) => checked,
        // What was shown stays, and so does what was typed.
        Err((status, error)) => {
            let path = format!("/o/{}", encoded(&name));
            let (title, total) = (words.title, events(count));
            let frame = site.frame_of(outbox, &person, "Confirm", "events");
            let form = ConfirmForm {
                action: format!("{path}/act"),
                preview: form.preview,
                must_type,
                typed: form.typed,
                rate: form.rate,
                reason: form.reason,
                button: words.button,
                back: format!("{path}/groups"),
            };
            let page = AgainPage { frame, title, total, error, form };
            return Ok((status, render(&page)).into_response());
        }
    };

    let preview = site.jobs.previews.take(&person, &form.preview).ok_or_else(gone)?;
    let job = site.jobs.start(outbox, &person, preview, (reason, rate));
    Ok(Redirect::to(&job.path()).into_response())
}

/// Rate and reason of a form, or why nothing can be done with it.
fn checked(
    Confirmed { typed, rate, reason, .. }: &Confirmed,
    must_type: Option<u64>,
    is_full: bool,
) -> Result<(Option<u32>, Option<String>), (StatusCode, String)> {
    let wrong = |message: String| Err((StatusCode::BAD_REQUEST, message));
    let rate = match rate.trim() {
        "" => None,
        rate => match rate.parse() {
            Ok(rate @ 1..=MAX_RATE) => Some(rate),
            _ => {
                return wrong(format!(
                    "Give a rate from 1 to {MAX_RATE} a second; nothing is done."
                ));
            }
        },
    };

    let reason = reason.trim();
    if reason.len() > MAX_REASON {
        return wrong(format!("Give a reason of at most {MAX_REASON} bytes; nothing is done."));
    }

    if let Some(count) =
        must_type.filter(|count| typed.trim().replace(',', "") != count.to_string())
    {
        return wrong(format!(
            "To discard {}, type {count}. You typed {typed:?}, so nothing is done.",
            events(count)
        ));
    }

    if is_full {
        let message = "The actions under way have as many events as the console takes at a time. Wait \
                       until one has ended, then confirm again; nothing is done.";
        return Err((StatusCode::CONFLICT, message.to_owned()));
    }

    Ok((rate, (!reason.is_empty()).then(|| reason.to_owned())))
}

fn words_of_preview(preview: &Preview) -> Words {
    match &preview.what {
        What::Act(action, chosen) => words_of(action, chosen.are_scheduled()),
        What::Replay(..) | What::Verify(..) => {
            Words { title: "Replay", button: "Replay them", meaning: "", must_type: false }
        }
    }
}

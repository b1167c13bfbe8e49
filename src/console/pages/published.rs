//! *Published*: the kept events, newest first, and publishing them again.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use serde::{Deserialize, Serialize};

use super::act::ConfirmForm;
use super::frame::{Frame, Page, Problem, render};
use super::paging::{LIMIT, Paging};
use crate::console::access::Person;
use crate::console::jobs::{Preview, What};
use crate::console::site::Site;
use crate::console::text::{encoded, events, number, second};
use crate::error::MongodbContext as _;
use crate::mongodb::kept::KeptEntry;
use crate::operator::kept::{self, KeptFilter};
use crate::operator::replay::{HEADER, RATE};

#[derive(Template)]
#[template(path = "published.html")]
struct PublishedPage {
    frame: Frame,
    path: String,
    asked: Asked,
    /// Why there may be none.
    none: Option<String>,
    /// Why this person can't compare them with the stream.
    disabled: Option<String>,
    rows: Vec<Row>,
    total: String,
    /// The filter as a part of an address: percent-encoded.
    words: String,
    newer: Option<String>,
    older: Option<String>,
}

#[derive(Template)]
#[template(path = "replay.html")]
struct ReplayPage {
    frame: Frame,
    stream: String,
    header: &'static str,
    total: String,
    selection: String,
    disabled: Option<String>,
    form: ConfirmForm,
}

struct Row {
    id: String,
    at: String,
    stream: String,
    sequence: String,
    subject: String,
    key: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    subject: String,
    key: String,
    since: String,
    until: String,
}

#[derive(Deserialize)]
pub(super) struct Verify {
    csrf: String,
    #[serde(flatten)]
    asked: Asked,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    Query(paging): Query<Paging>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let kept = outbox.connection().kept();
    let (filter, total) = kept.select(&asked.filter()?.selection(None)).await?;

    let skip = paging.skip();
    let found = kept.store.newest_matching(&filter, skip, LIMIT).await;
    let found = found.during("reading kept events")?;

    let path = format!("/o/{}", encoded(&name));
    let to = skip + found.len() as u64;
    let words = asked.words();
    let at = |page: u64| format!("{path}/published?{words}page={page}");
    let (newer, older) = paging.neighbours((to, total), at);
    let page = PublishedPage {
        frame: site.frame_of(outbox, &person, "Published", "published"),
        none: (total == 0).then(|| kept.why_none()),
        disabled: person.denied().map(str::to_owned),
        rows: found.into_iter().map(row).collect(),
        total: events(total),
        newer,
        older,
        words: words.replace('&', "&amp;"),
        path,
        asked,
    };

    Ok(render(&page).into_response())
}

/// What a replay would publish, and the form that confirms it.
pub(super) async fn replay(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let kept = outbox.connection().kept();
    let filter = asked.filter()?;
    let selection = format!("--all {}", filter.words()).trim().to_owned();
    let place = site.jobs.place(&person).await;
    let (found, total) = kept.select(&filter.selection(None)).await?;
    drop(place);

    let disabled = match total {
        0 => Some(kept.why_none()),
        _ => person.denied().map(str::to_owned),
    };

    let preview = match disabled {
        Some(_) => String::new(),
        None => {
            let what = What::Replay(found, total);
            site.jobs.previews.keep(Preview::new(&person, &name, what, selection.clone()))
        }
    };

    let path = format!("/o/{}", encoded(&name));
    let page = ReplayPage {
        frame: site.frame_of(outbox, &person, "Replay", "published"),
        stream: kept.config.stream.name.clone(),
        header: HEADER,
        total: events(total),
        selection,
        disabled,
        form: ConfirmForm {
            action: format!("{path}/replay"),
            preview,
            rate: RATE.to_string(),
            button: "Replay them",
            back: format!("{path}/published"),
            ..ConfirmForm::default()
        },
    };

    Ok(render(&page).into_response())
}

/// Compares the kept events that a filter selects with the stream. One comparison of an outbox runs at
/// a time: whoever asks for another sees that one.
pub(super) async fn verify(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Form(Verify { csrf, asked }): Form<Verify>,
) -> Page {
    person.acts(&csrf)?;

    let outbox = site.wanted(&name)?;
    let filter = asked.filter()?;
    let (found, total) = outbox.connection().kept().select(&filter.selection(None)).await?;
    let job = site.jobs.verifying(&name).unwrap_or_else(|| {
        let selection = format!("--all {}", filter.words()).trim().to_owned();
        let preview = Preview::new(&person, &name, What::Verify(found, total), selection);
        site.jobs.start(outbox, &person, preview, (None, None))
    });

    Ok(Redirect::to(&job.path()).into_response())
}

impl Asked {
    fn filter(&self) -> Result<KeptFilter, Problem> {
        let time = |text: &str| match text.trim() {
            "" => Ok(None),
            text => kept::time(text)
                .map(Some)
                .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, format!("{text} is {why}."))),
        };

        // BSON has no pattern with such a character, and no subject or key has it.
        if [&self.subject, &self.key].iter().any(|text| text.contains('\0')) {
            let message = "A filter can't have a NUL character.";
            return Err(Problem::new(StatusCode::BAD_REQUEST, message));
        }

        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(KeptFilter {
            subject: given(self.subject.trim()),
            key: given(&self.key),
            since: time(&self.since)?,
            until: time(&self.until)?,
        })
    }

    /// As the beginning of an address's query.
    fn words(&self) -> String {
        let Self { subject, key, since, until } = self;
        let pairs = [("subject", subject), ("key", key), ("since", since), ("until", until)];
        let given = pairs.into_iter().filter(|(_, text)| !text.is_empty());
        given.map(|(name, text)| format!("{name}={}&", encoded(text))).collect()
    }
}

fn row(event: KeptEntry) -> Row {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    Row {
        id: event.id,
        at: event.published_at.as_deref().map_or_else(|| "–".to_owned(), second),
        stream: dash(event.stream),
        sequence: dash(event.seq.map(|seq| number(seq.unsigned_abs()))),
        subject: dash(event.subject),
        key: dash(event.key),
    }
}

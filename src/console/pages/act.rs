//! What somebody is about to do: how many events of which kinds it touches, as the server counted
//! them, and the form that confirms it.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use bson::Bson;
use serde::Deserialize;

use super::events::{Row, row};
use super::frame::{Frame, Page, Problem, render};
use crate::console::access::Person;
use crate::console::jobs::{Preview, What};
use crate::console::outbox::Connection;
use crate::console::site::Site;
use crate::console::text::{age, encoded, events, number};
use crate::document::state::State as EventState;
use crate::error::{MongodbContext as _, Result};
use crate::mongodb::chosen::{Chosen, Tally};
use crate::mongodb::selection::Selection;
use crate::operator::act::{Action, left_alone};
use crate::operator::filter::{Asked, Filter};
use crate::operator::look::relayed_by;

/// Most texts of one kind that are named.
const NAMED: usize = 8;
/// Most events of one action: their ids are in memory, about 15 MB of them. A command takes more.
const MOST: u64 = 100_000;
/// Highest rate that a form takes.
const MAX_RATE: u32 = 100_000;
/// Longest reason for the audit.
const MAX_REASON: usize = 1000;

#[derive(Template)]
#[template(path = "act.html")]
struct ActPage {
    frame: Frame,
    path: String,
    words: Words,
    selection: String,
    total: String,
    count: u64,
    tallies: Vec<(&'static str, Vec<(String, String)>)>,
    sample: Vec<Row>,
    warnings: Vec<String>,
    /// Why it can't be done.
    disabled: Option<String>,
    rate: Option<u32>,
    must_type: bool,
    /// What the form names its events by.
    preview: String,
}

/// What an action is called, by what it is done to.
#[derive(Debug, Clone, Copy)]
struct Words {
    title: &'static str,
    button: &'static str,
    meaning: &'static str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    action: String,
    #[serde(default)]
    id: String,
    /// Whether the event is among the scheduled ones. One in the outbox may have the same id.
    #[serde(default)]
    scheduled: bool,
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

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    Query(Wanted { action, id, scheduled }): Query<Wanted>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let connection = outbox.connection();
    let action = match &*action {
        "retry-now" => Action::RetryNow,
        "discard" => Action::Discard,
        other => {
            let message = format!("{other} is no action; give retry-now or discard.");
            return Err(Problem::new(StatusCode::BAD_REQUEST, message));
        }
    };

    let filter = asked.filter()?;
    let (selection, words, locked) = match id.is_empty() {
        true => of_filter(&filter, &action),
        false => of_one(&connection, &id, scheduled).await?,
    };

    let is_scheduled = selection.state == Some(EventState::Scheduled);
    let window = connection.config.stream.duplicate_window;
    let _place = site.jobs.place(&person).await;
    // Who may not act needs numbers alone.
    let chosen = match person.may_act() {
        true => connection.inspect.chosen(&selection, window, MOST).await,
        false => connection.inspect.counted(&selection, window, MOST).await,
    };
    let chosen = chosen.during("reading the outbox")?;

    let disabled = locked.or_else(|| disabled(&person, &chosen));
    let warnings = warnings(&connection, &action, (&selection, &chosen)).await?;
    let path = format!("/o/{}", encoded(&name));
    let mut page = ActPage {
        frame: site.frame_of(outbox, &person, "Confirm", "events"),
        words: words_of(&action, is_scheduled || chosen.are_scheduled()),
        selection: words.clone(),
        total: events(chosen.events()),
        count: chosen.events(),
        tallies: [
            ("states", &chosen.states),
            ("codes", &chosen.codes),
            ("subjects", &chosen.subjects),
            ("keys", &chosen.keys),
        ]
        .map(|(name, tally)| (name, most(tally)))
        .into(),
        sample: chosen.sample.iter().map(|entry| row(entry, &path)).collect(),
        warnings,
        rate: action.rate(chosen.events()),
        must_type: action == Action::Discard,
        preview: String::new(),
        disabled,
        path,
    };

    // Who may not confirm it has nothing that could be sent.
    if page.disabled.is_none() {
        let what = What::Act(action, Box::new(chosen));
        page.preview = site.jobs.show(Preview::new(&person, &name, what, words));
    }

    Ok(render(&page).into_response())
}

/// Does what was shown.
pub(super) async fn confirmed(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Form(form): Form<Confirmed>,
) -> Page {
    person.sent(&form.csrf)?;
    if let Some(why) = not_allowed(&person) {
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }

    let outbox = site.wanted(&name)?;
    let gone = || {
        let message = "What you were shown is too old to be confirmed, or was confirmed already. \
                       Go back and look again. Nothing is done.";
        Problem::new(StatusCode::CONFLICT, message)
    };

    let (shown, must_type) = site.jobs.shown(&person, &form.preview).ok_or_else(gone)?;
    let rate = rate(&form.rate)?;
    let reason = form.reason.trim();
    if reason.len() > MAX_REASON {
        let message = format!("Give a reason of at most {MAX_REASON} bytes. Nothing is done.");
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }

    if site.jobs.is_full() {
        let message = "The actions under way have as many events as the console takes at a time. Wait \
                       until one has ended, then confirm again. Nothing is done.";
        return Err(Problem::new(StatusCode::CONFLICT, message));
    }
    let typed = form.typed.trim().replace(',', "");
    if must_type && typed != shown.to_string() {
        let message = format!(
            "To discard {}, type {shown}. You typed {:?}, so nothing is done. Go back and type it \
             again.",
            events(shown),
            form.typed
        );

        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }

    let preview = site.jobs.take(&person, &form.preview).ok_or_else(gone)?;
    if preview.outbox != name {
        return Err(gone());
    }

    let reason = (!reason.is_empty()).then(|| reason.to_owned());
    let job = site.jobs.start(outbox, &person, preview, (reason, rate));
    Ok(Redirect::to(&job.path()).into_response())
}

fn rate(text: &str) -> std::result::Result<Option<u32>, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }

    match text.parse() {
        Ok(rate @ 1..=MAX_RATE) => Ok(Some(rate)),
        _ => {
            let message = format!("Give a rate from 1 to {MAX_RATE} a second. Nothing is done.");
            Err(Problem::new(StatusCode::BAD_REQUEST, message))
        }
    }
}

/// What a filter selects, and the same in words for the audit.
fn of_filter(filter: &Filter, action: &Action) -> (Selection, String, Option<String>) {
    let mut selection = filter.selection();
    // A parked event is healthy: only whoever names it means it.
    selection.without_parked =
        *action == Action::Discard && selection.state != Some(EventState::Parked);
    let words = format!("--all {}", filter.words().join(" "));
    (selection, words.trim().to_owned(), None)
}

/// The same of one event. It can't be acted on while the relay owns it.
async fn of_one(
    Connection { inspect, .. }: &Connection,
    id: &str,
    scheduled: bool,
) -> std::result::Result<(Selection, String, Option<String>), Problem> {
    let named = inspect.named_in(&[id.to_owned()], scheduled).await;
    let named = named.during("reading the outbox")?.pop();
    let Some((found, state, is_scheduled)) = named.and_then(|named| named.event) else {
        return Err(Problem::not_found(match scheduled {
            true => format!(
                "No event {id} is scheduled any more: it was cancelled, or it was due and is in the \
                 outbox or published."
            ),
            false => format!(
                "No event {id} is in the outbox: it was published, discarded, or never written."
            ),
        }));
    };

    let locked = (state == EventState::Locked)
        .then(|| "The relay owns this event and may be publishing it.".to_owned());
    let ids = |wanted: bool| -> Vec<Bson> {
        if is_scheduled == wanted { vec![found.clone()] } else { Vec::new() }
    };

    let (ids, scheduled_ids) = (Some(ids(false)), ids(true));
    let selection = Selection { ids, scheduled_ids, ..Selection::default() };
    Ok((selection, id.to_owned(), locked))
}

/// Why nothing can be done.
fn disabled(person: &Person, chosen: &Chosen) -> Option<String> {
    if chosen.are_more {
        return Some(format!(
            "More than {} events match, and these are the oldest of them. Select fewer, or use the \
             command, which has no limit.",
            number(MOST)
        ));
    }

    match chosen.events() {
        0 => Some("No event matches.".to_owned()),
        _ => not_allowed(person),
    }
}

/// Why this person can't do it.
pub(super) fn not_allowed(person: &Person) -> Option<String> {
    let why = "You are signed in as a viewer. An operator may do this.";
    (!person.may_act()).then(|| why.to_owned())
}

/// What somebody should know before.
async fn warnings(
    Connection { inspect, config, .. }: &Connection,
    action: &Action,
    (selection, chosen): (&Selection, &Chosen),
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    match action {
        Action::Discard => {
            let let_go = match chosen.are_counted {
                true => Some(0),
                false => inspect.let_go(&chosen.ids).await.during("reading the outbox")?,
            };
            match let_go {
                Some(0) => {}
                Some(count) => warnings.push(format!(
                    "{} of their keys that waited behind them leave without them.",
                    events(count)
                )),
                None => warnings.push(
                    "MongoDB needs too long to count what would leave without them.".to_owned(),
                ),
            }

            let parked = match selection.without_parked {
                true => left_alone(inspect, selection).await?,
                false => 0,
            };

            if parked > 0 {
                warnings.push(format!(
                    "{} that only wait behind others match, too, and are left alone.",
                    events(parked)
                ));
            }
        }

        Action::RetryNow | Action::Edit(_) => {
            if chosen.may_come_twice > 0 {
                warnings.push(format!(
                    "{} got no answer at their last try, longer ago than the stream's duplicate \
                     window ({}): they may be in the stream already and would be stored twice.",
                    events(chosen.may_come_twice),
                    age(config.stream.duplicate_window.as_secs())
                ));
            }

            let lease = inspect.lease().await.during("reading the lease")?;
            warnings.extend(relayed_by(lease.as_ref()).err());
        }
    }

    Ok(warnings)
}

fn words_of(action: &Action, is_scheduled: bool) -> Words {
    let (title, button, meaning) = match (action, is_scheduled) {
        (Action::Discard, false) => {
            ("Discard", "Discard them", "They are removed for good, and nobody receives them.")
        }

        (Action::Discard, true) => {
            ("Cancel", "Cancel them", "They are removed for good, and are never delivered.")
        }

        (_, false) => ("Retry now", "Retry them", "The relay publishes them again at once."),
        (_, true) => ("Deliver now", "Deliver them", "The relay publishes them before their time."),
    };

    Words { title, button, meaning }
}

/// The most frequent texts, and how many events have each.
fn most(tally: &Tally) -> Vec<(String, String)> {
    let all = tally.most();
    let mut named: Vec<_> =
        all.iter().take(NAMED).map(|(text, count)| ((*text).to_owned(), number(*count))).collect();
    let rest: u64 = all.iter().skip(NAMED).map(|(_, count)| count).sum();
    if rest + tally.beyond > 0 {
        named.push(("others".to_owned(), number(rest + tally.beyond)));
    }

    named
}

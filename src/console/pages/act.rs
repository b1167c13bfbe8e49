//! What somebody is about to do: how many events of which kinds it touches, as the server counted
//! them, and the form that confirms it. What the form does is in `confirm`.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
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
use crate::error::{self, MongodbContext as _};
use crate::mongodb::chosen::{Chosen, Tally};
use crate::mongodb::selection::Selection;
use crate::operator::act::{Action, left_alone};
use crate::operator::filter::{Asked, Filter};
use crate::operator::look::relayed_by;

/// Most texts of one kind that are named.
const NAMED: usize = 8;
/// Most events of one action: their ids are in memory, about 15 MB of them. A command takes more.
const MOST: u64 = 100_000;

#[derive(Template)]
#[template(path = "act.html")]
struct ActPage {
    frame: Frame,
    path: String,
    words: Words,
    selection: String,
    total: String,
    tallies: Vec<(&'static str, Vec<(String, String)>)>,
    sample: Vec<Row>,
    warnings: Vec<String>,
    /// Why it can't be done.
    disabled: Option<String>,
    form: ConfirmForm,
}

/// The form that confirms an action.
#[derive(Debug, Default)]
pub(super) struct ConfirmForm {
    pub(super) action: String,
    /// What names the events.
    pub(super) preview: String,
    /// The number of events that has to be typed.
    pub(super) must_type: Option<u64>,
    pub(super) typed: String,
    pub(super) rate: String,
    pub(super) reason: String,
    pub(super) button: &'static str,
    /// Where whoever does nothing goes.
    pub(super) back: String,
}

/// What an action is called, by what it is done to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    pub(super) title: &'static str,
    pub(super) button: &'static str,
    pub(super) meaning: &'static str,
    /// Whether the number of events has to be typed.
    pub(super) must_type: bool,
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
    let (selection, selected, locked) = match id.is_empty() {
        true => of_filter(&filter, &action),
        false => of_one(&connection, &id, scheduled).await?,
    };

    let is_scheduled = selection.state == Some(EventState::Scheduled);
    let _place = site.jobs.place(&person).await;
    let chosen = choose(&connection, &person, &selection).await?;

    let disabled = locked.or_else(|| disabled(&person, &chosen));
    let warnings = warnings(&connection, &action, (&selection, &chosen)).await?;
    let path = format!("/o/{}", encoded(&name));
    let words = words_of(&action, is_scheduled || chosen.are_scheduled());
    let mut page = ActPage {
        frame: site.frame_of(outbox, &person, "Confirm", "events"),
        selection: selected.clone(),
        total: events(chosen.events()),
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
        form: ConfirmForm {
            action: format!("{path}/act"),
            must_type: (action == Action::Discard).then(|| chosen.events()),
            rate: action.rate(chosen.events()).map(|rate| rate.to_string()).unwrap_or_default(),
            button: words.button,
            back: format!("{path}/groups"),
            ..ConfirmForm::default()
        },
        words,
        disabled,
        path,
    };

    // Who may not confirm it has nothing that could be sent.
    if page.disabled.is_none() {
        let what = What::Act(action, Box::new(chosen));
        page.form.preview = site.jobs.previews.keep(Preview::new(&person, &name, what, selected));
    }

    Ok(render(&page).into_response())
}

/// The events of a selection. Those who may not act need numbers alone.
async fn choose(
    Connection { inspect, config, .. }: &Connection,
    person: &Person,
    selection: &Selection,
) -> error::Result<Chosen> {
    let window = config.stream.duplicate_window;
    let chosen = match person.may_act() {
        true => inspect.chosen(selection, window, MOST).await,
        false => inspect.counted(selection, window, MOST).await,
    };
    chosen.during("reading the outbox")
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
        _ => person.denied().map(str::to_owned),
    }
}

/// What somebody should know before.
async fn warnings(
    Connection { inspect, config, .. }: &Connection,
    action: &Action,
    (selection, chosen): (&Selection, &Chosen),
) -> error::Result<Vec<String>> {
    let mut warnings = Vec::new();
    match action {
        Action::Discard => {
            let let_go = match chosen.are_counted {
                true => Some(0),
                false => inspect.let_go(&chosen.ids).await.during("reading the outbox")?,
            };
            let parked = match selection.without_parked {
                true => left_alone(inspect, selection).await?,
                false => 0,
            };
            warnings.extend(without_them(let_go, parked));
        }

        Action::RetryNow | Action::Edit(_) => {
            if chosen.may_come_twice > 0 {
                warnings.push(format!(
                    "The last publish of {} got no answer. The stream may have stored them all the \
                     same, and its duplicate window ({}) has passed since: published again, they \
                     would be stored twice.",
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

/// What a discard does to the events that wait behind, and to those that match and only wait.
fn without_them(let_go: Option<u64>, parked: u64) -> Vec<String> {
    let only_wait = |count| {
        format!(
            "{} also match, but only wait behind events that failed, and are left alone",
            events(count)
        )
    };

    match (let_go, parked) {
        (Some(0), 0) => Vec::new(),
        (Some(0), parked) => vec![format!("{}.", only_wait(parked))],
        (Some(count), parked) if count == parked => {
            vec![format!("{}; they would be tried without the discarded ones.", only_wait(parked))]
        }
        (let_go, parked) => {
            let go = match let_go {
                Some(count) => format!(
                    "{} of their keys that waited behind them would be tried without them.",
                    events(count)
                ),
                None => {
                    "MongoDB needs too long to count what would be tried without them.".to_owned()
                }
            };
            let left = (parked > 0).then(|| format!("{}.", only_wait(parked)));
            std::iter::once(go).chain(left).collect()
        }
    }
}

/// What to call an action on events of the outbox, or on scheduled ones.
pub(super) fn words_of(action: &Action, is_scheduled: bool) -> Words {
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

    Words { title, button, meaning, must_type: *action == Action::Discard }
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

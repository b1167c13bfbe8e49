//! *Events*: the stuck or scheduled events that a filter selects. The filter is in the address, so a
//! link shows somebody else the same events.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse as _;

use super::frame::{Frame, Page, render};
use super::paging::{LIMIT, Paging};
use crate::console::access::Person;
use crate::console::site::Site;
use crate::console::text::{age_or_dash, due, encoded, in_console, number};
use crate::document::state::State as EventState;
use crate::error::{ErrorKind, MongodbContext as _};
use crate::mongodb::inspect::Entry;
use crate::operator::filter::Asked;

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    path: String,
    asked: Asked,
    /// Why nothing can match.
    hint: Option<String>,
    rows: Vec<Row>,
    range: String,
    total: u64,
    all: String,
    /// The filter as a part of an address: percent-encoded.
    words: String,
    newer: Option<String>,
    older: Option<String>,
}

/// A line of a list of events.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) href: String,
    pub(super) scheduled: bool,
    pub(super) state: &'static str,
    pub(super) age: String,
    /// When it is due, of a scheduled event.
    pub(super) due: Option<String>,
    pub(super) attempts: u32,
    pub(super) code: Option<String>,
    pub(super) subject: Option<String>,
    /// The key and its page.
    pub(super) key: Option<(String, String)>,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    Query(paging): Query<Paging>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let path = format!("/o/{}", encoded(&name));
    let filter = asked.filter()?;

    let skip = paging.skip();
    let connection = outbox.connection();
    let selection = filter.selection();
    let list = connection.inspect.list(&selection, skip, LIMIT).await;
    let (entries, total) = list.during("reading the outbox")?;
    let hint = match total {
        0 => {
            filter.check_that_it_can_match().err().filter(|error| error.kind() == ErrorKind::Usage)
        }
        _ => None,
    };

    let to = skip + entries.len() as u64;
    let (title, nav) = match asked.state == EventState::Scheduled.word() {
        true => ("Scheduled", "scheduled"),
        false => ("Events", "events"),
    };

    let at = |page: u64| format!("{path}/events?{}page={page}", words(&asked));
    let (newer, older) = paging.neighbours((to, total), at);
    let page = EventsPage {
        frame: site.frame_of(outbox, &person, title, nav),
        range: format!("{} to {} of {}", number((skip + 1).min(to)), number(to), number(total)),
        total,
        all: number(total),
        words: words(&asked).replace('&', "&amp;"),
        newer,
        older,
        rows: entries.iter().map(|entry| row(entry, &path)).collect(),
        hint: hint.map(|error| in_console(&error.to_string())),
        path,
        asked,
    };

    Ok(render(&page).into_response())
}

/// The filter as the beginning of an address's query.
fn words(asked: &Asked) -> String {
    let Asked { state, subject, key, older_than, class, code, group } = asked;
    let pairs = [
        ("state", state),
        ("subject", subject),
        ("key", key),
        ("older_than", older_than),
        ("class", class),
        ("code", code),
        ("group", group),
    ];
    let given = pairs.into_iter().filter(|(_, text)| !text.is_empty());
    given.map(|(name, text)| format!("{name}={}&", encoded(text))).collect()
}

/// A line about this event; `path` is that of its outbox.
pub(super) fn row(entry: &Entry, path: &str) -> Row {
    let scheduled = if entry.scheduled { "&scheduled=true" } else { "" };
    let key = entry.key.clone();
    Row {
        href: format!("{path}/event?id={}{scheduled}", encoded(&entry.id)),
        id: entry.id.clone(),
        scheduled: entry.scheduled,
        state: entry.state.word(),
        age: age_or_dash(entry.age_seconds),
        due: entry.due_in_seconds.map(due),
        attempts: entry.attempts,
        code: entry.code.clone(),
        subject: entry.subject.clone(),
        key: key.map(|key| (format!("{path}/key?key={}", encoded(&key)), key)),
    }
}

//! *Key*: who halts it, who waits behind, and what a discard would let pass.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse as _;
use serde::Deserialize;

use super::events::{Row, row};
use super::frame::{Frame, Page, render};
use crate::console::access::Person;
use crate::console::site::Site;
use crate::console::text::{encoded, events};
use crate::document::state::State as EventState;
use crate::error::MongodbContext as _;
use crate::mongodb::inspect::{Entry, Inspect};
use crate::mongodb::selection::Selection;

/// Events on the page, from the oldest on.
const LIMIT: i64 = 50;

#[derive(Template)]
#[template(path = "key.html")]
struct KeyPage {
    frame: Frame,
    key: String,
    path: String,
    /// The oldest event, and why it halts the key.
    head: Option<(Row, String)>,
    /// What happens to the others if the head is discarded.
    warning: Option<String>,
    behind: Vec<Row>,
    left_out: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    key: String,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Query(Wanted { key }): Query<Wanted>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let path = format!("/o/{}", encoded(&name));
    let connection = outbox.connection();
    let inspect = &connection.inspect;

    let selection = Selection { key: Some(key.clone()), ..Selection::default() };
    let list = inspect.list(&selection, 0, LIMIT).await;
    let (entries, total) = list.during("reading the outbox")?;
    let warning = match entries.first() {
        Some(head) => warning(inspect, head, total - 1).await?,
        None => None,
    };

    let shown = entries.len() as u64;
    let page = KeyPage {
        frame: site.frame_of(outbox, &person, "Key", "events"),
        head: entries.first().map(|head| (row(head, &path), why(head))),
        warning,
        behind: entries.iter().skip(1).map(|entry| row(entry, &path)).collect(),
        left_out: (total > shown).then(|| events(total - shown)),
        key,
        path,
    };

    Ok(render(&page).into_response())
}

fn why(head: &Entry) -> String {
    match head.state {
        EventState::Parked => {
            "nothing holds it: the relay publishes it at its next retry".to_owned()
        }
        _ => head.error.clone().unwrap_or_else(|| "its failure is not recorded".to_owned()),
    }
}

/// In numbers, what a discard of the head would let pass without it.
async fn warning(
    inspect: &Inspect,
    head: &Entry,
    behind: u64,
) -> crate::error::Result<Option<String>> {
    if behind == 0 || head.scheduled || head.state == EventState::Parked {
        return Ok(None);
    }

    let named = inspect.named(std::slice::from_ref(&head.id)).await;

    let found = named.during("reading the outbox")?.pop().and_then(|named| named.event);
    let Some((id, ..)) = found else { return Ok(None) };
    let let_go = inspect.let_go(&[id]).await.during("reading the outbox")?;
    Ok(Some(match let_go {
        Some(0) => format!(
            "If you discard it, the {} behind it still wait: another failed event of the key holds \
             them.",
            events(behind)
        ),
        Some(count) => format!(
            "If you discard it, {} of this key would be tried without it, in their order. Consumers \
             never see the discarded event.",
            events(count)
        ),
        None => "MongoDB needs too long to count what a discard would let pass.".to_owned(),
    }))
}

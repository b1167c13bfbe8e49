//! *Groups*: failures that are alike, and what to do about each.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;

use super::frame::{Frame, Page, part as rendered, render};
use crate::console::access::{DENIED, Person};
use crate::console::outbox::Outbox;
use crate::console::sample::Live;
use crate::console::site::Site;
use crate::console::text::{encoded, events, number, second, with_code};
use crate::mongodb::groups::Group;
use crate::operator::groups::Remedied;

#[derive(Template)]
#[template(path = "groups.html")]
struct GroupsPage {
    frame: Frame,
    name: String,
    groups: Arc<str>,
}

#[derive(Template)]
#[template(path = "group_list.html")]
struct GroupList<'a> {
    name: &'a str,
    at: &'a str,
    problem: Option<&'a str>,
    /// Why there are no buttons.
    denied: Option<&'static str>,
    groups: Vec<Row<'a>>,
    left_out: Option<String>,
}

struct Row<'a> {
    group: &'a Group,
    /// As markup.
    remedy: String,
    failed: String,
    dead: String,
    /// Since when its failures came, and until when.
    span: String,
    held: String,
    trend: Option<String>,
    count: String,
    /// The address of its events.
    events: String,
    sample: Option<String>,
    retry: String,
    discard: String,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Page {
    let outbox = site.wanted(&name)?;
    let live = outbox.sample().await;
    let page = GroupsPage {
        frame: site.frame_of(outbox, &person, "Groups", "groups"),
        groups: part(outbox, &live, person.may_act()),
        name,
    };

    Ok(render(&page).into_response())
}

/// The groups of an outbox, made once for each sample and role.
pub(in crate::console) fn part(outbox: &Outbox, live: &Live, may_act: bool) -> Arc<str> {
    let made = &live.groups[usize::from(may_act)];
    made.get_or_init(|| rendered(&list(outbox, live, may_act))).clone()
}

fn list<'a>(outbox: &'a Outbox, live: &'a Live, may_act: bool) -> GroupList<'a> {
    let path = format!("/o/{}", encoded(&outbox.name));
    let look = live.look.as_ref();
    let groups = look.map_or(&[][..], |look| &look.groups);
    let left_out = look.map_or(0, |look| look.left_out);
    let waiting = "MongoDB has not answered yet";

    GroupList {
        name: &outbox.name,
        at: &live.at,
        denied: (!may_act).then_some(DENIED),
        problem: live.problem.as_deref().or(look.is_none().then_some(waiting)),
        groups: groups.iter().map(|group| row(group, live, &path)).collect(),
        left_out: (left_out > 0).then(|| events(left_out)),
    }
}

fn row<'a>(Remedied { group, remedy }: &'a Remedied, live: &Live, path: &str) -> Row<'a> {
    let at = |at: &Option<String>| at.as_deref().map_or("–".to_owned(), second);
    let (first, last) = (at(&group.first), at(&group.last));
    let sample = Some(&group.sample).filter(|id| !id.is_empty());
    let trend = live.history.iter().find_map(|point| point.groups.get(&group.id)).copied();

    Row {
        group,
        remedy: with_code(remedy),
        count: events(group.events),
        failed: number(group.failed),
        dead: number(group.dead),
        span: match first == last {
            true => format!("failed at {last} UTC"),
            false => format!("failed from {first} to {last} UTC"),
        },
        held: group.held.map_or_else(|| "too many to count".to_owned(), number),
        trend: trend.and_then(|before| trend_since(before, group.events)),
        events: format!("{path}/events?group={}", group.id),
        retry: format!("{path}/act?action=retry-now&group={}", group.id),
        discard: format!("{path}/act?action=discard&group={}", group.id),
        sample: sample.map(|id| format!("{path}/event?id={}", encoded(id))),
    }
}

/// How the count has changed over the minutes that the charts show.
fn trend_since(before: u64, now: u64) -> Option<String> {
    match now.cmp(&before) {
        std::cmp::Ordering::Greater => Some(format!("↑ {} more", number(now - before))),
        std::cmp::Ordering::Less => Some(format!("↓ {} fewer", number(before - now))),
        std::cmp::Ordering::Equal => None,
    }
}

//! *Overview*: every outbox, the worst first.

use std::cmp::Reverse;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use futures_util::future::join_all;

use super::frame::{Frame, part as rendered, render};
use crate::console::access::Person;
use crate::console::chart;
use crate::console::outbox::Outbox;
use crate::console::sample::{Live, Point};
use crate::console::site::Site;
use crate::console::text::{age, age_or_dash, encoded, number};
use crate::document::state::State as EventState;
use crate::finding::{Finding, Level};
use crate::mongodb::stats::Stats;
use crate::operator::look::relayed_by;

/// Findings on a card.
const FINDINGS: usize = 3;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    cards: Vec<Arc<str>>,
}

/// One outbox, as every page that shows it has it.
#[derive(Template)]
#[template(path = "card.html")]
struct Card<'a> {
    name: &'a str,
    path: String,
    badness: u64,
    /// Class in the style sheet.
    class: &'static str,
    at: &'a str,
    problem: Option<&'a str>,
    /// Who relays; `Err` when nobody does.
    relayed: Result<String, String>,
    numbers: Vec<Number>,
    charts: Vec<Chart>,
    links: Vec<Link>,
    /// What `outboxd check` last found; `None` before the first check.
    check: Option<Check<'a>>,
}

struct Check<'a> {
    /// Class in the style sheet.
    class: &'static str,
    summary: String,
    /// Failures first, then warnings; the first [`FINDINGS`].
    bad: Vec<&'a Finding>,
}

struct Number {
    name: &'static str,
    value: String,
    meaning: &'static str,
    /// Class in the style sheet.
    class: &'static str,
    /// The events, if they can be listed.
    href: Option<String>,
}

struct Chart {
    name: &'static str,
    value: String,
    points: String,
}

/// A connection of the relay.
struct Link {
    name: &'static str,
    is_up: bool,
    detail: String,
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
) -> Response {
    let mut outboxes = join_all(site.outboxes.iter().map(async |outbox| {
        let live = outbox.sample().await;
        (live.badness(), part(outbox, &live))
    }))
    .await;

    outboxes.sort_by_key(|(badness, _)| Reverse(*badness));

    let cards = outboxes.into_iter().map(|(_, card)| card).collect();
    render(&OverviewPage { frame: site.frame(&person, "Overview", "overview"), cards })
}

/// The card of an outbox, made once for each sample.
pub(in crate::console) fn part(outbox: &Outbox, live: &Live) -> Arc<str> {
    live.card.get_or_init(|| rendered(&card(outbox, live))).clone()
}

fn card<'a>(outbox: &'a Outbox, live: &'a Live) -> Card<'a> {
    let path = format!("/o/{}", encoded(&outbox.name));
    let stats = live.look.as_ref().map(|look| &look.stats);

    Card {
        name: &outbox.name,
        badness: live.badness(),
        class: class(live),
        at: &live.at,
        problem: live.problem.as_deref(),
        relayed: match stats {
            Some(stats) => relayed_by(stats.lease.as_ref()),
            None => Err("MongoDB has not answered yet".to_owned()),
        },
        numbers: stats.map(|stats| numbers(stats, &path)).unwrap_or_default(),
        charts: charts(live),
        links: links(live),
        check: live.findings.as_deref().map(check),
        path,
    }
}

fn class(live: &Live) -> &'static str {
    let stats = live.look.as_ref().map(|look| &look.stats);
    match stats.filter(|_| live.problem.is_none()) {
        Some(stats) if relayed_by(stats.lease.as_ref()).is_err() || stats.dead > 0 => "bad",
        Some(stats) if stats.failed + stats.parked > 0 => "poor",
        Some(_) => "",
        None => "bad",
    }
}

fn numbers(stats: &Stats, path: &str) -> Vec<Number> {
    let of = |state: EventState, events: u64, class| Number {
        name: state.word(),
        value: number(events),
        meaning: state.meaning(),
        class: if events > 0 { class } else { "none" },
        href: (events > 0 && state != EventState::Locked)
            .then(|| format!("{path}/events?state={}", state.word())),
    };

    let plain = |name, value, meaning| Number { name, value, meaning, class: "none", href: None };

    let oldest = age_or_dash(stats.oldest_seconds);
    let mut numbers = vec![
        plain("backlog", number(stats.backlog), "events in the outbox"),
        plain("oldest", oldest, "age of the oldest event that is not dead"),
        of(EventState::Dead, stats.dead, "dead"),
        of(EventState::Failed, stats.failed, "failed"),
        of(EventState::Parked, stats.parked, "parked"),
        of(EventState::Locked, stats.locked, "none"),
    ];

    if let Some(later) = stats.scheduled.as_ref().filter(|later| later.events + later.dead > 0) {
        numbers.push(of(EventState::Scheduled, later.events, "none"));
        if later.overdue > 0 {
            let meaning = "due and not in the outbox yet";
            let mut overdue = plain("overdue", number(later.overdue), meaning);
            overdue.class = "failed";
            numbers.push(overdue);
        }
    }

    numbers
}

fn charts(live: &Live) -> Vec<Chart> {
    let flow = live.flow.as_ref().and_then(|flow| flow.as_ref().ok());
    let line = |of: fn(&Point) -> f64| {
        let values: Vec<_> = live.history.iter().map(|point| of(point)).collect();
        chart::points(&values)
    };

    let rate = flow.and_then(|flow| flow.published);
    let latency = flow.and_then(|flow| flow.latency);
    let unknown = || "–".to_owned();

    vec![
        Chart {
            name: "published a second",
            value: rate.map_or_else(unknown, |rate| number(rate.round() as u64)),
            points: line(|point| point.published),
        },
        Chart {
            name: "commit to ack, p99",
            value: latency.map_or_else(unknown, |(_, p99)| seconds(p99)),
            points: line(|point| point.latency),
        },
        Chart {
            name: "backlog",
            value: live.look.as_ref().map_or_else(unknown, |look| number(look.stats.backlog)),
            points: line(|point| point.backlog),
        },
    ]
}

/// MongoDB as this console sees it, and NATS as the relay does.
fn links(live: &Live) -> Vec<Link> {
    let mongodb = match &live.problem {
        None => Link { name: "MongoDB", is_up: true, detail: "answers".to_owned() },
        Some(problem) => Link { name: "MongoDB", is_up: false, detail: problem.clone() },
    };

    let nats = match (&live.ready, &live.flow) {
        (Some(ready), _) => Link {
            name: "NATS",
            is_up: ready["nats"]["ready"].as_bool().unwrap_or(false),
            detail: ready["nats"]["detail"].as_str().unwrap_or("unknown").to_owned(),
        },
        (None, Some(Err(why))) => Link {
            name: "NATS",
            is_up: false,
            detail: format!("unknown: the relay's admin endpoint {why}"),
        },
        (None, _) => Link { name: "NATS", is_up: false, detail: "unknown".to_owned() },
    };

    vec![mongodb, nats]
}

fn check(findings: &[Finding]) -> Check<'_> {
    let of = |level: Level| findings.iter().filter(move |finding| finding.level == level);
    let (failures, warnings) = (of(Level::Fail).count(), of(Level::Warn).count());
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let failed = format!("{failures} failure{}", plural(failures));
    let warned = format!("{warnings} warning{}", plural(warnings));
    let (class, summary) = match (failures, warnings) {
        (0, 0) => ("up", format!("{} checks, all in order", findings.len())),
        (0, _) => ("unsure", warned),
        (_, 0) => ("down", failed),
        _ => ("down", format!("{failed}, {warned}")),
    };

    let bad = of(Level::Fail).chain(of(Level::Warn)).take(FINDINGS).collect();
    Check { class, summary, bad }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.1} ms", seconds * 1000.0),
        _ => age(seconds.round() as u64),
    }
}

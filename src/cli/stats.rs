//! `outboxd stats`: the outbox in numbers.

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::load_all;
use super::fleet;
use super::output::{Colour, Output, Screen, age, colour_of, events, show};
use super::selection::inspect_of;
use super::table::{Cell, table, wrap};
use crate::config::Sources;
use crate::document::state::State;
use crate::error::{MongodbContext, Result};
use crate::mongodb::later::Later;
use crate::mongodb::stats::Stats;
use crate::operator::look::relayed_by;
use crate::printable::printable;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    outbox: String,
    stream: String,
    duplicate_window_seconds: u64,
    #[serde(flatten)]
    stats: Stats,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let fleet = load_all(sources)?;
    let [config] = fleet.outboxes() else {
        let rows = fleet::rows(&fleet::open(&fleet).await).await;
        show(args.output, &rows, || fleet_for_people(Screen::of(sources), &rows))?;
        return fleet::all_read(&rows);
    };

    let inspect = inspect_of(config).await?;
    let shown = Shown {
        outbox: config.outbox(),
        stream: config.stream.name.clone(),
        duplicate_window_seconds: config.stream.duplicate_window.as_secs(),
        stats: inspect.stats().await.during("reading the outbox")?,
    };

    show(args.output, &shown, || people(Screen::of(sources), &shown))
}

fn fleet_for_people(screen: Screen, rows: &[fleet::Row]) -> String {
    let sum =
        |of: fn(&Stats) -> u64| rows.iter().filter_map(|row| row.stats.as_ref()).map(of).sum();
    let (backlog, dead): (u64, u64) = (sum(|stats| stats.backlog), sum(|stats| stats.dead));
    let overview = fleet::overview(screen, rows);
    format!(
        "{} outboxes, the worst first: {}, {dead} dead\n\n{overview}\n\
         `outboxd stats --outbox NAME` shows one of them.\n",
        rows.len(),
        events(backlog)
    )
}

fn people(screen: Screen, shown: &Shown) -> String {
    let Shown { outbox, stream, duplicate_window_seconds, stats } = shown;
    let head = format!(
        "outbox {outbox} to stream {stream} (duplicate window {} as configured)",
        age(*duplicate_window_seconds)
    );
    let mut out = wrap(&head, screen.width, 0);

    let _ = writeln!(out, "\n{}\n", relayed(screen, stats));

    let oldest = stats.oldest_seconds.map_or_else(|| "-".to_owned(), age);
    let counted = |state: State, events: u64| {
        let colour = if events > 0 { colour_of(state) } else { Colour::None };
        (state.word(), events.to_string(), state.meaning(), colour)
    };
    let is_relayed = stats
        .lease
        .as_ref()
        .is_some_and(|lease| lease.is_a_relays() && lease.expires_in_seconds >= 0);
    let locked = match is_relayed {
        true => counted(State::Locked, stats.locked),
        false => ("locked", stats.locked.to_string(), "wait until a relay leads", Colour::None),
    };
    let plain = |name, number, meaning| (name, number, meaning, Colour::None);
    let numbers = [
        plain("backlog", stats.backlog.to_string(), "events in the outbox"),
        locked,
        counted(State::Failed, stats.failed),
        counted(State::Parked, stats.parked),
        counted(State::Dead, stats.dead),
        plain("oldest", oldest, "age of the oldest event that is not dead"),
    ];

    for (name, number, meaning, colour) in numbers {
        let number = screen.paint(colour, &format!("{number:>9}"));
        let _ = writeln!(out, "  {name:<8} {number}  {meaning}");
    }

    if let Some(later) = stats.scheduled.as_ref().filter(|later| later.events + later.dead > 0) {
        for (name, number, meaning, colour) in scheduled(later) {
            let number = screen.paint(colour, &format!("{number:>8}"));
            let _ = writeln!(out, "  {name:<9} {number}  {meaning}");
        }
    }

    if !stats.stuck_by_subject.is_empty() {
        let rows = stats.stuck_by_subject.iter().map(|stuck| {
            let counted = |state: State, events: u64| match events {
                0 => Cell::from("0"),
                events => Cell::coloured(&events.to_string(), colour_of(state)),
            };
            vec![
                Cell::from(&stuck.subject),
                counted(State::Failed, stuck.failed),
                counted(State::Parked, stuck.parked),
                counted(State::Dead, stuck.dead),
                stuck.oldest_seconds.map_or_else(|| "-".to_owned(), age).into(),
            ]
        });
        out.push('\n');
        let header = ["STUCK SUBJECT", "FAILED", "PARKED", "DEAD", "OLDEST"];
        out += &table(screen, &header, rows);
        out += "\n`outboxd groups` shows why.\n";
    }

    out
}

/// The lines about scheduled events.
fn scheduled(later: &Later) -> Vec<(&'static str, u64, String, Colour)> {
    let next = match later.next_due_in_seconds {
        _ if later.lacks_index => "; their index is gone: run `outboxd migrate`".to_owned(),
        Some(next) => format!("; the next is due in {}", age(next)),
        None => String::new(),
    };
    let meaning = State::Scheduled.meaning();
    let mut lines =
        vec![(State::Scheduled.word(), later.events, format!("{meaning}{next}"), Colour::None)];

    if later.overdue > 0 {
        let overdue = age(later.overdue_seconds);
        let meaning = format!("due and not in the outbox yet, the first for {overdue}");
        lines.push(("overdue", later.overdue, meaning, Colour::Yellow));
    }
    lines
}

/// Which relay leads, if one does.
fn relayed(screen: Screen, stats: &Stats) -> String {
    let (colour, text) = match relayed_by(stats.lease.as_ref()) {
        Ok(text) => (Colour::None, text),
        Err(text) => (Colour::Red, text),
    };
    screen.paint(colour, &wrap(&printable(&text), screen.width, 0))
}

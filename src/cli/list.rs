//! `outboxd list`: the stuck events, oldest first, or the scheduled ones in the order of their times.

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Output, Screen, age, colour_of, due, patiently, show};
use super::selection::inspect;
use super::table::{Cell, table};
use crate::config::Sources;
use crate::document::state::State;
use crate::error::{MongodbContext, Result};
use crate::mongodb::inspect::Entry;
use crate::operator::filter::Filter;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Events per page
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Page to show, from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    page: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    total: u64,
    events: Vec<Entry>,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let (_, inspect) = inspect(sources).await?;
    let skip = u64::from(args.page - 1) * args.limit.unsigned_abs();
    let selection = args.filter.selection();
    let list = patiently(inspect.list(&selection, skip, args.limit)).await;
    let (events, total) = list.during("reading the outbox")?;
    let shown = Shown { total, events };

    if total == 0 {
        args.filter.check_that_it_can_match()?;
    }

    let screen = Screen::of(sources);
    show(args.output, &shown, || people(screen, &shown, skip, args))
}

/// As a table; the errors are in `groups` and `show`.
pub(super) fn rows(screen: Screen, events: &[Entry]) -> String {
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    if !events.is_empty() && events.iter().all(|event| event.state == State::Scheduled) {
        let rows = events.iter().map(|event| {
            vec![
                Cell::from(&event.id),
                event.due_in_seconds.map_or_else(|| "-".to_owned(), due).into(),
                event.age_seconds.map_or_else(|| "-".to_owned(), age).into(),
                dash(&event.subject).into(),
                dash(&event.key).into(),
            ]
        });
        return table(screen, &["ID", "DUE", "AGE", "SUBJECT", "KEY"], rows);
    }

    let state = |event: &Entry| match (event.state, event.scheduled) {
        (State::Dead, true) => "dead (scheduled)".to_owned(),
        (state, _) => state.word().to_owned(),
    };
    let rows = events.iter().map(|event| {
        vec![
            Cell::from(&event.id),
            Cell::coloured(&state(event), colour_of(event.state)),
            event.age_seconds.map_or_else(|| "-".to_owned(), age).into(),
            event.attempts.to_string().into(),
            dash(&event.code).into(),
            dash(&event.subject).into(),
            dash(&event.key).into(),
        ]
    });

    table(screen, &["ID", "STATE", "AGE", "TRIES", "CODE", "SUBJECT", "KEY"], rows)
}

fn people(screen: Screen, shown: &Shown, skip: u64, args: &Args) -> String {
    if shown.total == 0 {
        return format!("no {} event matches\n", args.filter.kind());
    }

    let to = skip + shown.events.len() as u64;
    let more = if to < shown.total {
        format!("; --page {} shows more", args.page + 1)
    } else {
        String::new()
    };
    format!("{}\n{} to {to} of {}{more}\n", rows(screen, &shown.events), skip + 1, shown.total)
}

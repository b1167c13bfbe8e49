//! `outboxd groups`: similar failures as groups, one line each; of one group, what to do.

use std::cmp::Reverse;
use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::load_all;
use super::fleet::{self, Opened};
use super::output::{Colour, Output, Screen, events, patiently, show};
use super::selection::inspect_of;
use super::table::{Cell, cut, hang, table};
use crate::config::{Fleet, Sources};
use crate::error::{MongodbContext, Result};
use crate::finding::operand;
use crate::mongodb::chosen::{Chosen, Tally};
use crate::mongodb::groups::Group;
use crate::operator::filter::Filter;
use crate::operator::groups::Remedied;
use crate::printable::printable;

/// Columns of a reason when its line has no more room for it.
const LEAST_REASON: usize = 20;
/// Most texts of one kind that are shown.
const TALLY_SHOWN: usize = 5;
/// Column where the text of a detail begins.
const INDENT: usize = 16;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Show only this group, and what to do
    #[arg(value_name = "ID", conflicts_with = "group")]
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The groups of one outbox of several.
#[derive(Serialize)]
struct OfOutbox {
    outbox: String,
    groups: Vec<Remedied>,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let fleet = load_all(sources)?;
    let [config] = fleet.outboxes() else { return of_fleet(sources, args, &fleet).await };

    let inspect = inspect_of(config).await?;
    let filter = match &args.id {
        Some(id) => args.filter.of_group(id),
        None => args.filter.clone(),
    };

    let selection = filter.selection();
    let (shown, left_out) = patiently(Remedied::read(&inspect, &selection, true)).await?;
    if shown.is_empty() {
        filter.check_that_it_can_match()?;
    }

    let screen = Screen::of(sources);
    match (&*shown, selection.group.is_some(), args.output) {
        ([one], true, Output::Table) => {
            let window = config.stream.duplicate_window;
            let chosen = patiently(inspect.chosen(&selection, window, u64::MAX))
                .await
                .during("reading the outbox")?;
            show(args.output, &shown, || details(screen, one, &chosen, &filter))?;
        }
        _ => show(args.output, &shown, || lines(screen, &shown, &filter))?,
    }

    if left_out > 0 {
        // Not in the output, which is a list of groups for whatever reads the JSON.
        eprintln!(
            "outboxd: {} in smaller groups left out; select fewer events, such as with --code or --older-than",
            events(left_out)
        );
    }
    Ok(())
}

/// The groups of each outbox that has any, the outbox with the most events first.
async fn of_fleet(sources: &Sources, args: &Args, fleet: &Fleet) -> Result<()> {
    let filter = match &args.id {
        Some(id) => args.filter.of_group(id),
        None => args.filter.clone(),
    };

    let mut found = Vec::new();
    for Opened { config, inspect } in fleet::open(fleet).await {
        let (groups, _) = patiently(Remedied::read(&inspect?, &filter.selection(), true)).await?;
        if !groups.is_empty() {
            found.push(OfOutbox { outbox: config.outbox(), groups });
        }
    }

    let stuck = |of: &OfOutbox| of.groups.iter().map(|of| of.group.failed + of.group.dead).sum();
    found.sort_by_key(|of| Reverse::<u64>(stuck(of)));
    if found.is_empty() {
        filter.check_that_it_can_match()?;
    }

    let screen = Screen::of(sources);
    show(args.output, &found, || match found.is_empty() {
        true => lines(screen, &[], &filter),
        false => {
            let of =
                |of: &OfOutbox| format!("{}\n{}", of.outbox, lines(screen, &of.groups, &filter));
            found.iter().map(of).collect::<Vec<_>>().join("\n")
        }
    })
}

/// One line for each group.
fn lines(screen: Screen, groups: &[Remedied], filter: &Filter) -> String {
    if groups.is_empty() {
        return "no event has failed; if events wait anyway, `outboxd check` shows why\n"
            .to_owned();
    }

    let width = |of: fn(&Group) -> usize, name: usize| {
        groups.iter().map(|shown| of(&shown.group)).max().unwrap_or(0).max(name) + 2
    };
    // Where no key has an order, or nothing waits, there is nothing to show.
    let holds = groups.iter().any(|shown| shown.group.held != Some(0));
    let taken = if holds { width(|group| held(group).len(), 4) } else { 0 };
    let taken = taken
        + width(|group| group.id.len(), 5)
        + width(|group| group.failed.to_string().len(), 6)
        + width(|group| group.dead.to_string().len(), 4)
        + width(|group| group.code.chars().count(), 4);
    let room = screen.width.saturating_sub(taken).max(LEAST_REASON);

    let rows = groups.iter().map(|Remedied { group, .. }| {
        let counted = |count: u64, colour| match count {
            0 => Cell::from("0"),
            count => Cell::coloured(&count.to_string(), colour),
        };
        let mut row = vec![
            Cell::from(&group.id),
            counted(group.failed, Colour::Yellow),
            counted(group.dead, Colour::Red),
        ];
        row.extend(holds.then(|| Cell::from(held(group))));
        row.push(Cell::from(&group.code));
        row.push(Cell::from(cut(&printable(&group.error), room)));
        row
    });

    let header = match holds {
        true => &["GROUP", "FAILED", "DEAD", "HELD", "CODE", "REASON"][..],
        false => &["GROUP", "FAILED", "DEAD", "CODE", "REASON"],
    };
    let mut out = table(screen, header, rows);
    let id = groups.first().map_or("ID", |shown| &shown.group.id);
    let command = [vec![format!("outboxd groups {id}")], filter.words()].concat().join(" ");
    let what = if groups.len() > 1 { " about the first" } else { "" };
    let _ = writeln!(out, "\n`{}` shows what to do{what}.", printable(&command));
    out
}

/// How many events wait behind those of a group.
fn held(group: &Group) -> String {
    group.held.map_or_else(|| "?".to_owned(), |held| held.to_string())
}

/// One group, and what to do.
fn details(screen: Screen, shown: &Remedied, chosen: &Chosen, filter: &Filter) -> String {
    let Remedied { group, remedy } = shown;
    let filter = filter.of_group(&group.id);
    let mut out = String::new();

    let code = printable(&group.code);
    let _ = writeln!(
        out,
        "group {}: {code} ({}), {}",
        group.id,
        printable(&group.class),
        events(group.events)
    );

    let mut line = |name: &str, text: &str| {
        let text = hang(&printable(text), screen.width, INDENT, 4);
        let name = if text.starts_with('\n') { name.to_owned() } else { format!("{name:<14}") };
        let _ = writeln!(out, "  {name}{text}");
    };

    line("reason", &group.error);
    if group.error != group.example {
        line("such as", &group.example);
    }

    let seconds = |at: &Option<String>| {
        at.as_deref().map_or("-", |at| at.get(..19).unwrap_or(at)).replace('T', " ")
    };
    let (first, last) = (seconds(&group.first), seconds(&group.last));
    let from = if first == last { String::new() } else { format!("{first} to ") };
    line("last failed", &format!("{from}{last} UTC"));
    line("states", &tally(&chosen.states));
    line("subjects", &tally(&chosen.subjects));
    line("keys", &tally(&chosen.keys));
    match group.held {
        Some(0) => {}
        Some(held) => line("holds", &format!("{} of their keys that came later", events(held))),
        None => line("holds", "MongoDB needs too long to count what waits behind them"),
    }
    line("what to do", remedy);

    out.push('\n');
    commands(&mut out, group, &filter);
    out
}

/// The most frequent texts, each with the number of its events.
pub(super) fn tally(tally: &Tally) -> String {
    let most = tally.most();
    let named: Vec<_> =
        most.iter().take(TALLY_SHOWN).map(|(text, events)| format!("{text} ({events})")).collect();
    let more = most.len().saturating_sub(TALLY_SHOWN);
    match (more, tally.beyond) {
        (0, 0) => named.join(", "),
        (more, 0) => format!("{} and {more} more", named.join(", ")),
        (more, _) => format!("{} and more than {more} more", named.join(", ")),
    }
}

/// What can be pasted: each command acts on the events of this group that the filter selects, and
/// on no other.
fn commands(out: &mut String, group: &Group, filter: &Filter) {
    let words = filter.words().join(" ");
    // No command takes a text that can't be shown as it is.
    let words = if printable(&words) == words { words } else { format!("--group {}", group.id) };
    let mut line = |name: &str, command: String| {
        let _ = writeln!(out, "  {name:<14}outboxd {command}");
    };

    match group.sample.is_empty() {
        true => line("look at one", format!("list {words}")),
        false => line("look at one", format!("show {}", operand(&group.sample))),
    }
    if group.failed == 0 && !group.sample.is_empty() {
        line("correct it", format!("edit {}", operand(&group.sample)));
    }
    line("then", format!("retry-now --all {words}"));
    line("or", format!("discard --all {words}   # for good, unpublished"));
}

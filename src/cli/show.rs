//! `outboxd show`: one event, the reason for its state, and what to do.

use std::fmt::Write as _;

use bson::{Bson, Document};
use clap::Args as ClapArgs;
use outboxd_client::field;

use super::output::{Colour, Output, Screen, age, colour_of, due, events, show};
use super::selection::inspect;
use super::table::wrap;
use crate::config::Sources;
use crate::document::record::shown_id;
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::inspect::{Entry, text};
use crate::operator::event::{Known, Means, size};
use crate::printable::printable;

/// Most failures shown. The relay keeps no more.
const FAILURES_SHOWN: usize = 20;
/// Most fields shown.
const FIELDS_SHOWN: usize = 100;
/// Characters shown of a value that is no text.
const MAX_SHOWN: usize = 16 << 10;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The event's id, as `list` shows it: an ObjectId, a UUID or a text
    id: String,
    /// Show the payload too; it may hold confidential data
    #[arg(long)]
    payload: bool,
    /// Show the scheduled event, even if an event in the outbox has the same id
    #[arg(long)]
    scheduled: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let (config, inspect) = inspect(sources).await?;
    let layout = &*config.event.layout;
    let Some(mut known) =
        Known::read(&inspect, layout, &args.id, args.scheduled, Means::Commands).await?
    else {
        let place = if args.scheduled { "scheduled" } else { "in the outbox or scheduled" };
        let message = format!(
            "no event {} is {place}: it was published, discarded, cancelled, or never written",
            args.id
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };

    if !args.payload
        && let Some(payload) = known.event.get_mut(layout.payload())
    {
        *payload = hidden(payload);
    }

    let json = Bson::Document(known.event.clone()).into_relaxed_extjson();
    let Known { waited, head, behind, what_to_do, .. } = &known;
    let mut whole = serde_json::json!({ "event": json, "age_seconds": waited, "held_by": head, "behind_it": behind, "what_to_do": what_to_do });
    if known.is_scheduled {
        whole["scheduled"] = true.into();
        whole["due_in_seconds"] = known.due_in.into();
    }

    let screen = Screen::of(sources);
    show(args.output, &whole, || people(screen, &known))
}

/// In the place of a payload that nobody asked for.
pub(super) fn hidden(payload: &Bson) -> Bson {
    format!("(hidden, about {} bytes; --payload shows it)", size(payload)).into()
}

fn people(screen: Screen, known: &Known) -> String {
    let Known { event, head, what_to_do, .. } = known;
    let (state, waited, due_in, behind) = (known.state, known.waited, known.due_in, known.behind);
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let colour = if name == "state" { colour_of(state) } else { Colour::None };
        let _ = writeln!(out, "  {name:<20}{}", screen.paint(colour, &printable(value)));
    };
    let plain = |value: &Bson| match value {
        Bson::String(_) => None,
        other => Some(cut(&other.clone().into_relaxed_extjson().to_string())),
    };

    line("id", &event.get(field::ID).map(shown_id).unwrap_or_default());
    line("state", state.word());
    line("age", &age_of(waited));
    if let Some(due_in) = due_in {
        line("due", &due(due_in));
    }

    let fields = event.iter().take(FIELDS_SHOWN);
    for (name, value) in fields {
        if [field::ID, field::IS_LOCKED, field::FAILURES, field::TS].contains(&name.as_str()) {
            continue;
        }

        let value = match value {
            Bson::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_default(),
            value => plain(value).or_else(|| text(event, name)).unwrap_or_default(),
        };
        line(&text_of(name), &value);
    }

    if event.len() > FIELDS_SHOWN {
        let left_out = event.len() - FIELDS_SHOWN;
        line("left out", &format!("{left_out} more fields; --output json has them"));
    }

    match head {
        Some(head) => line("held by", &held_by(head)),
        None if behind > 0 => {
            line("holds", &format!("{} of its key that came later", events(behind)))
        }
        None => {}
    }

    failed(&mut out, event);
    let _ = writeln!(out, "\nwhat to do: {}", wrap(&printable(what_to_do), screen.width, 12));
    out
}

/// The newest failures.
fn failed(out: &mut String, event: &Document) {
    let failures = event.get_array(field::FAILURES).map(Vec::as_slice).unwrap_or_default();
    if !failures.is_empty() {
        *out += "\nfailures, oldest first\n";
    }

    let left_out = failures.len().saturating_sub(FAILURES_SHOWN);
    if left_out > 0 {
        let _ = writeln!(out, "  ({left_out} older ones are left out; --output json has them)");
    }

    for failure in failures[left_out..].iter().filter_map(Bson::as_document) {
        let at = failure
            .get_datetime("at")
            .ok()
            .and_then(|at| at.try_to_rfc3339_string().ok())
            .unwrap_or_default();

        let field = |name: &str| printable(&text(failure, name).unwrap_or_default());
        let attempt = failure.get_i64("attempt").unwrap_or_default();
        let _ = writeln!(
            out,
            "  {at}  attempt {attempt}  {} ({})  by {}",
            field("code"),
            field("class"),
            field("relay")
        );

        let _ = writeln!(out, "      {}", field("error"));
    }
}

fn held_by(head: &Entry) -> String {
    format!("{} ({}, {})", head.id, head.state.word(), age_of(head.age_seconds))
}

fn age_of(seconds: Option<u64>) -> String {
    seconds
        .map_or_else(|| "unknown age: `ts` is not filled, and the id has no time".to_owned(), age)
}

fn text_of(name: &str) -> String {
    printable(&name.chars().take(64).collect::<String>())
}

/// The beginning of a value.
pub(super) fn cut(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(MAX_SHOWN).collect();
    if chars.next().is_some() {
        shown += "… (--output json has the rest)";
    }
    shown
}

//! `outboxd show`: one event, the reason for its state, and what to do.

use std::fmt::Write as _;

use bson::{Bson, Document};
use clap::Args as ClapArgs;
use outboxd_client::field;

use super::output::{Colour, Output, Screen, age, colour_of, due, events, show};
use super::selection::inspect;
use super::table::wrap;
use crate::config::Sources;
use crate::document::layout::Layout;
use crate::document::record::{OutboxRecord, shown_id};
use crate::document::state::State;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::failure::Rejection;
use crate::finding::operand;
use crate::mongodb::inspect::{Entry, state_of_scheduled, text};
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
    /// Look only among the scheduled events, if an event in the outbox has the same id
    #[arg(long)]
    scheduled: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let (config, inspect) = inspect(sources).await?;
    let layout = &*config.event.layout;
    let found = inspect.whole(&args.id, args.scheduled).await.during("reading the outbox")?;
    let Some((mut event, is_scheduled)) = found else {
        let place = if args.scheduled { "scheduled" } else { "in the outbox or scheduled" };
        let message = format!(
            "no event {} is {place}: it was published, discarded, cancelled, or never written",
            args.id
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };

    // Nothing waits for a scheduled event, and it waits for nothing but its time.
    let (head, behind) = match is_scheduled {
        true => (None, 0),
        false => (
            inspect.head(&event).await.during("reading the outbox")?,
            inspect.behind(&event).await.during("reading the outbox")?,
        ),
    };
    let (waited, due_in) = inspect.times(&event).await.during("asking for the time")?;
    let due_in = due_in.filter(|_| is_scheduled);
    let state = if is_scheduled { state_of_scheduled(&event) } else { State::of(&event) };
    let next = match state {
        State::Scheduled => advice_scheduled(&event, due_in),
        _ => advice(&event, layout, head.as_ref()),
    };

    if !args.payload
        && let Some(payload) = event.get_mut(layout.payload())
    {
        *payload = hidden(payload);
    }

    let json = Bson::Document(event.clone()).into_relaxed_extjson();
    let mut whole = serde_json::json!({ "event": json, "age_seconds": waited, "held_by": head, "behind_it": behind, "what_to_do": next });
    if is_scheduled {
        whole["scheduled"] = true.into();
        whole["due_in_seconds"] = due_in.into();
    }

    let screen = Screen::of(sources);
    let shown = Shown { event: &event, state, waited, due_in, head: head.as_ref(), behind };
    show(args.output, &whole, || people(screen, &shown, &next))
}

/// What is known of an event.
struct Shown<'a> {
    event: &'a Document,
    state: State,
    waited: Option<u64>,
    due_in: Option<i64>,
    head: Option<&'a Entry>,
    behind: u64,
}

pub(super) fn hidden(payload: &Bson) -> Bson {
    let bytes =
        bson::serialize_to_vec(&bson::doc! { "payload": payload }).map_or(0, |bytes| bytes.len());
    format!("(hidden, about {bytes} bytes; --payload shows it)").into()
}

fn advice(event: &Document, layout: &Layout, head: Option<&Entry>) -> String {
    let id = operand(&event.get(field::ID).map(shown_id).unwrap_or_default());
    if let Some(head) = head {
        return format!(
            "it waits behind {} ({}): `outboxd show {}`",
            head.id,
            head.state.word(),
            operand(&head.id)
        );
    }

    let code = newest(event).and_then(|failure| failure.get_str("code").ok()).unwrap_or_default();
    let remedy = Rejection::new(code, "").remedy();

    match State::of(event) {
        State::Scheduled => advice_scheduled(event, None),
        State::Locked => match malformed(event, layout) {
            Some(reason) => format!("it breaks the contract ({reason}); the relay will mark it"),
            None => {
                "nothing: the relay owns it; if it stays, see `outboxd stats` and the relay's log"
                    .to_owned()
            }
        },
        State::Parked => {
            "nothing holds it: the relay publishes it at its next retry, or `outboxd retry-now` does"
                .to_owned()
        }
        State::Failed => format!(
            "{remedy}; the relay retries it on its own, or at once after `outboxd retry-now {id}`"
        ),
        State::Dead => {
            format!(
                "{remedy}; then `outboxd edit {id}` to correct the event, `outboxd retry-now {id}` \
                 to publish it as it is, or `outboxd discard {id}`"
            )
        }
    }
}

/// For an event that waits for its time.
fn advice_scheduled(event: &Document, due_in: Option<i64>) -> String {
    let id = operand(&event.get(field::ID).map(shown_id).unwrap_or_default());
    match due_in {
        Some(..=-1) => format!(
            "it is due, and the relay has not moved it into the outbox yet: `outboxd stats` shows \
             whether a relay leads, and `outboxd check` whether it may move events; \
             `outboxd discard {id}` cancels it"
        ),
        _ => format!(
            "nothing: the relay moves it into the outbox once it is due; `outboxd retry-now {id}` \
             delivers it now, `outboxd discard {id}` cancels it"
        ),
    }
}

fn malformed(event: &Document, layout: &Layout) -> Option<String> {
    let raw = bson::RawDocumentBuf::try_from(event).ok()?;
    OutboxRecord::parse(&raw, layout).err().map(|malformed| malformed.reason)
}

fn newest(event: &Document) -> Option<&Document> {
    event.get_array(field::FAILURES).ok()?.last()?.as_document()
}

fn people(screen: Screen, shown: &Shown<'_>, next: &str) -> String {
    let Shown { event, state, waited, due_in, head, behind } = *shown;
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
    line("age", &known(waited));
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
    let _ = writeln!(out, "\nwhat to do: {}", wrap(&printable(next), screen.width, 12));
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
    format!("{} ({}, {})", head.id, head.state.word(), known(head.age_seconds))
}

fn known(seconds: Option<u64>) -> String {
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

//! `outboxd edit`: corrects a dead event, in an editor or with `--set`, and retries it.
//!
//! What is written is what the relay would publish: the edited document goes through the relay's own
//! parser first. The fields that change are kept in the audit as they were.

use std::fmt::Write as _;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf};
use clap::Args as ClapArgs;
use outboxd_client::field;

use super::act::{STOPS, act, open};
use super::editor;
use super::output::{Screen, print};
use super::wait::{WaitArgs, wait_for};
use crate::config::Sources;
use crate::document::json;
use crate::document::layout::Layout;
use crate::document::record::{OutboxRecord, shown_id};
use crate::document::state::State;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::finding::operand;
use crate::mongodb::act::{FieldEdits, Place};
use crate::mongodb::inspect::state_of_scheduled;
use crate::mongodb::selection::Selection;
use crate::operator::act::{Action, Edit, How, Outbox, all_done};
use crate::printable::printable;
use crate::shutdown::on_signals;

/// Parts of an event that `--set` takes.
const PARTS: [&str; 4] = [field::SUBJECT, field::KEY, field::HEADERS, field::PAYLOAD];
/// Characters shown of a value.
const MAX_SHOWN: usize = 200;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Id of a dead event. `--set` changes its subject, key, headers.NAME, payload or payload.FIELD;
    /// payloads are JSON, and an empty value removes key or header. Without `--set`, `$VISUAL` or
    /// `$EDITOR` opens
    id: String,
    /// Only print what would change
    #[arg(long)]
    dry_run: bool,
    /// Has no effect: `edit` never asks for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Reason, for the audit record
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Parts the values of `--set`: those of the event, and the settings.
pub(super) fn part_sets(set: Vec<String>) -> (Vec<String>, Vec<String>) {
    set.into_iter().partition(|set| {
        let name = set.split_once('=').map_or("", |(name, _)| name);
        PARTS.contains(&name.split('.').next().unwrap_or(name))
    })
}

pub(super) async fn run(sources: &Sources, args: &Args, set: &[String]) -> Result<()> {
    let screen = Screen::of(sources);
    let outbox = open(sources).await?;
    let layout = outbox.config.event.layout.clone();
    let (id, event, place) = dead_event(&outbox, &args.id).await?;
    let old = fields(&event, &layout);

    let edits = match set {
        [] => {
            let edited = editor::Editor::of(sources)?;
            edited.edit(&old, |new| {
                let edits = difference(&old, new);
                check(&event, &edits, &layout).map(|()| edits)
            })?
        }
        set => {
            let edits = difference(&old, &with(&old, set, &layout)?);
            check(&event, &edits, &layout).map_err(|reason| {
                let message =
                    format!("the event would break the contract: {reason}; nothing is done");
                Error::new(ErrorKind::Usage, message)
            })?;
            edits
        }
    };

    if edits == FieldEdits::default() {
        return print("nothing changes; nothing is done\n");
    }
    print(&changes(&old, &edits))?;
    if args.dry_run {
        return Ok(());
    }

    let dead_at =
        *event.get_datetime(field::DEAD_AT).map_err(|_| not_dead(&args.id, State::of(&event)))?;
    let changed = || edits.set.keys().chain(&edits.unset);
    let before: Document = changed()
        .map(|name| (name.clone(), old.get(name).cloned().unwrap_or(Bson::Null)))
        .collect();
    let what = changed().cloned().collect::<Vec<_>>().join(", ");
    let moves = changed().any(|name| name == layout.key());

    let window = Duration::ZERO;
    let (ids, scheduled_ids) = match place {
        Place::Outbox => (vec![id.clone()], Vec::new()),
        Place::Scheduled => (Vec::new(), vec![id.clone()]),
    };
    let selection = Selection { ids: Some(ids), scheduled_ids, ..Selection::default() };
    let chosen =
        outbox.inspect.chosen(&selection, window, u64::MAX).await.during("reading the outbox")?;
    let edit = Edit { dead_at, edits, before };
    let (action, stop) = (Action::Edit(Box::new(edit)), on_signals(&STOPS)?);
    let selection = format!("{}: {what}", shown_id(&id));
    let how = How { selection: &selection, reason: args.reason.as_deref(), rate: None };
    let ids = [(Place::Outbox, &*chosen.ids), (Place::Scheduled, &*chosen.scheduled)];
    let done = act(&outbox, &action, ids, how, &stop).await?;
    all_done(&chosen, &done, false)?;
    if moves && place == Place::Outbox {
        // What waited behind it has another head now.
        outbox.wake_relay().await?;
    }

    match args.wait.patience(screen) {
        Some(patience) => {
            wait_for((&chosen, &done), &outbox.inspect, screen, patience, &stop).await
        }
        None => Ok(()),
    }
}

async fn dead_event(outbox: &Outbox, id: &str) -> Result<(Bson, Document, Place)> {
    let event = outbox.inspect.whole(id, false).await.during("reading the outbox")?;
    let Some((event, is_scheduled)) = event else {
        let message = format!(
            "no event {id} is in the outbox or scheduled: it was published, discarded, or never \
             written"
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };

    let (state, place) = match is_scheduled {
        true => (state_of_scheduled(&event), Place::Scheduled),
        false => (State::of(&event), Place::Outbox),
    };
    match (state, event.get(field::ID)) {
        (State::Dead, Some(id)) => Ok((id.clone(), event, place)),
        _ => Err(not_dead(id, state)),
    }
}

fn not_dead(id: &str, state: State) -> Error {
    let message = format!(
        "{id} is {state}, and the relay may be publishing it: only a dead event can be edited; `outboxd show {}` \
         shows what to do",
        operand(id)
    );
    Error::new(ErrorKind::NotFound, message)
}

/// What of the document is published.
fn fields(event: &Document, layout: &Layout) -> Document {
    let mut names = Document::new();
    layout.project(&mut names);
    let names = names.keys().map(String::as_str).chain([layout.headers(), layout.payload()]);
    names.filter_map(|name| Some((name.to_owned(), event.get(name)?.clone()))).collect()
}

/// The fields with these values.
fn with(old: &Document, set: &[String], layout: &Layout) -> Result<Document> {
    let mut new = old.clone();
    for set in set {
        let refuse = |why: &str| Error::new(ErrorKind::Usage, format!("--set {set}: {why}"));
        let (name, text) = set.split_once('=').ok_or_else(|| refuse("give NAME=VALUE"))?;
        let mut path = name.split('.');
        let part = path.next().unwrap_or_default();
        let rest: Vec<&str> = path.collect();

        let field = match part {
            field::SUBJECT if !layout.is_own() => {
                return Err(refuse("the subject is made of other fields; edit those in $EDITOR"));
            }
            field::SUBJECT => field::SUBJECT,
            field::KEY => layout.key(),
            field::HEADERS => layout.headers(),
            _ => layout.payload(),
        };

        match (part, &*rest) {
            (field::KEY | field::HEADERS, []) if text.is_empty() => drop(new.remove(field)),
            (field::SUBJECT | field::KEY, []) => drop(new.insert(field, text)),
            (field::HEADERS, []) => return Err(refuse("name a header: headers.NAME=VALUE")),
            (field::HEADERS, _) => {
                let header = name.split_once('.').map_or("", |(_, header)| header);
                set_header(&mut new, field, header, text);
            }
            (field::PAYLOAD, []) => {
                let value =
                    json(text).ok_or_else(|| refuse("a payload is JSON, a text in quotes"))?;
                new.insert(field, value);
            }
            (field::PAYLOAD, path) => {
                let value = json(text).unwrap_or_else(|| text.into());
                let payload = new.get_mut(field).ok_or_else(|| refuse("there is no payload"))?;
                let place = place(payload, path);
                *place.ok_or_else(|| refuse("the payload has no field at this path"))? = value;
            }
            _ => return Err(refuse("it has no fields of its own")),
        }
    }
    Ok(new)
}

fn set_header(fields: &mut Document, field: &str, header: &str, text: &str) {
    let mut headers = fields.get_document(field).cloned().unwrap_or_default();
    match text.is_empty() {
        true => drop(headers.remove(header)),
        false => drop(headers.insert(header, text)),
    }
    fields.insert(field, headers);
}

/// The value at a path, which may be new in the innermost document.
fn place<'a>(value: &'a mut Bson, path: &[&str]) -> Option<&'a mut Bson> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    let next = match value {
        Bson::Array(values) => values.get_mut(first.parse::<usize>().ok()?)?,
        Bson::Document(document) => {
            if rest.is_empty() && !document.contains_key(first) {
                document.insert(*first, Bson::Null);
            }
            document.get_mut(first)?
        }
        _ => return None,
    };
    place(next, rest)
}

fn json(text: &str) -> Option<Bson> {
    json::read(text).ok()
}

/// What changes. A value that reads the same stays as it is, whatever its type.
fn difference(old: &Document, new: &Document) -> FieldEdits {
    let read = |value: &Bson| value.clone().into_relaxed_extjson();
    let set = new.iter().filter(|(_, value)| **value != Bson::Null);
    let set = set.filter(|(name, value)| old.get(name).is_none_or(|old| read(old) != read(value)));
    let is_gone = |name: &&String| !matches!(new.get(*name), Some(value) if *value != Bson::Null);
    let unset = old.iter().filter(|(_, value)| **value != Bson::Null).map(|(name, _)| name);
    FieldEdits {
        set: set.map(|(name, value)| (name.clone(), value.clone())).collect(),
        unset: unset.filter(is_gone).cloned().collect(),
    }
}

/// Reads the edited event as the relay will read it.
fn check(event: &Document, edits: &FieldEdits, layout: &Layout) -> Result<(), String> {
    let mut edited = event.clone();
    edits.unset.iter().for_each(|name| drop(edited.remove(name)));
    edited.extend(edits.set.clone());
    edited.remove(field::DEAD_AT);

    let edited = RawDocumentBuf::try_from(&edited).map_err(|error| error.to_string())?;
    OutboxRecord::parse(&edited, layout).map(|_| ()).map_err(|malformed| malformed.reason)
}

fn changes(old: &Document, edits: &FieldEdits) -> String {
    let shown = |value: Option<&Bson>| {
        let text = match value {
            None | Some(Bson::Null) => return "(none)".to_owned(),
            Some(Bson::String(text)) => text.clone(),
            Some(value) => value.clone().into_relaxed_extjson().to_string(),
        };
        let mut chars = text.chars();
        let mut shown: String = chars.by_ref().take(MAX_SHOWN).collect();
        if chars.next().is_some() {
            shown.push('…');
        }
        printable(&shown)
    };

    let mut out = String::new();
    for name in edits.set.keys().chain(&edits.unset) {
        let (before, after) = (shown(old.get(name)), shown(edits.set.get(name)));
        let _ = writeln!(out, "{}\n  - {before}\n  + {after}", printable(name));
    }
    out
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn event() -> Document {
        doc! {
            "_id": "e", "subject": "a b", "key": "k", "isLocked": false, "headers": { "A": "1" },
            "payload": { "n": 1_i64, "list": [{ "x": "y" }], "at": bson::DateTime::from_millis(0) },
            "ts": bson::Timestamp { time: 1, increment: 1 },
        }
    }

    fn edits(set: &[&str]) -> Result<FieldEdits> {
        let set: Vec<_> = set.iter().map(|set| (*set).to_owned()).collect();
        let old = fields(&event(), &Layout::default());
        with(&old, &set, &Layout::default()).map(|new| difference(&old, &new))
    }

    #[test]
    fn each_part_can_be_set_and_removed() {
        let edit = edits(&["subject=a.b", "key=", "headers.A=", "headers.x-b=2=3"]).expect("edits");
        assert_eq!(edit.set, doc! { "subject": "a.b", "headers": { "x-b": "2=3" } });
        assert_eq!(edit.unset, ["key"]);

        let edit = edits(&["payload.list.0.x=5", "payload.new=text"]).expect("edits");
        let payload = edit.set.get_document("payload").expect("a payload");
        assert_eq!(payload.get_array("list").expect("a list"), &vec![doc! { "x": 5 }.into()]);
        assert_eq!(payload.get("new"), Some(&"text".into()));
        assert_eq!(payload.get("n"), Some(&1_i64.into()), "types of other values stay");
        assert!(matches!(payload.get("at"), Some(Bson::DateTime(_))));
    }

    #[test]
    fn what_stays_the_same_is_no_edit() {
        let same = edits(&["subject=a b", "payload.n=1", "headers.A=1"]).expect("edits");
        assert_eq!(same, FieldEdits::default());
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for set in ["payload=text", "payload.list.7=1", "payload.n.x=1", "headers=x", "subject.x=1"]
        {
            assert!(edits(&[set]).is_err(), "{set}");
        }
    }

    #[test]
    fn the_relays_parser_judges() {
        let layout = Layout::default();
        let judged = |set: &[&str]| check(&event(), &edits(set).expect("edits"), &layout);
        assert_eq!(judged(&["subject=a.b"]), Ok(()));
        for (set, why) in [
            ("key=other", "invalid subject"),
            ("subject=$JS.API", "belong to the server"),
            ("headers.Nats-Rollup=all", "invalid subject"),
        ] {
            assert!(judged(&[set]).expect_err(set).contains(why), "{set}");
        }
        let refused = judged(&["subject=a.b", "headers.Nats-Rollup=all"]).expect_err("a header");
        assert!(refused.contains("Nats-"), "{refused}");
        assert!(judged(&["subject=a.b", r#"payload={"x":{"$numberDouble":"NaN"}}"#]).is_err());
    }

    #[test]
    fn settings_and_parts_of_the_event_are_told_apart() {
        let set = ["subject=a", "lease.ttl=5s", "payload.a=1", "stream.name=S", "headers.A=1"];
        let (event, settings) = part_sets(set.map(str::to_owned).to_vec());
        assert_eq!(event, ["subject=a", "payload.a=1", "headers.A=1"]);
        assert_eq!(settings, ["lease.ttl=5s", "stream.name=S"]);
    }
}

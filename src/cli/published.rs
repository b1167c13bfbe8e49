//! `outboxd published`: the kept events, newest first, and one of them.

use std::fmt::Write as _;

use bson::{Bson, Document};
use clap::{Args as ClapArgs, Subcommand};
use outboxd_client::field;
use serde::Serialize;

use super::output::{Output, Screen, patiently, show};
use super::selection::kept;
use super::show::{cut, hidden};
use super::table::{Cell, table};
use crate::config::Sources;
use crate::document::record::shown_id;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::kept::KeptEntry;
use crate::mongodb::selection;
use crate::operator::kept::KeptFilter;
use crate::printable::printable;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List kept events, the newest in the stream first
    List(ListArgs),
    /// Show one kept event and where the stream has it
    Show(ShowArgs),
}

#[derive(Debug, ClapArgs)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: KeptFilter,
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

#[derive(Debug, ClapArgs)]
pub(super) struct ShowArgs {
    /// The event's id, as `published list` shows it
    id: String,
    /// Show the payload too; it may hold confidential data
    #[arg(long)]
    payload: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    total: u64,
    events: Vec<KeptEntry>,
}

pub(super) async fn run(sources: &Sources, verb: &Verb) -> Result<()> {
    match verb {
        Verb::List(args) => list(sources, args).await,
        Verb::Show(args) => show_one(sources, args).await,
    }
}

async fn list(sources: &Sources, args: &ListArgs) -> Result<()> {
    let outbox = kept(sources).await?;
    let (filter, total) = patiently(outbox.select(&args.filter.selection(None))).await?;
    let skip = u64::from(args.page - 1) * args.limit.unsigned_abs();
    let events = patiently(outbox.store.newest_matching(&filter, skip, args.limit)).await;
    let shown = Shown { total, events: events.during("reading kept events")? };

    let screen = Screen::of(sources);
    show(args.output, &shown, || {
        if total == 0 {
            return outbox.why_none() + "\n";
        }

        let to = skip + shown.events.len() as u64;
        let more = match to < total {
            true => format!("; --page {} shows more", args.page + 1),
            false => String::new(),
        };
        format!("{}\n{} to {to} of {total}{more}\n", rows(screen, &shown.events), skip + 1)
    })
}

/// Kept events as a table.
pub(super) fn rows(screen: Screen, events: &[KeptEntry]) -> String {
    let dash = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or("-"));
    let rows = events.iter().map(|event| {
        let at = event.published_at.as_deref().map_or("-", |at| at.get(..19).unwrap_or(at));
        let seq = event.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        let (id, stream) = (Cell::from(&event.id), dash(&event.stream));
        vec![id, at.into(), stream, seq.into(), dash(&event.subject), dash(&event.key)]
    });
    table(screen, &["ID", "PUBLISHED (UTC)", "STREAM", "SEQ", "SUBJECT", "KEY"], rows)
}

async fn show_one(sources: &Sources, args: &ShowArgs) -> Result<()> {
    let outbox = kept(sources).await?;
    let ids = selection::ids(&args.id);
    let found = outbox.store.kept_with(&ids).await.during("reading kept events")?;
    let Some(mut event) = found else {
        let message = format!(
            "there is no kept event {}: it is still in the outbox (`outboxd show {0}`), or was removed \
             after keep.for",
            args.id
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };

    let payload = outbox.config.event.layout.payload();
    if !args.payload
        && let Some(payload) = event.get_mut(payload)
    {
        *payload = hidden(payload);
    }

    let json = Bson::Document(event.clone()).into_relaxed_extjson();
    show(args.output, &serde_json::json!({ "event": json }), || people(&event))
}

fn people(event: &Document) -> String {
    let mut out = String::new();
    for (name, value) in event {
        let value = match value {
            Bson::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_default(),
            Bson::String(text) => cut(text),
            value if name == field::ID => shown_id(value),
            value => cut(&value.clone().into_relaxed_extjson().to_string()),
        };
        let _ = writeln!(out, "  {:<20}{}", printable(name), printable(&value));
    }
    out
}

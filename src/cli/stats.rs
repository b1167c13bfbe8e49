//! `outboxd stats`: the outbox in numbers.

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Output, age, show, table};
use super::selection::inspect;
use crate::config::Sources;
use crate::document::state::State;
use crate::error::{MongodbContext, Result};
use crate::mongodb::inspect::Stats;

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
    let (config, inspect) = inspect(sources).await?;
    let shown = Shown {
        outbox: format!("{}.{}", config.mongodb.database, config.mongodb.collection),
        stream: config.stream.name.clone(),
        duplicate_window_seconds: config.stream.duplicate_window.as_secs(),
        stats: inspect.stats().await.during("reading the outbox")?,
    };

    show(args.output, &shown, || people(&shown))
}

fn people(shown: &Shown) -> String {
    let Shown { outbox, stream, duplicate_window_seconds, stats } = shown;
    let mut out = format!(
        "outbox {outbox} to stream {stream} (duplicate window {} as configured)\n",
        age(*duplicate_window_seconds)
    );

    let _ = match &stats.lease {
        Some(lease) if !lease.is_a_relays() => writeln!(
            out,
            "NO RELAY is known to lead: the lease of {} ends in {}, and no relay's lasts that long; a relay that runs \
             takes it over",
            lease.holder,
            age(lease.expires_in_seconds.unsigned_abs())
        ),
        Some(lease) if lease.expires_in_seconds >= 0 => {
            writeln!(out, "relayed by {}, term {}", lease.holder, lease.term)
        }
        Some(lease) => {
            let ago = age(lease.expires_in_seconds.unsigned_abs());
            writeln!(
                out,
                "NO RELAY: the lease of {} ended {ago} ago; start `outboxd run`",
                lease.holder
            )
        }
        None => writeln!(out, "NO RELAY has ever run on this outbox; start `outboxd run`"),
    };

    let oldest = stats.oldest_seconds.map_or_else(|| "-".to_owned(), age);
    let counted = |state: State, events: u64| (state.word(), events.to_string(), state.meaning());
    let numbers = [
        ("backlog", stats.backlog.to_string(), "events in the outbox"),
        counted(State::Locked, stats.locked),
        counted(State::Failed, stats.failed),
        counted(State::Parked, stats.parked),
        counted(State::Dead, stats.dead),
        ("oldest", oldest, "age of the oldest event that is not dead"),
    ];

    out.push('\n');
    for (name, number, meaning) in numbers {
        let _ = writeln!(out, "  {name:<8} {number:>9}  {meaning}");
    }

    if !stats.stuck_by_subject.is_empty() {
        let rows = stats.stuck_by_subject.iter().map(|stuck| {
            let counts = [stuck.failed, stuck.parked, stuck.dead].map(|count| count.to_string());
            [
                vec![stuck.subject.clone()],
                counts.to_vec(),
                vec![stuck.oldest_seconds.map_or_else(|| "-".to_owned(), age)],
            ]
            .concat()
        });
        out.push('\n');
        out += &table(&["STUCK SUBJECT", "FAILED", "PARKED", "DEAD", "OLDEST"], rows);
        out += "\n`outboxd groups` shows why.\n";
    }

    out
}

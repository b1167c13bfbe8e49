//! `outboxd replay`: publishes kept events again on purpose, for a consumer that has lost its data.
//!
//! A replayed message has a message id and a header of its own: the stream takes it for no duplicate,
//! and a consumer can tell it from the first one. Events of a key are replayed in the order of the
//! stream. What is kept after the command began is not replayed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use bson::{Bson, Document};
use clap::Args as ClapArgs;

use super::act::{STOPS, who};
use super::output::{Screen, events, patiently, print};
use super::progress::Progress;
use super::published::rows;
use super::selection::kept;
use crate::config::Sources;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::selection;
use crate::operator::kept::{KeptFilter, Outbox};
use crate::operator::replay::{HEADER, RATE, Replay, Replayed, Told};
use crate::printable::printable;
use crate::shutdown::on_signals;

/// Events shown before the question.
const SAMPLE: i64 = 5;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Ids of kept events
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every kept event that the filters select
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: KeptFilter,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Limit, in events per second
    #[arg(long, value_name = "PER_SECOND", default_value_t = RATE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Reason, for the audit record
    #[arg(long)]
    reason: Option<String>,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let outbox = kept(sources).await?;
    let ids: Vec<Bson> = args.ids.iter().flat_map(|id| selection::ids(id)).collect();
    let chosen = args.filter.selection((!args.all).then(|| ids.clone()));
    let (filter, total) = patiently(outbox.select(&chosen)).await?;

    if total == 0 {
        return match args.all {
            true => print(&(outbox.why_none() + "\n")),
            false => Err(Error::new(ErrorKind::NotFound, outbox.why_none())),
        };
    }
    if !is_wanted(&outbox, args, (&filter, total), Screen::of(sources)).await? {
        return Ok(());
    }

    let stop = on_signals(&STOPS)?;
    let given = match args.all {
        true => format!("--all {}", args.filter.words()),
        false => args.ids.join(" "),
    };
    let replay = Replay {
        outbox: &outbox,
        who: &who(sources),
        selection: given.trim(),
        ids: &ids,
        filter: &filter,
        events: total,
        rate: args.rate,
        reason: args.reason.as_deref(),
    };

    let mut progress = Progress::new(total);
    let (replayed, ended) = replay
        .run(&stop, |told| match told {
            Told::Read(read) => {
                progress.at(read);
                Ok(())
            }
            Told::Refused { id, error } => {
                progress.clear();
                print(&format!("refused: {}\n", printable(&format!("{id}: {error}"))))
            }
        })
        .await?;
    progress.clear();

    let Replayed { number, published, refused } = replayed;
    print(&format!("{} replayed with the header {HEADER}: {number}\n", events(published)))?;
    ended?;

    match refused {
        0 => Ok(()),
        refused => {
            let message = format!("the stream refuses {}; see above", events(refused));
            Err(Error::new(ErrorKind::Findings, message))
        }
    }
}

/// Shows what would be replayed, and asks.
async fn is_wanted(
    outbox: &Outbox,
    args: &Args,
    (filter, total): (&Document, u64),
    screen: Screen,
) -> Result<bool> {
    let sample = outbox.store.newest_matching(filter, 0, SAMPLE).await;
    let sample = sample.during("reading kept events")?;
    print(&format!("{}\n", rows(screen, &sample)))?;
    let (all, rate) = (events(total), args.rate);
    print(&format!("{all} in all, to stream {}, {rate} a second\n", outbox.config.stream.name))?;

    if args.dry_run {
        return Ok(false);
    }
    if !args.all || args.yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        let message = "standard input is not a terminal; confirm with --yes";
        return Err(Error::new(ErrorKind::Usage, message));
    }

    print("replay all of them? [y/N] ")?;
    std::io::stdout().flush().map_err(cannot_ask)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(cannot_ask)?;
    let is_yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    if !is_yes {
        print("nothing is done\n")?;
    }
    Ok(is_yes)
}

fn cannot_ask(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Os, "the terminal can't be read; confirm with --yes", error)
}

//! `outboxd replay`: publishes kept events again on purpose, for a consumer that has lost its data.
//!
//! A replayed message has a message id and a header of its own: the stream takes it for no duplicate,
//! and a consumer can tell it from the first one. Events of a key are replayed in the order of the
//! stream. What is kept after the command began is not replayed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use bson::{Bson, Document};
use clap::Args as ClapArgs;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::act::{STOPS, who};
use super::kept::{KeptFilter, Outbox};
use super::output::{Screen, events, patiently, print};
use super::progress::Progress;
use super::published::rows;
use crate::config::{MongodbConfig, Sources};
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::jetstream::bus::JetStream;
use crate::mongodb::act::{Act, AuditEntry};
use crate::mongodb::selection;
use crate::printable::printable;
use crate::relay::again::{PAGE, Sent, publish_again};
use crate::relay::kept::Kept;
use crate::relay::ports::{EventBus as _, Room};
use crate::relay::publish::Publisher;
use crate::relay::publish::outcome::Outcome;
use crate::shutdown::on_signals;

/// The header that names the replay.
pub(super) const HEADER: &str = "Outboxd-Replay";
/// Events a second unless `--rate` says otherwise: consumers see a stream and no flood.
const RATE: u32 = 1000;
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
    /// Most events per second
    #[arg(long, value_name = "PER_SECOND", default_value_t = RATE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Reason, for the audit record
    #[arg(long)]
    reason: Option<String>,
}

/// A replay under way.
struct Replaying<'a> {
    outbox: &'a Outbox,
    publisher: Publisher<JetStream>,
    number: u64,
    rate: u32,
    done: Done,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Done {
    read: u64,
    published: u64,
    refused: u64,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let outbox = Outbox::open(sources).await?;
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
    let publisher = outbox.stream(stop.clone()).await?;
    // Each replay has another, so that the stream drops none of its messages.
    let number = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let number = number.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));

    let MongodbConfig { database, collection, .. } = &outbox.config.mongodb;
    let layout = outbox.config.event.layout.clone();
    let act = Act::new(outbox.client.database(database), collection, layout);
    let (who, words) = (who(sources), args.filter.words());
    let given = if args.all { format!("--all {words}") } else { args.ids.join(" ") };
    let selection = format!("replay {number}: {}", given.trim());
    let entry = AuditEntry {
        who: &who,
        action: "replay",
        selection: &selection,
        reason: args.reason.as_deref(),
    };

    let request = act.record_request(&entry, (&ids, total), None).await;
    let request = request.during("recording the replay in outboxd_audit; nothing is published")?;

    let (done, progress) = (Done::default(), Progress::new(total));
    let mut replaying =
        Replaying { outbox: &outbox, publisher, number, rate: args.rate, done, progress };
    let ended = replaying.all(&filter, &stop).await;
    replaying.progress.clear();

    let Replaying { done: Done { published, refused, .. }, .. } = replaying;
    act.record_outcome(&entry, request, published).await.during("recording what was replayed")?;
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

impl Replaying<'_> {
    /// Replays page by page, until `stop`.
    async fn all(&mut self, filter: &Document, stop: &CancellationToken) -> Result<()> {
        let (mut behind, began) = (None, Instant::now());
        let room = PAGE.at_most(usize::try_from(self.rate).unwrap_or(usize::MAX));

        loop {
            if stop.is_cancelled() {
                return Err(interrupted(&self.done));
            }
            let page = self.page(filter, behind, room).await?;
            let Some(last) = page.last() else { return Ok(()) };
            behind = Some(last.place);
            self.done.read += page.len() as u64;

            self.publish(page).await?;
            self.progress.at(self.done.read);

            let due = self.done.read.saturating_mul(1_000_000) / u64::from(self.rate);
            tokio::select! {
                () = sleep_until(began + Duration::from_micros(due)) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// The next events, with the header that names the replay.
    async fn page(&self, filter: &Document, behind: Option<i64>, room: Room) -> Result<Vec<Kept>> {
        let page = self.outbox.store.matching(filter, behind, room).await;
        let mut page = page.during("reading kept events")?;

        for event in page.iter_mut().filter_map(|kept| kept.event.as_mut().ok()) {
            let added = event.headers.insert_made(HEADER, &self.number.to_string());
            added.map_err(|error| {
                let message = format!("event {} can't be replayed: {error}", event.id);
                Error::new(ErrorKind::Usage, message)
            })?;
        }
        Ok(page)
    }

    async fn publish(&mut self, page: Vec<Kept>) -> Result<()> {
        let Self { publisher, number, done, progress, .. } = self;
        // The client may have connected again.
        publisher.clearance.grant(publisher.bus.connection());

        publish_again(publisher, page, Some(*number), |Sent { id, outcome, .. }| match outcome {
            Outcome::Acked(_) => {
                done.published += 1;
                Ok(())
            }
            Outcome::Rejected(rejection) if rejection.is_definite() => {
                done.refused += 1;
                progress.clear();
                let id = id.map_or_else(|| "a document".to_owned(), |id| id.to_string());
                print(&format!("refused: {}\n", printable(&format!("{id}: {}", rejection.error))))
            }
            Outcome::Rejected(rejection) => Err(Error::new(ErrorKind::Nats, rejection.error)),
            Outcome::Abandoned => Err(interrupted(done)),
        })
        .await
    }
}

fn interrupted(done: &Done) -> Error {
    let message = format!(
        "interrupted after {}; --since and --until of a further replay take the rest",
        events(done.published)
    );
    Error::new(ErrorKind::Interrupted, message)
}

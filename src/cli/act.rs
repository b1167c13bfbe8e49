//! `outboxd retry-now` and `outboxd discard`, which share nearly everything.

use std::io::{BufRead, IsTerminal, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bson::Bson;
use clap::Args as ClapArgs;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::config::load;
use super::discard::Discard;
use super::list;
use super::output::{events, print};
use super::selection::{Filter, inspect_by};
use crate::config::{Config, Sources};
use crate::document::state::{DISCARD_HOLDS, State};
use crate::duration;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::act::{Act, AuditEntry};
use crate::mongodb::bounded::parts;
use crate::mongodb::inspect::Inspect;
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::selection::Selection;
use crate::printable::printable;
use crate::relay::lease::Lease;
use crate::shutdown::{StopSignal, on_signals};

/// Events acted on at once.
const BATCH: usize = 500;
/// Ids that a message names.
const NAMED: usize = 5;
/// Events shown before a bulk action.
const SAMPLE: i64 = 5;
/// What ends the command after the batch under way.
const STOPS: [StopSignal; 4] =
    [StopSignal::Interrupt, StopSignal::Terminate, StopSignal::Quit, StopSignal::Hangup];
/// Longest wait for MongoDB after such a signal.
const STOPPING: Duration = Duration::from_secs(10);

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Ids of events
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every stuck event that the filters select
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Most events per second
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Reason, for the audit record
    #[arg(long)]
    reason: Option<String>,
}

/// The verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    RetryNow,
    Discard,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::RetryNow => "retry-now",
            Self::Discard => "discard",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::RetryNow => "due now",
            Self::Discard => "discarded",
        }
    }
}

pub(super) async fn run(sources: &Sources, args: &Args, action: Action) -> Result<()> {
    let config = load(sources)?;
    let mongodb = &config.mongodb;
    let client = mongodb.client("operator").await?;
    let (database, layout) = (client.database(&mongodb.database), &config.event.layout);
    let inspect = inspect_by(&config, &client).await?;
    let act = Act::new(database, &mongodb.collection, layout.clone());
    let selection = args.filter.selection(&args.ids);

    if !is_wanted(&config, (&inspect, &act), args, &selection, action).await? {
        return Ok(());
    }

    let ids = act.ids(&selection).await.during("reading the outbox")?;
    let who = who(sources);
    let as_given =
        if args.all { format!("--all {}", args.filter.as_given()) } else { args.ids.join(" ") };
    let entry = AuditEntry {
        who: &who,
        action: action.name(),
        selection: as_given.trim(),
        reason: args.reason.as_deref(),
    };

    let holder = format!("outboxd {} of {who}", action.name());
    let document = LeaseDocument::new(&client, &mongodb.database, &mongodb.collection, holder);
    let lease = Arc::new(Lease::new(document, config.lease.ttl));
    let stop = on_signals(&STOPS)?;
    let acting = Acting { act: &act, lease: &lease, stop: &stop, entry, action, rate: args.rate };

    let (done, acted) = acting.on(&ids).await;
    print(&format!("{} {}\n", events(done), action.done()))?;
    acted?;

    let left = ids.len() as u64 - done;
    if stop.is_cancelled() && left > 0 {
        let message = format!("interrupted; {} left as they were", events(left));
        return Err(Error::new(ErrorKind::Interrupted, message));
    }

    match left {
        0 => Ok(()),
        left => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{left} were published or changed in the meantime, or the relay is still publishing them; \
                 nothing more is done to them"
            ),
        )),
    }
}

/// An action under way.
struct Acting<'a> {
    act: &'a Act,
    lease: &'a Arc<Lease<LeaseDocument>>,
    stop: &'a CancellationToken,
    entry: AuditEntry<'a>,
    action: Action,
    rate: Option<u32>,
}

impl Acting<'_> {
    /// Acts on these events, batch by batch. Returns on how many, and why it ended early.
    async fn on(&self, ids: &[Bson]) -> (u64, Result<()>) {
        let mut done = 0;
        let acted = tokio::select! {
            acted = self.on_batches(ids, &mut done) => acted,
            () = self.given_up() => Err(Error::new(
                ErrorKind::Interrupted,
                format!(
                    "interrupted, and MongoDB does not answer; a request to discard lapses {} after it was made",
                    duration::for_people(DISCARD_HOLDS)
                ),
            )),
        };
        (done, acted)
    }

    async fn on_batches(&self, ids: &[Bson], done: &mut u64) -> Result<()> {
        let mut next = Instant::now();
        let most = self.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
        for batch in parts(ids, most) {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.stop.cancelled() => {}
            }
            if self.stop.is_cancelled() {
                return Ok(());
            }

            let second = Duration::from_secs(1);
            next = Instant::now()
                + self.rate.map_or(Duration::ZERO, |rate| second * batch.len() as u32 / rate);
            *done += self.on_batch(batch).await?;
        }

        Ok(())
    }

    /// Nothing is done that is not recorded before.
    async fn on_batch(&self, batch: &[Bson]) -> Result<u64> {
        let request = self.act.record_request(&self.entry, batch).await.map_err(|error| {
            let message = format!(
                "outboxd_audit does not take the record of it, so nothing is done; look at the \
                 collection's validator and at the role of `outboxd privileges --role operator`, \
                 then repeat the {}",
                self.action.name()
            );
            Error::with_source(ErrorKind::Mongodb, message, error)
        })?;

        let acted = match self.action {
            Action::RetryNow => self.act.retry_now(batch).await.during("making events due")?,
            Action::Discard => {
                let discard = Discard { act: self.act, lease: self.lease, stop: self.stop };
                discard.remove(batch).await?
            }
        };

        let outcome = self.act.record_outcome(&self.entry, request, acted).await;
        outcome.map_err(|error| {
            let message = format!(
                "{} {}, but outboxd_audit does not take the record of that; it has the request alone",
                events(acted),
                self.action.done()
            );
            Error::with_source(ErrorKind::Mongodb, message, error)
        })?;
        Ok(acted)
    }

    /// Some time after the command was asked to stop.
    async fn given_up(&self) {
        self.stop.cancelled().await;
        sleep(STOPPING).await;
    }
}

/// Why the command can't act on some of the ids, each named.
async fn not_selected(
    inspect: &Inspect,
    selection: &Selection,
) -> mongodb::error::Result<Vec<String>> {
    let mut others = Vec::new();
    for id in &selection.ids {
        let ids = vec![id.clone()];
        let is_one = async |selection| {
            Ok::<_, mongodb::error::Error>(inspect.list(&selection, 0, 1).await?.1 > 0)
        };
        if is_one(Selection { ids: ids.clone(), ..selection.clone() }).await? {
            continue;
        }

        let stuck = Selection { ids, ..Selection::default() };
        let locked = Selection { state: Some(State::Locked), ..stuck.clone() };
        let why = if is_one(locked).await? {
            "is on its way, and the relay has it in hand"
        } else if is_one(stuck).await? {
            "is stuck, but not selected by these filters"
        } else {
            "is not in the outbox: it was published, discarded or never written"
        };

        if others.len() == NAMED {
            others.push("and more".to_owned());
            break;
        }
        others.push(format!("{} {why}", printable(id)));
    }

    Ok(others)
}

/// Shows what would be done and asks for confirmation.
async fn is_wanted(
    config: &Config,
    (inspect, act): (&Inspect, &Act),
    args: &Args,
    selection: &Selection,
    action: Action,
) -> Result<bool> {
    let (sample, total) = inspect.list(selection, 0, SAMPLE).await.during("reading the outbox")?;
    if !args.all && total < args.ids.len() as u64 {
        let others = not_selected(inspect, selection).await.during("reading the outbox")?;
        if !others.is_empty() {
            let message = format!("nothing was done: {}; leave them out", others.join("; "));
            return Err(Error::new(ErrorKind::NotFound, message));
        }
    }

    if total == 0 {
        print("no stuck event matches\n")?;
        return Ok(false);
    }

    if args.all || args.dry_run {
        print(&format!("{}\n", list::rows(&sample)))?;
        print(&format!("{} in all\n", events(total)))?;
    }

    if action == Action::RetryNow {
        let window = config.stream.duplicate_window;
        let twice = act.may_come_twice(selection, window).await.during("reading the outbox")?;

        if twice > 0 {
            let window = duration::for_people(window);
            print(&format!(
                "WARNING: {twice} of them got no answer at their last try, longer ago than the stream's duplicate window \
                 ({window}): they may be in the stream already and would be stored twice\n"
            ))?;
        }
    }

    if args.dry_run || !args.all || args.yes {
        return Ok(!args.dry_run);
    }

    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            "standard input is not a terminal; confirm with --yes",
        ));
    }

    print(&format!("{} all of them? [y/N] ", action.name()))?;
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);

    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn who(sources: &Sources) -> String {
    let of = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| {
            sources.env.iter().find(|(set, text)| set == name && !text.is_empty())
        });
        found.map(|(_, text)| text.clone())
    };

    let user = of(["USER", "LOGNAME"]).unwrap_or_else(|| {
        let uid =
            std::fs::metadata("/proc/self").map(|of| std::os::unix::fs::MetadataExt::uid(&of));
        uid.map_or_else(|_| "somebody".to_owned(), |uid| format!("uid {uid}"))
    });

    let host = of(["HOSTNAME", "HOST"]).or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    format!("{user}@{}", host.as_deref().map_or("somewhere", str::trim))
}

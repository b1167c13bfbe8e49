//! `outboxd retry-now` and `outboxd discard`, which share nearly everything.
//!
//! The events are read once, shown, and acted on by their ids: what a person confirmed is what
//! happens, and nothing that came later.

use std::time::Duration;

use bson::Bson;
use clap::Args as ClapArgs;
use tokio_util::sync::CancellationToken;

use super::config::load;
use super::confirm::{Confirm, Confirmed, behind};
use super::output::{Screen, events, patiently, print};
use super::request::Args;
use super::selection::inspect_by;
use super::wait::{WaitArgs, wait_for};
use crate::config::Sources;
use crate::document::state::State;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::act::{Done, Place, RefusedEvent};
use crate::mongodb::chosen::Chosen;
use crate::mongodb::named::Named;
use crate::mongodb::selection::Selection;
use crate::operator::act::{Action, How, Outbox, all_done, left_alone};
use crate::printable::printable;
use crate::shutdown::{StopSignal, on_signals};

/// What ends the command after the batch under way.
pub(super) const STOPS: [StopSignal; 4] =
    [StopSignal::Interrupt, StopSignal::Terminate, StopSignal::Quit, StopSignal::Hangup];

#[derive(Debug, ClapArgs)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    args: Args,
    /// Number of events that `--all` must select; required without a filter, and nothing is done if
    /// it differs
    #[arg(long, value_name = "N", requires = "all")]
    count: Option<u64>,
}

/// Opens the configured outbox, for the verbs that change events.
pub(super) async fn open(sources: &Sources) -> Result<Outbox> {
    let config = load(sources)?;
    let client = config.mongodb.client("operator").await?;
    let inspect = inspect_by(&config, &client).await?;
    Ok(Outbox::new(config, inspect, client, who(sources)))
}

/// Acts on these events, and prints on how many.
pub(super) async fn act(
    outbox: &Outbox,
    action: &Action,
    chosen: [(Place, &[Bson]); 2],
    how: How<'_>,
    stop: &CancellationToken,
) -> Result<Done> {
    let (done, acted) = outbox.act(action, chosen, how, stop, &|_| {}).await;
    print(&format!("{} {}\n", events(done.events), action.done()))?;
    for RefusedEvent { id, error } in &done.refused {
        print(&format!("refused by MongoDB: {} ({})\n", printable(id), printable(error)))?;
    }
    acted?;

    let total: usize = chosen.iter().map(|(_, ids)| ids.len()).sum();
    let left = (total as u64).saturating_sub(done.events + done.refused.len() as u64);
    if stop.is_cancelled() && left > 0 {
        let message = format!("interrupted; {} left as they were", events(left));
        return Err(Error::new(ErrorKind::Interrupted, message));
    }
    Ok(done)
}

pub(super) async fn retry_now(sources: &Sources, args: &RetryArgs) -> Result<()> {
    let screen = Screen::of(sources);
    let outbox = open(sources).await?;
    let wait = args.wait.patience(screen);
    run(&outbox, screen, (&args.args, None), (Action::RetryNow, wait)).await
}

pub(super) async fn discard(sources: &Sources, args: &DiscardArgs) -> Result<()> {
    let screen = Screen::of(sources);
    let outbox = open(sources).await?;
    run(&outbox, screen, (&args.args, args.count), (Action::Discard, None)).await
}

async fn run(
    outbox: &Outbox,
    screen: Screen,
    (args, count): (&Args, Option<u64>),
    (action, wait): (Action, Option<Duration>),
) -> Result<()> {
    let inspect = &outbox.inspect;
    let named = inspect.named(&args.ids).await.during("reading the outbox")?;
    let selection = selection(args, &named, &action);
    let window = outbox.config.stream.duplicate_window;
    let chosen = patiently(inspect.chosen(&selection, window, u64::MAX))
        .await
        .during("reading the outbox")?;
    let others = others(&named, &chosen);
    // One alone is the error.
    let are_above = others.len() > 1 || chosen.events() > 0;
    for line in others.iter().filter(|_| are_above) {
        print(&format!("{}\n", printable(line)))?;
    }

    let parked = match selection.without_parked {
        true => left_alone(inspect, &selection).await?,
        false => 0,
    };
    if args.all && chosen.events() == 0 && parked == 0 {
        args.filter.check_that_it_can_match()?;
    }

    let let_go = match action {
        Action::Discard => inspect.let_go(&chosen.ids).await.during("reading the outbox")?,
        Action::RetryNow | Action::Edit(_) => None,
    };
    let confirm =
        Confirm { args, count, action: &action, chosen: &chosen, parked, let_go, window, screen };
    let stop = match confirm.is_wanted()? {
        Confirmed::No => return not_all(&others),
        Confirmed::Yes => on_signals(&STOPS)?,
    };

    let rate = args.rate.or_else(|| action.rate(chosen.events()));
    if let (None, Some(rate)) = (args.rate, rate) {
        print(&format!("{rate} a second; --rate N changes that\n"))?;
    }
    let as_given = match args.all {
        true => format!("--all {}", args.filter.words().join(" ")),
        false => args.ids.join(" "),
    };
    let how = How { selection: as_given.trim(), reason: args.reason.as_deref(), rate };
    let ids = [(Place::Outbox, &*chosen.ids), (Place::Scheduled, &*chosen.scheduled)];
    let done = act(outbox, &action, ids, how, &stop).await?;
    if let Some(count) = let_go.filter(|count| *count > 0 && done.events > 0) {
        let all = if done.events == chosen.events() { "" } else { "up to " };
        print(&format!("{all}{} leave now\n", behind(count)))?;
    }

    let waited = match wait {
        Some(patience) => wait_for((&chosen, &done), inspect, screen, patience, &stop).await,
        None => Ok(()),
    };
    all_done(&chosen, &done, wait.is_some())?;
    waited?;
    not_all(&others)
}

/// What the arguments select.
fn selection(args: &Args, named: &[Named], action: &Action) -> Selection {
    let mut selection = args.filter.selection();
    if !args.all {
        let found = |wanted: bool| {
            let found = named.iter().filter_map(|named| named.event.clone());
            found.filter(|(.., is_scheduled)| *is_scheduled == wanted).map(|(id, ..)| id).collect()
        };

        (selection.ids, selection.scheduled_ids) = (Some(found(false)), found(true));
    }

    // A parked event is healthy: only whoever names it means it.
    selection.without_parked =
        *action == Action::Discard && args.all && selection.state != Some(State::Parked);
    selection
}

/// A line for each id that no event was chosen for.
fn others(named: &[Named], chosen: &Chosen) -> Vec<String> {
    let is_chosen = |id: &Bson, is_scheduled: bool| match is_scheduled {
        true => chosen.scheduled.contains(id),
        false => chosen.ids.contains(id),
    };
    let why = |named: &Named| {
        let given = &named.given;
        match &named.event {
            None => Some(format!(
                "{given} is not in the outbox: published, discarded, or never written"
            )),
            Some((_, State::Locked, _)) => Some(format!("{given} is locked: the relay owns it")),
            Some((id, _, is_scheduled)) if is_chosen(id, *is_scheduled) => None,
            Some((_, state, _)) => Some(format!("{given} is {state}, so the filters exclude it")),
        }
    };

    named.iter().filter_map(why).collect()
}

/// The error when some of the ids that were given are no stuck events. They were named before.
fn not_all(others: &[String]) -> Result<()> {
    match others {
        [] => Ok(()),
        [one] => Err(Error::new(ErrorKind::NotFound, one.clone())),
        many => {
            let message = format!("{} ids were skipped; the reasons are above", many.len());
            Err(Error::new(ErrorKind::NotFound, message))
        }
    }
}

pub(super) fn who(sources: &Sources) -> String {
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

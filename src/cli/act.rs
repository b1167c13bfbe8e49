//! `outboxd retry-now` and `outboxd discard`, which share nearly everything.
//!
//! The events are read once, shown, and acted on by their ids: what a person confirmed is what
//! happens, and nothing that came later.

use std::sync::Arc;
use std::time::Duration;

use bson::Bson;
use clap::Args as ClapArgs;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::config::load;
use super::confirm::{Confirm, Confirmed, behind};
use super::discard::Discard;
use super::output::{Screen, events, patiently, print};
use super::request::{Action, Args};
use super::selection::inspect_by;
use super::wait::{Outcomes, WaitArgs};
use crate::config::{Config, Sources};
use crate::document::state::{DISCARD_HOLDS, State};
use crate::duration;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::act::{Act, AuditEntry, Done, Place, RefusedEvent};
use crate::mongodb::bounded::parts;
use crate::mongodb::chosen::{Chosen, Named};
use crate::mongodb::inspect::Inspect;
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::selection::Selection;
use crate::printable::printable;
use crate::relay::lease::Lease;
use crate::shutdown::{StopSignal, on_signals};

/// Events acted on at once.
const BATCH: usize = 500;
/// More events than this are made due at [`STAGGERED`] a second, unless `--rate` says otherwise.
const MANY: u64 = 1000;
/// Fast enough for any outbox, and slow enough for consumers to see a stream and no flood.
const STAGGERED: u32 = 1000;
/// What ends the command after the batch under way.
pub(super) const STOPS: [StopSignal; 4] =
    [StopSignal::Interrupt, StopSignal::Terminate, StopSignal::Quit, StopSignal::Hangup];
/// Longest wait for MongoDB after such a signal.
const STOPPING: Duration = Duration::from_secs(10);

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

/// A configured outbox, for the verbs that change events.
pub(super) struct Outbox {
    pub(super) config: Config,
    pub(super) inspect: Inspect,
    act: Act,
    client: mongodb::Client,
    who: String,
}

impl Outbox {
    pub(super) async fn open(sources: &Sources) -> Result<Self> {
        let config = load(sources)?;
        let mongodb = &config.mongodb;
        let client = mongodb.client("operator").await?;
        let (database, layout) = (client.database(&mongodb.database), &config.event.layout);
        let inspect = inspect_by(&config, &client).await?;
        let act = Act::new(database, &mongodb.collection, layout.clone());
        Ok(Self { inspect, act, client, who: who(sources), config })
    }

    /// Acts on these events, and prints on how many.
    pub(super) async fn acts(
        &self,
        action: &Action,
        chosen: [(Place, &[Bson]); 2],
        (selection, reason, rate): (&str, Option<&str>, Option<u32>),
        stop: &CancellationToken,
    ) -> Result<Done> {
        let entry = AuditEntry { who: &self.who, action: action.name(), selection, reason };
        let holder = format!("outboxd {} of {}", action.name(), self.who);
        let (database, collection) =
            (&self.config.mongodb.database, &self.config.mongodb.collection);
        let document = LeaseDocument::new(&self.client, database, collection, holder);
        let lease = Arc::new(Lease::new(document, self.config.lease.ttl));

        let acting = Acting { act: &self.act, lease: &lease, stop, entry, action, rate };
        let (done, acted) = acting.on(chosen).await;
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
}

impl Outbox {
    /// Has the relay look for what waits.
    pub(super) async fn wake_relay(&self) -> Result<()> {
        self.act.wake_relay().await.during("waking the relay")
    }
}

pub(super) async fn retry_now(sources: &Sources, args: &RetryArgs) -> Result<()> {
    let screen = Screen::of(sources);
    let outbox = Outbox::open(sources).await?;
    let wait = args.wait.patience(screen);
    run(&outbox, screen, (&args.args, None), (Action::RetryNow, wait)).await
}

pub(super) async fn discard(sources: &Sources, args: &DiscardArgs) -> Result<()> {
    let screen = Screen::of(sources);
    let outbox = Outbox::open(sources).await?;
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
    let chosen =
        patiently(inspect.chosen(&selection, window)).await.during("reading the outbox")?;
    let others = others(&named, &chosen);
    // One alone is the error.
    let are_above = others.len() > 1 || chosen.events() > 0;
    for line in others.iter().filter(|_| are_above) {
        print(&format!("{}\n", printable(line)))?;
    }

    let parked = match selection.without_parked {
        true => parked(inspect, &selection).await?,
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

    let is_staggered = args.rate.is_none() && action == Action::RetryNow && chosen.events() > MANY;
    if is_staggered {
        print(&format!("{STAGGERED} a second; --rate N changes that\n"))?;
    }
    let rate = if is_staggered { Some(STAGGERED) } else { args.rate };
    let as_given = match args.all {
        true => format!("--all {}", args.filter.words().join(" ")),
        false => args.ids.join(" "),
    };
    let how = (as_given.trim(), args.reason.as_deref(), rate);
    let ids = [(Place::Outbox, &*chosen.ids), (Place::Scheduled, &*chosen.scheduled)];
    let done = outbox.acts(&action, ids, how, &stop).await?;
    if let Some(count) = let_go.filter(|count| *count > 0 && done.events > 0) {
        let all = if done.events == chosen.events() { "" } else { "up to " };
        print(&format!("{all}{} leave now\n", behind(count)))?;
    }

    let waited = match wait {
        Some(patience) => Outcomes::of(&chosen, &done).wait(inspect, screen, patience, &stop).await,
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

/// Healthy events that the same filter would select.
async fn parked(inspect: &Inspect, selection: &Selection) -> Result<u64> {
    let may = selection.class.is_none() && selection.code.is_none() && selection.group.is_none();
    if !may || selection.state.is_some() {
        return Ok(0);
    }
    let parked =
        Selection { state: Some(State::Parked), without_parked: false, ..selection.clone() };
    inspect.count(&parked).await.during("reading the outbox")
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
            Some((_, state, _)) => Some(format!("{given} is {state}: the filters leave it out")),
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
            let message = format!("{} of the ids name no event to act on; see above", many.len());
            Err(Error::new(ErrorKind::NotFound, message))
        }
    }
}

/// The error when something was not done. Whoever waits for the outcome is told of each event.
pub(super) fn all_done(chosen: &Chosen, done: &Done, is_told: bool) -> Result<()> {
    if !done.refused.is_empty() {
        let message = format!(
            "MongoDB refuses to update {}: an index or a validator that is not outboxd's does not \
             allow it; `outboxd check` names such an index; repair or remove the event in mongosh",
            events(done.refused.len() as u64)
        );
        return Err(Error::new(ErrorKind::Mongodb, message));
    }

    match chosen.events().saturating_sub(done.events) {
        0 => Ok(()),
        _ if is_told => Ok(()),
        left => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{left} were published or changed in the meantime, or the relay is still publishing them; \
                 outboxd leaves them alone"
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
    action: &'a Action,
    rate: Option<u32>,
}

impl Acting<'_> {
    /// Acts on these events, batch by batch. Returns what was done, and why it ended early.
    async fn on(&self, chosen: [(Place, &[Bson]); 2]) -> (Done, Result<()>) {
        let mut done = Done::default();
        let acted = tokio::select! {
            acted = self.on_batches(chosen, &mut done) => acted,
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

    async fn on_batches(&self, chosen: [(Place, &[Bson]); 2], done: &mut Done) -> Result<()> {
        let mut next = Instant::now();
        let most = self.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
        let of = |(place, ids)| parts(ids, most).into_iter().map(move |batch| (place, batch));
        for (place, batch) in chosen.into_iter().flat_map(of) {
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
            let of_batch = self.on_batch(place, batch).await?;
            done.events += of_batch.events;
            done.refused.extend(of_batch.refused);
        }

        Ok(())
    }

    /// Nothing is done that is not recorded before.
    async fn on_batch(&self, place: Place, batch: &[Bson]) -> Result<Done> {
        let before = match self.action {
            Action::Edit(edit) => Some(edit.before.clone()),
            Action::RetryNow | Action::Discard => None,
        };
        let request = self
            .act
            .record_request(&self.entry, (batch, batch.len() as u64), before)
            .await
            .map_err(|error| {
                let message = format!(
                    "outboxd_audit does not accept the audit record, so nothing is done; check \
                     the collection's validator and the role that `outboxd privileges --role \
                     operator` prints, then repeat the {}",
                    self.action.name()
                );
                Error::with_source(ErrorKind::Mongodb, message, error)
            })?;

        let acted = match self.action {
            Action::RetryNow => {
                self.act.retry_now(place, batch).await.during("making events due")?
            }
            Action::Discard if place == Place::Scheduled => {
                self.act.discard_scheduled(batch).await.during("discarding scheduled events")?
            }
            Action::Discard => {
                let discard = Discard { act: self.act, lease: self.lease, stop: self.stop };
                discard.remove(batch).await?
            }
            Action::Edit(edit) => match batch.first() {
                Some(id) => {
                    let edited = self.act.edit((place, id), edit.dead_at, &edit.edits).await;
                    edited.during("editing the event")?
                }
                None => Done::default(),
            },
        };

        let outcome = self.act.record_outcome(&self.entry, request, acted.events).await;
        outcome.map_err(|error| {
            let message = format!(
                "{} {}, but outboxd_audit does not accept the record of the outcome; it has only \
                 the request",
                events(acted.events),
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

//! What came of events that were made due: each is delivered, refused, or still held by another.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use bson::Bson;
use clap::Args as ClapArgs;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::output::{Colour, Screen, colour_of, events, print};
use super::table::wrap;
use crate::document::record::shown_id;
use crate::duration::for_people;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::finding::operand;
use crate::mongodb::act::Done;
use crate::mongodb::chosen::{Chosen, Seen};
use crate::mongodb::inspect::{Entry, Inspect};
use crate::printable::printable;

/// How long a command waits unless it is told otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Between two looks at the events, at first and at most. Many events take longer.
const POLL: Duration = Duration::from_millis(100);
const LONGEST_POLL: Duration = Duration::from_secs(1);
/// How long what is held may take before its holder is named and nobody waits for it.
const HELD: Duration = Duration::from_secs(3);
/// Most events that are named each for itself.
const NAMED: usize = 20;

#[derive(Debug, ClapArgs)]
pub(super) struct WaitArgs {
    /// Wait for the outcome of each event, 30s unless given; the default on a terminal
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "30s", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

impl WaitArgs {
    /// How long to wait, if at all.
    pub(super) fn patience(&self, screen: Screen) -> Option<Duration> {
        let by_itself = (screen.is_terminal && !self.no_wait).then_some(DEFAULT_WAIT);
        self.wait.or(by_itself)
    }
}

/// The events of an action, by what came of them.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// By their ids as they are shown.
    pending: HashMap<String, Pending>,
    delivered: u64,
    refused: Vec<Entry>,
    held: Vec<(Entry, Option<Entry>)>,
}

/// An event of which nothing came yet.
#[derive(Debug)]
struct Pending {
    id: Bson,
    is_scheduled: bool,
    /// When it was tried before.
    last_tried: Option<i64>,
}

impl Outcomes {
    /// Of the chosen events that MongoDB did not refuse.
    pub(super) fn of(chosen: &Chosen, done: &Done) -> Self {
        let of_outbox = chosen.ids.iter().zip(&chosen.last_tried);
        let scheduled = chosen.scheduled.iter().zip(&chosen.scheduled_last_tried);
        let all = of_outbox.map(|event| (event, false)).chain(scheduled.map(|event| (event, true)));

        let pending = |((id, tried), is_scheduled): ((&Bson, &Option<i64>), bool)| {
            (shown_id(id), Pending { id: id.clone(), is_scheduled, last_tried: *tried })
        };
        let mut pending: HashMap<_, _> = all.map(pending).collect();
        for refused in &done.refused {
            pending.remove(&refused.id);
        }
        Self { pending, ..Self::default() }
    }

    /// Waits until something came of each event, the time is up, or nobody waits any more. Prints
    /// what came of them.
    ///
    /// # Errors
    /// When an event was not delivered.
    pub(super) async fn wait(
        mut self,
        inspect: &Inspect,
        screen: Screen,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<()> {
        let (began, mut poll) = (Instant::now(), POLL);
        let mut is_relayed = true;
        while !self.pending.is_empty() {
            self.look(inspect).await?;
            is_relayed = is_relayed_now(inspect).await?;
            let waited = began.elapsed();
            let is_over = waited >= patience || stop.is_cancelled() || !is_relayed;
            let is_held =
                !is_over && waited >= HELD.min(patience) && self.are_held(inspect).await?;
            if self.pending.is_empty() || is_over || is_held {
                break;
            }

            tokio::select! {
                () = sleep(poll.min(patience - waited)) => {}
                () = stop.cancelled() => {}
            }
            poll = (poll * 2).min(LONGEST_POLL);
        }

        self.find_holders(inspect).await?;
        print(&self.report(screen, began.elapsed(), is_relayed))?;
        self.verdict(is_relayed)
    }

    /// Sorts what is no longer pending.
    async fn look(&mut self, inspect: &Inspect) -> Result<()> {
        let mut there = self.seen(inspect, usize::MAX).await?;

        let (mut delivered, mut refused) = (0, Vec::new());
        self.pending.retain(|id, Pending { last_tried: before, .. }| match there.remove(id) {
            None => {
                delivered += 1;
                false
            }
            Some(seen) if seen.last_tried != *before => {
                refused.push(seen.entry);
                false
            }
            Some(_) => true,
        });
        self.delivered += delivered;
        self.refused.extend(refused);
        Ok(())
    }

    /// The pending events that are still there, up to so many. Of a scheduled event that has moved,
    /// the one in the outbox.
    async fn seen(&self, inspect: &Inspect, most: usize) -> Result<HashMap<String, Seen>> {
        let ids = |wanted: bool| -> Vec<Bson> {
            let pending = self.pending.values().take(most);
            pending
                .filter(|pending| pending.is_scheduled == wanted)
                .map(|pending| pending.id.clone())
                .collect()
        };

        let mut seen = inspect.seen(&ids(false)).await.during("reading the outbox")?;
        let scheduled = inspect.seen_of_scheduled(&ids(true)).await;
        seen.extend(scheduled.during("reading the scheduled events")?);
        Ok(seen.into_iter().map(|seen| (seen.entry.id.clone(), seen)).collect())
    }

    /// Whether each pending event waits behind one that nobody makes due here.
    async fn are_held(&self, inspect: &Inspect) -> Result<bool> {
        if self.pending.len() > NAMED {
            return Ok(false);
        }
        for id in self.pending.keys() {
            match holder(inspect, id).await? {
                Some(head) if !self.pending.contains_key(&head.id) => {}
                _ => return Ok(false),
            }
        }
        Ok(!self.pending.is_empty())
    }

    async fn find_holders(&mut self, inspect: &Inspect) -> Result<()> {
        for Seen { entry, .. } in self.seen(inspect, NAMED).await?.into_values() {
            let head = holder(inspect, &entry.id).await?;
            self.held.push((entry, head));
        }
        self.held.sort_by_key(|(entry, _)| Reverse(entry.age_seconds));
        self.refused.sort_by(|a, b| b.age_seconds.cmp(&a.age_seconds).then(a.id.cmp(&b.id)));
        Ok(())
    }

    fn report(&self, screen: Screen, waited: Duration, is_relayed: bool) -> String {
        let mut out = String::new();
        if self.delivered > 0 {
            let delivered = screen.paint(Colour::Green, "delivered");
            let _ = writeln!(out, "{} {delivered}", events(self.delivered));
        }

        let mut line = |colour, what: &str, text: String| {
            let text = wrap(&printable(&text), screen.width, 11);
            let _ = writeln!(out, "{}  {text}", screen.paint(colour, &format!("{what:<9}")));
        };
        for entry in self.refused.iter().take(NAMED) {
            let Entry { id, code, error, state, .. } = entry;
            let [code, error] = [code, error].map(|text| text.as_deref().unwrap_or("-"));
            let state = format!("it is {state}");
            line(colour_of(entry.state), "refused", format!("{id}: {code}: {error}; {state}"));
        }
        for (entry, head) in &self.held {
            let why = match head {
                Some(head) => {
                    let code = head.code.as_deref().map(|code| format!(", {code}"));
                    let (show, code) = (operand(&head.id), code.unwrap_or_default());
                    format!("held by {} ({}{code}): `outboxd show {show}`", head.id, head.state)
                }
                None if is_relayed && entry.scheduled => {
                    "the relay has not moved it into the outbox yet".to_owned()
                }
                None if is_relayed => "the relay has not tried it yet".to_owned(),
                None => "due as soon as a relay leads".to_owned(),
            };
            line(Colour::Cyan, "waits", format!("{}: {why}", entry.id));
        }

        let more = self.refused.len().saturating_sub(NAMED);
        if more > 0 {
            let _ = writeln!(out, "{more} more refused; `outboxd groups` shows why");
        }
        let more = self.pending.len().saturating_sub(self.held.len());
        if more > 0 {
            let _ = writeln!(out, "{more} more still wait after {}", for_people(waited));
        }
        out
    }

    fn verdict(&self, is_relayed: bool) -> Result<()> {
        let (refused, waiting) = (self.refused.len() as u64, self.pending.len() as u64);
        let message = match (refused, waiting) {
            (0, 0) => return Ok(()),
            (0, waiting) if !is_relayed => format!(
                "NO RELAY runs: {} stay due until one leads; start `outboxd run`",
                events(waiting)
            ),
            (0, waiting) => format!("{} still wait", events(waiting)),
            (refused, 0) => format!("{} refused again", events(refused)),
            (refused, waiting) => {
                format!("{} refused again, {waiting} still wait", events(refused))
            }
        };

        Err(Error::new(ErrorKind::NotFound, message))
    }
}

/// The oldest stuck event of the same key, if it is older.
async fn holder(inspect: &Inspect, id: &str) -> Result<Option<Entry>> {
    match inspect.whole(id, false).await.during("reading the outbox")? {
        Some((_, true)) => Ok(None),
        Some((event, false)) => inspect.head(&event).await.during("reading the outbox"),
        None => Ok(None),
    }
}

async fn is_relayed_now(inspect: &Inspect) -> Result<bool> {
    let lease = inspect.lease().await.during("reading the lease")?;
    Ok(lease.is_some_and(|lease| lease.expires_in_seconds >= 0 && lease.is_a_relays()))
}

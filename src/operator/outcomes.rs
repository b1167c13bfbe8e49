//! What came of events that were made due: each is delivered, refused, or still held by another.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use bson::Bson;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::events;
use crate::document::record::shown_id;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::act::Done;
use crate::mongodb::chosen::{Chosen, Seen};
use crate::mongodb::inspect::{Entry, Inspect};

/// Between two looks at the events, at first and at most. Many events take longer.
const POLL: Duration = Duration::from_millis(100);
const LONGEST_POLL: Duration = Duration::from_secs(1);
/// How long what is held may take before its holder is named and nobody waits for it.
const HELD: Duration = Duration::from_secs(3);
/// Most events that are named each for itself.
pub(crate) const NAMED: usize = 20;

/// The events of an action, by what came of them.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// By their ids as they are shown.
    pending: HashMap<String, Pending>,
    /// How many the action did not make due: they had left before, or a relay owned them.
    not_due: u64,
    /// How many are in the outbox no more.
    absent: u64,
    pub(crate) refused: Vec<Entry>,
    pub(crate) held: Vec<(Entry, Option<Entry>)>,
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
    /// Of the chosen events that MongoDB did not refuse. Which of them it made due, it does not tell,
    /// only how many.
    pub(crate) fn of(chosen: &Chosen, done: &Done) -> Self {
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
        let not_due = (pending.len() as u64).saturating_sub(done.events);
        Self { pending, not_due, ..Self::default() }
    }

    /// How many left because they were made due: never more than those that were.
    pub(crate) fn delivered(&self) -> u64 {
        self.absent - self.gone()
    }

    /// How many had left before: published, discarded or cancelled by another.
    pub(crate) fn gone(&self) -> u64 {
        self.absent.min(self.not_due)
    }

    /// How many events wait: nothing came of them yet, or another event holds them.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Waits until something came of each event, the time is up, or nobody waits any more. `told`
    /// hears after every look what came so far. Returns whether a relay leads.
    ///
    /// # Errors
    /// MongoDB's.
    pub(crate) async fn wait(
        &mut self,
        inspect: &Inspect,
        patience: Duration,
        stop: &CancellationToken,
        told: &(dyn Fn(&Self) + Sync),
    ) -> Result<bool> {
        let (began, mut poll) = (Instant::now(), POLL);
        let mut is_relayed = true;

        while !self.pending.is_empty() {
            self.look(inspect).await?;
            told(self);
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
        Ok(is_relayed)
    }

    /// Whether everything was delivered.
    ///
    /// # Errors
    /// How many events were refused again or still wait.
    pub(crate) fn verdict(&self, is_relayed: bool) -> Result<()> {
        let (refused, waiting) = (self.refused.len() as u64, self.pending() as u64);
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

    /// Sorts what is no longer pending.
    async fn look(&mut self, inspect: &Inspect) -> Result<()> {
        let mut there = self.seen(inspect, usize::MAX).await?;

        let (mut absent, mut refused) = (0, Vec::new());
        self.pending.retain(|id, Pending { last_tried: before, .. }| match there.remove(id) {
            None => {
                absent += 1;
                false
            }
            Some(seen) if seen.last_tried != *before => {
                refused.push(seen.entry);
                false
            }
            Some(_) => true,
        });

        self.absent += absent;
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

//! Writes the fate of events to the outbox: deletes what was acked, marks what failed, parks what
//! waits behind it, leaves to an operator what is to be discarded.
//!
//! A batch holds what is queued and what arrives within [`GATHER`]: nothing waits for a delete, and
//! a command for each event would cost the server more than the event does. Deletes need no order,
//! so [`MAX_DELETES`] are under way at once: one alone keeps a single core of the server busy,
//! which is slower than events are published.
//!
//! An event is deleted once the stream bears out its ack: a neighbour may have forged that, and then
//! the event is nowhere else. One question to the stream covers a batch. What isn't borne out stays
//! in the outbox, and the leadership that relied on it is over.
//!
//! Marks are written before parks, so an event is never seen unlocked while the failure it waits
//! behind is not. A [`Debt`] brings both at once, so they are in one batch.
//!
//! A write that fails is repeated until it succeeds. Each may be repeated without harm, and until
//! then the event is known and not sent again. What the server refuses of one event for good is that
//! event's alone: the others of the batch are settled, and nothing more of its key is unlocked. A
//! command that the server refuses as a whole is repeated too, and reported.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use outboxd_client::{EventId, Key};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::borne_out::borne_out;
use super::dispatch::debt::{Debt, Park, Unmarked};
use super::lease::Term;
use super::ports::{EventBus, EventStore, Mark, Refused, StoreResult};
use super::publish::outcome::Acked;
use crate::backoff::Backoff;
use crate::crash::{self, Point};
use crate::document::record::shown_id;

/// Most writes in one batch. `deleteMany` gains nothing beyond: 80, 97 and 99 thousand a second
/// were measured with batches of 500, 1,000 and 2,000.
const MAX_BATCH: usize = 1000;
/// How long settlements gather when they are fewer than [`MAX_BATCH`]. At 500 a second it saves a
/// quarter of mongod's processor time and a third of the relay's, compared with no wait; 50 and 200
/// ms save no more.
const GATHER: Duration = Duration::from_millis(20);
/// Most deletes under way.
const MAX_DELETES: usize = 2;
/// Waits between repeats of a write that failed.
const REPEATS: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Settlement {
    /// Delete it.
    Delivered(Acked),
    /// Mark it, then park what waits behind it. Boxed: it is rare and larger than the others.
    Failed(Box<(Debt, Mark)>),
    /// Leave it to an operator, who wants it removed unpublished.
    GrantDiscard(EventId),
    /// Unlock them.
    Park(Park),
    /// The lane of this key is blocked: no parks of it follow.
    Blocked(Key),
}

/// What was written.
#[derive(Debug)]
pub(crate) enum Settled {
    Delivered(Vec<Acked>),
    /// The stream does not bear out acks. Their events stay in the outbox.
    NotBorneOut(usize),
    Marked(Unmarked, Box<Mark>),
    /// How many of these the operator may remove. The others changed in the meantime.
    DiscardsGranted(Vec<EventId>, u64),
    Parked(Park),
    /// The server will never write this mark of the event with the shown id.
    MarkRefused(Unmarked, Refusal),
    /// The server will never write this park, or it follows a refused write of its key.
    ParkRefused(Key, EventId, Option<Refusal>),
    /// The server will never delete this event.
    DeleteRefused(EventId, Refusal),
    /// The server refuses a command as a whole, which is being repeated.
    CommandRefused(Refusal),
}

/// What the server refused to write, and why.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// A verb.
    pub(crate) write: &'static str,
    /// The id of the event, as people read it. None for a whole command.
    pub(crate) id: Option<String>,
    pub(crate) error: String,
}

/// Settles until `inbox` closes. `give_up` ends the repeating of writes that fail.
pub(crate) async fn run(
    (store, bus, term, is_kept): (impl EventStore, impl EventBus, Term, bool),
    mut inbox: mpsc::UnboundedReceiver<Settlement>,
    reports: mpsc::UnboundedSender<Settled>,
    give_up: CancellationToken,
) {
    let repeating = Repeating { reports, give_up, term, is_kept };
    let mut settler =
        Settler { store, bus, repeating, blocked: HashSet::new(), deletes: JoinSet::new() };
    let mut gathered = Vec::with_capacity(MAX_BATCH);

    while gather(&mut inbox, &mut gathered).await {
        let batch = Batch::sort(&mut gathered);

        settler.delete(batch.acked).await;
        settler.grant_discards(batch.discards).await;
        settler.mark(batch.failed).await;
        settler.park(batch.parks).await;
        batch.blocked.iter().for_each(|key| _ = settler.blocked.remove(key));
    }

    while let Some(ended) = settler.deletes.join_next().await {
        joined(ended);
    }
}

/// Waits for settlements, and for more. Returns false when there will be none.
async fn gather(
    inbox: &mut mpsc::UnboundedReceiver<Settlement>,
    gathered: &mut Vec<Settlement>,
) -> bool {
    if inbox.recv_many(gathered, MAX_BATCH).await == 0 {
        return false;
    }

    if gathered.len() < MAX_BATCH {
        tokio::time::sleep(GATHER).await;
        while gathered.len() < MAX_BATCH
            && let Ok(settlement) = inbox.try_recv()
        {
            gathered.push(settlement);
        }
    }

    true
}

/// Settlements by kind, each kind in the order in which it came.
#[derive(Debug, Default)]
struct Batch {
    acked: Vec<Acked>,
    discards: Vec<EventId>,
    failed: Vec<(Unmarked, Mark)>,
    parks: Vec<Park>,
    blocked: Vec<Key>,
}

impl Batch {
    fn sort(gathered: &mut Vec<Settlement>) -> Self {
        let mut batch = Self::default();
        for settlement in gathered.drain(..) {
            match settlement {
                Settlement::Delivered(event) => batch.acked.push(event),
                Settlement::Failed(failed) => {
                    let (Debt { unmarked, behind }, mark) = *failed;
                    batch.failed.push((unmarked, mark));
                    batch.parks.extend(behind);
                }
                Settlement::GrantDiscard(id) => batch.discards.push(id),
                Settlement::Park(park) => batch.parks.push(park),
                Settlement::Blocked(key) => batch.blocked.push(key),
            }
        }

        batch
    }
}

/// See the module.
struct Settler<S, B> {
    store: S,
    bus: B,
    repeating: Repeating,
    /// Keys of which the server refused a write: no more of them is parked. A lane learns of it
    /// only by the report and is blocked then; parks that it sent before that are refused here. No
    /// more keys than reports are under way.
    blocked: HashSet<Key>,
    deletes: JoinSet<()>,
}

impl<S: EventStore, B: EventBus> Settler<S, B> {
    async fn delete(&mut self, acked: Vec<Acked>) {
        if acked.is_empty() {
            return;
        }

        while self.deletes.len() >= MAX_DELETES {
            if let Some(ended) = self.deletes.join_next().await {
                joined(ended);
            }
        }

        crash::soon(Point::DeleteSent);
        let (store, bus) = (self.store.clone(), self.bus.clone());
        let repeating = self.repeating.clone();
        self.deletes.spawn(async move {
            let Repeating { term, is_kept, give_up, .. } = &repeating;
            let (acked, others) = borne_out(&bus, acked, (term, *is_kept), give_up).await;
            if others > 0 {
                repeating.report(Settled::NotBorneOut(others));
            }
            if acked.is_empty() {
                return;
            }

            let epoch = repeating.term.newest.epoch();
            let done = repeating.until_done("delete", || store.delete(&acked, epoch)).await;
            let Some(refused) = done else { return };

            let mut refused = by_place(refused);
            let mut deleted = Vec::with_capacity(acked.len());
            for (place, acked) in acked.into_iter().enumerate() {
                match refused.remove(&place) {
                    None => deleted.push(acked),
                    Some(error) => repeating.refused_delete("delete", acked.id().clone(), error),
                }
            }
            repeating.report(Settled::Delivered(deleted));
        });
    }

    async fn grant_discards(&self, ids: Vec<EventId>) {
        if ids.is_empty() {
            return;
        }

        let grant = || self.store.grant_discards(&ids);
        let Some((granted, refused)) = self.repeating.until_done("let go of", grant).await else {
            return;
        };

        let (mut refused, mut let_go) = (by_place(refused), Vec::with_capacity(ids.len()));
        for (place, id) in ids.into_iter().enumerate() {
            match refused.remove(&place) {
                None => let_go.push(id),
                Some(error) => self.repeating.refused_delete("let go of", id, error),
            }
        }
        self.report(Settled::DiscardsGranted(let_go, granted));
    }

    async fn mark(&mut self, failed: Vec<(Unmarked, Mark)>) {
        if failed.is_empty() {
            return;
        }

        crash::here(Point::Marking);
        let (unmarked, marks): (Vec<_>, Vec<_>) = failed.into_iter().unzip();
        let written = self.repeating.until_done("mark", || self.store.mark(&marks)).await;
        let Some(refused) = written else { return };

        let mut refused = by_place(refused);
        for (index, (unmarked, mark)) in unmarked.into_iter().zip(marks).enumerate() {
            let Some(error) = refused.remove(&index) else {
                self.report(Settled::Marked(unmarked, Box::new(mark)));
                continue;
            };

            let refusal = Refusal { write: "mark", id: Some(mark.id.shown()), error };
            self.blocked.extend(unmarked.key.clone());
            self.report(Settled::MarkRefused(unmarked, refusal));
        }
    }

    /// Parks in the order of the events, as far as the server lets it: what is unlocked of a key
    /// comes before what is locked.
    async fn park(&mut self, parks: Vec<Park>) {
        if parks.is_empty() {
            return;
        }

        crash::here(Point::Parking);
        let with_key = |park: Park| park.ids.into_iter().map(move |id| (park.key.clone(), id));
        let mut waiting: VecDeque<(Key, EventId)> = parks.into_iter().flat_map(with_key).collect();

        while !waiting.is_empty() {
            let (keys, ids) = self.next_parks(&mut waiting);
            // What was left is of blocked keys. MongoDB refuses a command without writes.
            if ids.is_empty() {
                return;
            }

            let written = self.repeating.until_done("park", || self.store.park(&ids)).await;
            let Some(refused) = written else { return };

            let done = refused.as_ref().map_or(ids.len(), |refused| refused.index.min(ids.len()));
            let mut rest = keys.into_iter().zip(ids);
            for (key, id) in rest.by_ref().take(done) {
                self.report(Settled::Parked(Park { key, ids: vec![id] }));
            }

            if let (Some((key, id)), Some(Refused { error, .. })) = (rest.next(), refused) {
                let shown = Some(shown_id(&id.clone().into()));
                let refusal = Refusal { write: "park", id: shown, error };
                self.blocked.insert(key.clone());
                self.report(Settled::ParkRefused(key, id, Some(refusal)));
            }

            rest.rev().for_each(|event| waiting.push_front(event));
        }
    }

    /// The next parks to write in one command, those of blocked keys left out.
    fn next_parks(&self, waiting: &mut VecDeque<(Key, EventId)>) -> (Vec<Key>, Vec<EventId>) {
        let (mut keys, mut ids) = (Vec::new(), Vec::new());
        while ids.len() < MAX_BATCH
            && let Some((key, id)) = waiting.pop_front()
        {
            if self.blocked.contains(&key) {
                self.report(Settled::ParkRefused(key, id, None));
            } else {
                keys.push(key);
                ids.push(id);
            }
        }

        (keys, ids)
    }

    fn report(&self, settled: Settled) {
        self.repeating.report(settled);
    }
}

/// A delete that panics ends settling, as if it had been made here.
fn joined(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn by_place(refused: Vec<Refused>) -> HashMap<usize, String> {
    refused.into_iter().map(|Refused { index, error }| (index, error)).collect()
}

/// Repeats writes that fail.
#[derive(Debug, Clone)]
struct Repeating {
    reports: mpsc::UnboundedSender<Settled>,
    give_up: CancellationToken,
    term: Term,
    /// Whether acked events are kept.
    is_kept: bool,
}

impl Repeating {
    /// What the write returned, or `None` when it was given up.
    async fn until_done<T, F>(&self, what: &'static str, write: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let mut backoff = REPEATS;
        while !self.give_up.is_cancelled() {
            match write().await {
                Ok(written) => return Some(written),
                Err(error) if error.is_lasting => {
                    let error = error.to_string();
                    self.report(Settled::CommandRefused(Refusal { write: what, id: None, error }));
                }
                Err(error) => {
                    warn!(%error, "could not {what} events; repeating until it succeeds");
                }
            }

            tokio::select! {
                biased;
                () = self.give_up.cancelled() => {}
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }

        None
    }

    fn refused_delete(&self, write: &'static str, id: EventId, error: String) {
        let refusal = Refusal { write, id: Some(shown_id(&id.clone().into())), error };
        self.report(Settled::DeleteRefused(id, refusal));
    }

    fn report(&self, settled: Settled) {
        // A leadership that is over has no more use for reports.
        _ = self.reports.send(settled);
    }
}

//! Writes the fate of events to the outbox: deletes what was acked, marks what failed, parks what
//! waits behind it, removes what an operator discarded.
//!
//! A batch holds whatever gathered while the last was under way, and for [`GATHER`] more: nobody
//! waits for a delete, and a command for each event would cost the server more than the event does.
//! Deletes need no order, so [`MAX_DELETES`] are under way at once: one alone keeps a single core
//! of the server busy, which is slower than what is published. Marks are written before parks, so
//! an event is never seen unlocked while the failure it waits behind is not. A write that fails is
//! repeated until it succeeds: each may be repeated without harm, and until then the event is known
//! and not sent again. After one that the server refuses for good, nothing more of its key is
//! unlocked.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use outboxd_client::{EventId, Key};

use super::dispatch::lane::{Marking, Park};
use super::ports::{EventStore, Mark, Refused, StoreResult};
use super::publish::outcome::Acked;
use crate::backoff::Backoff;
use crate::crash::{self, Point};
use crate::document::record::shown_id;

/// Most writes in one batch. `deleteMany` gains nothing beyond: 80, 97 and 99 thousand a second
/// were measured with batches of 500, 1,000 and 2,000.
const MAX_BATCH: usize = 1000;
/// How long settled events gather when they are fewer than [`MAX_BATCH`]. At 500 a second it saves
/// a quarter of mongod's processor time and a third of ours, measured beside none; 50 and 200 ms
/// save no more.
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
    /// Mark it.
    Failed(Marking, Box<Mark>),
    /// Delete it unpublished, because an operator wants it so.
    Discard(EventId),
    /// Unlock them.
    Park(Park),
}

/// What was written.
#[derive(Debug)]
pub(crate) enum Settled {
    Delivered(Vec<Acked>),
    Failed(Marking),
    Discarded(EventId),
    Park(Park),
    /// The server will never write a mark or a park of this key, or it follows one of those.
    Refused(Option<Key>, Option<EventId>),
}

/// Settles until `inbox` closes. `give_up` ends the repeating of writes that are refused.
pub(crate) async fn run(
    store: impl EventStore,
    mut inbox: mpsc::UnboundedReceiver<Settlement>,
    reports: mpsc::UnboundedSender<Settled>,
    give_up: CancellationToken,
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    // Keys of which the server refused a mark or a park: no more of them is unlocked.
    let mut blocked = HashSet::new();
    let mut deletes = JoinSet::new();
    while inbox.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if batch.len() < MAX_BATCH {
            tokio::time::sleep(GATHER).await;
            while batch.len() < MAX_BATCH
                && let Ok(settlement) = inbox.try_recv()
            {
                batch.push(settlement);
            }
        }
        let (mut acked, mut markings, mut marks, mut parks) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut discards = Vec::new();
        for settlement in batch.drain(..) {
            match settlement {
                Settlement::Delivered(event) => acked.push(event),
                Settlement::Failed(marking, mark) => {
                    markings.push(Some(marking));
                    marks.push(*mark);
                }
                Settlement::Discard(id) => discards.push(id),
                Settlement::Park(park) => parks.push(park),
            }
        }
        if !acked.is_empty() {
            while deletes.len() >= MAX_DELETES {
                joined(deletes.join_next().await);
            }
            crash::soon(Point::DeleteSent);
            deletes.spawn(delete(store.clone(), acked, reports.clone(), give_up.clone()));
        }
        if !discards.is_empty()
            && until_done("discard", &give_up, || store.discard(&discards)).await.is_some()
        {
            report(&reports, discards.into_iter().map(Settled::Discarded));
        }
        if !marks.is_empty() {
            crash::here(Point::Marking);
        }
        if !marks.is_empty()
            && let Some(refused) = until_done("mark", &give_up, || store.mark(&marks)).await
        {
            for Refused { index, error } in refused {
                let id = marks.get(index).map(|mark| shown_id(&mark.id));
                error!(
                    id,
                    error,
                    "an event can't be marked as failed; it is left as it is, and its key waits"
                );
                if let Some(marking) = markings.get_mut(index).and_then(Option::take) {
                    blocked.extend(marking.key.clone());
                    report(&reports, [Settled::Refused(marking.key, marking.id)].into_iter());
                }
            }
            report(&reports, markings.into_iter().flatten().map(Settled::Failed));
        }
        if !parks.is_empty() {
            crash::here(Point::Parking);
            park(&store, parks, &mut blocked, &reports, &give_up).await;
        }
    }
    while !deletes.is_empty() {
        joined(deletes.join_next().await);
    }
}

async fn delete(
    store: impl EventStore,
    acked: Vec<Acked>,
    reports: mpsc::UnboundedSender<Settled>,
    give_up: CancellationToken,
) {
    if until_done("delete", &give_up, || store.delete(&acked)).await.is_some() {
        report(&reports, [Settled::Delivered(acked)].into_iter());
    }
}

/// A delete that panics ends settling, as if it had been made here.
fn joined(ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Parks in the order of the events, as far as the server lets it: what is unlocked of a key comes
/// before what is locked.
async fn park(
    store: &impl EventStore,
    parks: Vec<Park>,
    blocked: &mut HashSet<Key>,
    reports: &mpsc::UnboundedSender<Settled>,
    give_up: &CancellationToken,
) {
    let with_key = |park: Park| park.ids.into_iter().map(move |id| (park.key.clone(), id));
    let mut waiting: VecDeque<(Key, EventId)> = parks.into_iter().flat_map(with_key).collect();
    while !waiting.is_empty() {
        let (mut keys, mut ids) = (Vec::new(), Vec::new());
        while ids.len() < MAX_BATCH
            && let Some((key, id)) = waiting.pop_front()
        {
            match blocked.contains(&key) {
                true => report(reports, [Settled::Refused(Some(key), Some(id))].into_iter()),
                false => {
                    keys.push(key);
                    ids.push(id);
                }
            }
        }
        let Some(refused) = until_done("park", give_up, || store.park(&ids)).await else { return };
        let done = refused.as_ref().map_or(ids.len(), |refused| refused.index.min(ids.len()));
        let mut rest = keys.into_iter().zip(ids);
        let parked =
            rest.by_ref().take(done).map(|(key, id)| Settled::Park(Park { key, ids: vec![id] }));
        report(reports, parked);
        if let (Some((key, id)), Some(Refused { error, .. })) = (rest.next(), refused) {
            error!(%id, error, "an event can't be parked behind a failed one; its key waits until the next start");
            blocked.insert(key.clone());
            report(reports, [Settled::Refused(Some(key), Some(id))].into_iter());
        }
        rest.rev().for_each(|event| waiting.push_front(event));
    }
}

/// What the write returned, or `None` when it was given up.
async fn until_done<T, F>(
    what: &str,
    give_up: &CancellationToken,
    write: impl Fn() -> F,
) -> Option<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let mut backoff = REPEATS;
    while !give_up.is_cancelled() {
        match write().await {
            Ok(written) => return Some(written),
            Err(error) => {
                warn!(
                    %error,
                    "could not {what} settled events; they stay in the outbox until it succeeds"
                )
            }
        }
        tokio::select! {
            biased;
            () = give_up.cancelled() => {}
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
    None
}

fn report(reports: &mpsc::UnboundedSender<Settled>, settled: impl Iterator<Item = Settled>) {
    for settled in settled {
        // A pump that is gone has no more use for reports.
        let _ = reports.send(settled);
    }
}

//! Hands over everything that was committed before the tail begins, however much it is and however
//! long it takes.
//!
//! A server shows one moment only for a while, so a sweep can't read all documents as of one. It
//! goes in rounds. Each lists the ids of the oldest locked events as of one moment, then fetches
//! the documents of those, a page at a time, each page at its own moment:
//!
//! ```text
//!        ┌──────────────── the list was cut ─────────────┐
//!        ▼                                               │
//!   SweepBegan ──▶ list ──▶ held keys ──▶ fetch, hand over ──▶ SweepEnded
//! ```
//!
//! Each list begins with the oldest event again. So an event that was committed late, by a
//! transaction that was open for long, is in the same list as the later events of its key or in an
//! earlier one, and none of them passes it. What was handed over before is left out by its id. It
//! leaves the outbox meanwhile, unless the server refuses to write it. The relay remembers
//! half a million such events.
//!
//! An event only ever goes from locked to unlocked. The keys of unlocked events are read after the
//! list, so an event that is unlocked meanwhile, by a relay that lost the lease, is in one of the
//! two. Its documents aren't: the retrier reads those that are due once the sweep is over, and dead
//! ones nobody does. Unlocked documents that the retrier would never find are listed too.
//!
//! A list that isn't cut has everything, and the tail begins where it was read. The server doesn't
//! say exactly when that was, so the two overlap by a few milliseconds, and [`Overlap`] leaves out
//! of the tail what the list has.
//!
//! A tail that shares its stream with others' can't begin at any time: it has what was collected
//! since it joined. So each round joins before it lists, and when the round is over and the tail
//! can't begin there, because the round took too long, another one follows.

use std::collections::HashMap;
use std::time::Duration;

use bson::{RawDocument, Timestamp};
use outboxd_client::Key;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::warn;

use super::found::{Closed, Found, as_document, hand_over};
use crate::backoff::Backoff;
use crate::crash;
use crate::relay::dispatch::known::Origin;
use crate::relay::listing::{IdSet, Ids, Moment, id_of};
use crate::relay::ports::{EventPage as _, EventStore, Fetched, Joined as _, StoreResult};

/// Most events in a list, besides those that were handed over before. Twice what the relay usually has
/// in memory, so that a list has more new events than old ones.
const LIST: usize = 20_000;
/// Most documents in a page: typical ones come to a quarter of a megabyte.
const PAGE: usize = 500;
/// Documents in the first page, whose size isn't known.
const FIRST_PAGE: usize = 64;
/// Bytes that a page should have: the driver keeps several copies of a reply for a moment.
const REPLY_BYTES: usize = 1 << 20;
/// Bytes of ids in a page: the command that asks for them must stay below 16 MB, and an id may come
/// near that by itself.
const PAGE_BYTES: usize = 1 << 20;
/// Waits after a list that brought nothing new, for what was handed over to leave.
const WAITS: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// A sweep that is over.
pub(super) struct Swept<J> {
    /// The tail begins after this time.
    pub(super) after: Timestamp,
    /// What the tail begins from.
    pub(super) joined: J,
    pub(super) overlap: Overlap,
}

/// What the sweep has handed over and the tail brings once more.
pub(super) struct Overlap {
    listed: IdSet,
    /// What was committed later isn't among them.
    pub(super) until: Timestamp,
}

impl Overlap {
    pub(super) fn has(&self, event: &RawDocument) -> bool {
        id_of(event).is_some_and(|id| self.listed.contains(id))
    }
}

/// Sweeps, in rounds with numbers of their own. Waits while the relay has no room.
pub(super) async fn sweep<S: EventStore>(
    store: &S,
    numbers: &mut impl Iterator<Item = u64>,
    found: &mpsc::Sender<Found>,
    resting: &watch::Receiver<Vec<Key>>,
) -> StoreResult<Result<Swept<S::Joined>, Closed>> {
    let mut handed_over = IdSet::default();
    let mut joined = None;
    let mut held_at = None;
    let (mut waits, mut has_warned) = (WAITS, false);
    let most = crash::bound("LISTED", LIST);

    for number in numbers {
        let (taken, is_taken) = oneshot::channel();
        if found.send(Found::SweepBegan(number, taken)).await.is_err() || is_taken.await.is_err() {
            return Ok(Err(Closed));
        }

        // What was collected for the last round ends only now: others may keep the stream open.
        let here = joined.insert(store.join().await?);
        let without = resting.borrow().clone();
        let list = store.list(most, &without, &handed_over).await?;
        let Moment { after, until } = list.moment;
        if hold(store, until, held_at, found).await?.is_err() {
            return Ok(Err(Closed));
        }
        held_at = Some(until);

        let round = Round { store, number, until, found, resting };
        if let Err(closed) = round.hand_over(&list.ids).await? {
            return Ok(Err(closed));
        }

        handed_over.renew(list.again, &list.ids);
        if !list.is_cut
            && here.covers(after)
            && let Some(joined) = joined.take()
        {
            let ended = found.send(Found::SweepEnded).await;
            let swept = Swept { after, joined, overlap: Overlap { listed: handed_over, until } };
            return Ok(ended.map(|()| swept).map_err(|_| Closed));
        }

        if list.ids.len() > 0 || !list.is_cut {
            waits.reset();
            continue;
        }

        // Events that can't be marked, and those behind them. What comes after them would pass
        // them.
        if !has_warned {
            has_warned = true;
            warn!(
                events = handed_over.len(),
                "the oldest events of the outbox can't be published, and they are more than the \
                 relay can pass over; newer events wait until an operator repairs or removes them"
            );
        }

        tokio::select! {
            biased;
            () = found.closed() => return Ok(Err(Closed)),
            () = sleep(waits.next_wait()) => {}
        }
    }

    Ok(Err(Closed))
}

/// Hands over the keys that unlocked events hold while they are read.
async fn hold(
    store: &impl EventStore,
    since: Timestamp,
    before: Option<Timestamp>,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<(), Closed>> {
    let (keys, mut some_keys) = mpsc::channel(1);
    let handing_over = async {
        while let Some(some) = some_keys.recv().await {
            if found.send(Found::Held(some)).await.is_err() {
                some_keys.close();
                return Err(Closed);
            }
        }
        Ok(())
    };

    let (read, handed_over) = tokio::join!(store.held(since, before, keys), handing_over);
    read.map(|()| handed_over)
}

/// One round of a sweep, once its list is read.
struct Round<'a, S> {
    store: &'a S,
    number: u64,
    /// The list has nothing that was committed later.
    until: Timestamp,
    found: &'a mpsc::Sender<Found>,
    resting: &'a watch::Receiver<Vec<Key>>,
}

impl<S: EventStore> Round<'_, S> {
    /// Hands over the events of the list, in its order.
    async fn hand_over(&self, list: &Ids) -> StoreResult<Result<(), Closed>> {
        let ids: Vec<&[u8]> = (0..list.len()).map(|place| list.get(place)).collect();

        let (mut left, mut page, mut ahead) = (&ids[..], FIRST_PAGE, None);
        while !left.is_empty() {
            let (wanted, fetched) = match ahead.take() {
                Some(read) => read,
                None => self.fetch(left, page).await?,
            };
            // The reply is full of large documents, and some are missing.
            let is_cut = fetched.is_cut && wanted.len() > 1;
            let bytes = fetched.page.documents()?.as_bytes().len();
            page = next_page(wanted.len(), bytes, is_cut);

            let rest = &left[wanted.len()..];
            // Two pages may be in memory then.
            let reads_ahead = !is_cut && bytes <= REPLY_BYTES && !rest.is_empty();
            let handing_over = self.hand_over_page(wanted, &fetched.page, is_cut);
            let reading = async {
                if reads_ahead { self.fetch(rest, page).await.map(Some) } else { Ok(None) }
            };
            let (handed_over, read) = tokio::join!(handing_over, reading);

            match handed_over? {
                Ok(handed_over) => left = &left[handed_over..],
                Err(closed) => return Ok(Err(closed)),
            }
            ahead = read?;
        }

        Ok(Ok(()))
    }

    /// The documents of the first of these ids, and which those are.
    async fn fetch<'b>(
        &self,
        ids: &'b [&'b [u8]],
        page: usize,
    ) -> StoreResult<(&'b [&'b [u8]], Fetched<S::Page>)> {
        let wanted = &ids[..page_of(ids, page)];
        let without = self.resting.borrow().clone();
        Ok((wanted, self.store.fetch(wanted, self.until, &without).await?))
    }

    /// Hands over a page in the order of its ids, those of a cut one up to the first that is
    /// missing. Elsewhere what is missing is settled. Returns how many ids that are.
    async fn hand_over_page(
        &self,
        ids: &[&[u8]],
        page: &S::Page,
        is_cut: bool,
    ) -> StoreResult<Result<usize, Closed>> {
        // The server's clock decides whether an event is due. It counts whole seconds, so this is
        // the end of its second.
        let now_ms = i64::from(self.until.time) * 1000 + 999;

        let mut events = HashMap::with_capacity(ids.len());
        for event in page.documents()? {
            let event = as_document(event)?;
            events.extend(id_of(event).map(|id| (id, event)));
        }

        let origin = Origin::Sweep(self.number);
        for (place, id) in ids.iter().enumerate() {
            let Some(event) = events.get(id) else {
                if is_cut {
                    return Ok(Ok(place));
                }
                continue;
            };

            let handed = hand_over(self.store, event, origin, now_ms, None, self.found).await;
            if let Err(closed) = handed {
                return Ok(Err(closed));
            }
        }

        Ok(Ok(ids.len()))
    }
}

/// Documents in the page after one of so many documents and bytes.
fn next_page(documents: usize, bytes: usize, is_cut: bool) -> usize {
    let most = if is_cut { documents / 2 } else { (documents * 2).min(PAGE) };
    (documents.saturating_mul(REPLY_BYTES) / bytes.max(1)).min(most).max(1)
}

/// How many of these ids fit in a page of at most so many.
fn page_of(ids: &[&[u8]], most: usize) -> usize {
    let mut bytes = 0;
    let fit = ids.iter().take(most).take_while(|id| {
        bytes += id.len();
        bytes <= PAGE_BYTES
    });
    fit.count().max(1)
}

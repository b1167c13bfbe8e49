//! Follows what commits after the sweep, through a change stream.
//!
//! Reads raw replies: a typed stream skips changes that it can't parse, and copies each change
//! twice. Ends only with an error or when the receiver is closed. After an error the caller sweeps
//! again, so nothing depends on a resume token.
//!
//! An event is handed over as it was inserted. If its own transaction touched it after that, it is
//! handed over as it was committed: see [`transaction`](super::transaction).

use bson::RawDocument;
use tokio::sync::mpsc;
use tracing::warn;

use super::change::Change;
use super::found::{Closed, Found, hand_over};
use super::sweep::{Overlap, Swept};
use super::transaction::{Committed, Continued, Step, Survey};
use crate::relay::dispatch::known::Origin;
use crate::relay::ports::{EventPage as _, EventStore, EventTail as _, StoreError, StoreResult};

/// Tails from where the sweep ended. Calls `reached` with each reply of the stream.
pub(super) async fn tail<S: EventStore>(
    store: &S,
    swept: Swept<S::Joined>,
    found: &mpsc::Sender<Found>,
    mut reached: impl FnMut(),
) -> StoreResult<Closed> {
    let mut stream = store.tail(swept.joined, swept.after).await?;
    let mut overlap = Some(swept.overlap);
    let mut continued = Continued::default();
    let mut has_warned = false;

    while !found.is_closed() {
        // Returns an empty page about once a second, so that a stop is noticed. Never dropped
        // half-way.
        let page = stream
            .next()
            .await?
            .ok_or_else(|| StoreError::unexpected("the change stream ended"))?;
        reached();

        let Survey { changes, bytes, is_plain, ends_in_transaction } =
            Survey::of(page.documents()?)?;
        let is_cut = ends_in_transaction && stream.may_be_cut(changes.len(), bytes);

        let taken = match is_plain && !is_cut && !continued.may_repeat() {
            true => take_inserts(store, &changes, &mut overlap, found).await?,
            false => {
                let steps = continued.steps(&changes, is_cut)?;
                warn_of_withdrawn(&steps, &mut has_warned);
                take_steps(store, &steps, &mut overlap, found).await?
            }
        };

        if let Err(closed) = taken {
            return Ok(closed);
        }
    }

    Ok(Closed)
}

/// Hands over a page of nothing but inserts.
async fn take_inserts(
    store: &impl EventStore,
    changes: &[Change<'_>],
    overlap: &mut Option<Overlap>,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<(), Closed>> {
    for change in changes {
        let Some(document) = change.document() else { continue };

        if let Err(closed) = insert(store, change, document, overlap, found).await? {
            return Ok(Err(closed));
        }
    }

    Ok(Ok(()))
}

/// Does what the changes of a page ask for.
async fn take_steps(
    store: &impl EventStore,
    steps: &[Step<'_>],
    overlap: &mut Option<Overlap>,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<(), Closed>> {
    let mut committed = Committed::new(steps);

    for (index, step) in steps.iter().enumerate() {
        let taken = match step {
            Step::Inserted(change, document) => {
                insert(store, change, document, overlap, found).await?
            }
            Step::Committed(change) => match committed.event(store, index, change).await? {
                Some(document) => insert(store, change, &document, overlap, found).await?,
                None => Ok(()),
            },
            Step::Withdrawn | Step::Nothing => Ok(()),
            Step::Requested => found.send(Found::Requested).await.map_err(|_| Closed),
            Step::Ended(operation) => {
                let message = format!("the outbox collection is gone: {operation}");
                return Err(StoreError::unexpected(message));
            }
        };

        if let Err(closed) = taken {
            return Ok(Err(closed));
        }
    }

    Ok(Ok(()))
}

/// Hands over an event that this change inserted, unless the sweep had it.
async fn insert(
    store: &impl EventStore,
    change: &Change<'_>,
    document: &RawDocument,
    overlap: &mut Option<Overlap>,
    found: &mpsc::Sender<Found>,
) -> StoreResult<Result<(), Closed>> {
    if let Some(swept) = overlap {
        // Beyond the sweep, it had none of what follows.
        if change.at()? > swept.until {
            *overlap = None;
        } else if swept.has(document) {
            return Ok(Ok(()));
        }
    }

    // By the server's clock. An unlocked event that is not due by then is the retrier's.
    let committed_ms = change.committed_ms();
    let now_ms = committed_ms.unwrap_or(i64::MIN);
    let origin = Origin::Tail(change.at()?);
    Ok(hand_over(store, document, origin, now_ms, committed_ms, found).await)
}

/// A writer made for a relay that reads the oplog deletes each event in the transaction that
/// inserts it. None of them would be published.
fn warn_of_withdrawn(steps: &[Step<'_>], has_warned: &mut bool) {
    let withdrawn = steps.iter().filter(|step| matches!(step, Step::Withdrawn)).count();
    if withdrawn > 0 && !*has_warned {
        *has_warned = true;
        warn!(
            events = withdrawn,
            "a transaction deleted events that it had inserted, so they are not published; if the \
             writer deletes every event, remove the delete from it"
        );
    }
}

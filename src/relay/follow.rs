//! Finds what is unpublished: sweep, then tail, and on any error both again.
//!
//! The sweep reads the outbox as of one cluster time and the tail begins just after it, so together
//! they neither leave a gap nor overlap. There is no resume token to store, lose or outlive: the
//! outbox itself says what is unpublished.

use std::time::Duration;

use bson::{RawBsonRef, RawDocument};
use mongodb::error::{Error, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::clock;
use super::dispatch::Pending;
use super::twins::Origin;
use super::world::EventStore;
use super::{sweep, tail};
use crate::error::mongodb_says;
use crate::outbox::record::Malformed;
use crate::telemetry::metrics;

/// Wait before sweeping again after an error; doubles up to [`MAX_WAIT`], starts over once the tail
/// has been reached.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Bytes from which a document waits until everything before it was taken: 64 smaller ones come to
/// 4 MiB.
const BIG: usize = 64 << 10;

/// MongoDB's code for an oplog that no longer reaches back far enough.
const HISTORY_LOST: i32 = 286;
/// MongoDB's code for a change over 16 MB.
const TOO_LARGE: i32 = 10334;

/// What the reads hand to the relay, in the order they found it.
#[derive(Debug)]
pub(crate) enum Found {
    /// A sweep with this number begins as soon as this is answered: by then everything found before
    /// is taken, and whatever settles from now on may still be in the sweep.
    SweepBegan(u64, oneshot::Sender<()>),
    /// An event, and the server's time (ms since the epoch) by which it is due or not.
    Event(Pending, i64),
    /// A document that doesn't follow the contract.
    Malformed(Box<Malformed>),
    /// An operator wants events published or removed now.
    Requested,
    /// The sweep has handed over everything; what follows is the tail's.
    SweepEnded,
}

/// Nobody wants more.
#[derive(Debug)]
pub(super) struct Closed;

/// Follows the outbox until the receiver is closed. Runs as a task of its own: a read that is
/// dropped half-way costs its connection.
pub(crate) async fn follow(store: impl EventStore, found: mpsc::Sender<Found>) {
    let mut wait = FIRST_WAIT;
    for number in 0.. {
        let ended = match sweep::sweep(&store, number, &found).await {
            Ok(Ok(at)) => {
                debug!(sweep = number, at = at.time, "swept; tailing");
                tail::tail(&store, at, &found, &mut wait).await
            }
            Ok(Err(closed)) => Ok(closed),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Closed) => return,
            Err(error) => {
                warn!(error = mongodb_says(&error), "following the outbox failed; sweeping again");
                metrics::stream_restart(reason(&error));
            }
        }
        tokio::select! {
            biased;
            () = found.closed() => return,
            () = tokio::time::sleep(clock::jitter(wait, 0.5..1.0)) => {}
        }
        wait = (wait * 2).min(MAX_WAIT);
    }
}

fn reason(error: &mongodb::error::Error) -> &'static str {
    match &*error.kind {
        ErrorKind::Command(error) if error.code == HISTORY_LOST => "history_lost",
        ErrorKind::Command(error) if error.code == TOO_LARGE => "too_large",
        ErrorKind::Command(_) => "refused",
        ErrorKind::Custom(_) => "ended",
        _ => "connection",
    }
}

/// What stands in a page.
pub(super) fn as_document(
    value: bson::error::Result<RawBsonRef<'_>>,
) -> mongodb::error::Result<&RawDocument> {
    let document = value.map_err(Error::custom)?.as_document();
    document
        .ok_or_else(|| Error::custom("a page of the server holds something other than documents"))
}

/// Hands over what was read. Big ones one at a time: the receiver's bound on bytes counts only what
/// it has taken.
pub(super) async fn hand_over(
    store: &impl EventStore,
    document: &RawDocument,
    origin: Origin,
    now_ms: i64,
    committed_ms: Option<i64>,
    found: &mpsc::Sender<Found>,
) -> Result<(), Closed> {
    let read = match store.parse(document) {
        Ok(record) => Found::Event(Pending { record: record.into(), origin, committed_ms }, now_ms),
        Err(malformed) => Found::Malformed(malformed),
    };
    if document.as_bytes().len() > BIG {
        drop(found.reserve_many(found.max_capacity()).await.map_err(|_| Closed)?);
    }
    found.send(read).await.map_err(|_| Closed)
}

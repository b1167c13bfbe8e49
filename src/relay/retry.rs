//! The retrier: reads what is unlocked and due, on a cron schedule, and the rest of a key once its head got through.
//!
//! It only reads. What it finds goes through the same dispatch as live events, so the order of a key holds. One task, one
//! read at a time: a tick that outlasts its interval doesn't overlap itself.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf};
use tokio::sync::{Notify, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler};
use tracing::{debug, warn};

use super::dispatch::{LANE_READ, Pending};
use super::lane::Behind;
use super::twins::Origin;
use crate::config::RetryConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::Key;
use crate::outbox::record::{Custody, Malformed, OutboxRecord};
use crate::outbox::store::Store;

/// Most due events one tick reads of each kind, keyed and not.
pub(crate) const MAX_TICK: usize = 1000;

/// How old a locked event must be for the safety sweep to pick it up: far older than what the tail is about to bring.
const STRAY_AGE: Duration = Duration::from_secs(60);

/// A read that the relay asks for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// At most this many due events.
    Due(usize),
    /// At most this many events that should have been published long ago.
    Stray(usize),
    /// What is unlocked of this key.
    Lane(Key),
}

/// The result of an [`Ask`].
#[derive(Debug)]
pub(crate) enum Answer {
    Due(Vec<Pending>, Vec<Malformed>),
    Stray(Vec<Pending>, Vec<Malformed>),
    Lane(Key, Vec<Pending>, Behind),
}

/// Reads until `asks` closes.
pub(crate) async fn run(store: Store, mut asks: mpsc::UnboundedReceiver<Ask>, answers: mpsc::UnboundedSender<Answer>) {
    while let Some(ask) = asks.recv().await {
        let answer = match ask {
            Ask::Due(limit) => due(&store, limit).await,
            Ask::Stray(limit) => stray(&store, limit).await,
            Ask::Lane(key) => lane(&store, key).await,
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

async fn due(store: &Store, limit: usize) -> Answer {
    let documents = store.due(bounded(limit)).await.unwrap_or_else(|error| {
        warn!(%error, "could not look for due events; the next tick does");
        Vec::new()
    });
    debug!(due = documents.len(), "looked for due events");
    let (due, malformed) = parse(&documents, Origin::Retry);
    Answer::Due(due, malformed)
}

async fn stray(store: &Store, limit: usize) -> Answer {
    let documents = store.stray(STRAY_AGE, bounded(limit)).await.unwrap_or_else(|error| {
        warn!(%error, "could not look for events passed over; the next safety sweep does");
        Vec::new()
    });
    let (stray, malformed) = parse(&documents, Origin::Stray);
    Answer::Stray(stray, malformed)
}

fn bounded(limit: usize) -> u32 {
    u32::try_from(limit.min(MAX_TICK)).unwrap_or(u32::MAX)
}

fn parse(documents: &[RawDocumentBuf], origin: Origin) -> (Vec<Pending>, Vec<Malformed>) {
    let (mut events, mut malformed) = (Vec::new(), Vec::new());
    for document in documents {
        match OutboxRecord::parse(document) {
            Ok(record) => events.push(Pending { record, origin }),
            Err(found) => malformed.push(*found),
        }
    }
    (events, malformed)
}

async fn lane(store: &Store, key: Key) -> Answer {
    let mut events = Vec::new();
    let documents = match store.unlocked(&key, u32::try_from(LANE_READ).unwrap_or(u32::MAX)).await {
        Ok(documents) => documents,
        Err(error) => {
            warn!(%error, "could not read the parked events of a key; the next tick does");
            return Answer::Lane(key, events, Behind::Held);
        }
    };
    let more = documents.len() == LANE_READ;
    let now_ms = DateTime::now().timestamp_millis();
    for document in documents {
        match OutboxRecord::parse(&document) {
            Ok(record) if matches!(record.custody, Custody::Unlocked { due_at_ms } if due_at_ms <= now_ms) => {
                events.push(Pending { record, origin: Origin::Retry });
            }
            Ok(_) | Err(_) => return Answer::Lane(key, events, Behind::Held),
        }
    }
    Answer::Lane(key, events, if more { Behind::More } else { Behind::Nothing })
}

/// Starts the cron schedule; each tick wakes whoever waits on the returned handle, and a tick nobody waits for is kept
/// once.
///
/// # Errors
/// [`ErrorKind::Config`] when the expression is refused.
pub(crate) async fn schedule(retry: &RetryConfig) -> Result<(JobScheduler, Arc<Notify>)> {
    let refused = |error| Error::with_source(ErrorKind::Config, format!("retry.cron {:?}", retry.cron), error);
    let tick = Arc::new(Notify::new());
    let wake = tick.clone();
    let job = Job::new(retry.cron.as_str(), move |_, _| wake.notify_one()).map_err(refused)?;
    let scheduler = JobScheduler::new().await.map_err(refused)?;
    scheduler.add(job).await.map_err(refused)?;
    scheduler.start().await.map_err(refused)?;
    Ok((scheduler, tick))
}

/// How long a failed event waits: exponential in its counted attempts, capped, with jitter so that events that failed
/// together don't return together.
pub(crate) fn backoff(retry: &RetryConfig, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(30);
    let full = retry.base_delay.saturating_mul(1 << doublings).min(retry.max_delay);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

//! The retrier: reads what is unlocked and due, on a cron schedule or when asked, the rest of a key
//! once its head got through, what an operator wants discarded, and for the safety sweep what
//! nothing else brought.
//!
//! It only reads. What it finds goes through the same dispatch as live events, so the order of a
//! key holds. One task, one read at a time: a tick that outlasts its interval doesn't overlap
//! itself.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler};
use tracing::warn;

use outboxd_client::Key;

use super::clock;
use super::dispatch::known::Origin;
use super::dispatch::pending::Pending;
use super::dispatch::read::{Behind, Read};
use super::ports::{EventStore, Page, Room};
use super::wake::{Reason, Wake};
use crate::config::RetryConfig;
use crate::crash::{self, Point};
use crate::document::record::Custody;
use crate::error::{Error, ErrorKind, Result};

/// Most events one tick reads. When there are more, the next tick follows as soon as these are
/// settled.
pub(crate) const MAX_TICK: usize = 1000;

/// How old a locked event must be for the safety sweep to pick it up: far older than what the tail
/// is about to bring.
const STRAY_AGE: Duration = Duration::from_secs(60);

/// A read that the relay asks for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Due events.
    Due(Read, Room),
    /// Events that an operator wants removed.
    Discards(Read, Room),
    /// Locked events that should have been published long ago.
    PassedOver(Read, Room),
    /// What is unlocked of this key.
    Key(Key, Read, Room),
}

/// The result of an [`Ask`].
#[derive(Debug)]
pub(crate) enum Answer {
    Due(Read, Page),
    Discards(Read, Page),
    PassedOver(Read, Page),
    Key(Key, Read, Vec<Pending>, Behind),
}

/// Reads until `asks` closes.
pub(crate) async fn run(
    store: impl EventStore,
    mut asks: mpsc::UnboundedReceiver<Ask>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    while let Some(ask) = asks.recv().await {
        let answer = match ask {
            Ask::Due(read, room) => Answer::Due(
                read,
                store.due(room.at_most(MAX_TICK)).await.unwrap_or_else(|error| {
                    warn!(
                        %error,
                        "could not look for due events; the next tick does"
                    );
                    Page::default()
                }),
            ),
            Ask::Discards(read, room) => Answer::Discards(
                read,
                store.discards(room.at_most(MAX_TICK)).await.unwrap_or_else(|error| {
                    warn!(
                        %error,
                        "could not look for events to discard; the next tick does"
                    );
                    Page { more: true, ..Page::default() }
                }),
            ),
            Ask::PassedOver(read, room) => Answer::PassedOver(
                read,
                store.stray(STRAY_AGE, room.at_most(MAX_TICK)).await.unwrap_or_else(|error| {
                    warn!(
                        %error,
                        "could not look for events passed over; the next safety sweep does"
                    );
                    Page::default()
                }),
            ),
            Ask::Key(key, read, room) => {
                let (events, behind) = of_key(&store, &key, room).await;
                Answer::Key(key, read, events, behind)
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

async fn of_key(store: &impl EventStore, key: &Key, room: Room) -> (Vec<Pending>, Behind) {
    let mut events = Vec::new();
    let page = match store.unlocked(key, room).await {
        Ok(page) => page,
        Err(error) => {
            warn!(
                %error,
                "could not read the parked events of a key; the next tick does"
            );
            return (events, Behind::Held);
        }
    };
    if !page.events.is_empty() {
        crash::here(Point::Unparking);
    }
    let now_ms = clock::now().timestamp_millis();
    for parsed in page.events {
        match parsed {
            Ok(record) if matches!(record.custody, Custody::Unlocked { due_at_ms } if due_at_ms <= now_ms) =>
            {
                events.push(Pending {
                    record: record.into(),
                    origin: Origin::Retry,
                    committed_ms: None,
                });
            }
            Ok(_) | Err(_) => return (events, Behind::Held),
        }
    }
    (events, if page.more { Behind::More } else { Behind::Nothing })
}

/// Starts the cron schedule, which wakes through the returned handle.
///
/// # Errors
/// [`ErrorKind::Config`] when the expression is refused.
pub(crate) async fn schedule(retry: &RetryConfig) -> Result<(JobScheduler, Wake)> {
    let refused = |error| {
        Error::with_source(ErrorKind::Config, format!("retry.cron {:?}", retry.cron), error)
    };
    let wake = Wake::default();
    let scheduled = wake.clone();
    let job = Job::new(retry.cron.as_str(), move |_, _| scheduled.because(Reason::Schedule))
        .map_err(refused)?;
    let scheduler = JobScheduler::new().await.map_err(refused)?;
    scheduler.add(job).await.map_err(refused)?;
    scheduler.start().await.map_err(refused)?;
    Ok((scheduler, wake))
}

/// How long a failed event waits: exponential in its counted attempts, capped, with jitter so that
/// events that failed together don't return together.
pub(crate) fn backoff(retry: &RetryConfig, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(30);
    let full = retry.base_delay.saturating_mul(1 << doublings).min(retry.max_delay);
    clock::jitter(full, 0.5..1.0)
}

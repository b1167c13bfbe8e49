//! The retrier reads the events that the tail doesn't bring:
//!
//! - unlocked events that are due: on a cron schedule, and for every other reason in `wake`
//! - the rest of a key, once the key's oldest event has been published
//! - the locked events of keys that have had their share of the buffer
//! - events that an operator wants discarded
//! - for the safety sweep, events that nothing else has brought
//!
//! It only reads. Its events pass the same dispatch as live ones, so the order of a key holds. One
//! task makes one read at a time, so reads don't overlap.

use std::time::Duration;

use outboxd_client::Key;
use tokio::sync::mpsc;
use tracing::warn;

use super::clock;
use super::dispatch::forgotten::Filter;
use super::dispatch::known::Origin;
use super::dispatch::pending::Pending;
use super::dispatch::read::{Behind, Read};
use super::dispatch::rest::START;
use super::listing::RawId;
use super::ports::{Dated, EventStore, Page, Parsed, RestOf, Room, StoreResult};
use crate::backoff::Backoff;
use crate::config::RetryConfig;
use crate::crash::{self, Point};
use crate::document::record::OutboxRecord;

/// Most events that one read returns. When there are more, the next read follows as soon as these
/// are settled.
pub(crate) const MAX_READ: usize = 1000;

/// How old a locked event must be for the safety sweep to read it: far older than any event that
/// the tail has yet to bring.
const PASSED_OVER_AGE: Duration = Duration::from_secs(60);

/// A read that the relay asks for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Due events, without some; and whether the outbox is empty, if that is asked.
    Due(Read, Room, Vec<RawId>, bool),
    /// Events that an operator wants removed.
    Discards(Read, Room),
    /// Locked events that should have been published long ago, without those of some keys, and
    /// without some events.
    PassedOver(Read, Room, Vec<Key>, Vec<RawId>),
    /// The unlocked events of this key.
    Key(Key, Read, Room),
    /// Locked events of these keys.
    Rest(Vec<RestOf>, Read, Room),
    /// The keys that wait, into this filter.
    Waiting(Filter),
}

/// The result of an [`Ask`].
#[derive(Debug)]
pub(crate) enum Answer {
    /// And whether the outbox was empty then.
    Due(Read, Page, bool),
    Discards(Read, Page),
    PassedOver(Read, Page),
    Key(Key, Read, Vec<Pending>, Behind),
    Rest(Vec<RestOf>, Read, Option<Dated>),
    /// `None` if they could not be read.
    Waiting(Option<Filter>),
}

/// Reads until `asks` closes.
pub(crate) async fn run(
    store: impl EventStore,
    mut asks: mpsc::UnboundedReceiver<Ask>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    while let Some(ask) = asks.recv().await {
        let answer = match ask {
            Ask::Due(read, room, except, asks_empty) => {
                let due = store.due(room.at_most(MAX_READ), &except).await;
                let due = or_warn(due, "due events");
                let is_empty = asks_empty
                    && due.as_ref().is_some_and(|due| due.events.is_empty() && !due.more)
                    && or_warn(store.is_empty().await, "whether the outbox is empty") == Some(true);
                Answer::Due(read, due.unwrap_or_default(), is_empty)
            }
            Ask::Discards(read, room) => {
                let discards = store.discards(room.at_most(MAX_READ)).await;
                let discards = or_warn(discards, "events to discard");
                Answer::Discards(read, discards.unwrap_or(Page { more: true, ..Page::default() }))
            }
            Ask::PassedOver(read, room, without, except) => {
                let room = room.at_most(MAX_READ);
                let passed_over = store.passed_over(PASSED_OVER_AGE, room, &without, &except).await;
                let passed_over = or_warn(passed_over, "events that no sweep delivered");
                Answer::PassedOver(read, passed_over.unwrap_or_default())
            }
            Ask::Key(key, read, room) => {
                let (events, behind) = of_key(&store, &key, room).await;
                Answer::Key(key, read, events, behind)
            }
            Ask::Rest(of, read, room) => {
                let rest =
                    or_warn(store.locked(&of, room).await, "what keys have left in the database");
                Answer::Rest(of, read, rest)
            }
            Ask::Waiting(filter) => Answer::Waiting(fill(&store, filter).await),
        };

        if answers.send(answer).is_err() {
            return;
        }
    }
}

fn or_warn<T>(page: StoreResult<T>, what: &str) -> Option<T> {
    page.inspect_err(|error| warn!(%error, "could not read {what}; the next read retries")).ok()
}

/// Fills the filter with the keys that wait.
async fn fill(store: &impl EventStore, mut filter: Filter) -> Option<Filter> {
    let (keys, mut found) = mpsc::channel::<Vec<Key>>(1);
    let filling = async {
        while let Some(keys) = found.recv().await {
            keys.iter().for_each(|key| filter.insert(key));
        }
    };

    let (read, ()) = tokio::join!(store.held(START, None, keys), filling);
    or_warn(read, "the keys that wait").map(|()| filter)
}

/// Reads what waits of a key. Stops at the first event that holds the others: one that isn't due or
/// can't be parsed.
async fn of_key(store: &impl EventStore, key: &Key, room: Room) -> (Vec<Pending>, Behind) {
    let mut events = Vec::new();
    let Some(page) = or_warn(store.unlocked(key, room).await, "the parked events of a key") else {
        return (events, Behind::Held);
    };

    if !page.events.is_empty() {
        crash::here(Point::Unparking);
    }

    for parsed in page.events {
        match due(parsed, page.at_ms) {
            Some(record) => events.push(Pending {
                record: record.into(),
                origin: Origin::Retry,
                committed_ms: None,
            }),
            None => return (events, Behind::Held),
        }
    }

    (events, if page.more { Behind::More } else { Behind::Nothing })
}

/// The event, if it is unlocked and due.
fn due(parsed: Parsed, now_ms: i64) -> Option<OutboxRecord> {
    parsed.ok().filter(|record| record.is_due(now_ms))
}

/// How long an event waits after this many counted attempts. Jitter spreads events that failed
/// together.
pub(crate) fn delay(retry: &RetryConfig, attempts: u32) -> Duration {
    Backoff::new(retry.base_delay, retry.max_delay)
        .with_jitter(0.5..1.0, clock::chance)
        .after(attempts)
}

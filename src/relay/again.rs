//! Publishes kept events again, in their order: of one key one at a time.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use outboxd_client::{EventId, Key};

use super::kept::Kept;
use super::ports::{EventBus, Room};
use super::publish::Publisher;
use super::publish::outcome::Outcome;
use crate::failure::{MALFORMED, Rejection};

/// Kept events that are read at once: little memory, and enough that a page's write costs nothing.
pub(crate) const PAGE: Room = Room { events: 500, bytes: 1 << 20 };
/// Publishes under way, each of another key.
const MAX_IN_FLIGHT: usize = 128;

/// What became of a kept event.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) place: i64,
    /// `None` for a document that is no event.
    pub(crate) id: Option<EventId>,
    pub(crate) outcome: Outcome,
}

/// Publishes a page of kept events, each under the message id it had, or as part of the replay with
/// this number. Ends with the first error of `take`.
///
/// # Errors
/// Those of `take`.
pub(crate) async fn publish_again<B: EventBus, E>(
    publisher: &Publisher<B>,
    page: Vec<Kept>,
    replay: Option<u64>,
    mut take: impl FnMut(Sent) -> Result<(), E>,
) -> Result<(), E> {
    let mut keys = HashSet::<Key>::new();
    let mut in_flight = FuturesUnordered::new();
    let mut waiting = page.into_iter().peekable();

    loop {
        let is_free = |kept: &Kept| {
            let key = kept.event.as_ref().ok().and_then(|event| event.key.as_ref());
            key.is_none_or(|key| !keys.contains(key))
        };
        let next = match in_flight.len() < MAX_IN_FLIGHT {
            true => waiting.next_if(is_free),
            false => None,
        };

        if let Some(kept) = next {
            keys.extend(kept.event.as_ref().ok().and_then(|event| event.key.clone()));
            in_flight.push(publish_one(publisher, kept, replay));
            continue;
        }

        let Some((key, sent)) = in_flight.next().await else { return Ok(()) };
        key.into_iter().for_each(|key| _ = keys.remove(&key));
        take(sent)?;
    }
}

async fn publish_one<B: EventBus>(
    publisher: &Publisher<B>,
    kept: Kept,
    replay: Option<u64>,
) -> (Option<Key>, Sent) {
    let Kept { place, event, .. } = kept;
    match event {
        Ok(mut event) => {
            let payload = std::mem::take(&mut event.payload).into();
            let outcome = publisher.republish(&event, payload, replay).await;
            (event.key, Sent { place, id: Some(event.id), outcome })
        }
        Err(malformed) => {
            let outcome = Outcome::Rejected(Rejection::new(MALFORMED, malformed.reason));
            (None, Sent { place, id: None, outcome })
        }
    }
}

//! Whether the stream itself bears out acks, before anything relies on them: a neighbour may have
//! forged one, or the stream may have lost what it acked.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::lease::Term;
use super::ports::EventBus;
use super::publish::outcome::Acked;
use super::watermark::Found;
use crate::backoff::Backoff;

/// Waits between questions that the stream does not answer.
const QUESTIONS: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Asks the stream until it answers or `give_up`. Returns the events whose acks it bears out, and how
/// many others there are. Raises the watermark of the term.
pub(super) async fn borne_out(
    bus: &impl EventBus,
    mut acked: Vec<Acked>,
    (term, is_kept): (&Term, bool),
    give_up: &CancellationToken,
) -> (Vec<Acked>, usize) {
    let before = acked.len();
    let unseen = acked.iter().filter(|acked| !acked.seen);

    let Some(newest) = unseen.map(|acked| acked.sequence).max() else {
        if is_kept {
            // Of events that the stream was seen to have, those that don't fit what it acked before
            // came after a loss that is not known yet, and so is their place among the kept events.
            let newest = term.newest.get().map_or(0, |newest| newest.sequence);
            acked.retain(|acked| acked.duplicate || acked.sequence > newest);
        }
        raise_watermark(bus, &acked, term);
        let others = before - acked.len();
        return (acked, others);
    };

    if is_reached(bus, &acked, newest, give_up).await {
        // What the stream had lost when it was compared may have been replaced and consumed since.
        let is_left = |acked: &Acked| term.reached.bears_out(acked.connection, acked.sequence);
        acked.retain(|acked| acked.seen || is_left(acked));
        raise_watermark(bus, &acked, term);
    } else {
        // Where it stands among the kept events is not known before the loss is.
        acked.retain(|acked| acked.seen && !is_kept);
    }

    let others = before - acked.len();
    (acked, others)
}

fn raise_watermark(bus: &impl EventBus, acked: &[Acked], term: &Term) {
    let newest = acked.iter().max_by_key(|acked| acked.sequence);
    let newest = newest.and_then(|one| bus.watermark(one.sequence, &one.message_id));
    newest.into_iter().for_each(|newest| term.newest.advance(newest));
}

/// Whether the stream has reached the newest sequence, and not by what came after a loss.
async fn is_reached(
    bus: &impl EventBus,
    acked: &[Acked],
    newest: u64,
    give_up: &CancellationToken,
) -> bool {
    // While the stream was away, it may have lost messages, and got others since.
    let mut may_be_replaced = acked.iter().any(|acked| acked.connection != bus.connection());
    let mut backoff = QUESTIONS;

    loop {
        let answer = match bus.bears_out(newest).await {
            Some(true) if may_be_replaced => are_held(bus, acked).await,
            answer => answer,
        };
        if let Some(answer) = answer {
            return answer;
        }

        may_be_replaced = true;
        warn!("the stream does not answer; published events stay in the outbox until it does");
        tokio::select! {
            biased;
            () = give_up.cancelled() => return false,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// Whether the stream has the newest message of each connection, and so those before it. `None` if it
/// gave no answer.
async fn are_held(bus: &impl EventBus, acked: &[Acked]) -> Option<bool> {
    let mut newest = BTreeMap::<u64, &Acked>::new();
    for acked in acked.iter().filter(|acked| !acked.seen) {
        let one = newest.entry(acked.connection).or_insert(acked);
        if acked.sequence > one.sequence {
            *one = acked;
        }
    }

    for acked in newest.values() {
        let found = bus.found(acked.sequence).await.ok()?;
        // One that is gone was there before: the stream has reached its sequence.
        if matches!(found, Found::Message(id) if id.as_ref() != Some(&acked.message_id)) {
            return Some(false);
        }
    }
    Some(true)
}

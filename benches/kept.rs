//! Kept events: what `keep.for` costs a drain and the way of an event, in one turn with and without.

use super::drain::drain_once;
use super::latency::latency_once;
use super::peer::Peer;
use super::report::Report;
use super::stage::{BYTES, KEYS};

/// Quotients and differences of an outbox that keeps its events for a day and one that doesn't.
const COLUMNS: &[&str] = &["drain ratio", "CPU ratio", "peak MB more", "p50 ms more"];

/// Keeps acked events.
const KEEP: &[(&str, &str)] = &[("OUTBOXD_KEEP__FOR", "24h")];

/// Transactions a second, and for how many seconds.
const LATENCY: (u32, u32) = (500, 10);

pub(crate) fn title(events: u32) -> String {
    format!("events kept for a day, drain of {events}")
}

/// Measures a drain and the latency, with and without kept events.
pub(crate) async fn kept(report: &mut Report, events: u32) {
    let title = title(events);

    for turn in report.begin(&title, COLUMNS, &[Peer::Outboxd]) {
        let [without, with] = [
            drain_once(turn.peer, &[], events, (KEYS, BYTES)).await,
            drain_once(turn.peer, KEEP, events, (KEYS, BYTES)).await,
        ];
        let (rate, seconds) = LATENCY;
        let late = latency_once(turn.peer, &[], rate, seconds).await[0];
        let late_kept = latency_once(turn.peer, KEEP, rate, seconds).await[0];

        let figures =
            [with[0] / without[0], with[1] / without[1], with[2] - without[2], late_kept - late];
        report.add(&title, turn, &figures);
    }
}

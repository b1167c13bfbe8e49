//! `[keep]`: acked events are kept for a while, to survive a stream that loses them.

use std::time::Duration;

use bson::Document;

use crate::config::reader::Reader;
use crate::config::setting::secs;
use crate::document::layout::Layout;

/// Fields of a kept event that outboxd adds.
const FIELDS: [&str; 5] = ["publishedAt", "stream", "seq", "place", "messageId"];

/// `[keep]`
#[derive(Debug, Clone)]
pub struct KeepConfig {
    /// How long an acked event is kept. Zero deletes it on the ack.
    pub lasts: Duration,
    /// What happens when the stream has lost what it acked.
    pub repair: Repair,
    /// Most events a second that a repair publishes.
    pub rate: u64,
}

/// `keep.repair`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// The relay publishes what was lost again.
    Auto,
    /// A person decides.
    Alert,
}

impl KeepConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, layout: &Layout) -> Self {
        let keep = Self {
            lasts: reader
                .setting(
                    "for",
                    "How long an event is kept after its ack, in the collection \
                     <outbox>_published. If the stream loses what it acked, outboxd publishes it \
                     again from there. \"0s\" deletes an event on its ack. Each kept event takes \
                     the disk of its document. Keep events for longer than the stream's flush \
                     interval (two minutes by default), and for as long as it takes to restore a \
                     backup of the stream.",
                )
                .within(Duration::ZERO, Duration::ZERO..=secs(30 * 86_400)),
            repair: reader
                .setting(
                    "repair",
                    "What happens when the stream has lost what it had acked. \"auto\": outboxd \
                     publishes the kept events that the stream has lost, with their message ids, \
                     before any newer event. \"alert\": it raises the alert `rewound` only.",
                )
                .one_of(&[("auto", Repair::Auto), ("alert", Repair::Alert)]),
            rate: reader
                .setting("rate", "Most events a second that a repair publishes.")
                .within(10_000, 1..=1_000_000),
        };

        let mut named = Document::new();
        layout.project(&mut named);
        let named = named.keys().map(String::as_str).chain([layout.payload(), layout.headers()]);
        if keep.is_on()
            && let Some(taken) = named.into_iter().find(|name| FIELDS.contains(name))
        {
            let why = format!(
                "is not possible with a layout of the event that names the field {taken}: kept \
                 events have a field {taken} of outboxd's own"
            );
            reader.mistake("for", &why);
        }

        keep
    }

    /// Whether acked events are kept.
    pub fn is_on(&self) -> bool {
        !self.lasts.is_zero()
    }

    /// Whether the relay repairs a stream by itself.
    pub fn repairs(&self) -> bool {
        self.is_on() && self.repair == Repair::Auto
    }
}

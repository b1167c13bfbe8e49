//! `[dispatch]`: how much is under way at once, and in which order.

use crate::config::reader::Reader;
use crate::config::setting::to_usize;

/// `[dispatch]`
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Publishes under way at once.
    pub max_in_flight: usize,
    /// Events in memory at once.
    pub max_buffered_events: usize,
    /// Bytes of events in memory at once.
    pub max_buffered_bytes: usize,
    /// Which events wait for each other.
    pub ordering: Ordering,
    /// What a dead event does to its key.
    pub on_dead: OnDead,
}

/// `dispatch.ordering`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// The events of one key leave in their order.
    Key,
    /// No event waits for another.
    None,
}

/// `dispatch.on_dead`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDead {
    /// The later events of its key wait until a person decides.
    Hold,
    /// The later events of its key leave without it.
    Skip,
}

impl DispatchConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            max_in_flight: to_usize(
                reader
                    .setting(
                        "max_in_flight",
                        "Publishes in flight at once. On a machine with two cores, JetStream took \
                         94,000 events a second with 64, and 149,000 with 1,024.",
                    )
                    .within(1024, 1..=4096),
            ),
            max_buffered_events: to_usize(
                reader
                    .setting(
                        "max_buffered_events",
                        "Events in memory at once. Further events wait in MongoDB. Keep it at a \
                         few times max_in_flight, so that keys don't wait for the database.",
                    )
                    .within(8192, 1..=1_000_000),
            ),
            max_buffered_bytes: to_usize(
                reader
                    .setting(
                        "max_buffered_bytes",
                        "Bytes of events in memory at once: payload, headers, and the other memory \
                         that an event takes. It limits the memory when payloads are large. The \
                         default is 8 MiB: 1 KiB for each of the 8,192 events.",
                    )
                    .within(8 << 20, 1 << 16..=1 << 32),
            ),
            ordering: reader
                .setting(
                    "ordering",
                    "\"key\": the events of one key leave in their order, and wait behind an event \
                     that failed. \"none\": no event waits for another, for services whose \
                     consumers need no order.",
                )
                .one_of(&[("key", Ordering::Key), ("none", Ordering::None)]),
            on_dead: reader
                .setting(
                    "on_dead",
                    "What happens to the later events of a key after one is dead. \"hold\": they \
                     wait until a person decides, so no consumer sees a gap. \"skip\": they leave \
                     without the dead event.",
                )
                .one_of(&[("hold", OnDead::Hold), ("skip", OnDead::Skip)]),
        }
    }
}

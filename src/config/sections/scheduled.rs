//! `[scheduled]`: events that are published later.

use crate::config::reader::Reader;

/// `[scheduled]`
#[derive(Debug, Clone)]
pub struct ScheduledConfig {
    /// Whether the relay moves scheduled events into the outbox once they are due.
    pub enabled: bool,
}

impl ScheduledConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            enabled: reader
                .setting(
                    "enabled",
                    "Whether the relay moves the events of `<mongodb.collection>_scheduled` into \
                     the outbox once they are due. While it is off, no scheduled event is \
                     published. Turn it off only where no service schedules events: the relay then \
                     needs no right to insert into the outbox, and one change stream less.",
                )
                .or(true),
        }
    }
}

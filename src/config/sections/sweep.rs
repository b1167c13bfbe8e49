//! `[sweep]`: the search for events that nothing else finds.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::setting::secs;

/// `[sweep]`
#[derive(Debug, Clone)]
pub struct SweepConfig {
    /// How often the relay looks for locked events older than a minute that nothing delivered.
    pub interval: Duration,
}

impl SweepConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            interval: reader
                .setting(
                    "interval",
                    "How often the relay looks for locked events older than a minute that neither \
                     the sweep nor the tail has delivered, for example because they were restored \
                     from a backup or locked by hand. The query reads an index of the locked \
                     events.",
                )
                .within(secs(300), secs(1)..=secs(86_400)),
        }
    }
}

//! `[shutdown]`: how outboxd stops.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::setting::secs;

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct ShutdownConfig {
    /// How long publishes in flight may take to finish after SIGTERM.
    pub grace: Duration,
}

impl ShutdownConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            grace: reader
                .setting(
                    "grace",
                    "How long publishes in flight may take to finish after SIGTERM. Kubernetes \
                     kills a container after 30 s by default.",
                )
                .within(secs(10), secs(0)..=secs(600)),
        }
    }
}

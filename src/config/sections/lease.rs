//! `[lease]`: which relay publishes.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::setting::secs;

/// `[lease]`
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// How long a holder that stopped renewing keeps the other relays waiting.
    pub ttl: Duration,
}

impl LeaseConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            ttl: reader
                .setting(
                    "ttl",
                    "How long a relay that stopped renewing the lease keeps the others waiting. \
                     The holder renews it three times in this period. A shorter period hands over \
                     faster and costs the database more.",
                )
                .within(secs(10), secs(1)..=secs(300)),
        }
    }
}

//! The process: what it is asked from outside, and what all of its outboxes share.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::pools::Pools;
use super::settings::Settings;
use crate::admin;
use crate::jetstream::lines::Lines;
use crate::relay::schedule::Schedules;
use crate::telemetry::metrics::Registry;

/// What a process is asked from outside.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Drain and end.
    pub(crate) stop: CancellationToken,
    /// Read the settings and the files that they name again.
    pub(crate) reload: Arc<Notify>,
}

/// What all outboxes of a process share.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) endpoint: admin::Endpoint,
    pub(super) registry: Registry,
    pub(super) settings: Settings,
    pub(super) pools: Pools,
    pub(super) lines: Lines,
    pub(super) schedules: Schedules,
}

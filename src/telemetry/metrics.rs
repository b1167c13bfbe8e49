//! The names of all metrics, in one place, and what keeps them.
//!
//! No metric has an id, a subject or a key as a label: their number would have no bound.

use ::metrics::{describe_counter, describe_gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, ErrorKind, Result};

/// Alerts raised, by `kind`.
pub(crate) const ALERTS: &str = "outboxd_alerts_total";
/// Age of the oldest event that isn't dead, as last looked at.
pub(crate) const STUCK_SECONDS: &str = "outboxd_stuck_event_age_seconds";

/// Keeps the process's metrics from now on.
///
/// # Errors
/// [`ErrorKind::Internal`] when something else keeps them already.
pub fn install() -> Result<PrometheusHandle> {
    let refused = |error| Error::with_source(ErrorKind::Internal, "metrics can't be kept", error);
    let handle = PrometheusBuilder::new().install_recorder().map_err(refused)?;
    describe_counter!(ALERTS, "Alerts raised.");
    describe_gauge!(
        STUCK_SECONDS,
        "Age of the oldest event that has waited for longer than alerts.stuck_after, else 0."
    );
    Ok(handle)
}

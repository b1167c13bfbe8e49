//! The names of all metrics, in one place.

/// Alerts raised, by `kind`.
pub(crate) const ALERTS: &str = "outboxd_alerts_total";
/// Age of the oldest event that isn't dead, as last looked at; 0 when there is none older than `alerts.stuck_after`.
pub(crate) const STUCK_SECONDS: &str = "outboxd_stuck_event_age_seconds";

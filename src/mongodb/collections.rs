//! Names of the collections beside an outbox, in its own database.

/// Who holds the lease: one document for each outbox.
pub(crate) const LEASE: &str = "outboxd_lease";
/// Acked events that are kept, beside an outbox of this name.
pub(crate) fn published(outbox: &str) -> String {
    format!("{outbox}_published")
}

/// What operators did to events.
pub(crate) const AUDIT: &str = "outboxd_audit";
/// Which migrations were applied.
pub(crate) const MIGRATIONS: &str = "outboxd_migrations";

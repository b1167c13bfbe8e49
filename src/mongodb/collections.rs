//! Names of the collections beside an outbox, in its own database.

/// Who holds the lease: one document for each outbox.
pub(crate) const LEASE: &str = "outboxd_lease";
/// What operators did to events.
pub(crate) const AUDIT: &str = "outboxd_audit";
/// Which migrations were applied.
pub(crate) const MIGRATIONS: &str = "outboxd_migrations";

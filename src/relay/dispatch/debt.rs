//! What a failure leaves to be written before its key moves again.

use outboxd_client::{EventId, Key};

use crate::relay::listing::RawId;

/// The writes that a failed event needs: first its mark, then the parks of what waited behind it.
/// A park that is written before the mark shows an unlocked event without the failure that it waits
/// behind, so `settle` takes both at once.
#[must_use = "until its debt is settled, nothing of the key leaves"]
#[derive(Debug)]
pub(crate) struct Debt {
    pub(crate) unmarked: Unmarked,
    pub(crate) behind: Option<Park>,
}

/// A failed event until its mark is settled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unmarked {
    pub(crate) event: FailedId,
    /// The key that waits for the mark.
    pub(crate) key: Option<Key>,
}

/// Which event failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FailedId {
    /// One that was published.
    Event(EventId),
    /// One that can't be published, because it does not follow the contract.
    Malformed(RawId),
}

/// Events of one key to hand to the retrier, in their order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Park {
    pub(crate) key: Key,
    pub(crate) ids: Vec<EventId>,
}

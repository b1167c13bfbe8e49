//! The indexes that the relay's queries name, and what it does without them.
//!
//! The queries name their index, because the server would try others with every new plan. An outbox
//! that lost the index is read all the same: slower, and as the server can.

use bson::{Document, RawDocumentBuf};
use mongodb::Collection;
use mongodb::action::{Aggregate, Find};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::Hint;

use super::code;
use super::collation::simple;
use crate::document::layout::Layout;
use crate::document::state;

/// The index of migration 0007 that has the locked events in their order.
pub(super) const LOCKED: &str = "outboxd_locked";
/// The index of migration 0007 that has the unlocked events, those that are not dead by themselves.
pub(super) const WAITING: &str = "outboxd_waiting";

/// How the server finds events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// From an index of migration 0007, which has them in their order.
    Index,
    /// As it can, because that index is gone.
    Scan,
}

impl By {
    /// Finds unlocked events.
    pub(super) fn find<'a>(
        self,
        events: &'a Collection<RawDocumentBuf>,
        unlocked: Document,
        layout: &Layout,
    ) -> Find<'a, RawDocumentBuf> {
        let found = match self {
            Self::Index => events.find(unlocked).hint(Hint::Name(WAITING.to_owned())),
            Self::Scan => events.find(state::by_index(unlocked, layout)),
        };
        found.collation(simple())
    }

    /// The same as the beginning of a pipeline.
    pub(super) fn aggregate(
        self,
        events: &Collection<RawDocumentBuf>,
        pipeline: Vec<Document>,
    ) -> Aggregate<'_> {
        let events = events.aggregate(pipeline).collation(simple());
        match self {
            Self::Index => events.hint(Hint::Name(WAITING.to_owned())),
            Self::Scan => events,
        }
    }
}

/// Whether the index that a query names isn't there.
pub(super) fn lacks_index(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == code::BAD_VALUE)
}

//! One change, as the change stream shows it.

use bson::{RawBsonRef, RawDocument, Timestamp};
use outboxd_client::field;

use super::found::as_document;
use crate::document::record::MAX_ANY_ID_BYTES;
use crate::relay::listing::id_of;
use crate::relay::ports::{StoreError, StoreResult};

/// A change of the outbox. Its fields are read when they are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a>(&'a RawDocument);

impl<'a> Change<'a> {
    /// One value of a page, which must be a document.
    pub(super) fn new(value: bson::error::Result<RawBsonRef<'a>>) -> StoreResult<Self> {
        as_document(value).map(Self)
    }

    pub(super) fn bytes(self) -> usize {
        self.0.as_bytes().len()
    }

    pub(super) fn operation(self) -> StoreResult<&'a str> {
        self.0.get_str("operationType").map_err(StoreError::unexpected)
    }

    /// The cluster time of the commit: the same for all changes of a transaction, and of no others.
    pub(super) fn at(self) -> StoreResult<Timestamp> {
        self.0.get_timestamp("clusterTime").map_err(StoreError::unexpected)
    }

    /// Whether it was committed in a transaction: other changes may have the same [`Change::at`].
    pub(super) fn is_in_transaction(self) -> bool {
        self.0.get("txnNumber").is_ok_and(|number| number.is_some())
    }

    /// What was inserted, unless it is too large for the stream.
    pub(super) fn document(self) -> Option<&'a RawDocument> {
        self.0.get_document("fullDocument").ok()
    }

    /// Whether this change gave its event another place in the order of its key.
    pub(super) fn is_newer_than(self, other: Self) -> bool {
        let ts = |change: Self| change.document()?.get_timestamp(field::TS).ok();
        ts(self) > ts(other) && ts(other).is_some()
    }

    /// When it was committed, by the server's clock, in milliseconds since 1970.
    pub(super) fn committed_ms(self) -> Option<i64> {
        self.0.get_datetime("wallTime").ok().map(bson::DateTime::timestamp_millis)
    }

    /// Which event it is about, to compare with that of other changes.
    pub(super) fn event(self) -> StoreResult<&'a [u8]> {
        let key = self.0.get_document("documentKey").map_err(StoreError::unexpected)?;
        Ok(key.as_bytes())
    }

    /// The `_id` of the event, as [`EventStore::fetch`](crate::relay::ports::EventStore::fetch)
    /// takes it. `None` if it is so large that no event has it.
    pub(super) fn id(self) -> Option<&'a [u8]> {
        let key = self.0.get_document("documentKey").ok()?;
        id_of(key).filter(|id| id.len() <= MAX_ANY_ID_BYTES)
    }

    /// Whether this update is an operator's request to publish or remove the event.
    pub(super) fn is_request(self) -> bool {
        let described = self.0.get_document("updateDescription");
        let fields = described.and_then(|described| described.get_document("updatedFields"));
        fields.is_ok_and(|fields| !fields.is_empty())
    }
}

//! One change, as the change stream shows it.

use bson::{RawBsonRef, RawDocument, Timestamp};
use outboxd_client::field;

use super::found::as_document;
use crate::document::record::MAX_ANY_ID_BYTES;
use crate::relay::listing::id_of;
use crate::relay::ports::{StoreError, StoreResult};

/// A change of the outbox, with the places of its fields: a look for each one would read the
/// document of the change once more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    raw: &'a RawDocument,
    operation: Option<&'a str>,
    at: Option<Timestamp>,
    is_in_transaction: bool,
    document: Option<&'a RawDocument>,
    committed_ms: Option<i64>,
    key: Option<&'a RawDocument>,
    description: Option<&'a RawDocument>,
}

impl<'a> Change<'a> {
    /// One value of a page, which must be a document.
    pub(super) fn new(value: bson::error::Result<RawBsonRef<'a>>) -> StoreResult<Self> {
        let raw = as_document(value)?;
        let mut change = Self {
            raw,
            operation: None,
            at: None,
            is_in_transaction: false,
            document: None,
            committed_ms: None,
            key: None,
            description: None,
        };

        for element in raw.iter_elements() {
            let element = element.map_err(StoreError::unexpected)?;
            let value = || element.value().map_err(StoreError::unexpected);
            match element.key().as_str() {
                "operationType" => change.operation = value()?.as_str(),
                "clusterTime" => change.at = value()?.as_timestamp(),
                "txnNumber" => change.is_in_transaction = true,
                "fullDocument" => change.document = value()?.as_document(),
                "wallTime" => {
                    let at = value()?.as_datetime();
                    change.committed_ms = at.map(bson::DateTime::timestamp_millis);
                }
                "documentKey" => change.key = value()?.as_document(),
                "updateDescription" => change.description = value()?.as_document(),
                _ => {}
            }
        }

        Ok(change)
    }

    pub(super) fn bytes(&self) -> usize {
        self.raw.as_bytes().len()
    }

    pub(super) fn operation(&self) -> StoreResult<&'a str> {
        self.operation.ok_or_else(|| lacks("operationType"))
    }

    /// The cluster time of the commit: the same for all changes of a transaction, and of no others.
    pub(super) fn at(&self) -> StoreResult<Timestamp> {
        self.at.ok_or_else(|| lacks("clusterTime"))
    }

    /// Whether it was committed in a transaction: other changes may have the same [`Change::at`].
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// What was inserted, unless it is too large for the stream.
    pub(super) fn document(&self) -> Option<&'a RawDocument> {
        self.document
    }

    /// Whether this change gave its event another place in the order of its key.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        let ts = |change: &Self| change.document()?.get_timestamp(field::TS).ok();
        ts(self) > ts(other) && ts(other).is_some()
    }

    /// When it was committed, by the server's clock, in milliseconds since 1970.
    pub(super) fn committed_ms(&self) -> Option<i64> {
        self.committed_ms
    }

    /// Which event it is about, to compare with that of other changes.
    pub(super) fn event(&self) -> StoreResult<&'a [u8]> {
        Ok(self.key.ok_or_else(|| lacks("documentKey"))?.as_bytes())
    }

    /// The `_id` of the event, as [`EventStore::fetch`](crate::relay::ports::EventStore::fetch)
    /// takes it. `None` if it is so large that no event has it.
    pub(super) fn id(&self) -> Option<&'a [u8]> {
        id_of(self.key?).filter(|id| id.len() <= MAX_ANY_ID_BYTES)
    }

    /// Whether this update is an operator's request to publish or remove the event.
    pub(super) fn is_request(&self) -> bool {
        let fields = self.description.map(|described| described.get_document("updatedFields"));
        fields.is_some_and(|fields| fields.is_ok_and(|fields| !fields.is_empty()))
    }
}

fn lacks(field: &str) -> StoreError {
    StoreError::unexpected(format!("a change of the server has no usable `{field}`"))
}

//! The changes that change streams bring: of an outbox, and of its scheduled events.

use bson::{Document, doc};
use outboxd_client::field;

/// An operator's requests, where a change has them.
pub(super) fn requested() -> [String; 2] {
    [field::RETRY_REQUESTED_AT, field::DISCARD_REQUESTED_AT].map(updated)
}

/// Where a change has the new value of a field.
pub(super) fn updated(name: &str) -> String {
    format!("updateDescription.updatedFields.{name}")
}

/// The changes of an outbox that its tail reads.
pub(super) fn wanted() -> [Document; 4] {
    let exist = requested().map(|field| doc! { field: { "$exists": true } }).to_vec();
    let touches = ["update", "replace", "delete"];
    let ends = ["drop", "rename", "dropDatabase", "invalidate"];

    [
        doc! { "operationType": "insert" },
        doc! { "operationType": "update", "$or": exist },
        // The relay's own writes and the operators' are not in transactions.
        doc! { "operationType": { "$in": touches.to_vec() }, "txnNumber": { "$exists": true } },
        doc! { "operationType": { "$in": ends.to_vec() } },
    ]
}

/// The changes that may bring a due time.
pub(super) fn writes_of_due_times() -> [Document; 3] {
    [
        doc! { "operationType": { "$in": ["insert", "replace"] } },
        doc! { "operationType": "update", updated(field::DELIVER_AT): { "$exists": true } },
        // An operator has a dead one delivered.
        doc! { "operationType": "update", "updateDescription.removedFields": field::DEAD_AT },
    ]
}

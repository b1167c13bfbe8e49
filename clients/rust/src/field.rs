//! Field names of an event document: the contract between the service that writes an event, the
//! relay that publishes it and the operator who looks at it.

/// Identity of the event: an ObjectId, a UUID or a string. Becomes a part of `Nats-Msg-Id`.
pub const ID: &str = "_id";
/// Cluster time of the insert; the order of events within a key. The server fills it in.
pub const TS: &str = "ts";
/// NATS subject that the event is published to.
pub const SUBJECT: &str = "subject";
/// Ordering key; an event without one has no order.
pub const KEY: &str = "key";
/// What is published: a document, an array, a string or binary.
pub const PAYLOAD: &str = "payload";
/// NATS headers that the writer adds: a document of strings.
pub const HEADERS: &str = "headers";
/// `true` until the event fails or is parked, then `false`.
pub const IS_LOCKED: &str = "isLocked";
/// The newest failures, oldest first.
pub const FAILURES: &str = "failures";
/// Counted refusals so far.
pub const ATTEMPTS: &str = "attempts";
/// When the retrier publishes the event again.
pub const NEXT_ATTEMPT_AT: &str = "nextAttemptAt";
/// Since when the event has been dead: it waits for an operator.
pub const DEAD_AT: &str = "deadAt";
/// When an operator last asked for a retry.
pub const RETRY_REQUESTED_AT: &str = "retryRequestedAt";
/// When an operator asked for the event to be removed unpublished. The request lapses.
pub const DISCARD_REQUESTED_AT: &str = "discardRequestedAt";
/// Which command asked for that: an ObjectId of its own.
pub const DISCARD_REQUESTED_BY: &str = "discardRequestedBy";
/// The command that may remove the event: the relay does not hold it.
pub const DISCARD_GRANTED_TO: &str = "discardGrantedTo";
/// In a scheduled event: when it is due, by the server's clock. The relay removes it as it moves the
/// event into the outbox.
pub const DELIVER_AT: &str = "deliverAt";

/// The collection of the events that are scheduled for later, beside the outbox of this name.
pub fn scheduled_collection(outbox: &str) -> String {
    format!("{outbox}_scheduled")
}

//! What the services say to each other, and to whoever asks over HTTP: the records as JSON.
//!
//! A message is built from the record as stored. `version` counts the record's events: 0 with the
//! first, one more with each later one.

use bson::oid::ObjectId;
use serde::{Deserialize, Serialize, Serializer};

/// A ticket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TicketMessage {
    #[serde(serialize_with = "hex")]
    pub id: ObjectId,
    pub title: String,
    pub price: f64,
    pub user_id: String,
    pub version: i64,
    /// The order that reserves it.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_hex")]
    pub order_id: Option<ObjectId>,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderMessage {
    #[serde(serialize_with = "hex")]
    pub id: ObjectId,
    pub user_id: String,
    pub status: OrderStatus,
    /// RFC 3339, UTC.
    pub expires_at: String,
    #[serde(serialize_with = "hex")]
    pub ticket_id: ObjectId,
    pub version: i64,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderStatus {
    /// It reserves its ticket.
    #[serde(rename = "created")]
    Created,
    /// It gave its ticket free.
    #[serde(rename = "cancelled")]
    Cancelled,
    /// The ticket is reserved and the payment under way.
    #[serde(rename = "awaiting:payment")]
    AwaitingPayment,
    /// The ticket is sold.
    #[serde(rename = "complete")]
    Complete,
}

fn hex<S: Serializer>(id: &ObjectId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn optional_hex<S: Serializer>(id: &Option<ObjectId>, to: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => hex(id, to),
        None => to.serialize_none(),
    }
}

//! What the services say to each other, and to whoever asks over HTTP: the records as JSON.
//!
//! A message is built from the record as stored. `version` counts the record's events: 0 with the
//! first, one more with each later one.

use bson::DateTime;
use bson::oid::ObjectId;
use serde::{Deserialize, Serialize, Serializer};

use crate::status::OrderStatus;

/// A user. Nobody else needs the e-mail address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserMessage {
    #[serde(serialize_with = "hex")]
    pub id: ObjectId,
    pub version: i64,
}

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
    #[serde(with = "rfc3339")]
    pub expires_at: DateTime,
    #[serde(serialize_with = "hex")]
    pub ticket_id: ObjectId,
    /// What the ticket cost when it was ordered.
    pub price: f64,
    pub version: i64,
}

/// The time of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpirationMessage {
    #[serde(serialize_with = "hex")]
    pub id: ObjectId,
    #[serde(serialize_with = "hex")]
    pub order_id: ObjectId,
    #[serde(with = "rfc3339")]
    pub expires_at: DateTime,
    pub version: i64,
}

/// A charge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentMessage {
    #[serde(serialize_with = "hex")]
    pub id: ObjectId,
    #[serde(serialize_with = "hex")]
    pub order_id: ObjectId,
    pub user_id: String,
    pub amount: f64,
    pub status: ChargeStatus,
    /// Not there before its first event, `payment:created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// How far a charge is; `payments/charge.rs` says who brings it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChargeStatus {
    Intended,
    Taken,
    Declined,
    Refunding,
    Refunded,
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

/// A time as RFC 3339, UTC.
mod rfc3339 {
    use bson::DateTime;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &DateTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&at.try_to_rfc3339_string().map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DateTime, D::Error> {
        DateTime::parse_rfc3339_str(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

//! A charge: the one attempt to get an order paid. There is one record for each order, whatever
//! happens.
//!
//! ```text
//!  (none) ──pay──▶ intended ──taken──▶ taken ──order cancelled──▶ refunding ──▶ refunded
//!                   │   ▲  └─────────order cancelled──────────────────▲
//!                   ▼   └─pay again
//!                  declined
//! ```
//!
//! | status | entered when | left when |
//! | --- | --- | --- |
//! | `intended` | a request to pay passed every check; the provider is asked *after* that | the provider has answered, or the order is cancelled |
//! | `declined` | the provider refused | the owner pays again, with another idempotency key |
//! | `taken` | the provider took the money (`payment:created`) | the order is cancelled nonetheless |
//! | `refunding` | the order is cancelled, and money was taken or may have been | the provider confirmed that it has none |
//! | `refunded` | the provider has no money of this charge (`payment:refunded`, if it was ever created) | never |

use bson::DateTime;
use bson::oid::ObjectId;
use serde::{Deserialize, Serialize};

use super::provider::Request;
use crate::messages::{ChargeStatus, PaymentMessage};

/// A charge as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Charge {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) order_id: ObjectId,
    pub(crate) user_id: String,
    pub(crate) amount: f64,
    pub(crate) status: ChargeStatus,
    /// Times that the owner paid after the provider had declined.
    pub(crate) attempt: i64,
    /// What the owner paid with; kept as long as the provider may have to be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) receipt: Option<String>,
    /// Why the provider declined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// When the status was entered.
    pub(crate) at: DateTime,
    /// That of the last event; the first is `payment:created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<i64>,
}

impl Charge {
    /// Derived from the order, so no request can make a second charge. After the provider has
    /// declined it knows the key, and gives the same answer for ever: so each attempt has its own.
    pub(crate) fn key(&self) -> String {
        format!("order-{}-{}", self.order_id, self.attempt)
    }

    pub(crate) fn request(&self) -> Request {
        Request {
            key: self.key(),
            amount: self.amount,
            token: self.token.clone().unwrap_or_default(),
        }
    }
}

impl From<&Charge> for PaymentMessage {
    fn from(charge: &Charge) -> Self {
        Self {
            id: charge.id,
            order_id: charge.order_id,
            user_id: charge.user_id.clone(),
            amount: charge.amount,
            status: charge.status,
            version: charge.version,
        }
    }
}

//! What a database holds: the records that the services agree on, and how many there are.

use std::collections::HashMap;
use std::hash::Hash;

use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ticketing::failure::Failure;
use ticketing::messages::ChargeStatus;
use ticketing::status::OrderStatus;

/// What two services know of a ticket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) title: String,
    pub(crate) price: f64,
    pub(crate) version: i64,
    pub(crate) order_id: Option<ObjectId>,
}

/// What three services know of an order.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) ticket_id: ObjectId,
    pub(crate) status: OrderStatus,
    /// The tickets service doesn't keep it.
    #[serde(default)]
    pub(crate) price: f64,
    pub(crate) version: i64,
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.ticket_id, self.status, self.version)
            == (other.id, other.ticket_id, other.status, other.version)
    }
}

/// A charge, as payments has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Charge {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) order_id: ObjectId,
    pub(crate) amount: f64,
    pub(crate) status: ChargeStatus,
    pub(crate) version: Option<i64>,
}

/// A charge, as the provider has it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Booked {
    #[serde(rename = "_id")]
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) amount: f64,
    pub(crate) state: String,
}

/// The end of an order's time.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Expiration {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) order_id: ObjectId,
    pub(crate) status: String,
    pub(crate) version: i64,
}

/// A user.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct User {
    #[serde(rename = "_id")]
    id: ObjectId,
}

/// One database; collections that a service doesn't have are empty.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) users: HashMap<ObjectId, User>,
    pub(crate) tickets: HashMap<ObjectId, Ticket>,
    pub(crate) orders: HashMap<ObjectId, Order>,
    /// By their orders.
    pub(crate) charges: HashMap<ObjectId, Charge>,
    /// By their orders.
    pub(crate) expirations: HashMap<ObjectId, Expiration>,
    pub(crate) book: HashMap<String, Booked>,
    outbox_left: u64,
}

/// One service's database, counted. What a service doesn't have is `None`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Counts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<usize>,
    #[serde(flatten)]
    pub(crate) tickets: Option<Tickets>,
    #[serde(flatten)]
    pub(crate) orders: Option<Orders>,
    #[serde(flatten)]
    pub(crate) charges: Option<Charges>,
    /// Orders whose time was over before anything else happened to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expired: Option<usize>,
    pub(crate) outbox_left: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tickets {
    pub(crate) tickets: usize,
    pub(crate) tickets_at_10: usize,
    pub(crate) tickets_at_15: usize,
    /// Lowest version of a ticket.
    pub(crate) lowest_version: i64,
    pub(crate) reserved: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Orders {
    pub(crate) orders: usize,
    pub(crate) created: usize,
    pub(crate) awaiting_payment: usize,
    pub(crate) complete: usize,
    pub(crate) cancelled: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Charges {
    pub(crate) charges_taken: usize,
    pub(crate) charges_refunded: usize,
    pub(crate) charges_open: usize,
    /// What the payment provider took and has not given back, by its own book.
    pub(crate) provider_took: usize,
}

impl Records {
    pub(crate) async fn read(database: &Database) -> Result<Self, Failure> {
        let outbox = database.collection::<Document>("outbox");
        Ok(Self {
            users: all(database, "users", |user: &User| user.id).await?,
            tickets: all(database, "tickets", |ticket: &Ticket| ticket.id).await?,
            orders: all(database, "orders", |order: &Order| order.id).await?,
            charges: all(database, "charges", |charge: &Charge| charge.order_id).await?,
            expirations: all(database, "expirations", |end: &Expiration| end.order_id).await?,
            book: all(database, "test_provider", |entry: &Booked| entry.key.clone()).await?,
            outbox_left: outbox.count_documents(doc! {}).await?,
        })
    }

    pub(crate) fn counts(&self, service: &str) -> Counts {
        let expired = self.expirations.values().filter(|end| end.status == "complete").count();
        Counts {
            users: (service == "auth").then_some(self.users.len()),
            tickets: ["tickets", "orders"].contains(&service).then(|| self.ticket_counts()),
            orders: ["tickets", "orders", "payments"]
                .contains(&service)
                .then(|| self.order_counts()),
            charges: (service == "payments").then(|| self.charge_counts()),
            expired: (service == "expiration").then_some(expired),
            outbox_left: self.outbox_left,
        }
    }

    fn ticket_counts(&self) -> Tickets {
        let tickets = || self.tickets.values();
        let at = |price: f64| tickets().filter(|ticket| ticket.price == price).count();
        Tickets {
            tickets: self.tickets.len(),
            tickets_at_10: at(10.0),
            tickets_at_15: at(15.0),
            lowest_version: tickets().map(|ticket| ticket.version).min().unwrap_or_default(),
            reserved: tickets().filter(|ticket| ticket.order_id.is_some()).count(),
        }
    }

    fn order_counts(&self) -> Orders {
        let are = |status: OrderStatus| {
            self.orders.values().filter(|order| order.status == status).count()
        };
        Orders {
            orders: self.orders.len(),
            created: are(OrderStatus::Created),
            awaiting_payment: are(OrderStatus::AwaitingPayment),
            complete: are(OrderStatus::Complete),
            cancelled: are(OrderStatus::Cancelled),
        }
    }

    fn charge_counts(&self) -> Charges {
        let are = |status: ChargeStatus| {
            self.charges.values().filter(|charge| charge.status == status).count()
        };
        Charges {
            charges_taken: are(ChargeStatus::Taken),
            charges_refunded: are(ChargeStatus::Refunded),
            charges_open: are(ChargeStatus::Intended) + are(ChargeStatus::Refunding),
            provider_took: self.book.values().filter(|entry| entry.state == "taken").count(),
        }
    }
}

impl Counts {
    pub(crate) fn open_orders(&self) -> usize {
        self.orders.as_ref().map_or(0, |orders| orders.created + orders.awaiting_payment)
    }

    pub(crate) fn open_charges(&self) -> usize {
        self.charges.as_ref().map_or(0, |charges| charges.charges_open)
    }
}

async fn all<T, K>(
    database: &Database,
    collection: &str,
    key: impl Fn(&T) -> K,
) -> Result<HashMap<K, T>, Failure>
where
    T: DeserializeOwned + Send + Sync,
    K: Hash + Eq,
{
    let all: Vec<T> = database.collection(collection).find(doc! {}).await?.try_collect().await?;
    Ok(all.into_iter().map(|record| (key(&record), record)).collect())
}

//! The charges and their changes. Owns the collections `charges` and `orders` (a copy of the
//! orders).
//!
//! A charge is settled in a transaction that reads it again. So two who ask the provider about the
//! same charge, and one who cancels the order meanwhile, come one after the other.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use futures_util::{FutureExt, TryStreamExt};
use mongodb::error::Result;
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Client, ClientSession, Collection, Database, IndexModel};
use outboxd_client::Outbox;
use serde::{Deserialize, Serialize};

use super::charge::Charge;
use crate::http::PATIENCE;
use crate::messages::{ChargeStatus, OrderMessage, PaymentMessage};
use crate::service::OUTBOX;
use crate::status::OrderStatus;
use crate::subjects::{PAYMENT_CREATED, PAYMENT_REFUNDED};
use crate::transaction;

/// The collection of the orders' copies.
pub(crate) const ORDERS: &str = "orders";
/// The collection of charges.
pub(crate) const CHARGES: &str = "charges";

/// An order as heard of; the orders service owns it and its version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderCopy {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) user_id: String,
    pub(crate) status: OrderStatus,
    pub(crate) expires_at: DateTime,
    pub(crate) ticket_id: ObjectId,
    pub(crate) price: f64,
    pub(crate) version: i64,
}

impl From<OrderMessage> for OrderCopy {
    fn from(order: OrderMessage) -> Self {
        let OrderMessage { id, user_id, status, expires_at, ticket_id, price, version } = order;
        Self { id, user_id, status, expires_at, ticket_id, price, version }
    }
}

/// What the provider said.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Taken(String),
    Declined(String),
    /// It has no money of this charge, and will never take any.
    GivenBack,
}

/// The service's part of the database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    charges: Collection<Charge>,
    pub(crate) orders: Collection<OrderCopy>,
    outbox: Outbox,
}

impl Store {
    /// Makes the indexes too.
    pub(crate) async fn open(database: &Database) -> Result<Self> {
        let charges = database.collection(CHARGES);
        let unique = IndexOptions::builder().unique(true).build();
        let by_order = IndexModel::builder().keys(doc! { "orderId": 1 }).options(unique).build();
        let by_status = IndexModel::builder().keys(doc! { "status": 1, "at": 1 }).build();
        charges.create_indexes([by_order, by_status]).await?;

        Ok(Self {
            client: database.client().clone(),
            charges,
            orders: database.collection(ORDERS),
            outbox: Outbox::new(database, OUTBOX),
        })
    }

    pub(crate) async fn order(&self, id: ObjectId) -> Result<Option<OrderCopy>> {
        self.orders.find_one(doc! { "_id": id }).await
    }

    pub(crate) async fn charge_of(&self, order: ObjectId) -> Result<Option<Charge>> {
        self.charges.find_one(doc! { "orderId": order }).await
    }

    /// Writes down that this order is to be charged, and returns the order's charge: this one, or
    /// that of a request which was faster.
    pub(crate) async fn intend(&self, order: &OrderCopy, token: &str) -> Result<Option<Charge>> {
        let charge = doc! {
            "_id": ObjectId::new(), "userId": &order.user_id, "amount": order.price,
            "status": status(ChargeStatus::Intended)?, "attempt": 0_i64, "token": token,
            "at": DateTime::now(),
        };
        self.charges
            .find_one_and_update(doc! { "orderId": order.id }, doc! { "$setOnInsert": charge })
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await
    }

    /// Another attempt after the provider declined. `None` if someone else has begun one.
    pub(crate) async fn intend_again(&self, last: &Charge, token: &str) -> Result<Option<Charge>> {
        let declined = doc! {
            "_id": last.id, "status": status(ChargeStatus::Declined)?, "attempt": last.attempt,
        };
        let intended = status(ChargeStatus::Intended)?;
        let again = doc! {
            "$set": { "status": intended, "token": token, "at": DateTime::now() },
            "$inc": { "attempt": 1_i64 },
            "$unset": { "reason": "" },
        };
        self.charges
            .find_one_and_update(declined, again)
            .return_document(ReturnDocument::After)
            .await
    }

    /// Charges whose status should have been left before `age` ago.
    pub(crate) async fn unsettled(&self, age: Duration) -> Result<Vec<Charge>> {
        let waiting = [status(ChargeStatus::Intended)?, status(ChargeStatus::Refunding)?];
        let before = DateTime::from_system_time(std::time::SystemTime::now() - age);
        let old = doc! { "status": { "$in": &waiting[..] }, "at": { "$lte": before } };
        self.charges.find(old).sort(doc! { "at": 1 }).await?.try_collect().await
    }

    /// Writes down what the provider said of a charge, unless that is known already, and returns
    /// the charge as it is then.
    pub(crate) async fn settle(&self, asked: &Charge, answer: Answer) -> Result<Charge> {
        let context = (self, asked, answer);
        transaction::run(&self.client, PATIENCE, context, |session, (store, asked, answer)| {
            async move {
                let found = doc! { "_id": asked.id };
                let found = store.charges.find_one(found).session(&mut *session).await?;
                let charge = found.ok_or_else(|| mongodb::error::Error::custom("no charge"))?;
                if charge.attempt != asked.attempt {
                    return Ok(charge);
                }

                let next = match (charge.status, &*answer) {
                    (ChargeStatus::Intended, Answer::Taken(receipt)) => {
                        store.taken(session, &charge, receipt).await?
                    }
                    (ChargeStatus::Intended, Answer::Declined(reason)) => {
                        doc! { "status": status(ChargeStatus::Declined)?, "reason": reason }
                    }
                    (ChargeStatus::Refunding, Answer::GivenBack) => {
                        doc! { "status": status(ChargeStatus::Refunded)? }
                    }
                    // Someone else asked as well, or the order was cancelled meanwhile.
                    _ => return Ok(charge),
                };

                store.change(session, &charge, next).await
            }
            .boxed()
        })
        .await
    }

    /// The order is cancelled: what was taken for it, or may be, has to go back. A charge that is
    /// being settled at this moment conflicts with this, so one of both sees the other.
    pub(crate) async fn order_cancelled(
        &self,
        session: &mut ClientSession,
        order: ObjectId,
    ) -> Result<()> {
        let open = [status(ChargeStatus::Intended)?, status(ChargeStatus::Taken)?];
        let refund = doc! { "status": status(ChargeStatus::Refunding)?, "at": DateTime::now() };
        let open = doc! { "orderId": order, "status": { "$in": &open[..] } };
        self.charges.update_one(open, doc! { "$set": refund }).session(session).await?;
        Ok(())
    }

    /// The provider took the money. If this service has heard meanwhile that the order is
    /// cancelled, it goes back. The copy is written to, too: a transaction that is just applying
    /// the cancellation, and saw no charge, conflicts with that.
    async fn taken(
        &self,
        session: &mut ClientSession,
        charge: &Charge,
        receipt: &str,
    ) -> Result<Document> {
        let settled = doc! { "$currentDate": { "settledAt": true } };
        let order = self
            .orders
            .find_one_and_update(doc! { "_id": charge.order_id }, settled)
            .session(session)
            .await?;

        let is_cancelled = order.is_some_and(|order| order.status == OrderStatus::Cancelled);
        let next = if is_cancelled { ChargeStatus::Refunding } else { ChargeStatus::Taken };
        Ok(doc! { "status": status(next)?, "receipt": receipt })
    }

    /// Changes a charge that was read in this transaction. An event is emitted when it is taken,
    /// and when what was taken is given back.
    async fn change(
        &self,
        session: &mut ClientSession,
        charge: &Charge,
        mut set: Document,
    ) -> Result<Charge> {
        let next: ChargeStatus =
            bson::deserialize_from_bson(set.get("status").cloned().unwrap_or(Bson::Null))?;
        let event = match (next, charge.version) {
            (ChargeStatus::Taken, _) => Some((PAYMENT_CREATED, 0)),
            (ChargeStatus::Refunded, Some(version)) => Some((PAYMENT_REFUNDED, version + 1)),
            _ => None,
        };
        if let Some((_, version)) = event {
            set.insert("version", version);
        }
        set.insert("at", DateTime::now());

        let update = doc! { "$set": set, "$unset": { "token": "" } };
        let stored = self
            .charges
            .find_one_and_update(doc! { "_id": charge.id }, update)
            .return_document(ReturnDocument::After)
            .session(&mut *session)
            .await?;
        let stored = stored.ok_or_else(|| mongodb::error::Error::custom("no charge"))?;

        if let Some((subject, _)) = event {
            let message = PaymentMessage::from(&stored);
            let event = transaction::event(subject, &stored.order_id.to_hex(), &message)?;
            self.outbox.enqueue(session, event).await?;
        }

        Ok(stored)
    }
}

fn status(status: ChargeStatus) -> Result<Bson> {
    Ok(bson::serialize_to_bson(&status)?)
}

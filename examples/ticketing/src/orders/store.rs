//! The orders and their changes. Owns the collections `orders` and `tickets` (a copy of the
//! tickets).
//!
//! Each change of an order raises its version by one and enqueues one event, built from the order
//! as stored. Events are keyed by the *ticket*: its orders follow one another, and the tickets
//! service must hear that one was cancelled before it hears of the next.

use std::time::{Duration, SystemTime};

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use futures_util::{FutureExt, TryStreamExt};
use mongodb::error::Result;
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Client, ClientSession, Collection, Database, IndexModel};
use outboxd_client::Outbox;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::http::{PATIENCE, Page};
use crate::messages::OrderMessage;
use crate::refusal::ApiError;
use crate::service::{DUPLICATE_KEY, OUTBOX, is_code};
use crate::status::{Happened, Next, OrderStatus};
use crate::subjects::{ORDER_CANCELLED, ORDER_CREATED, ORDER_UPDATED};
use crate::transaction;

/// The collection of orders.
pub(crate) const ORDERS: &str = "orders";
/// The collection of the tickets' copies.
pub(crate) const TICKETS: &str = "tickets";

/// An order as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) user_id: String,
    pub(crate) status: OrderStatus,
    pub(crate) expires_at: DateTime,
    pub(crate) ticket_id: ObjectId,
    /// What the ticket cost when it was ordered.
    pub(crate) price: f64,
    pub(crate) version: i64,
}

/// A ticket as heard of; the tickets service owns it and its version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TicketCopy {
    #[serde(rename = "_id", alias = "id")]
    pub(crate) id: ObjectId,
    pub(crate) title: String,
    pub(crate) price: f64,
    pub(crate) version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order_id: Option<ObjectId>,
}

/// The service's part of the database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    /// How long an order reserves its ticket.
    lifetime: Duration,
    orders: Collection<Order>,
    pub(crate) tickets: Collection<TicketCopy>,
    outbox: Outbox,
}

impl From<&Order> for OrderMessage {
    fn from(order: &Order) -> Self {
        Self {
            id: order.id,
            user_id: order.user_id.clone(),
            status: order.status,
            expires_at: order.expires_at,
            ticket_id: order.ticket_id,
            price: order.price,
            version: order.version,
        }
    }
}

impl Store {
    /// Makes the indexes too.
    pub(crate) async fn open(database: &Database, lifetime: Duration) -> Result<Self> {
        let orders = database.collection(ORDERS);
        // Two orders for one ticket at the same moment: the index lets one in.
        let active = doc! { "status": { "$in": OrderStatus::HOLDING.to_vec() } };
        let one_per_ticket = IndexOptions::builder()
            .name("one_active_order_per_ticket".to_owned())
            .unique(true)
            .partial_filter_expression(active);

        let one_per_ticket = IndexModel::builder()
            .keys(doc! { "ticketId": 1 })
            .options(one_per_ticket.build())
            .build();
        let by_user = IndexModel::builder().keys(doc! { "userId": 1, "_id": 1 }).build();
        orders.create_indexes([one_per_ticket, by_user]).await?;

        Ok(Self {
            client: database.client().clone(),
            lifetime,
            orders,
            tickets: database.collection(TICKETS),
            outbox: Outbox::new(database, OUTBOX),
        })
    }

    /// The order, if it is `user`'s.
    pub(crate) async fn find(&self, id: ObjectId, user: &str) -> Result<Order> {
        own(self.orders.find_one(doc! { "_id": id }).await?, user)
    }

    pub(crate) async fn list(&self, user: &str, page: Page) -> Result<Vec<Order>> {
        let mine = page.narrow(doc! { "userId": user });
        self.orders.find(mine).sort(doc! { "_id": 1 }).limit(page.limit).await?.try_collect().await
    }

    pub(crate) async fn create(&self, user: String, ticket_id: ObjectId) -> Result<OrderMessage> {
        let expires_at = DateTime::from_system_time(SystemTime::now() + self.lifetime);
        let order = Order {
            id: ObjectId::new(),
            user_id: user,
            status: OrderStatus::Created,
            expires_at,
            ticket_id,
            price: 0.0,
            version: 0,
        };
        transaction::run(&self.client, PATIENCE, (self, order), |session, (store, order)| {
            async move {
                let ticket = doc! { "_id": order.ticket_id };
                let ticket = store.tickets.find_one(ticket).session(&mut *session).await?;
                order.price = ticket.ok_or_else(|| ApiError::not_found("ticket"))?.price;

                let inserted = store.orders.insert_one(&*order).session(&mut *session).await;
                inserted.map_err(|error| match is_code(&error, DUPLICATE_KEY) {
                    true => ApiError::conflict("the ticket is reserved by another order").into(),
                    false => error,
                })?;

                store.emit(session, ORDER_CREATED, order).await
            }
            .boxed()
        })
        .await
    }

    /// Cancels `user`'s order. One that is cancelled already stays as it is.
    pub(crate) async fn cancel(&self, id: ObjectId, user: String) -> Result<OrderMessage> {
        transaction::run(&self.client, PATIENCE, (self, user), |session, (store, user)| {
            async move {
                let found =
                    store.orders.find_one(doc! { "_id": id }).session(&mut *session).await?;
                let order = own(found, user)?;
                let order = store.follows(session, order, Happened::Cancelled).await?;
                Ok(OrderMessage::from(&order))
            }
            .boxed()
        })
        .await
    }

    /// Something happened to an order elsewhere.
    pub(crate) async fn happened(
        &self,
        session: &mut ClientSession,
        id: ObjectId,
        happened: Happened,
    ) -> Result<()> {
        match self.orders.find_one(doc! { "_id": id }).session(&mut *session).await? {
            Some(order) => {
                self.follows(session, order, happened).await?;
            }
            None => warn!(order = %id, ?happened, "an order that was never here"),
        }
        Ok(())
    }

    /// The order after this; `status.rs` says what follows.
    async fn follows(
        &self,
        session: &mut ClientSession,
        order: Order,
        happened: Happened,
    ) -> Result<Order> {
        let status = match order.status.after(happened) {
            Next::Becomes(status) => status,
            Next::Stays => return Ok(order),
            Next::Refused(why) => return Err(ApiError::conflict(why).into()),
        };

        let set = doc! { "$set": { "status": bson::serialize_to_bson(&status)? } };
        let stored = self.change(session, &order, set).await?;
        let subject = match status {
            OrderStatus::Cancelled => ORDER_CANCELLED,
            _ => ORDER_UPDATED,
        };
        self.emit(session, subject, &stored).await?;

        Ok(stored)
    }

    async fn change(
        &self,
        session: &mut ClientSession,
        order: &Order,
        mut update: Document,
    ) -> Result<Order> {
        update.insert("$inc", doc! { "version": 1_i64 });
        let stored = self
            .orders
            .find_one_and_update(doc! { "_id": order.id, "version": order.version }, update)
            .return_document(ReturnDocument::After)
            .session(session)
            .await?;

        stored.ok_or_else(|| ApiError::conflict("the order has changed; look at it again").into())
    }

    async fn emit(
        &self,
        session: &mut ClientSession,
        subject: &str,
        order: &Order,
    ) -> Result<OrderMessage> {
        let message = OrderMessage::from(order);
        self.outbox
            .enqueue(session, transaction::event(subject, &order.ticket_id.to_hex(), &message)?)
            .await?;
        Ok(message)
    }
}

fn own(found: Option<Order>, user: &str) -> Result<Order> {
    match found {
        None => Err(ApiError::not_found("order").into()),
        Some(order) if order.user_id != user => {
            Err(ApiError::forbidden("the order is someone else's").into())
        }
        Some(order) => Ok(order),
    }
}

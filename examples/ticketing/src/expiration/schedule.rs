//! Schedules the end of an order's time, and takes it back once it doesn't matter. Owns the
//! collection `expirations`: one record for each order.
//!
//! | status | entered when | left when |
//! | --- | --- | --- |
//! | `scheduled` | `order:created`: the event waits in the outbox until `expiresAt` | one of those below |
//! | `cancelled` | `order:cancelled` or `payment:created`, and the event could be taken back | never |
//! | `complete` | this service's own `expiration:complete` | never |
//!
//! When the event is taken back at the moment it is due, one of both comes first. If the event
//! does, the orders service leaves a paid or cancelled order as it is.

use bson::oid::ObjectId;
use bson::{DateTime, doc};
use mongodb::options::IndexOptions;
use mongodb::{ClientSession, Collection, Database, IndexModel};
use outboxd_client::{Apply, EventId, HandleError, Message, Outbox, Verdict};
use serde::{Deserialize, Serialize};

use crate::messages::{ExpirationMessage, OrderMessage, PaymentMessage};
use crate::service::OUTBOX;
use crate::subjects::{EXPIRATION_COMPLETE, ORDER_CANCELLED, ORDER_CREATED, PAYMENT_CREATED};
use crate::transaction;

/// What the service listens to.
pub(crate) const HEARD: [&str; 4] =
    [ORDER_CREATED, ORDER_CANCELLED, PAYMENT_CREATED, EXPIRATION_COMPLETE];
/// The collection of the orders' ends.
pub(crate) const EXPIRATIONS: &str = "expirations";

type Result<T> = std::result::Result<T, HandleError>;

/// The end of an order's time, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Expiration {
    #[serde(rename = "_id")]
    id: ObjectId,
    order_id: ObjectId,
    expires_at: DateTime,
    status: Status,
    version: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Scheduled,
    Cancelled,
    Complete,
}

pub(crate) struct Schedule {
    expirations: Collection<Expiration>,
    outbox: Outbox,
}

impl Apply for Schedule {
    async fn apply(&self, session: &mut ClientSession, message: &Message) -> Result<Verdict> {
        match message.subject.as_str() {
            ORDER_CREATED => self.schedule(session, &message.json()?).await,
            ORDER_CANCELLED => self.cancel(session, message.json::<OrderMessage>()?.id).await,
            PAYMENT_CREATED => {
                self.cancel(session, message.json::<PaymentMessage>()?.order_id).await
            }
            EXPIRATION_COMPLETE => {
                let ExpirationMessage { order_id, .. } = message.json()?;
                self.becomes(session, order_id, Status::Complete).await
            }
            _ => Ok(Verdict::Done),
        }
    }
}

impl Schedule {
    /// Makes the index too.
    pub(crate) async fn open(database: &Database) -> mongodb::error::Result<Self> {
        let expirations = database.collection(EXPIRATIONS);
        let unique = IndexOptions::builder().unique(true).build();
        let by_order = IndexModel::builder().keys(doc! { "orderId": 1 }).options(unique).build();
        expirations.create_index(by_order).await?;

        Ok(Self { expirations, outbox: Outbox::new(database, OUTBOX) })
    }

    async fn schedule(&self, session: &mut ClientSession, order: &OrderMessage) -> Result<Verdict> {
        if self.find(session, order.id).await?.is_some() {
            return Ok(Verdict::Done);
        }

        let expiration = Expiration {
            id: ObjectId::new(),
            order_id: order.id,
            expires_at: order.expires_at,
            status: Status::Scheduled,
            version: 0,
        };
        self.expirations.insert_one(&expiration).session(&mut *session).await?;

        let message = ExpirationMessage {
            id: expiration.id,
            order_id: expiration.order_id,
            expires_at: expiration.expires_at,
            version: expiration.version,
        };
        let event = transaction::event(EXPIRATION_COMPLETE, &order.id.to_hex(), &message)?;
        let event = event.with_id(event_id(order.id)?)?;
        self.outbox.schedule(session, event, expiration.expires_at).await?;

        Ok(Verdict::Done)
    }

    async fn cancel(&self, session: &mut ClientSession, order: ObjectId) -> Result<Verdict> {
        if self.find(session, order).await?.is_none() {
            // Of the messages about an order, this one came first.
            return Ok(Verdict::Later);
        }

        match self.outbox.cancel(session, &event_id(order)?).await? {
            true => self.becomes(session, order, Status::Cancelled).await,
            // It is due already, and comes.
            false => Ok(Verdict::Done),
        }
    }

    /// The version counts events, and this is none.
    async fn becomes(
        &self,
        session: &mut ClientSession,
        order: ObjectId,
        status: Status,
    ) -> Result<Verdict> {
        let status = bson::serialize_to_bson(&status).map_err(HandleError::failed)?;
        let set = doc! { "$set": { "status": status } };
        self.expirations.update_one(doc! { "orderId": order }, set).session(session).await?;
        Ok(Verdict::Done)
    }

    async fn find(
        &self,
        session: &mut ClientSession,
        order: ObjectId,
    ) -> Result<Option<Expiration>> {
        Ok(self.expirations.find_one(doc! { "orderId": order }).session(session).await?)
    }
}

/// The id by which the event can be taken back.
fn event_id(order: ObjectId) -> Result<EventId> {
    Ok(EventId::string(format!("expiration-{order}"))?)
}

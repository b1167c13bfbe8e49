//! Reserves a ticket for an order and gives it free again: what `order:created`, `order:updated`
//! and `order:cancelled` mean here.
//!
//! The orders heard of are kept with their versions. So a message that comes twice changes nothing,
//! and an old `order:created` can't reserve a ticket whose order was cancelled since.

use bson::doc;
use mongodb::ClientSession;
use outboxd_client::{Apply, HandleError, Message, Verdict};
use tracing::warn;

use super::store::{KnownOrder, Store, Ticket};
use crate::status::OrderStatus;
use crate::subjects::{ORDER_CANCELLED, ORDER_CREATED, ORDER_UPDATED};

type Result<T> = std::result::Result<T, HandleError>;

/// What the service listens to.
pub(crate) const HEARD: [&str; 3] = [ORDER_CREATED, ORDER_UPDATED, ORDER_CANCELLED];

pub(crate) struct Reserve(pub(crate) Store);

impl Apply for Reserve {
    async fn apply(&self, session: &mut ClientSession, message: &Message) -> Result<Verdict> {
        match message.subject.as_str() {
            ORDER_CREATED => self.created(session, &message.json()?).await,
            ORDER_UPDATED | ORDER_CANCELLED => self.changed(session, &message.json()?).await,
            _ => Ok(Verdict::Done),
        }
    }
}

impl Reserve {
    async fn created(&self, session: &mut ClientSession, order: &KnownOrder) -> Result<Verdict> {
        let Self(store) = self;
        if store.orders.find_one(doc! { "_id": order.id }).session(&mut *session).await?.is_some() {
            return Ok(Verdict::Done);
        }

        let ticket = self.ticket(session, order).await?;
        if ticket.as_ref().is_some_and(|ticket| ticket.order_id.is_some()) {
            // The order before this one was cancelled, but that has not been heard yet.
            return Ok(Verdict::Later);
        }

        store.orders.insert_one(order).session(&mut *session).await?;

        if let Some(ticket) = ticket {
            store.change(session, &ticket, doc! { "$set": { "orderId": order.id } }).await?;
        }

        Ok(Verdict::Done)
    }

    /// The next version of an order. A cancelled one gives its ticket free.
    async fn changed(&self, session: &mut ClientSession, order: &KnownOrder) -> Result<Verdict> {
        let Self(store) = self;
        let known = store.orders.find_one(doc! { "_id": order.id }).session(&mut *session).await?;
        match known.map(|known| known.version) {
            Some(version) if version >= order.version => return Ok(Verdict::Done),
            Some(version) if version == order.version - 1 => {}
            _ => return Ok(Verdict::Later),
        }

        let (id, store) = (doc! { "_id": order.id }, &self.0);
        store.orders.replace_one(id, order).session(&mut *session).await?;
        if order.status != OrderStatus::Cancelled {
            return Ok(Verdict::Done);
        }

        match self.ticket(session, order).await? {
            Some(ticket) if ticket.order_id == Some(order.id) => {
                store.change(session, &ticket, doc! { "$unset": { "orderId": "" } }).await?;
            }
            _ => {}
        }

        Ok(Verdict::Done)
    }

    /// The order's ticket. One that isn't here was never offered by this service.
    async fn ticket(
        &self,
        session: &mut ClientSession,
        order: &KnownOrder,
    ) -> Result<Option<Ticket>> {
        let ticket =
            self.0.tickets.find_one(doc! { "_id": order.ticket_id }).session(session).await?;
        if ticket.is_none() {
            warn!(order = %order.id, ticket = %order.ticket_id, "an order for a ticket that was never here");
        }
        Ok(ticket)
    }
}

//! Keeps the copy of the orders, and lets a charge go back when its order is cancelled: what
//! `order:created`, `order:updated` and `order:cancelled` mean here.

use mongodb::ClientSession;
use outboxd_client::{Apply, HandleError, Message, Replica, Verdict};

use super::store::{OrderCopy, Store};
use crate::messages::OrderMessage;
use crate::subjects::{ORDER_CANCELLED, ORDER_CREATED, ORDER_UPDATED};

/// What the service listens to.
pub(crate) const HEARD: [&str; 3] = [ORDER_CREATED, ORDER_UPDATED, ORDER_CANCELLED];

pub(crate) struct Follow {
    copies: Replica<OrderCopy>,
    store: Store,
}

impl Follow {
    pub(crate) fn new(store: Store) -> Self {
        Self { copies: Replica::new(store.orders.clone()), store }
    }
}

impl Apply for Follow {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        let subject = message.subject.as_str();
        if !HEARD.contains(&subject) {
            return Ok(Verdict::Done);
        }

        let order = OrderCopy::from(message.json::<OrderMessage>()?);
        let verdict = self.copies.apply_in(session, &order).await?;
        if verdict == Verdict::Done && subject == ORDER_CANCELLED {
            self.store.order_cancelled(session, order.id).await?;
        }
        Ok(verdict)
    }
}

//! Keeps the copy of the tickets: what `ticket:created` and `ticket:updated` mean here.
//!
//! One write per message, and nothing is emitted, so no transaction is needed.

use outboxd_client::{Handle, HandleError, Message, Replica, Verdict};
use ticketing::messages::TicketMessage;
use ticketing::subjects::{TICKET_CREATED, TICKET_UPDATED};

use crate::store::{Store, TicketCopy};

pub(crate) struct Follow(Replica<TicketCopy>);

impl Follow {
    pub(crate) fn new(store: &Store) -> Self {
        Self(Replica::new(store.tickets.clone()))
    }
}

impl Handle for Follow {
    async fn handle(&self, message: &Message) -> Result<Verdict, HandleError> {
        match message.subject.as_str() {
            TICKET_CREATED | TICKET_UPDATED => self.0.apply(&copy(message.json()?)).await,
            _ => Ok(Verdict::Done),
        }
    }
}

fn copy(ticket: TicketMessage) -> TicketCopy {
    TicketCopy {
        id: ticket.id,
        title: ticket.title,
        price: ticket.price,
        version: ticket.version,
        order_id: ticket.order_id,
    }
}

//! What the other services' events mean here: the copy of the tickets, and what happens to an order
//! because of them.

use mongodb::ClientSession;
use outboxd_client::{Apply, HandleError, Message, Replica, Verdict};
use ticketing::messages::{ExpirationMessage, PaymentMessage};
use ticketing::status::Happened;
use ticketing::subjects::{EXPIRATION_COMPLETE, PAYMENT_CREATED, TICKET_CREATED, TICKET_UPDATED};

use crate::store::{Store, TicketCopy};

type Result<T> = std::result::Result<T, HandleError>;

pub(crate) struct Follow {
    copies: Replica<TicketCopy>,
    store: Store,
}

impl Follow {
    pub(crate) fn new(store: Store) -> Self {
        Self { copies: Replica::new(store.tickets.clone()), store }
    }

    /// Keeps the copy. A ticket that names an order is reserved for it.
    async fn ticket(&self, session: &mut ClientSession, ticket: &TicketCopy) -> Result<Verdict> {
        let verdict = self.copies.apply_in(session, ticket).await?;
        if let (Verdict::Done, Some(order)) = (verdict, ticket.order_id) {
            self.store.happened(session, order, Happened::Reserved).await?;
        }
        Ok(verdict)
    }
}

impl Apply for Follow {
    async fn apply(&self, session: &mut ClientSession, message: &Message) -> Result<Verdict> {
        let (order, happened) = match message.subject.as_str() {
            TICKET_CREATED | TICKET_UPDATED => return self.ticket(session, &message.json()?).await,
            PAYMENT_CREATED => (message.json::<PaymentMessage>()?.order_id, Happened::Paid),
            EXPIRATION_COMPLETE => {
                (message.json::<ExpirationMessage>()?.order_id, Happened::Expired)
            }
            _ => return Ok(Verdict::Done),
        };

        self.store.happened(session, order, happened).await?;
        Ok(Verdict::Done)
    }
}

//! What the other services' events mean here: the copy of the tickets, and what happens to an order
//! because of them.

use mongodb::ClientSession;
use outboxd_client::{Apply, Handle, HandleError, Inbox, Message, Replica, Verdict};

use super::store::{Store, TicketCopy};
use crate::messages::{ExpirationMessage, PaymentMessage};
use crate::status::Happened;
use crate::subjects::{EXPIRATION_COMPLETE, PAYMENT_CREATED, TICKET_CREATED, TICKET_UPDATED};

type Result<T> = std::result::Result<T, HandleError>;

/// What the service listens to.
pub(crate) const HEARD: [&str; 4] =
    [TICKET_CREATED, TICKET_UPDATED, PAYMENT_CREATED, EXPIRATION_COMPLETE];

pub(crate) struct Follow {
    copies: Replica<TicketCopy>,
    store: Store,
    inbox: Inbox,
}

impl Follow {
    pub(crate) fn new(store: Store, inbox: Inbox) -> Self {
        Self { copies: Replica::new(store.tickets.clone()), store, inbox }
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

impl Handle for Follow {
    async fn handle(&self, message: &Message) -> Result<Verdict> {
        if [TICKET_CREATED, TICKET_UPDATED].contains(&message.subject.as_str()) {
            let ticket: TicketCopy = message.json()?;
            // One write, which the version makes safe to repeat: no transaction is needed.
            if ticket.order_id.is_none() {
                return self.copies.apply(&ticket).await;
            }
        }
        self.inbox.run(message, self).await
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

//! Keeps the copy of the tickets: what `ticket:created` and `ticket:updated` mean here.
//!
//! One write per message, and nothing is emitted, so no transaction is needed.

use bson::doc;
use ticketing::listener::{Apply, ApplyError, Verdict};
use ticketing::messages::TicketMessage;
use ticketing::service::is_code;
use ticketing::subjects::{TICKET_CREATED, TICKET_UPDATED};

use crate::store::{Store, TicketCopy};

/// The code of MongoDB when the id is there already.
const DUPLICATE_KEY: i32 = 11_000;

pub(crate) struct Follow(pub(crate) Store);

impl Apply for Follow {
    async fn apply(&self, subject: &str, payload: &[u8]) -> Result<Verdict, ApplyError> {
        match subject {
            TICKET_CREATED => self.created(serde_json::from_slice(payload)?).await,
            TICKET_UPDATED => self.updated(serde_json::from_slice(payload)?).await,
            _ => Ok(Verdict::Done),
        }
    }
}

impl Follow {
    async fn created(&self, ticket: TicketMessage) -> Result<Verdict, ApplyError> {
        match self.0.tickets.insert_one(copy(ticket)).await {
            Err(error) if !is_code(&error, DUPLICATE_KEY) => Err(error.into()),
            _ => Ok(Verdict::Done),
        }
    }

    async fn updated(&self, ticket: TicketMessage) -> Result<Verdict, ApplyError> {
        let (id, version) = (ticket.id, ticket.version);
        let Self(store) = self;
        let before = doc! { "_id": id, "version": version - 1 };

        if store.tickets.replace_one(before, copy(ticket)).await?.matched_count == 1 {
            return Ok(Verdict::Done);
        }

        let found = store.tickets.find_one(doc! { "_id": id, "version": { "$gte": version } });
        Ok(if found.await?.is_some() { Verdict::Done } else { Verdict::Later })
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

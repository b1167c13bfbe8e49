//! The tickets and their changes. Owns the collections `tickets` and `orders` (what is known of the
//! orders).
//!
//! Each change of a ticket raises its version by one and enqueues one event, built from the ticket
//! as stored.

use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::{FutureExt, TryStreamExt};
use mongodb::error::Result;
use mongodb::options::ReturnDocument;
use mongodb::{Client, ClientSession, Collection, Database};
use outboxd_client::Outbox;
use serde::{Deserialize, Serialize};

use crate::http::{PATIENCE, Page};
use crate::messages::TicketMessage;
use crate::refusal::ApiError;
use crate::service::OUTBOX;
use crate::status::OrderStatus;
use crate::subjects::{TICKET_CREATED, TICKET_UPDATED};
use crate::transaction;

/// The collection of tickets.
pub(crate) const TICKETS: &str = "tickets";
/// The collection of orders, as far as this service has heard of them.
pub(crate) const ORDERS: &str = "orders";

/// A ticket as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    pub(crate) title: String,
    pub(crate) price: f64,
    pub(crate) user_id: String,
    pub(crate) version: i64,
    /// The order that reserves it; while it is there, the ticket can't be edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order_id: Option<ObjectId>,
}

/// An order as heard of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KnownOrder {
    #[serde(rename = "_id", alias = "id")]
    pub(crate) id: ObjectId,
    pub(crate) ticket_id: ObjectId,
    pub(crate) status: OrderStatus,
    pub(crate) version: i64,
}

/// What an owner may set.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) title: String,
    pub(crate) price: f64,
}

/// The service's part of the database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) client: Client,
    pub(crate) tickets: Collection<Ticket>,
    pub(crate) orders: Collection<KnownOrder>,
    outbox: Outbox,
}

impl From<&Ticket> for TicketMessage {
    fn from(ticket: &Ticket) -> Self {
        Self {
            id: ticket.id,
            title: ticket.title.clone(),
            price: ticket.price,
            user_id: ticket.user_id.clone(),
            version: ticket.version,
            order_id: ticket.order_id,
        }
    }
}

impl Ticket {
    fn may_be_edited(
        &self,
        user: &str,
        expected: Option<i64>,
    ) -> std::result::Result<(), ApiError> {
        if self.user_id != user {
            return Err(ApiError::forbidden("only its owner may edit a ticket"));
        }

        if self.order_id.is_some() {
            return Err(ApiError::conflict("the ticket is reserved; it can't be edited now"));
        }

        match expected {
            Some(expected) if expected != self.version => Err(ApiError::conflict(format!(
                "the ticket has changed; its version is {} now",
                self.version
            ))),
            _ => Ok(()),
        }
    }
}

impl Store {
    pub(crate) fn new(database: &Database) -> Self {
        Self {
            client: database.client().clone(),
            tickets: database.collection(TICKETS),
            orders: database.collection(ORDERS),
            outbox: Outbox::new(database, OUTBOX),
        }
    }

    pub(crate) async fn find(&self, id: ObjectId) -> Result<Option<Ticket>> {
        self.tickets.find_one(doc! { "_id": id }).await
    }

    pub(crate) async fn list(&self, page: Page) -> Result<Vec<Ticket>> {
        let found = self
            .tickets
            .find(page.narrow(doc! {}))
            .sort(doc! { "_id": 1 })
            .limit(page.limit)
            .await?;
        found.try_collect().await
    }

    pub(crate) async fn create(&self, user: String, offer: Offer) -> Result<TicketMessage> {
        let ticket = Ticket {
            id: ObjectId::new(),
            title: offer.title,
            price: offer.price,
            user_id: user,
            version: 0,
            order_id: None,
        };
        transaction::run(&self.client, PATIENCE, (self, ticket), |session, (store, ticket)| {
            async move {
                store.tickets.insert_one(&*ticket).session(&mut *session).await?;
                store.emit(session, TICKET_CREATED, ticket).await
            }
            .boxed()
        })
        .await
    }

    /// Edits a ticket of `user`'s; if `expected` is given, only in that version.
    pub(crate) async fn edit(
        &self,
        id: ObjectId,
        user: String,
        offer: Offer,
        expected: Option<i64>,
    ) -> Result<TicketMessage> {
        transaction::run(
            &self.client,
            PATIENCE,
            (self, user, offer),
            |session, (store, user, offer)| {
                async move {
                    let found =
                        store.tickets.find_one(doc! { "_id": id }).session(&mut *session).await?;
                    let ticket = found.ok_or_else(|| ApiError::not_found("ticket"))?;
                    ticket.may_be_edited(user, expected)?;
                    let set = doc! { "$set": { "title": &offer.title, "price": offer.price } };
                    store.change(session, &ticket, set).await
                }
                .boxed()
            },
        )
        .await
    }

    /// Changes a ticket that was read in this transaction, raises its version and enqueues the
    /// event.
    pub(crate) async fn change(
        &self,
        session: &mut ClientSession,
        ticket: &Ticket,
        mut update: Document,
    ) -> Result<TicketMessage> {
        update.insert("$inc", doc! { "version": 1_i64 });
        let stored = self
            .tickets
            .find_one_and_update(doc! { "_id": ticket.id, "version": ticket.version }, update)
            .return_document(ReturnDocument::After)
            .session(&mut *session)
            .await?;

        let stored =
            stored.ok_or_else(|| ApiError::conflict("the ticket has changed; look at it again"))?;
        self.emit(session, TICKET_UPDATED, &stored).await
    }

    async fn emit(
        &self,
        session: &mut ClientSession,
        subject: &str,
        ticket: &Ticket,
    ) -> Result<TicketMessage> {
        let message = TicketMessage::from(ticket);
        self.outbox
            .enqueue(session, transaction::event(subject, &ticket.id.to_hex(), &message)?)
            .await?;
        Ok(message)
    }
}

//! What is left in the databases once everything has settled, and whether they agree.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Database};
use serde::{Deserialize, Serialize};
use ticketing::failure::Failure;
use ticketing::status::OrderStatus;
use tokio::time::{Instant, sleep};

use crate::stage::Servers;

/// How often the databases are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Differences that are told in full.
const EXAMPLES: usize = 5;

/// What both services know of a ticket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ticket {
    #[serde(rename = "_id")]
    id: ObjectId,
    title: String,
    price: f64,
    version: i64,
    order_id: Option<ObjectId>,
}

/// What both services know of an order.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    #[serde(rename = "_id")]
    id: ObjectId,
    ticket_id: ObjectId,
    status: OrderStatus,
    version: i64,
}

/// One service's database, counted.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) tickets: usize,
    pub(crate) tickets_at_10: usize,
    pub(crate) tickets_at_15: usize,
    /// Lowest version of a ticket.
    pub(crate) lowest_version: i64,
    pub(crate) reserved: usize,
    pub(crate) orders: usize,
    pub(crate) cancelled: usize,
    pub(crate) outbox_left: u64,
}

/// Both databases at one moment.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) tickets: Counts,
    pub(crate) orders: Counts,
    /// Records that differ, or that only one database has; and tickets whose reservation isn't that
    /// of their order.
    pub(crate) differences: usize,
    /// Some of them, told.
    pub(crate) examples: Vec<String>,
    /// Each record's version where it is owned.
    pub(crate) versions: HashMap<ObjectId, i64>,
}

impl Found {
    pub(crate) fn outbox_left(&self) -> u64 {
        self.tickets.outbox_left + self.orders.outbox_left
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.differences == 0 && self.outbox_left() == 0
    }
}

/// Waits until both outboxes are empty and the copies agree, at most for `patience`, and returns
/// what is there then.
pub(crate) async fn settle(
    mongodb: &Client,
    servers: &Servers,
    patience: Duration,
) -> Result<Found, Failure> {
    let deadline = Instant::now() + patience;
    let databases =
        [&servers.tickets_database, &servers.orders_database].map(|name| mongodb.database(name));

    loop {
        let left = outbox_left(&databases[0]).await? + outbox_left(&databases[1]).await?;
        if left > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
            continue;
        }

        let found = look(&databases).await?;
        if found.is_settled() || Instant::now() > deadline {
            return Ok(found);
        }

        sleep(LOOK).await;
    }
}

async fn look([tickets_db, orders_db]: &[Database; 2]) -> Result<Found, Failure> {
    let (tickets, known_orders) = (all_tickets(tickets_db).await?, all_orders(tickets_db).await?);
    let (copies, orders) = (all_tickets(orders_db).await?, all_orders(orders_db).await?);
    let mut found = Found {
        tickets: count(&tickets, &known_orders, outbox_left(tickets_db).await?),
        orders: count(&copies, &orders, outbox_left(orders_db).await?),
        ..Found::default()
    };

    found.differ("ticket", &tickets, &copies);
    found.differ("order", &orders, &known_orders);
    found.reservations(&tickets, &orders);
    found.versions.extend(tickets.values().map(|ticket| (ticket.id, ticket.version)));
    found.versions.extend(orders.values().map(|order| (order.id, order.version)));

    Ok(found)
}

impl Found {
    fn differ<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        owned: &HashMap<ObjectId, T>,
        copies: &HashMap<ObjectId, T>,
    ) {
        let ids: BTreeSet<_> = owned.keys().chain(copies.keys()).collect();
        for id in ids {
            let (owned, copy) = (owned.get(id), copies.get(id));
            if owned != copy {
                self.difference(format!(
                    "{what} {id}: its owner has {owned:?}, the copy is {copy:?}"
                ));
            }
        }
    }

    /// A ticket is reserved by its one active order, or by none.
    fn reservations(
        &mut self,
        tickets: &HashMap<ObjectId, Ticket>,
        orders: &HashMap<ObjectId, Order>,
    ) {
        let active = orders.values().filter(|order| order.status != OrderStatus::Cancelled);
        let by_ticket: HashMap<_, _> = active.map(|order| (order.ticket_id, order.id)).collect();

        for (id, ticket) in tickets {
            let order = by_ticket.get(id).copied();
            if ticket.order_id != order {
                self.difference(format!(
                    "ticket {id}: reserved by {:?}, its order is {order:?}",
                    ticket.order_id
                ));
            }
        }
    }

    fn difference(&mut self, told: String) {
        self.differences += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(told);
        }
    }
}

fn count(
    tickets: &HashMap<ObjectId, Ticket>,
    orders: &HashMap<ObjectId, Order>,
    outbox_left: u64,
) -> Counts {
    let at = |price: f64| tickets.values().filter(|ticket| ticket.price == price).count();
    Counts {
        tickets: tickets.len(),
        tickets_at_10: at(10.0),
        tickets_at_15: at(15.0),
        lowest_version: tickets.values().map(|ticket| ticket.version).min().unwrap_or_default(),
        reserved: tickets.values().filter(|ticket| ticket.order_id.is_some()).count(),
        orders: orders.len(),
        cancelled: orders.values().filter(|order| order.status == OrderStatus::Cancelled).count(),
        outbox_left,
    }
}

async fn all_tickets(database: &Database) -> Result<HashMap<ObjectId, Ticket>, Failure> {
    let all: Vec<Ticket> =
        database.collection("tickets").find(doc! {}).await?.try_collect().await?;
    Ok(all.into_iter().map(|ticket| (ticket.id, ticket)).collect())
}

async fn all_orders(database: &Database) -> Result<HashMap<ObjectId, Order>, Failure> {
    let all: Vec<Order> = database.collection("orders").find(doc! {}).await?.try_collect().await?;
    Ok(all.into_iter().map(|order| (order.id, order)).collect())
}

async fn outbox_left(database: &Database) -> Result<u64, Failure> {
    Ok(database.collection::<Document>("outbox").count_documents(doc! {}).await?)
}

//! What is left in the databases once everything has settled, and whether they agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use mongodb::Client;
use ticketing::failure::Failure;
use ticketing::messages::ChargeStatus;
use ticketing::status::OrderStatus;
use tokio::time::{Instant, sleep};

use crate::cast::SERVICES;
use crate::records::{Charge, Counts, Order, Records, Ticket};
use crate::stage::Servers;

/// How often the databases are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Differences that are told in full.
const EXAMPLES: usize = 5;

/// All databases at one moment.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By the service that owns the database.
    pub(crate) counts: BTreeMap<&'static str, Counts>,
    /// Records that differ, or that only one database has; tickets whose reservation isn't that of
    /// their order; orders whose charge isn't what it must be.
    pub(crate) differences: usize,
    /// Some of them, told.
    pub(crate) examples: Vec<String>,
    /// Each record's version where it is owned.
    pub(crate) versions: HashMap<ObjectId, i64>,
}

impl Found {
    pub(crate) fn outbox_left(&self) -> u64 {
        self.counts.values().map(|counts| counts.outbox_left).sum()
    }

    /// What is still going to change by itself: orders and charges that have not come to an end.
    fn open(&self) -> usize {
        let open = self.counts.values().map(|counts| counts.open_orders() + counts.open_charges());
        open.sum()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.differences == 0 && self.outbox_left() == 0 && self.open() == 0
    }
}

/// Waits until all outboxes are empty, every order and charge has come to an end and the copies
/// agree, at most for `patience`, and returns what is there then.
pub(crate) async fn settle(
    mongodb: &Client,
    servers: &Servers,
    patience: Duration,
) -> Result<Found, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let mut left = 0;
        for service in SERVICES {
            let outbox = servers.database(mongodb, service).collection::<Document>("outbox");
            left += outbox.count_documents(doc! {}).await?;
        }
        if left > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
            continue;
        }

        let found = look(mongodb, servers).await?;
        if found.is_settled() || Instant::now() > deadline {
            return Ok(found);
        }

        sleep(LOOK).await;
    }
}

async fn look(mongodb: &Client, servers: &Servers) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut all = BTreeMap::new();
    for service in SERVICES {
        let records = Records::read(&servers.database(mongodb, service)).await?;
        found.counts.insert(service, records.counts(service));
        all.insert(service, records);
    }

    let of = |service: &str| all.get(service).ok_or("a database is missing");
    let (tickets, orders, payments) = (of("tickets")?, of("orders")?, of("payments")?);
    found.differ("ticket", &tickets.tickets, &orders.tickets);
    found.differ("order", &orders.orders, &tickets.orders);
    found.differ("order", &orders.orders, &payments.orders);
    found.reservations(&tickets.tickets, &orders.orders);
    found.charges(&orders.orders, payments);
    found.expirations(&orders.orders, &of("expiration")?.expirations);

    let versions = &mut found.versions;
    versions.extend(of("auth")?.users.keys().map(|id| (*id, 0)));
    versions.extend(tickets.tickets.values().map(|ticket| (ticket.id, ticket.version)));
    versions.extend(orders.orders.values().map(|order| (order.id, order.version)));
    let charges = payments.charges.values();
    versions.extend(charges.filter_map(|charge| Some((charge.id, charge.version?))));
    let ends = of("expiration")?.expirations.values();
    let complete = ends.filter(|end| end.status == "complete");
    versions.extend(complete.map(|end| (end.id, end.version)));

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

    /// A ticket is reserved by its one order that isn't cancelled, or by none.
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

    /// A complete order is paid with what its ticket cost, once; for any other no money is taken.
    /// The provider's own book says the same.
    fn charges(&mut self, orders: &HashMap<ObjectId, Order>, payments: &Records) {
        let mut booked: HashMap<&str, (usize, f64)> = HashMap::new();
        for entry in payments.book.values().filter(|entry| entry.state == "taken") {
            let order = entry.key.split('-').nth(1).unwrap_or_default();
            let (count, amount) = booked.entry(order).or_default();
            *count += 1;
            *amount += entry.amount;
        }

        for (id, order) in orders {
            let is_complete = order.status == OrderStatus::Complete;
            let is_paid = |charge: &&Charge| charge.status == ChargeStatus::Taken;
            let charge = payments.charges.get(id).filter(is_paid).map(|charge| charge.amount);
            let hex = id.to_hex();
            let booked = booked.get(hex.as_str()).copied();
            let expected = is_complete.then_some(order.price);

            if charge != expected || booked != expected.map(|price| (1, price)) {
                self.difference(format!(
                    "order {id} at {} is {:?}: charged {charge:?}, the provider took {booked:?}",
                    order.price, order.status
                ));
            }
        }
    }

    /// Each order's time has come to an end, too: it was taken back, or it is over.
    fn expirations(
        &mut self,
        orders: &HashMap<ObjectId, Order>,
        ends: &HashMap<ObjectId, crate::records::Expiration>,
    ) {
        for id in orders.keys() {
            let status = ends.get(id).map(|end| end.status.as_str());
            if !matches!(status, Some("cancelled" | "complete")) {
                self.difference(format!("order {id}: the end of its time is {status:?}"));
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

//! The orders service: owns the orders. It keeps a copy of the tickets, and reserves a ticket for
//! one order at a time. What an order's status means and how it changes is in `status.rs`.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/orders` `{ticketId}` | 201 and the order; 404 without such a ticket, 409 while another order has it |
//! | `DELETE /api/orders/{id}` | 200 and the order, cancelled; only by its owner; once more changes nothing; 409 once it is paid |
//! | `GET /api/orders/{id}` | 200 and the order; only by its owner |
//! | `GET /api/orders?limit=&after=` | 200 and a list of the user's own orders |
//!
//! Emits `order:created`, `order:updated` and `order:cancelled`; listens to `ticket:created`,
//! `ticket:updated`, `payment:created` and `expiration:complete` as `orders-service`.

mod follow;
mod routes;
mod store;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::service::{self, Service};

/// Runs the service until it is stopped.
#[tokio::main]
pub async fn main() -> ExitCode {
    service::exit("orders", run().await)
}

async fn run() -> Result<(), Failure> {
    let service = Service::connect("orders", &[store::ORDERS, store::TICKETS]).await?;
    let lifetime = service.settings.order_lifetime;
    let store = store::Store::open(&service.database, lifetime).await?;
    let routes = routes::routes(store.clone(), service.verifier());
    let follow = follow::Follow::new(store, service.inbox.clone());
    service.run(routes, "orders-service", &follow::HEARD, follow).await
}

//! The orders service: owns the orders. It keeps a copy of the tickets, and reserves a ticket for
//! one order at a time.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/orders` `{ticketId}` | 201 and the order; 404 without such a ticket, 409 while another order has it |
//! | `DELETE /api/orders/{id}` | 200 and the order, cancelled; only by its owner; once more changes nothing |
//! | `GET /api/orders/{id}` | 200 and the order; only by its owner |
//! | `GET /api/orders?limit=&after=` | 200 and a list of the user's own orders |
//!
//! Emits `order:created` and `order:cancelled`; listens to `ticket:created` and `ticket:updated` as
//! `orders-service`.

mod follow;
mod routes;
mod store;

use std::process::ExitCode;

use ticketing::failure::Failure;
use ticketing::service::{self, Service};

#[tokio::main]
async fn main() -> ExitCode {
    service::exit("orders", run().await)
}

async fn run() -> Result<(), Failure> {
    let service = Service::connect("orders", &[store::ORDERS, store::TICKETS]).await?;
    let store = store::Store::open(&service.database).await?;
    let routes = routes::routes(store.clone(), service.verifier());
    service.run(routes, "orders-service", follow::Follow::new(&store)).await
}

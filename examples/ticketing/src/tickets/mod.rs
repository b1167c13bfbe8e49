//! The tickets service: owns the tickets. A ticket that an order reserves can't be edited.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/tickets` `{title, price}` | 201 and the ticket |
//! | `PUT /api/tickets/{id}` `{title, price, version?}` | 200 and the ticket; only by its owner, 409 while it is reserved |
//! | `GET /api/tickets/{id}` | 200 and the ticket |
//! | `GET /api/tickets?limit=&after=` | 200 and a list of tickets |
//!
//! Emits `ticket:created` and `ticket:updated`; listens to `order:created`, `order:updated`
//! and `order:cancelled` as `tickets-service`.

mod reserve;
mod routes;
mod store;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::service::{self, Service};

/// Runs the service until it is stopped.
#[tokio::main]
pub async fn main() -> ExitCode {
    service::exit("tickets", run().await)
}

async fn run() -> Result<(), Failure> {
    let service = Service::connect("tickets", &[store::TICKETS, store::ORDERS]).await?;
    let store = store::Store::new(&service.database);
    let routes = routes::routes(store.clone(), service.verifier());
    let reserve = service.inbox.each(reserve::Reserve(store));
    service.run(routes, "tickets-service", &reserve::HEARD, reserve).await
}

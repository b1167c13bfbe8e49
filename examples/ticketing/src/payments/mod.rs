//! The payments service: owns the charges. It keeps a copy of the orders, and takes the money for
//! each once. How it does that when the provider doesn't answer is in `till.rs`.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/payments` `{orderId, token}` | 201 and the charge; 200 if it was taken before; 202 while the provider hasn't answered; 402 if it declined; 403 for someone else's order; 404 without such an order; 409 if the order is cancelled or has expired |
//! | `GET /api/payments/{orderId}` | 200 and the charge; only by the order's owner |
//!
//! Emits `payment:created` and `payment:refunded`; listens to `order:created`, `order:updated` and
//! `order:cancelled` as `payments-service`.
//!
//! The only provider here is the one for tests, `test_provider.rs`. A real one implements
//! `provider::Provider`.

mod charge;
mod follow;
mod provider;
mod routes;
mod store;
mod test_provider;
mod till;

use std::process::ExitCode;
use std::sync::Arc;

use crate::failure::Failure;
use crate::service::{self, Service};

/// Runs the service until it is stopped.
#[tokio::main]
pub async fn main() -> ExitCode {
    service::exit("payments", run().await)
}

async fn run() -> Result<(), Failure> {
    let collections = [store::ORDERS, store::CHARGES, test_provider::BOOK];
    let service = Service::connect("payments", &collections).await?;
    let store = store::Store::open(&service.database).await?;
    let provider = Arc::new(test_provider::TestProvider::new(&service.database));
    let till = till::Till::new(store.clone(), provider);

    let routes = routes::routes(till.clone(), service.verifier());
    let follow = service.inbox.each(follow::Follow::new(store));
    // What it is at when the process ends, the next one finds again.
    tokio::spawn(service.stopping().run_until_cancelled_owned(till.recover()));
    service.run(routes, "payments-service", &follow::HEARD, follow).await
}

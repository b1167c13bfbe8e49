//! The expiration service: says when the time of an order is over. It has no timer: it schedules
//! the event in its outbox, and the sidecar publishes it when it is due.
//!
//! It has no requests but `/healthz`. Emits `expiration:complete`; listens to `order:created`,
//! `order:cancelled` and `payment:created` as `expiration-service`.

mod schedule;

use std::process::ExitCode;

use axum::Router;

use crate::failure::Failure;
use crate::service::{self, Service};

/// Runs the service until it is stopped.
#[tokio::main]
pub async fn main() -> ExitCode {
    service::exit("expiration", run().await)
}

async fn run() -> Result<(), Failure> {
    let service = Service::connect("expiration", &[schedule::EXPIRATIONS]).await?;
    let schedule = service.inbox.each(schedule::Schedule::open(&service.database).await?);
    service.run(Router::new(), "expiration-service", &schedule::HEARD, schedule).await
}

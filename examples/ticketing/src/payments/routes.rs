//! The requests of the payments service.

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::till::{Paid, Till};
use crate::http::{Body, Id, User, to_the_end};
use crate::messages::PaymentMessage;
use crate::refusal::ApiError;
use crate::token::Verifier;

/// Longest token of the provider, in characters.
const MAX_TOKEN: usize = 200;

#[derive(Clone)]
struct Payments {
    till: Till,
    verifier: Verifier,
}

impl FromRef<Payments> for Verifier {
    fn from_ref(payments: &Payments) -> Self {
        payments.verifier.clone()
    }
}

pub(crate) fn routes(till: Till, verifier: Verifier) -> Router {
    Router::new()
        .route("/api/payments", post(pay))
        .route("/api/payments/{id}", get(show))
        .with_state(Payments { till, verifier })
}

async fn pay(
    State(payments): State<Payments>,
    User(user): User,
    Body(mut fields): Body,
) -> Result<(StatusCode, Json<PaymentMessage>), ApiError> {
    let (order, token) = (fields.id("orderId"), fields.text("token", MAX_TOKEN));
    fields.check()?;

    let paid = to_the_end(async move { payments.till.pay(order, &user, &token).await }).await?;
    let (status, charge) = match &paid {
        Paid::Now(charge) => (StatusCode::CREATED, charge),
        Paid::Before(charge) => (StatusCode::OK, charge),
        Paid::Pending(charge) => (StatusCode::ACCEPTED, charge),
    };
    Ok((status, Json(PaymentMessage::from(charge))))
}

async fn show(
    State(payments): State<Payments>,
    User(user): User,
    Id(order): Id,
) -> Result<Json<PaymentMessage>, ApiError> {
    let charge = to_the_end(async move { payments.till.charge_of(order, &user).await }).await?;
    Ok(Json(PaymentMessage::from(&charge)))
}

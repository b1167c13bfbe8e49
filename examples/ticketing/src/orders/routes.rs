//! The requests of the orders service.

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::store::Store;
use crate::http::{Body, Id, Page, User, to_the_end};
use crate::messages::OrderMessage;
use crate::refusal::ApiError;
use crate::token::Verifier;

#[derive(Clone)]
struct Orders {
    store: Store,
    verifier: Verifier,
}

impl FromRef<Orders> for Verifier {
    fn from_ref(orders: &Orders) -> Self {
        orders.verifier.clone()
    }
}

pub(crate) fn routes(store: Store, verifier: Verifier) -> Router {
    Router::new()
        .route("/api/orders", post(create).get(list))
        .route("/api/orders/{id}", get(show).delete(cancel))
        .with_state(Orders { store, verifier })
}

async fn create(
    State(orders): State<Orders>,
    User(user): User,
    Body(mut fields): Body,
) -> Result<(StatusCode, Json<OrderMessage>), ApiError> {
    let ticket = fields.id("ticketId");
    fields.check()?;
    let done = to_the_end(async move { Ok(orders.store.create(user, ticket).await?) }).await?;
    Ok((StatusCode::CREATED, Json(done)))
}

async fn cancel(
    State(orders): State<Orders>,
    User(user): User,
    Id(id): Id,
) -> Result<Json<OrderMessage>, ApiError> {
    let done = to_the_end(async move { Ok(orders.store.cancel(id, user).await?) }).await?;
    Ok(Json(done))
}

async fn show(
    State(orders): State<Orders>,
    User(user): User,
    Id(id): Id,
) -> Result<Json<OrderMessage>, ApiError> {
    let order = to_the_end(async move { Ok(orders.store.find(id, &user).await?) }).await?;
    Ok(Json(OrderMessage::from(&order)))
}

async fn list(
    State(orders): State<Orders>,
    User(user): User,
    page: Page,
) -> Result<Json<Vec<OrderMessage>>, ApiError> {
    let found = to_the_end(async move { Ok(orders.store.list(&user, page).await?) }).await?;
    Ok(Json(found.iter().map(OrderMessage::from).collect()))
}

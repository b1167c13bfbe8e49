//! The requests of the tickets service.

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::store::{Offer, Store};
use crate::fields::Fields;
use crate::http::{Body, Id, Page, User, to_the_end};
use crate::messages::TicketMessage;
use crate::refusal::ApiError;
use crate::token::Verifier;

/// Longest title, in characters.
const MAX_TITLE: usize = 200;

#[derive(Clone)]
struct Tickets {
    store: Store,
    verifier: Verifier,
}

impl FromRef<Tickets> for Verifier {
    fn from_ref(tickets: &Tickets) -> Self {
        tickets.verifier.clone()
    }
}

pub(crate) fn routes(store: Store, verifier: Verifier) -> Router {
    Router::new()
        .route("/api/tickets", post(create).get(list))
        .route("/api/tickets/{id}", get(show).put(edit))
        .with_state(Tickets { store, verifier })
}

async fn create(
    State(tickets): State<Tickets>,
    User(user): User,
    Body(mut fields): Body,
) -> Result<(StatusCode, Json<TicketMessage>), ApiError> {
    let offer = offer(&mut fields);
    fields.check()?;
    let done = to_the_end(async move { Ok(tickets.store.create(user, offer).await?) }).await?;
    Ok((StatusCode::CREATED, Json(done)))
}

async fn edit(
    State(tickets): State<Tickets>,
    User(user): User,
    Id(id): Id,
    Body(mut fields): Body,
) -> Result<Json<TicketMessage>, ApiError> {
    let (offer, expected) = (offer(&mut fields), fields.version_if_given("version"));
    fields.check()?;
    let done =
        to_the_end(async move { Ok(tickets.store.edit(id, user, offer, expected).await?) }).await?;
    Ok(Json(done))
}

async fn show(State(tickets): State<Tickets>, Id(id): Id) -> Result<Json<TicketMessage>, ApiError> {
    let found = to_the_end(async move { Ok(tickets.store.find(id).await?) }).await?;
    let ticket = found.ok_or_else(|| ApiError::not_found("ticket"))?;
    Ok(Json(TicketMessage::from(&ticket)))
}

async fn list(
    State(tickets): State<Tickets>,
    page: Page,
) -> Result<Json<Vec<TicketMessage>>, ApiError> {
    let found = to_the_end(async move { Ok(tickets.store.list(page).await?) }).await?;
    Ok(Json(found.iter().map(TicketMessage::from).collect()))
}

fn offer(fields: &mut Fields) -> Offer {
    Offer { title: fields.text("title", MAX_TITLE), price: fields.price("price") }
}

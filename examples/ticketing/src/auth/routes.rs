//! The requests of the auth service.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bson::oid::ObjectId;
use serde_json::{Value, json};
use tracing::error;

use super::attempts::Attempts;
use super::passwords::Passwords;
use super::store::{Store, User};
use crate::failure::Failure;
use crate::http::{Body, to_the_end};
use crate::refusal::ApiError;
use crate::token::{SESSION, SESSION_SECONDS, Signer, Verifier};

/// Longest password, in characters: more would only be work.
const MAX_PASSWORD: usize = 128;

#[derive(Clone)]
pub(crate) struct Auth {
    pub(crate) users: Store,
    pub(crate) attempts: Attempts,
    pub(crate) passwords: Passwords,
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,
    pub(crate) cookie_secure: bool,
}

pub(crate) fn routes(auth: Auth) -> Router {
    Router::new()
        .route("/api/users/signup", post(sign_up))
        .route("/api/users/signin", post(sign_in))
        .route("/api/users/signout", post(sign_out))
        .route("/api/users/currentuser", get(current_user))
        .with_state(auth)
}

async fn sign_up(State(auth): State<Auth>, Body(mut fields): Body) -> Result<Response, ApiError> {
    let (email, password) = (fields.email("email"), fields.password("password", MAX_PASSWORD));
    fields.check()?;

    to_the_end(async move {
        auth.attempts.count(&email).await?;
        let user = match auth.users.by_email(&email).await? {
            Some(user) => Err(user),
            None => auth.create(&email, &password).await?,
        };

        match user {
            Ok(user) => auth.session(StatusCode::CREATED, &user).await,
            // Perhaps the one who signs up for the second time, because no answer came.
            Err(user) if auth.is_of(&password, Some(&user)).await? => {
                auth.session(StatusCode::OK, &user).await
            }
            Err(_) => {
                let message = "this e-mail address and password can't be used to sign up";
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
        }
    })
    .await
}

async fn sign_in(State(auth): State<Auth>, Body(mut fields): Body) -> Result<Response, ApiError> {
    let (email, password) = (fields.email("email"), fields.password("password", MAX_PASSWORD));
    fields.check()?;

    to_the_end(async move {
        auth.attempts.count(&email).await?;
        let user = auth.users.by_email(&email).await?;
        let is_right = auth.is_of(&password, user.as_ref()).await?;

        match user.filter(|_| is_right) {
            Some(user) => auth.session(StatusCode::OK, &user).await,
            None => {
                let message = "this e-mail address and password don't go together";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, message))
            }
        }
    })
    .await
}

async fn sign_out(State(auth): State<Auth>) -> Response {
    (auth.cookie("", 0), Json(json!({}))).into_response()
}

async fn current_user(
    State(auth): State<Auth>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let asks = auth.verifier.asks(&headers).ok().and_then(|id| ObjectId::parse_str(id).ok());
    let Some(id) = asks else { return Ok(Json(json!({ "currentUser": null }))) };

    let user = to_the_end(async move { Ok(auth.users.find(id).await?) }).await?;
    let shown = user.map(|user| json!({ "id": user.id.to_hex(), "email": user.email }));
    Ok(Json(json!({ "currentUser": shown })))
}

impl Auth {
    /// The new user, or the one who has the address.
    async fn create(&self, email: &str, password: &str) -> Result<Result<User, User>, ApiError> {
        let hash = self.passwords.hash(password.to_owned()).await.map_err(broken)?;
        if let Some(user) = self.users.create(email.to_owned(), hash).await? {
            return Ok(Ok(user));
        }

        // Someone else was faster.
        self.users.by_email(email).await?.map(Err).ok_or_else(ApiError::busy)
    }

    async fn is_of(&self, password: &str, user: Option<&User>) -> Result<bool, ApiError> {
        let hash = user.map(|user| user.password_hash.clone());
        self.passwords.is_of(password.to_owned(), hash).await.map_err(broken)
    }

    /// Answers with the user, and with a token as cookie and in the body.
    async fn session(&self, status: StatusCode, user: &User) -> Result<Response, ApiError> {
        self.attempts.forget(&user.email).await?;
        let id = user.id.to_hex();
        let token = self.signer.sign(&id).map_err(|error| broken(error.into()))?;

        let cookie = self.cookie(&token, SESSION_SECONDS);
        let body = json!({ "id": id, "email": user.email, "token": token });
        Ok((status, cookie, Json(body)).into_response())
    }

    /// Sets the cookie for so many seconds; nothing on the way keeps the answer.
    fn cookie(&self, token: &str, seconds: u64) -> [(HeaderName, String); 2] {
        let secure = if self.cookie_secure { "; Secure" } else { "" };
        let cookie =
            format!("{SESSION}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        [(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, "no-store".to_owned())]
    }
}

fn broken(error: Failure) -> ApiError {
    error!(%error, "request failed");
    let message = "the request failed; its reason is in the service's log";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

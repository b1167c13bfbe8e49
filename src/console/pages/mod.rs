//! The pages, a file each. `frame` is what all of them share; the router is here.

mod act;
mod audit;
mod check;
mod confirm;
pub(super) mod event;
pub(super) mod events;
mod frame;
pub(super) mod groups;
pub(super) mod job;
pub(super) mod key;
pub(super) mod overview;
mod paging;
mod published;
mod sign_in;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use self::frame::Problem;
use super::access::{Sender, is_own};
use super::live;
use super::site::Site;

const STYLE: &str = include_str!("../templates/style.css");
const SCRIPT: &str = include_str!("../templates/script.js");
const ICON: &str = include_str!("../templates/icon.svg");
/// Longest text of a refused address or form.
const MAX_REFUSAL: usize = 4096;

/// Every path. All but signing in, the style sheet and the script want a session.
pub(super) fn router(site: Arc<Site>) -> Router {
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/live", get(live::stream))
        .route("/o/{outbox}/groups", get(groups::page))
        .route("/o/{outbox}/events", get(events::page))
        .route("/o/{outbox}/event", get(event::page).post(event::with_payload))
        .route("/o/{outbox}/key", get(key::page))
        .route("/o/{outbox}/act", get(act::page).post(confirm::confirmed))
        .route("/o/{outbox}/jobs/{id}", get(job::page))
        .route("/o/{outbox}/jobs/{id}/stop", post(job::stop))
        .route("/o/{outbox}/audit", get(audit::page))
        .route("/o/{outbox}/published", get(published::page))
        .route("/o/{outbox}/replay", get(published::replay).post(confirm::confirmed))
        .route("/o/{outbox}/verify", post(published::verify))
        .route("/o/{outbox}/check", get(check::page))
        .route("/sign-out", post(sign_in::sign_out))
        .fallback(nothing)
        .layer(from_fn_with_state(site.clone(), signed_in));

    Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/style.css", get(async || asset("text/css", STYLE)))
        .route("/script.js", get(async || asset("text/javascript", SCRIPT)))
        .route("/icon.svg", get(async || asset("image/svg+xml", ICON)))
        .merge(pages)
        .layer(from_fn(own))
        .layer(from_fn(in_words))
        .with_state(site)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

async fn nothing() -> Problem {
    Problem::not_found("There is no such page.")
}

/// Takes forms from the console's own pages only.
async fn own(request: Request, next: Next) -> Response {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if !is_read && !is_own(request.headers()) {
        let message = "This form was not sent by a page of the console, so nothing is done. A proxy in \
                       front must pass the header Host on as the browser sent it.";
        return Problem::new(StatusCode::FORBIDDEN, message).into_response();
    }

    next.run(request).await
}

/// Shows an address or a form that can't be read as a page, and not as a bare text.
async fn in_words(request: Request, next: Next) -> Response {
    let (head, body) = next.run(request).await.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !head.status.is_client_error() || !is_text && kind.is_some() {
        return Response::from_parts(head, body);
    }

    let text = to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
    let message = match text.is_empty() {
        true => "The console can't do this here.".to_owned(),
        false => {
            format!("The address or the form can't be read: {}", String::from_utf8_lossy(&text))
        }
    };
    Problem::new(head.status, message).into_response()
}

/// Lets those through who are signed in, and shows the others where to sign in.
async fn signed_in(
    State(site): State<Arc<Site>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_secure = site.access.is_secure(request.headers(), from.ip());
    let (person, cookie) = match site.access.sender(request.headers(), from.ip()) {
        Sender::Known(person) => (person, None),
        Sender::New(person, cookie) => (person, Some(cookie)),
        Sender::Nobody if request.method() == Method::GET && request.uri().path() != "/live" => {
            return Redirect::to(&sign_in::address(request.uri())).into_response();
        }

        Sender::Nobody => {
            return Problem::new(StatusCode::UNAUTHORIZED, "Sign in first.").into_response();
        }
    };

    request.extensions_mut().insert(person);
    let mut response = next.run(request).await;
    let cookie =
        cookie.and_then(|cookie| site.access.set_cookie(Some(&cookie), is_secure).parse().ok());
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }

    response
}

/// The answer in the place of one that takes too long.
pub(super) fn too_slow() -> Response {
    let message = "MongoDB needs too long for this. Select fewer events, or try again.";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, message).into_response()
}

/// The answer to a request whose body is too long, or did not come in time. No other follows it on
/// this connection.
pub(super) fn not_read(status: StatusCode) -> Response {
    let message = "The form is longer than the console takes, or it did not come in time. Nothing is \
                   done; load the page again.";
    let close = [(header::CONNECTION, "close")];
    (close, Problem::new(status, message)).into_response()
}

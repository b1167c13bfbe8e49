//! Signing in with a token, and out again.

use std::net::SocketAddr;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{ConnectInfo, Form, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use tracing::{info, warn};

use super::frame::{Page, render};
use crate::console::access::Person;
use crate::console::site::Site;
use crate::console::text::encoded;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    next: &'a str,
    /// Why nobody is signed in.
    wrong: Option<String>,
    has_tokens: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct SignOut {
    csrf: String,
}

/// Where somebody signs in who wants this page.
pub(super) fn address(wanted: &Uri) -> String {
    match way_back(wanted) {
        "/" => "/sign-in".to_owned(),
        wanted => format!("/sign-in?next={}", encoded(wanted)),
    }
}

/// A page of this console, whatever the address says.
fn own(next: &str) -> &str {
    let is_own = next.starts_with('/') && !next.starts_with("//") && !next.contains('\\');
    let is_plain = next.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
    if is_own && is_plain { next } else { "/" }
}

pub(super) async fn page(
    State(site): State<Arc<Site>>,
    Query(Next { next }): Query<Next>,
) -> Response {
    let has_tokens = site.access.has_tokens();
    render(&SignInPage { next: own(&next), wrong: None, has_tokens })
}

pub(super) async fn sign_in(
    State(site): State<Arc<Site>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    headers: HeaderMap,
    Form(SignIn { token, next }): Form<SignIn>,
) -> Response {
    let has_tokens = site.access.has_tokens();
    let refused = |status: StatusCode, wrong: String| {
        let page = SignInPage { next: own(&next), wrong: Some(wrong), has_tokens };
        (status, render(&page)).into_response()
    };

    let address = site.access.address(&headers, from.ip());
    if let Some(wait) = site.guesses.wait(address) {
        let wait = wait.as_secs() + 1;
        let wrong = format!(
            "Too many wrong tokens came from {address}. Try again in {wait} second{}.",
            if wait == 1 { "" } else { "s" }
        );
        let retry = [(header::RETRY_AFTER, wait.to_string())];
        return (retry, refused(StatusCode::TOO_MANY_REQUESTS, wrong)).into_response();
    }

    match site.access.sign_in(token.trim()) {
        Some((person, cookie)) => {
            site.guesses.forget(address);
            info!(name = person.name, %address, "somebody signed in to the console");
            let is_secure = site.access.is_secure(&headers, from.ip());
            let cookie = site.access.set_cookie(Some(&cookie), is_secure);
            ([(header::SET_COOKIE, cookie)], Redirect::to(own(&next))).into_response()
        }
        None => {
            let wrong = site.guesses.add(address);
            warn!(%address, wrong, "somebody tried a token of the console that nobody has");
            refused(StatusCode::UNAUTHORIZED, "Nobody has this token.".to_owned())
        }
    }
}

pub(super) async fn sign_out(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    headers: HeaderMap,
    Form(SignOut { csrf }): Form<SignOut>,
) -> Page {
    person.sent(&csrf)?;
    site.access.sign_out(&person);
    let cookie = site.access.set_cookie(None, site.access.is_secure(&headers, from.ip()));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/sign-in")).into_response())
}

/// The path and query of a request, for the way back after signing in.
fn way_back(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(own("/o/shop.outbox/events?state=dead"), "/o/shop.outbox/events?state=dead");
        for other in ["//evil", "https://evil", "/\\evil", "", "evil", "/a\r\nb"] {
            assert_eq!(own(other), "/", "{other:?}");
        }
    }
}

//! The services as their users see them: requests over HTTP, again and again while a service is
//! away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ticketing::failure::Failure;
use ticketing::messages::{OrderMessage, PaymentMessage, TicketMessage};
use tokio::time::{Instant, sleep};

use crate::stage::Urls;

/// How long a request may take. A service gives up after 15 s.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// How long a service that doesn't answer is tried again: it may have been killed and be started
/// again, and the record of a transaction that was under way then stays locked until MongoDB ends
/// that transaction, after 60 to 90 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Wait before a service that didn't answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A client of all services.
pub(crate) struct Api {
    http: reqwest::Client,
    urls: Urls,
    interrupted: AtomicU64,
}

/// Someone who signed up.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct User {
    token: String,
}

/// What a service said.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Done(T),
    Refused(StatusCode, String),
}

impl<T> Answer<T> {
    /// What was asked for; anything else is a failure.
    pub(crate) fn done(self) -> Result<T, Failure> {
        match self {
            Self::Done(done) => Ok(done),
            Self::Refused(status, message) => {
                Err(format!("a request was refused: {status} {message}").into())
            }
        }
    }
}

impl Api {
    pub(crate) fn new(urls: &Urls) -> Result<Self, Failure> {
        // TLS is compiled in and wants one chosen; an error only says that it is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            http: reqwest::Client::builder().timeout(REQUEST_TIME).no_proxy().build()?,
            urls: urls.clone(),
            interrupted: AtomicU64::new(0),
        })
    }

    pub(crate) async fn sign_up(&self, email: &str) -> Result<User, Failure> {
        let body = json!({ "email": email, "password": format!("password of {email}") });
        let url = self.url("auth", "/api/users/signup");
        self.send(None, Method::POST, url, Some(body)).await?.done()
    }

    pub(crate) async fn create(
        &self,
        seller: &User,
        title: &str,
        price: f64,
    ) -> Result<TicketMessage, Failure> {
        let body = json!({ "title": title, "price": price });
        let url = self.url("tickets", "/api/tickets");
        self.send(Some(seller), Method::POST, url, Some(body)).await?.done()
    }

    /// Sets the price of a ticket in exactly the version that was seen.
    pub(crate) async fn edit(
        &self,
        seller: &User,
        ticket: &TicketMessage,
        price: f64,
    ) -> Result<Answer<TicketMessage>, Failure> {
        let body = json!({ "title": ticket.title, "price": price, "version": ticket.version });
        let url = self.url("tickets", &format!("/api/tickets/{}", ticket.id));
        self.send(Some(seller), Method::PUT, url, Some(body)).await
    }

    pub(crate) async fn ticket(&self, id: ObjectId) -> Result<TicketMessage, Failure> {
        let url = self.url("tickets", &format!("/api/tickets/{id}"));
        self.send(None, Method::GET, url, None).await?.done()
    }

    pub(crate) async fn order(
        &self,
        buyer: &User,
        ticket: ObjectId,
    ) -> Result<Answer<OrderMessage>, Failure> {
        let body = json!({ "ticketId": ticket.to_hex() });
        let url = self.url("orders", "/api/orders");
        self.send(Some(buyer), Method::POST, url, Some(body)).await
    }

    pub(crate) async fn cancel(
        &self,
        buyer: &User,
        order: ObjectId,
    ) -> Result<Answer<OrderMessage>, Failure> {
        let url = self.url("orders", &format!("/api/orders/{order}"));
        self.send(Some(buyer), Method::DELETE, url, None).await
    }

    pub(crate) async fn order_now(
        &self,
        buyer: &User,
        order: ObjectId,
    ) -> Result<OrderMessage, Failure> {
        let url = self.url("orders", &format!("/api/orders/{order}"));
        self.send(Some(buyer), Method::GET, url, None).await?.done()
    }

    pub(crate) async fn pay(
        &self,
        buyer: &User,
        order: ObjectId,
        token: &str,
    ) -> Result<Answer<PaymentMessage>, Failure> {
        let body = json!({ "orderId": order.to_hex(), "token": token });
        let url = self.url("payments", "/api/payments");
        self.send(Some(buyer), Method::POST, url, Some(body)).await
    }

    /// Requests that got no answer and were sent again.
    pub(crate) fn interrupted(&self) -> u64 {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn url(&self, service: &str, path: &str) -> String {
        format!("{}{path}", self.urls.get(service).map_or("", String::as_str))
    }

    /// Sends a request; again if no service answers.
    async fn send<T: DeserializeOwned>(
        &self,
        user: Option<&User>,
        method: Method,
        url: String,
        body: Option<Value>,
    ) -> Result<Answer<T>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match self.once(user, method.clone(), &url, body.as_ref()).await {
                Ok(Answer::Refused(status, message)) if status.is_server_error() => {
                    format!("{status} {message}").into()
                }
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };

            if Instant::now() > deadline {
                return Err(
                    format!("{method} {url} had no answer in {PATIENCE:?}: {failure}").into()
                );
            }

            self.interrupted.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
    }

    async fn once<T: DeserializeOwned>(
        &self,
        user: Option<&User>,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.http.request(method, url);
        if let Some(user) = user {
            request = request.bearer_auth(&user.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }

        let response = request.send().await?;
        let status = response.status();
        let body: Value = response.json().await?;

        if !status.is_success() {
            return Ok(Answer::Refused(status, body.to_string()));
        }

        Ok(Answer::Done(serde_json::from_value(body)?))
    }
}

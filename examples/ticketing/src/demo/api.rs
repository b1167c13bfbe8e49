//! The services as their users see them: requests over HTTP, again and again while a service is
//! away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ticketing::failure::Failure;
use ticketing::messages::{OrderMessage, TicketMessage};
use ticketing::token::Signer;
use tokio::time::{Instant, sleep};

use crate::stage::Stage;

/// How long a request may take. A service gives up after 15 s.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// How long a service that doesn't answer is tried again: it may have been killed and be started
/// again, and the record of a transaction that was under way then stays locked until MongoDB ends
/// that transaction, after 60 to 90 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Wait before a service that didn't answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A client of both services.
pub(crate) struct Api {
    http: reqwest::Client,
    tickets: String,
    orders: String,
    seller: String,
    buyer: String,
    interrupted: AtomicU64,
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
    pub(crate) fn new(stage: &Stage) -> Result<Self, Failure> {
        // TLS is compiled in and wants one chosen; an error only says that it is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            http: reqwest::Client::builder().timeout(REQUEST_TIME).no_proxy().build()?,
            tickets: format!("{}/api/tickets", stage.tickets_url),
            orders: format!("{}/api/orders", stage.orders_url),
            seller: Signer::new(&stage.jwt_key).sign("seller")?,
            buyer: Signer::new(&stage.jwt_key).sign("buyer")?,
            interrupted: AtomicU64::new(0),
        })
    }

    pub(crate) async fn create(&self, title: &str, price: f64) -> Result<TicketMessage, Failure> {
        let body = json!({ "title": title, "price": price });
        let ticket: TicketMessage =
            self.send(Method::POST, self.tickets.clone(), Some(body)).await?.done()?;
        Ok(ticket)
    }

    /// Sets the price of a ticket in exactly the version that was seen.
    pub(crate) async fn edit(
        &self,
        ticket: &TicketMessage,
        price: f64,
    ) -> Result<Answer<TicketMessage>, Failure> {
        let body = json!({ "title": ticket.title, "price": price, "version": ticket.version });
        self.send(Method::PUT, format!("{}/{}", self.tickets, ticket.id), Some(body)).await
    }

    pub(crate) async fn ticket(&self, id: ObjectId) -> Result<TicketMessage, Failure> {
        self.send(Method::GET, format!("{}/{id}", self.tickets), None).await?.done()
    }

    pub(crate) async fn order(&self, ticket: ObjectId) -> Result<Answer<OrderMessage>, Failure> {
        self.send(Method::POST, self.orders.clone(), Some(json!({ "ticketId": ticket.to_hex() })))
            .await
    }

    pub(crate) async fn cancel(&self, order: ObjectId) -> Result<OrderMessage, Failure> {
        self.send(Method::DELETE, format!("{}/{order}", self.orders), None).await?.done()
    }

    /// Requests that got no answer and were sent again.
    pub(crate) fn interrupted(&self) -> u64 {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Sends a request; again if no service answers.
    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        url: String,
        body: Option<Value>,
    ) -> Result<Answer<T>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match self.once(method.clone(), &url, body.as_ref()).await {
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
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        let user = if url.starts_with(&self.orders) { &self.buyer } else { &self.seller };
        let mut request = self.http.request(method, url).bearer_auth(user);
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

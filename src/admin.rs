//! What the relay tells over HTTP, to whoever may ask.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /livez` | 200 while the relay's loop turns, else 503: start it again |
//! | `GET /readyz` | 200 while it can deliver or stands by, else 503; each part as JSON |
//! | `GET /metrics` | every metric, as Prometheus' text |
//! | `GET /status` | what `outboxd stats` shows, as JSON |
//!
//! Listens on loopback unless told otherwise, and elsewhere only with a token. All but `/status`
//! ask nobody, so they answer while everything else is stuck; `/status` asks MongoDB, for a few
//! seconds at most. Connections are bounded in number, time and bytes, and bring one request each;
//! a body is never read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result, mongodb_reason};
use crate::mongodb::inspect::Inspect;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// How long `/status` waits for MongoDB.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take, from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Connections at once; more wait until one of them is done. Probes and a scraper or two need a
/// handful.
const MAX_CONNECTIONS: usize = 64;
/// Longest request line and headers together.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Wait after the system had no connection to give: it is out of descriptors, as a rule.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// What of the endpoint follows the configuration while it listens.
#[derive(Debug)]
pub(crate) struct Endpoint(watch::Sender<Secrets>);

/// Whom it asks, and what a request must bring.
#[derive(Debug)]
struct Secrets {
    inspect: Inspect,
    token: Option<SecretString>,
}

impl Secrets {
    async fn of(config: &Config) -> Result<Self> {
        let inspect = Inspect::new(&config.mongodb.client("admin").await?, config);
        Ok(Self { inspect, token: config.admin.token.clone() })
    }
}

impl Endpoint {
    /// Goes over to the secrets of another configuration; its address stays.
    ///
    /// # Errors
    /// [`ErrorKind::Mongodb`] when its connection string can't be used.
    pub(crate) async fn follow(&self, config: &Config) -> Result<()> {
        self.0.send_replace(Secrets::of(config).await?);
        Ok(())
    }
}

/// Begins to answer. An address that nobody asked for may be taken: then there is no endpoint.
///
/// # Errors
/// [`ErrorKind::Config`] when the address that was asked for can't be listened on.
pub(crate) async fn start(
    config: &Config,
    metrics: Registry,
    health: Arc<Health>,
) -> Result<Endpoint> {
    let (follows, secrets) = watch::channel(Secrets::of(config).await?);
    let (endpoint, config) = (Endpoint(follows), &config.admin);
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener,
        Err(error) if config.listen_given => {
            let message =
                format!("admin.listen {} can't be listened on; name another", config.listen);
            return Err(Error::with_source(ErrorKind::Config, message, error));
        }
        Err(error) => {
            warn!(%error, listen = %config.listen, "there is no admin endpoint; set admin.listen to an address that is free");
            return Ok(endpoint);
        }
    };
    let address = listener.local_addr().unwrap_or(config.listen);
    info!(%address, "the admin endpoint listens");
    tokio::spawn(serve(listener, router(Told { metrics, health, secrets })));
    Ok(endpoint)
}

/// Answers one request per connection, for as long as the process lives.
async fn serve(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    // Without keep-alive no connection is idle, and one that takes long is cut without harm.
    http.http1().keep_alive(false).max_buf_size(MAX_REQUEST_BYTES);
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the admin endpoint can't take a connection");
                tokio::time::sleep(ACCEPT_WAIT).await;
                continue;
            }
        };
        let (http, service) = (http.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let connection = http.serve_connection(TokioIo::new(stream), service);
            if !matches!(tokio::time::timeout(CONNECTION_TIME, connection).await, Ok(Ok(()))) {
                debug!("a client of the admin endpoint hung up or took too long");
            }
            drop(slot);
        });
    }
}

/// What is told.
#[derive(Clone)]
struct Told {
    metrics: Registry,
    health: Arc<Health>,
    secrets: watch::Receiver<Secrets>,
}

fn router(told: Told) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(told): State<Told>| told.metrics.render()))
        .route("/status", get(status))
        .layer(from_fn_with_state(told.clone(), require_token))
        .with_state(told)
}

fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn livez(State(told): State<Told>) -> (StatusCode, &'static str) {
    let alive = told.health.is_alive();
    (
        code(alive),
        if alive { "ok\n" } else { "the relay's loop has not turned for half a minute\n" },
    )
}

async fn readyz(State(told): State<Told>) -> Response {
    let ready = told.health.ready();
    (code(ready.ready), Json(ready)).into_response()
}

async fn status(State(told): State<Told>) -> Response {
    // In a task of its own: a command whose future is dropped costs its connection.
    let inspect = told.secrets.borrow().inspect.clone();
    let stats = tokio::spawn(async move { inspect.stats().await });
    match tokio::time::timeout(STATUS_TIME, stats).await {
        Ok(Ok(Ok(stats))) => Json(stats).into_response(),
        Ok(Ok(Err(error))) => {
            (code(false), format!("MongoDB: {}\n", mongodb_reason(&error))).into_response()
        }
        Ok(Err(_)) | Err(_) => (code(false), "MongoDB does not answer\n").into_response(),
    }
}

async fn require_token(State(told): State<Told>, request: Request, next: Next) -> Response {
    let token = told.secrets.borrow().token.clone();
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let right = token.is_none_or(|token| {
        let wanted = format!("Bearer {}", token.expose_secret());
        // Digests, so that how long the comparison takes says nothing about the token.
        given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(wanted))
    });
    match right {
        true => next.run(request).await,
        false => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response(),
    }
}

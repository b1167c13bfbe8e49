//! The admin endpoint: what a daemon reports over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /livez` | 200 while the relay's loop turns, else 503: restart it |
//! | `GET /readyz` | 200 while the relay can deliver or stands by, else 503; each part as JSON |
//! | `GET /metrics` | every metric, in the text format of Prometheus |
//! | `GET /status` | what `outboxd stats` shows, as JSON |
//!
//! The endpoint listens on loopback by default, and on other addresses only with a token. Only
//! `/status` asks another server, MongoDB, and gives up after a few seconds; the other paths answer
//! while everything else is stuck. Connections are limited in number, time and bytes, and carry one
//! request each; a body is never read.

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
use mongodb::Client;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use crate::config::{Config, MongodbConfig};
use crate::error::{Error, ErrorKind, Result, mongodb_reason};
use crate::mongodb::inspect::Inspect;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// How long `/status` waits for MongoDB.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take, from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Connections at once; more connections wait. Probes and a scraper or two need a handful.
const MAX_CONNECTIONS: usize = 64;
/// Longest request line and headers together.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Wait after a connection could not be accepted, usually because the process has no file
/// descriptor left.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// A started endpoint. Its secrets follow the configuration; its address stays.
#[derive(Debug)]
pub(crate) struct Endpoint(watch::Sender<Secrets>);

/// What changes when secrets are rotated: the connection to MongoDB and the token of requests.
#[derive(Debug)]
struct Secrets {
    /// Nothing until MongoDB was reached.
    inspect: Option<Inspect>,
    token: Option<SecretString>,
}

impl Endpoint {
    /// Changes to the secrets of a configuration, and to a connection to its MongoDB.
    pub(crate) fn follow(&self, config: &Config, client: &Client) {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let database = client.database(database);
        let inspect = Inspect::new(database, collection, config.event.layout.clone());
        let token = config.admin.token.clone();
        self.0.send_replace(Secrets { inspect: Some(inspect), token });
    }
}

/// Starts to answer. When the default address is taken, the daemon runs without an endpoint.
///
/// # Errors
/// [`ErrorKind::Config`] when an address from the settings cannot be listened on.
pub(crate) async fn start(
    config: &Config,
    registry: Registry,
    health: Arc<Health>,
) -> Result<Endpoint> {
    let unreached = Secrets { inspect: None, token: config.admin.token.clone() };
    let (follows, secrets) = watch::channel(unreached);
    let (endpoint, config) = (Endpoint(follows), &config.admin);
    let listen = *config.listen.get();

    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) if config.listen.set().is_some() => {
            let message = format!("admin.listen {listen} can't be listened on; name another");
            return Err(Error::with_source(ErrorKind::Config, message, error));
        }
        Err(error) => {
            warn!(
                %error,
                %listen,
                "no admin endpoint; set admin.listen to an address that is free"
            );
            return Ok(endpoint);
        }
    };

    let address = listener.local_addr().unwrap_or(listen);
    info!(%address, "the admin endpoint listens");
    tokio::spawn(serve(listener, router(Shared { registry, health, secrets })));

    Ok(endpoint)
}

/// Answers one request per connection, for as long as the process lives.
async fn serve(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    // Without keep-alive no connection is idle, so cutting a slow one loses nothing.
    http.http1().keep_alive(false).max_buf_size(MAX_REQUEST_BYTES);

    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the admin endpoint cannot accept a connection");
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

/// The state that every handler shares.
#[derive(Clone)]
struct Shared {
    registry: Registry,
    health: Arc<Health>,
    secrets: watch::Receiver<Secrets>,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .layer(from_fn_with_state(shared.clone(), require_token))
        .with_state(shared)
}

fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn livez(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    let alive = shared.health.is_alive();
    (
        code(alive),
        if alive { "ok\n" } else { "the relay's loop has not turned for half a minute\n" },
    )
}

async fn metrics(State(shared): State<Shared>) -> String {
    shared.registry.render()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let ready = shared.health.ready();
    (code(ready.ready), Json(ready)).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    // In a task of its own: dropping the future of a command costs its connection.
    let Some(inspect) = shared.secrets.borrow().inspect.clone() else {
        return (code(false), "MongoDB has not been reached yet\n").into_response();
    };
    let stats = tokio::spawn(async move { inspect.stats().await });

    match tokio::time::timeout(STATUS_TIME, stats).await {
        Ok(Ok(Ok(stats))) => Json(stats).into_response(),
        Ok(Ok(Err(error))) => {
            (code(false), format!("MongoDB: {}\n", mongodb_reason(&error))).into_response()
        }
        Ok(Err(_)) | Err(_) => (code(false), "MongoDB does not answer\n").into_response(),
    }
}

async fn require_token(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let token = shared.secrets.borrow().token.clone();
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let allowed = token.is_none_or(|token| {
        let wanted = format!("Bearer {}", token.expose_secret());
        // Digests are compared, so that the time it takes reveals nothing about the token.
        given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(wanted))
    });

    match allowed {
        true => next.run(request).await,
        false => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response(),
    }
}

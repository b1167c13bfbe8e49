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
//! request each; a body is never read. A client that is slow is cut off and keeps nobody waiting.

mod connections;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::io::ErrorKind as ErrorKindOfIo;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mongodb::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::connections::Connections;
use crate::config::{Config, MongodbConfig};
use crate::error::{Error, ErrorKind, Result, mongodb_reason};
use crate::mongodb::inspect::Inspect;
use crate::printable::{printable, printable_json};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// How long `/status` waits for MongoDB.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take, from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send its request. Probes send it with the connection.
const HEADER_TIME: Duration = Duration::from_secs(2);
/// A client that hung up before its connection was accepted.
const GONE: [ErrorKindOfIo; 3] =
    [ErrorKindOfIo::ConnectionAborted, ErrorKindOfIo::ConnectionReset, ErrorKindOfIo::Interrupted];
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
            let message = format!("admin.listen {listen} can't be listened on; set another");
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
    let (connections, http) = (Connections::default(), http());

    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has gone again.
            Err(error) if GONE.contains(&error.kind()) => continue,
            Err(error) => {
                warn!(%error, "the admin endpoint cannot accept a connection");
                if !connections.cut_one() {
                    tokio::time::sleep(ACCEPT_WAIT).await;
                }
                tokio::task::yield_now().await;
                continue;
            }
        };

        let place = connections.enter(from.ip());
        let number = place.number();
        let (http, service) = (http.clone(), TowerToHyperService::new(router.clone()));
        let task = tokio::spawn(async move {
            let connection = http.serve_connection(TokioIo::new(stream), service);
            if !matches!(tokio::time::timeout(CONNECTION_TIME, connection).await, Ok(Ok(()))) {
                debug!("a client of the admin endpoint hung up or took too long");
            }
            drop(place);
        });
        connections.serve(number, task.abort_handle());

        // In a flood, what was taken is served before more is taken.
        tokio::task::yield_now().await;
    }
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    // Without keep-alive no connection is idle, so cutting a slow one loses nothing.
    http.http1().keep_alive(false).max_buf_size(MAX_REQUEST_BYTES);
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    http
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
    (code(alive), if alive { "ok\n" } else { "the relay's main loop has not run for 30 seconds\n" })
}

async fn metrics(State(shared): State<Shared>) -> String {
    shared.registry.render()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let ready = shared.health.ready();
    (code(ready.ready), json(&ready)).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    // In a task of its own: dropping the future of a command costs its connection.
    let Some(inspect) = shared.secrets.borrow().inspect.clone() else {
        return (code(false), "MongoDB has not been reached yet\n").into_response();
    };
    let stats = tokio::spawn(async move { inspect.stats().await });

    match tokio::time::timeout(STATUS_TIME, stats).await {
        Ok(Ok(Ok(stats))) => json(&stats),
        Ok(Ok(Err(error))) => {
            let reason = printable(&mongodb_reason(&error));
            (code(false), format!("MongoDB: {reason}\n")).into_response()
        }
        Ok(Err(_)) | Err(_) => (code(false), "MongoDB does not answer\n").into_response(),
    }
}

/// As JSON that a terminal can show.
fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(json) => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (kind, printable_json(&json)).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
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

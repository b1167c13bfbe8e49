//! The admin endpoint: what a daemon reports over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /livez` | 200 while the relay's loop turns, else 503: restart it |
//! | `GET /readyz` | 200 while the relay can deliver or stands by, else 503; each part as JSON |
//! | `GET /metrics` | every metric, in the text format of Prometheus |
//! | `GET /status` | what `outboxd stats` shows, as JSON |
//!
//! In a fleet, `/readyz` and `/status` have an entry for each outbox, and one outbox that can't
//! deliver doesn't make the process unready; `/status?outbox=shop.outbox` asks for one alone.
//!
//! The endpoint listens on loopback by default, and on other addresses only with a token. Only
//! `/status` asks another server, MongoDB, and gives up after a few seconds; the other paths answer
//! while everything else is stuck. Connections are limited in number, time and bytes, and carry one
//! request each; a body is never read. A client that is slow is cut off and keeps nobody waiting.

mod board;
pub(crate) mod connections;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::io::ErrorKind as ErrorKindOfIo;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mongodb::Client;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tracing::{debug, info, warn};

use self::board::Board;
use self::connections::Connections;
use crate::config::{AdminConfig, Config, MongodbConfig};
use crate::error::{Error, ErrorKind, Result, mongodb_reason};
use crate::mongodb::inspect::Inspect;
use crate::mongodb::stats::Stats;
use crate::printable::{printable, printable_json};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// How long `/status` waits for MongoDB.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// Outboxes of a fleet that `/status` asks about at once.
const STATUS_AT_ONCE: usize = 8;
/// Connections at once. Probes and a scraper or two need a handful; as many again as a common limit
/// of 1,024 file descriptors leaves room for. Each costs at most a request's 16 KiB.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take, from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send its request. Probes send it with the connection.
const HEADER_TIME: Duration = Duration::from_secs(2);
/// A client that hung up before its connection was accepted.
pub(crate) const GONE: [ErrorKindOfIo; 3] =
    [ErrorKindOfIo::ConnectionAborted, ErrorKindOfIo::ConnectionReset, ErrorKindOfIo::Interrupted];
/// Longest request line and headers together.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Wait after a connection could not be accepted, usually because the process has no file
/// descriptor left.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// A started endpoint. What it reports and its secrets follow the outboxes; its address stays.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint(Board);

impl Endpoint {
    /// Reports about this outbox from now on.
    pub(crate) fn add(&self, outbox: &str, health: Arc<Health>) {
        self.0.add(outbox, health);
    }

    /// Reports about this outbox no more.
    pub(crate) fn remove(&self, outbox: &str) {
        self.0.remove(outbox);
    }

    /// Changes to the secrets of a configuration, and to a connection to its MongoDB.
    pub(crate) fn follow(&self, config: &Config, client: &Client) {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let database = client.database(database);
        let inspect = Inspect::new(database, collection, config.event.layout.clone());
        self.0.reached(&config.outbox(), inspect);
        self.0.set_token(config.admin.token.clone());
    }
}

/// Starts to answer. When the default address is taken, the daemon runs without an endpoint.
///
/// # Errors
/// [`ErrorKind::Config`] when an address from the settings cannot be listened on.
pub(crate) async fn start(
    config: &AdminConfig,
    registry: Registry,
    is_fleet: bool,
) -> Result<Endpoint> {
    let board = Board::new(config.token.clone(), is_fleet);
    let endpoint = Endpoint(board.clone());
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
    tokio::spawn(serve(listener, router(Shared { registry, board })));

    Ok(endpoint)
}

/// Answers one request per connection, for as long as the process lives.
async fn serve(listener: TcpListener, router: Router) {
    let (connections, http) = (Connections::new(MAX_CONNECTIONS), http());

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
    board: Board,
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
    let alive = shared.board.is_alive();
    (code(alive), if alive { "ok\n" } else { "the relay's main loop has not run for 30 seconds\n" })
}

async fn metrics(State(shared): State<Shared>) -> String {
    shared.registry.render()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.board.readiness();
    (code(readiness.is_ready()), json(&readiness)).into_response()
}

/// The outbox that a request asks for.
fn wanted(uri: &Uri) -> Option<String> {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let name = pairs.find_map(|pair| pair.strip_prefix("outbox="))?;
    Some(percent_decode_str(name).decode_utf8_lossy().into_owned())
}

/// The answer about one outbox of a fleet.
#[derive(Debug, Serialize)]
struct Status {
    outbox: String,
    #[serde(flatten)]
    stats: Option<Stats>,
    /// Why there are no numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn status(State(shared): State<Shared>, uri: Uri) -> Response {
    let (wanted, mut outboxes) = (wanted(&uri), shared.board.outboxes());
    if let Some(wanted) = &wanted {
        outboxes.retain(|(name, _)| name == wanted);
    }

    let is_one = wanted.is_some() || !shared.board.is_fleet();
    match (is_one, outboxes.pop()) {
        (true, None) => (StatusCode::NOT_FOUND, "no such outbox\n").into_response(),
        (true, Some((_, outbox))) => match stats(outbox.inspect).await {
            Ok(stats) => json(&stats),
            Err(reason) => (code(false), reason + "\n").into_response(),
        },
        (false, last) => {
            outboxes.extend(last);
            let all = outboxes.into_iter().map(|(outbox, of)| async {
                match stats(of.inspect).await {
                    Ok(stats) => Status { outbox, stats: Some(stats), error: None },
                    Err(error) => Status { outbox, stats: None, error: Some(error) },
                }
            });
            // A few at a time: a thousand questions at once would keep the relays waiting.
            let all = stream::iter(all).buffered(STATUS_AT_ONCE);
            json(&all.collect::<Vec<_>>().await)
        }
    }
}

/// The numbers of an outbox, or why there are none.
async fn stats(inspect: Option<Inspect>) -> std::result::Result<Stats, String> {
    // In a task of its own: dropping the future of a command costs its connection.
    let inspect = inspect.ok_or("MongoDB has not been reached yet")?;
    let stats = tokio::spawn(async move { inspect.stats().await });

    match tokio::time::timeout(STATUS_TIME, stats).await {
        Ok(Ok(Ok(stats))) => Ok(stats),
        Ok(Ok(Err(error))) => Err(format!("MongoDB: {}", printable(&mongodb_reason(&error)))),
        Ok(Err(_)) | Err(_) => Err("MongoDB does not answer".to_owned()),
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
    let token = shared.board.token();
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

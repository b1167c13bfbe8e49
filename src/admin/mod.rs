//! What the relay tells over HTTP, to whoever may ask.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /metrics` | every metric, as Prometheus' text |
//!
//! Listens on loopback unless told otherwise, and elsewhere only with a token. It asks no database and no broker, so it
//! answers while the pipeline is stuck.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::config::AdminConfig;
use crate::error::{Error, ErrorKind, Result};

/// Begins to answer. An address that nobody asked for may be taken: then there is no endpoint.
///
/// # Errors
/// [`ErrorKind::Config`] when the address that was asked for can't be listened on.
pub async fn start(config: &AdminConfig, metrics: PrometheusHandle) -> Result<()> {
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener,
        Err(error) if config.listen_given => {
            let message = format!("admin.listen {} can't be listened on; name another", config.listen);
            return Err(Error::with_source(ErrorKind::Config, message, error));
        }
        Err(error) => {
            warn!(%error, listen = %config.listen, "there is no admin endpoint; set admin.listen to an address that is free");
            return Ok(());
        }
    };
    let address = listener.local_addr().unwrap_or(config.listen);
    info!(%address, "the admin endpoint listens");
    let router = router(metrics, config.token.clone());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "the admin endpoint has ended");
        }
    });
    Ok(())
}

/// Whether an endpoint there needs a token.
pub(crate) fn needs_token(listen: SocketAddr) -> bool {
    !listen.ip().is_loopback()
}

fn router(metrics: PrometheusHandle, token: Option<SecretString>) -> Router {
    Router::new()
        .route("/metrics", get(async |State(metrics): State<PrometheusHandle>| metrics.render()))
        .with_state(metrics)
        .layer(from_fn_with_state(token, require_token))
}

async fn require_token(State(token): State<Option<SecretString>>, request: Request, next: Next) -> Response {
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

//! Connections, TLS, and the headers of every answer.
//!
//! Connections are limited in number, and so is the time for a handshake, a request's headers and
//! its body. A stream of a page lasts as long as the page is open.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::pages;
use super::site::Site;
use crate::config::ConsoleConfig;
use crate::error::{Error, ErrorKind, Result};

/// Connections at once: a thousand open pages and room for their requests. Each takes one file
/// descriptor and some kilobytes.
const MAX_CONNECTIONS: usize = 2048;
/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's headers; an idle connection ends after that.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Longest wait for a page, the body of its request included. The slowest read has two minutes.
const PAGE_TIME: Duration = Duration::from_secs(150);
/// Longest form.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Longest request line and headers together.
const MAX_REQUEST_BYTES: usize = 32 << 10;
/// Wait after a connection could not be accepted.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);
/// Nothing but the console's own style sheet, script and stream; no frame, no other site.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; \
    base-uri 'none'";

/// Listens, and serves until `stop`. Returns the address of the first page.
///
/// # Errors
/// [`ErrorKind::Config`] when the address or the certificate can't be used.
pub(super) async fn start(
    site: Arc<Site>,
    config: &ConsoleConfig,
    stop: &CancellationToken,
) -> Result<String> {
    let acceptor = config.tls.as_ref().map(|(cert, key)| acceptor(cert, key)).transpose()?;
    let listen = config.address();
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        let message = format!("console.listen {listen} can't be listened on; name another");
        Error::with_source(ErrorKind::Config, message, error)
    })?;

    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap_or(listen));
    let router =
        pages::router(site).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).layer(from_fn(protect));
    tokio::spawn(serve(listener, acceptor, router, stop.clone()));
    Ok(url)
}

fn acceptor(cert: &str, key: &str) -> Result<TlsAcceptor> {
    let unusable = |error: String| {
        let message = format!("console.tls_cert {cert} can't be used: {error}");
        Error::new(ErrorKind::Config, message)
    };

    let chain = CertificateDer::pem_file_iter(Path::new(cert))
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(error.to_string()))?;

    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| unusable(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };

        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "the console cannot accept a connection");
                sleep(ACCEPT_WAIT).await;
                continue;
            }
        };

        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(most = MAX_CONNECTIONS, "the console has no room for another connection");
            continue;
        };

        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            let served = async {
                match acceptor {
                    None => converse(stream, from, router).await,
                    Some(acceptor) => {
                        if let Ok(Ok(stream)) =
                            timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await
                        {
                            converse(stream, from, router).await;
                        }
                    }
                }
            };

            tokio::select! {
                () = stop.cancelled() => {}
                () = served => {}
            }

            drop(place);
        });
    }
}

/// Serves one connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: SocketAddr,
    router: Router,
) {
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().max_buf_size(MAX_REQUEST_BYTES);
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);

    let router = router.layer(axum::Extension(ConnectInfo(from)));
    let service = TowerToHyperService::new(router);
    if http.serve_connection(TokioIo::new(stream), service).await.is_err() {
        debug!("a browser hung up or took too long");
    }
}

/// Bounds the time of every answer, and sets its headers.
async fn protect(request: Request, next: Next) -> Response {
    let mut response = match timeout(PAGE_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => pages::too_slow(),
    };

    let headers = response.headers_mut();

    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }

    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }

    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

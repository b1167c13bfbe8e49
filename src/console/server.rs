//! Connections, TLS, and the headers of every answer.
//!
//! Connections are limited in number: the next one cuts off the oldest of the address that has most,
//! whose page connects again. Limited is also the time for a handshake, a request's headers and
//! its body. A stream of a page lasts as long as the page is open.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, StatusCode, header};
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
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::pages;
use super::site::Site;
use crate::admin::GONE;
use crate::admin::connections::Connections;
use crate::config::{ConsoleConfig, ProxyConfig};
use crate::error::{Error, ErrorKind, Result};

/// Connections at once: a thousand open pages and room for their requests. At most this part of the
/// file descriptors: the relay, MongoDB's driver and the admin endpoint need theirs.
const MAX_CONNECTIONS: usize = 2048;
const PART_OF_FILES: usize = 4;
/// Where no limit can be read: that of most systems.
const USUAL_FILES: usize = 1024;
/// Between two lines of the log about connections that are cut off.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's headers; an idle connection ends after that.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest wait for a page. The slowest read has two minutes.
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
    let router = pages::router(site).layer(from_fn(protect));
    let who = acceptor.map_or_else(|| Takes::Trusted(config.proxy.clone()), Takes::Tls);
    tokio::spawn(serve(listener, who, router, stop.clone()));
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

/// Which connections the console takes.
#[derive(Clone)]
enum Takes {
    /// All, and each speaks TLS.
    Tls(TlsAcceptor),
    /// Without TLS those of this machine and of the proxy: others would send tokens in clear text.
    Trusted(Option<ProxyConfig>),
}

impl Takes {
    fn allows(&self, from: IpAddr) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Trusted(proxy) => {
                from.to_canonical().is_loopback()
                    || proxy.as_ref().is_some_and(|proxy| proxy.is_at(from))
            }
        }
    }
}

async fn serve(listener: TcpListener, takes: Takes, router: Router, stop: CancellationToken) {
    let most = most_connections(std::fs::read_to_string("/proc/self/limits").ok().as_deref());
    let (connections, mut warned) = (Connections::new(most), None::<Instant>);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };

        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if GONE.contains(&error.kind()) => continue,
            // Usually no file descriptor is left.
            Err(error) => {
                if is_time(&mut warned) {
                    warn!(%error, "the console cannot accept a connection");
                }
                if !connections.cut_one() {
                    sleep(ACCEPT_WAIT).await;
                }
                yield_now().await;
                continue;
            }
        };

        if !takes.allows(from.ip()) {
            let from = from.ip();
            debug!(%from, "the console takes no connection from there without TLS");
            continue;
        }

        if connections.is_full() && is_time(&mut warned) {
            warn!(most, "the console has too many connections, and cuts the oldest off");
        }

        let place = connections.enter(from.ip());
        let number = place.number();
        let (takes, router, stop) = (takes.clone(), router.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let served = async {
                match takes {
                    Takes::Trusted(_) => converse(stream, from, router).await,
                    Takes::Tls(acceptor) => {
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
        connections.serve(number, task.abort_handle());

        // In a flood, what was taken is served before more is taken.
        yield_now().await;
    }
}

/// Whether it is time for another line of the log, which then counts as written.
fn is_time(warned: &mut Option<Instant>) -> bool {
    let is_time = warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY);
    if is_time {
        *warned = Some(Instant::now());
    }

    is_time
}

/// Most connections at once with these limits of the process, in the form of `/proc`.
fn most_connections(limits: Option<&str>) -> usize {
    let mut lines = limits.unwrap_or_default().lines();
    let files = lines.find_map(|line| line.strip_prefix("Max open files"));
    let files = match files.and_then(|limits| limits.split_whitespace().next()) {
        Some("unlimited") => usize::MAX,
        files => files.and_then(|files| files.parse().ok()).unwrap_or(USUAL_FILES),
    };

    (files / PART_OF_FILES).clamp(1, MAX_CONNECTIONS)
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

/// Bounds the time of every answer and of the request's body, and sets the answer's headers.
async fn protect(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match timeout(BODY_TIME, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => {
            let request = Request::from_parts(head, body.into());
            let answered = timeout(PAGE_TIME, next.run(request)).await;
            answered.unwrap_or_else(|_| pages::too_slow())
        }
        Ok(Err(_)) => pages::not_read(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => pages::not_read(StatusCode::REQUEST_TIMEOUT),
    };

    let headers = response.headers_mut();

    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With no referrer at all, a form would come without its origin.
        (header::REFERRER_POLICY, "same-origin"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_the_proxy_and_this_machine_connect() {
        let [here, mapped, proxy, other] =
            ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "10.0.0.2"]
                .map(|address| address.parse::<IpAddr>().expect("an address"));
        let networks = vec![(proxy, 32)];
        let behind = ProxyConfig { header: "x-user".to_owned(), networks, operators: Vec::new() };
        let takes = Takes::Trusted(Some(behind));
        assert!([here, mapped, proxy].into_iter().all(|from| takes.allows(from)));
        assert!(!takes.allows(other) && !Takes::Trusted(None).allows(proxy));
    }

    #[test]
    fn connections_leave_most_file_descriptors_to_the_rest() {
        let of = |files: &str| {
            most_connections(Some(&format!("Max processes 7 7 processes\nMax open files {files}")))
        };
        assert_eq!(of("   1024                 524288               files"), 256);
        assert_eq!((of(" 524288 524288 files"), of(" unlimited unlimited files")), (2048, 2048));
        assert_eq!((of(" 3 3 files"), most_connections(None)), (1, 256));
    }
}

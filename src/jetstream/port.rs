//! What listens at an address that no connection came from, and what to set or correct for it.
//!
//! A client of NATS waits for the server's first line. A server that wants the TLS handshake first,
//! a load balancer that terminates TLS, another service and a server that hangs look alike then:
//! they say nothing. So the port is asked again, without credentials: by waiting, and by beginning a
//! TLS handshake. Only a first connection that failed pays for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use futures_util::future::join_all;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::NatsConfig;
use crate::driver_words::{TlsFault, other_port};

/// How long a port may take for its first bytes. nats-server sends its line at once, or 50 ms later
/// with `handshake_first: auto`.
const FIRST_BYTES: Duration = Duration::from_millis(1500);
/// The remedy for a port that is not nats-server's for clients.
const PORT: &str = "NATS_URL: correct the host or the port; the default port for clients is 4222";

/// Why the settings and what listens don't fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// About the address, such as "it says nothing".
    pub(crate) found: String,
    pub(crate) remedy: String,
    /// Whether TLS is to blame.
    pub(crate) is_tls: bool,
}

impl Misfit {
    fn new(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { found: found.into(), remedy: remedy.into(), is_tls: false }
    }

    fn of_tls(found: &str, remedy: &str) -> Self {
        Self { is_tls: true, ..Self::new(found, remedy) }
    }
}

/// What a port did.
enum Heard {
    /// The line of a nats-server.
    Nats,
    /// Nothing before a TLS handshake, and TLS then.
    Tls,
    Http,
    /// These bytes.
    Other(Vec<u8>),
    /// It closed the connection.
    End,
    Nothing,
    /// There was no connection.
    Unreachable(Unreachable),
}

enum Unreachable {
    Name(io::Error),
    NoAnswer,
    /// Another reason, such as a port that nobody listens at. The client's own error names it.
    Other,
}

/// What is wrong at the first address where something is. `why` is the text of the client's error.
/// `None` if the ports are as the settings say, or have nobody who listens.
pub(crate) async fn misfit(nats: &NatsConfig, why: &str) -> Option<Misfit> {
    if let Some(port) = other_port(why) {
        let found = format!("this is nats-server's port for {port}, not for clients");
        return Some(Misfit::new(found, PORT));
    }

    let servers = nats.servers()?;
    let asked = servers.iter().map(|server| listen(server, nats.connect_timeout));
    let heard = join_all(asked).await;
    servers.iter().zip(heard).find_map(|(server, heard)| heard.misfit(nats, server, why))
}

impl Heard {
    fn misfit(self, nats: &NatsConfig, server: &ServerAddr, why: &str) -> Option<Misfit> {
        let (host, port) = (server.host(), server.port());
        Some(match self {
            Self::Nats if nats.tls_first && TlsFault::of(why) == Some(TlsFault::Plaintext) => {
                Misfit::of_tls(
                    "it sends data before the TLS handshake, so nats.tls_first must be false",
                    "environment: OUTBOXD_NATS__TLS_FIRST=false",
                )
            }
            Self::Tls if !nats.tls_first => Misfit::of_tls(
                "it sends nothing before the TLS handshake, like a server with handshake_first, \
                 or a load balancer that terminates TLS",
                "environment: OUTBOXD_NATS__TLS_FIRST=true",
            ),
            Self::Nats | Self::Tls | Self::Unreachable(Unreachable::Other) => return None,
            Self::Http => Misfit::new(
                "it answers as a web server: this is the port of nats-server's monitoring or of \
                 its WebSockets, or another service",
                PORT,
            ),
            Self::Other(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let line: String =
                    text.lines().next().unwrap_or_default().chars().take(40).collect();
                Misfit::new(format!("it is not nats-server; it sent {line:?}"), PORT)
            }
            Self::End => Misfit::new(
                "it closes the connection at once, like a load balancer without a server",
                format!("$ systemctl status nats-server   # behind {host}:{port}, or\n{PORT}"),
            ),
            Self::Nothing => Misfit::new(
                "it accepts the connection and sends nothing, like another service, a load \
                 balancer without a server, or a server that hangs",
                format!("$ systemctl restart nats-server   # behind {host}:{port}, or\n{PORT}"),
            ),
            Self::Unreachable(Unreachable::Name(error)) => Misfit::new(
                format!("the name {host} can't be resolved: {error}"),
                format!("$ getent hosts {host}   # correct NATS_URL or the name service"),
            ),
            Self::Unreachable(Unreachable::NoAnswer) => Misfit::new(
                "no answer to the connection attempt, as with a firewall or an unused address",
                format!(
                    "$ nc -vz {host} {port}   # from this machine; correct NATS_URL or the firewall"
                ),
            ),
        })
    }
}

/// Connects, waits for the first bytes, and begins a TLS handshake where there are none.
async fn listen(server: &ServerAddr, within: Duration) -> Heard {
    let stream = match connect(server, within).await {
        Ok(stream) => stream,
        Err(unreachable) => return Heard::Unreachable(unreachable),
    };

    match first_bytes(stream, &[]).await {
        Some(bytes) => of_bytes(bytes),
        None => {
            let Some(hello) = hello(server.host()) else { return Heard::Nothing };
            let Ok(stream) = connect(server, within).await else { return Heard::Nothing };

            match first_bytes(stream, &hello).await {
                // A TLS record: a handshake or an alert.
                Some(bytes) if matches!(bytes[..], [0x15 | 0x16, 3, ..]) => Heard::Tls,
                Some(bytes) if bytes.starts_with(b"HTTP/") => Heard::Http,
                // What it makes of a handshake is no more than a sign that it lives.
                _ => Heard::Nothing,
            }
        }
    }
}

fn of_bytes(bytes: Vec<u8>) -> Heard {
    match &bytes[..] {
        [] => Heard::End,
        bytes if bytes.starts_with(b"INFO ") => Heard::Nats,
        bytes if bytes.starts_with(b"HTTP/") => Heard::Http,
        _ => Heard::Other(bytes),
    }
}

async fn connect(server: &ServerAddr, within: Duration) -> Result<TcpStream, Unreachable> {
    let address = (server.host(), server.port());
    let addresses: Vec<_> = match timeout(within, tokio::net::lookup_host(address)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Unreachable::Name(error)),
        Err(elapsed) => return Err(Unreachable::Name(elapsed.into())),
    };

    match timeout(within, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Unreachable::NoAnswer),
        Ok(Err(_)) => Err(Unreachable::Other),
        Err(_) => Err(Unreachable::NoAnswer),
    }
}

/// What comes first after these bytes were sent: nothing in time, or an empty text at the end of the
/// connection.
async fn first_bytes(mut stream: TcpStream, sent: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 256];
    let exchange = async {
        stream.write_all(sent).await?;
        stream.read(&mut bytes).await
    };
    let read = timeout(FIRST_BYTES, exchange).await.ok()?.unwrap_or(0);

    bytes.truncate(read);
    Some(bytes)
}

/// The first message of a TLS handshake with this host.
fn hello(host: &str) -> Option<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;

    let mut hello = Vec::new();
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}

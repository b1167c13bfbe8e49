//! `[nats]`: where events go, and the connection options with credentials and TLS.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use super::identity::{Credentials, TlsFiles};
use crate::config::reader::Reader;
use crate::config::setting::{millis, secs};
use crate::error::{Error, ErrorKind, Result};

/// `[nats]`
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// One or more server URLs, separated by commas.
    pub url: SecretString,
    /// Name of the connection and of the lease's holder: the pod's name.
    pub client_id: String,
    /// Whose JetStream has the stream.
    pub api: Api,
    /// How outboxd proves who it is.
    pub credentials: Credentials,
    /// The files for TLS.
    pub tls: TlsFiles,
    /// Whether the TLS handshake comes before anything that the server says.
    pub tls_first: bool,
    /// Prefix of the subjects that the server replies to.
    pub inbox_prefix: String,
    /// Whether outboxd also connects to servers that a server advertises.
    pub discovered_servers: DiscoveredServers,
    /// How long an attempt to connect to one address may take.
    pub connect_timeout: Duration,
    /// How often outboxd probes the connection. After two probes without an answer it is lost.
    pub ping_interval: Duration,
    /// How long one publish waits for its ack.
    pub ack_timeout: Duration,
    /// Which acks outboxd compares with the stored message.
    pub verify_acks: VerifyAcks,
    /// Whether several events of one key leave together.
    pub bursts: SendBursts,
}

/// Whose JetStream has the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Api {
    /// That of the server that outboxd connects to.
    Near,
    /// That of a JetStream domain.
    Domain(String),
    /// One whose API has subjects that begin like this, as another account's that is imported.
    Prefix(String),
}

/// Which acks outboxd compares with the stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyAcks {
    /// Those that can't be right, and every one after a sign of a forger.
    Suspicious,
    /// Every one.
    Always,
}

/// Whether several events of one key leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendBursts {
    /// Never: the next event of a key waits for the ack of the one before.
    Off,
    /// Where the stream keeps their order.
    Auto,
}

/// What outboxd does with the servers that a server advertises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveredServers {
    /// It connects to them, too.
    Use,
    /// It connects to those of the settings only.
    Ignore,
}

impl NatsConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, stream: &str) -> Self {
        let nats = Self {
            url: reader
                .setting(
                    "url",
                    "Servers, separated by commas. outboxd learns the other servers of a cluster \
                     from them. If one of the URLs begins with `tls://`, outboxd connects to every \
                     server with TLS only.",
                )
                .variables(&["NATS_URL"])
                .computed("nats://127.0.0.1:4222")
                .example("\"nats://host:4222\"")
                .secret()
                .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned().into()),
            client_id: reader
                .setting(
                    "client_id",
                    "Name of this relay: in its connection, in the lease and in failure entries. \
                     In Kubernetes, use the pod's name.",
                )
                .variables(&["NATS_CLIENT_ID"])
                .computed("outboxd-<process id>")
                .example("\"tickets-7d4b9\"")
                .or(format!("outboxd-{}", std::process::id())),
            api: Api::read(reader),
            credentials: Credentials::read(reader),
            tls: TlsFiles::read(reader),
            tls_first: reader
                .setting(
                    "tls_first",
                    "Whether outboxd begins every connection with the TLS handshake. Set it if the \
                     server has `handshake_first`, or if a load balancer in front of it terminates \
                     TLS: both send nothing before the handshake. Once it is set, outboxd connects \
                     with TLS only.",
                )
                .or(false),
            inbox_prefix: inbox_prefix(reader, stream),
            discovered_servers: reader
                .setting(
                    "discovered_servers",
                    "\"use\": outboxd also connects to the servers that a server advertises, so that \
                     one URL is enough for a cluster. \"ignore\": it connects to those in `url` \
                     only; for clusters that advertise addresses which outboxd can't reach.",
                )
                .one_of(&[
                    ("use", DiscoveredServers::Use),
                    ("ignore", DiscoveredServers::Ignore),
                ]),
            connect_timeout: reader
                .setting(
                    "connect_timeout",
                    "How long an attempt to connect to one address may take, TLS and credentials \
                     included. Every second attempt to reconnect goes to a server in `url`, so an \
                     advertised address that can't be reached delays a reconnection by at most \
                     this time plus 2 s.",
                )
                .within(secs(2), millis(100)..=secs(60)),
            ping_interval: reader
                .setting(
                    "ping_interval",
                    "How often outboxd probes the connection. After two probes without an answer \
                     the connection counts as lost. The client's own default of 60 s would take \
                     three minutes to notice a network that swallows packets.",
                )
                .within(secs(5), secs(1)..=secs(120)),
            ack_timeout: reader
                .setting(
                    "ack_timeout",
                    "How long one publish waits for its ack. Then outboxd publishes the event \
                     again with the same message id. The default is far above the milliseconds \
                     that an ack takes, and above the second or two of a leader election.",
                )
                .within(secs(5), millis(100)..=secs(60)),
            verify_acks: reader
                .setting(
                    "verify_acks",
                    "Which acks outboxd compares with the message that the stream has. \
                     \"suspicious\": those that contradict other acks or the stream, and every ack \
                     for an hour after a sign that somebody else answers. \"always\": every ack, \
                     for an account whose users may publish to the stream and can't be kept from \
                     answering publishes. It costs one read of the stream for each event.",
                )
                .one_of(&[
                    ("suspicious", VerifyAcks::Suspicious),
                    ("always", VerifyAcks::Always),
                ]),
            bursts: reader
                .setting(
                    "bursts",
                    "Whether waiting events of one key are published together, up to 64, instead of \
                     one after the ack of the other. \"auto\": where the stream keeps their order, \
                     which is on a single nats-server 2.12 or newer, and in a cluster of 2.12.1 or \
                     newer if the stream has allow_atomic. \"off\": never.",
                )
                .one_of(&[("off", SendBursts::Off), ("auto", SendBursts::Auto)]),
        };

        if nats.servers().is_none() {
            reader.mistake(
                "url",
                "is not one or more URLs such as nats://host:4222 or tls://host:4222, separated by commas",
            );
        }

        nats
    }

    /// What the subjects of JetStream's API begin with.
    pub(crate) fn api_prefix(&self) -> String {
        match &self.api {
            Api::Near => "$JS.API".to_owned(),
            Api::Domain(domain) => format!("$JS.{domain}.API"),
            Api::Prefix(prefix) => prefix.clone(),
        }
    }

    /// JetStream's API over this client. A request without an answer fails after `timeout`.
    pub(crate) fn context(&self, client: Client, timeout: Duration) -> Context {
        ContextBuilder::new().timeout(timeout).api_prefix(self.api_prefix()).build(client)
    }

    /// What a connection depends on, with the content of the files that it names, as a digest: who has
    /// the same can share one.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let Self { url, client_id, credentials, tls, tls_first, discovered_servers, .. } = self;
        let Credentials { creds, nkey, user, password, token } = credentials;

        let secrets = [Some(url), nkey.as_ref(), password.as_ref(), token.as_ref()];
        let secrets = secrets.map(|secret| secret.map(ExposeSecret::expose_secret));
        let paths = [creds, &tls.cert, &tls.key, &tls.ca];
        let files = paths.map(|path| path.as_ref().and_then(|path| std::fs::read(path).ok()));
        let times = (self.connect_timeout, self.ping_interval);

        let all = (secrets, client_id, user, paths, files, tls_first, discovered_servers, times);
        Sha256::digest(format!("{all:?}")).into()
    }

    /// The server addresses, or `None` when one isn't a URL.
    pub fn servers(&self) -> Option<Vec<ServerAddr>> {
        // The client would accept `wss`, too, and connect in plaintext.
        let known = |server: &ServerAddr| ["nats", "tls"].contains(&server.scheme());
        self.url
            .expose_secret()
            .split(',')
            .map(|url| url.trim().parse().ok().filter(known))
            .collect()
    }

    /// Host and port of each server, for people.
    pub(crate) fn addresses(&self) -> String {
        let servers = self.servers().unwrap_or_default();
        let addresses = servers.iter().map(|server| format!("{}:{}", server.host(), server.port()));
        addresses.collect::<Vec<_>>().join(", ")
    }

    /// User and password, or a token alone, of the first URL that has them.
    fn in_url(&self) -> Option<(String, Option<String>)> {
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let servers = self.servers()?;
        let server = servers.iter().find(|server| server.has_user_pass())?;
        Some((plain(server.username()?), server.password().map(plain)))
    }

    /// The user's name, if the settings have it. A token, an nkey and a JWT have none.
    pub(crate) fn user(&self) -> Option<String> {
        self.credentials.user.clone().or_else(|| {
            let (user, password) = self.in_url()?;
            password.map(|_| user)
        })
    }

    /// Connection options with the credentials and TLS of the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`] when the credentials file can't be read.
    pub async fn options(&self) -> Result<ConnectOptions> {
        let options = ConnectOptions::new()
            .name(&self.client_id)
            .custom_inbox_prefix(&self.inbox_prefix)
            .connection_timeout(self.connect_timeout)
            .ping_interval(self.ping_interval);

        let options = match self.discovered_servers {
            DiscoveredServers::Use => options,
            DiscoveredServers::Ignore => options.ignore_discovered_servers(),
        };
        let options = self.with_credentials(options).await?;
        Ok(self.with_tls(options))
    }

    async fn with_credentials(&self, mut options: ConnectOptions) -> Result<ConnectOptions> {
        let Credentials { creds, nkey, user, password, token } = &self.credentials;

        if let Some(path) = creds {
            options = options.credentials_file(path).await.map_err(|error| {
                Error::with_source(ErrorKind::Nats, format!("NATS: credentials file {path}"), error)
            })?;
        }

        if let Some(seed) = nkey {
            options = options.nkey(seed.expose_secret().to_owned());
        }

        if let (Some(user), Some(password)) = (user, password) {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        } else if let Some((user, password)) = self.in_url() {
            // Many people write `nats://user:password@host`, which the client ignores.
            options = match password {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }

        if let Some(token) = token {
            options = options.token(token.expose_secret().to_owned());
        }

        Ok(options)
    }

    fn with_tls(&self, mut options: ConnectOptions) -> ConnectOptions {
        if self.servers().is_some_and(|servers| servers.iter().any(ServerAddr::tls_required)) {
            // One `tls://` requires TLS of all servers. The other URLs, and those that the client
            // learns from a server, don't mention TLS.
            options = options.require_tls(true);
        }

        if self.tls_first {
            options = options.tls_first();
        }

        if let Some(path) = &self.tls.ca {
            options = options.add_root_certificates(path.into()).require_tls(true);
        }

        if let (Some(cert), Some(key)) = (&self.tls.cert, &self.tls.key) {
            options = options.add_client_certificate(cert.into(), key.into()).require_tls(true);
        }

        options
    }
}

impl Api {
    fn read(reader: &mut Reader<'_>) -> Self {
        let domain: Option<String> = reader
            .setting(
                "domain",
                "JetStream domain of the stream. It is needed when outboxd connects to a leaf node \
                 and the stream is in the hub, or the reverse. Without it, outboxd uses the \
                 JetStream of the server that it connects to.",
            )
            .example("\"hub\"")
            .read();

        let is_name = |domain: &String| is_token(domain) && !domain.contains('.');
        if domain.as_ref().is_some_and(|domain| !is_name(domain)) {
            reader.mistake("domain", "is not one name such as hub, without dots and wildcards");
        }

        let prefix: Option<String> = reader
            .setting(
                "api_prefix",
                "What the subjects of JetStream's API begin with, if the account imports them from \
                 the account of the stream: `JS.orders.API` for an import of `$JS.API.>` to \
                 `JS.orders.API.>`. The account must import the events' subjects as a service, \
                 too.",
            )
            .example("\"JS.orders.API\"")
            .read();

        let prefix = prefix.map(|prefix| prefix.trim_end_matches('.').to_owned());
        if prefix.as_ref().is_some_and(|prefix| !prefix.split('.').all(is_token)) {
            let reason = "is not a subject such as JS.orders.API, without wildcards";
            reader.mistake("api_prefix", reason);
        }
        if domain.is_some() && prefix.is_some() {
            reader.warning("api_prefix", "stands beside nats.domain, which doesn't count");
        }

        match (prefix, domain) {
            (Some(prefix), _) => Self::Prefix(prefix),
            (None, Some(domain)) => Self::Domain(domain),
            (None, None) => Self::Near,
        }
    }
}

/// Whether it can stand in a subject. A token has no dot; who calls this has split it.
fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
}

fn inbox_prefix(reader: &mut Reader<'_>, stream: &str) -> String {
    let prefix = reader
        .setting(
            "inbox_prefix",
            "Prefix of the subjects that the server replies to. With a prefix of its own, the \
             relay's user needs no right to read other users' replies.",
        )
        .computed("_INBOX.outboxd.<stream.name>")
        .example("\"_INBOX.tickets\"")
        .given_or(format!("_INBOX.outboxd.{stream}"));

    // The name of the stream, which the default contains, is checked with the stream.
    if prefix.set().is_some_and(|prefix| !prefix.split('.').all(is_token)) {
        reader
            .mistake("inbox_prefix", "is not a subject such as _INBOX.tickets, without wildcards");
    }

    prefix.get().clone()
}

//! Connections as the configuration describes them.

use async_nats::{ConnectOptions, ServerAddr};
use mongodb::options::{ClientOptions, ReadPreference, WriteConcern};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;

use super::{MongodbConfig, NatsConfig, secs};
use crate::error::{Error, ErrorKind, MongodbContext, Result};

impl MongodbConfig {
    /// A client of its own for `role`: the stream and the lease must not wait for each other's
    /// connections.
    pub async fn client(&self, role: &str) -> Result<mongodb::Client> {
        mongodb::Client::with_options(self.options(role).await?).during("the connection string")
    }

    /// What such a client is made with.
    pub(crate) async fn options(&self, role: &str) -> Result<ClientOptions> {
        let mut options =
            ClientOptions::parse(self.uri.expose_secret()).await.during("the connection string")?;
        options.app_name = Some(format!("{} {role}", self.app_name).chars().take(128).collect());
        // An event counts as published or failed only when a majority says so.
        options.write_concern = Some(WriteConcern::majority());
        // Reads decide about order; a secondary that lags would decide wrongly, whatever the URI
        // prefers.
        options.selection_criteria = Some(ReadPreference::Primary.into());
        options.read_concern = None;
        // A server that stops answering is noticed after these two, instead of the driver's 20 s.
        options.heartbeat_freq.get_or_insert(secs(5));
        options.connect_timeout.get_or_insert(secs(5));
        // An operator is waiting; the daemon rides out an election.
        options.server_selection_timeout.get_or_insert(secs(if role == "operator" {
            5
        } else {
            10
        }));
        Ok(options)
    }
}

impl NatsConfig {
    /// The server addresses, or `None` when one isn't a URL.
    pub fn servers(&self) -> Option<Vec<ServerAddr>> {
        // The client would take `wss` too, and connect in plaintext.
        let known = |server: &ServerAddr| ["nats", "tls"].contains(&server.scheme());
        self.url
            .expose_secret()
            .split(',')
            .map(|url| url.trim().parse().ok().filter(known))
            .collect()
    }

    /// User and password, or a token alone, of the first URL that has them.
    fn in_url(&self) -> Option<(String, Option<String>)> {
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let servers = self.servers()?;
        let server = servers.iter().find(|server| server.has_user_pass())?;
        Some((plain(server.username()?), server.password().map(plain)))
    }

    /// Connection options with the credentials and TLS of the configuration.
    pub async fn options(&self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(&self.client_id)
            .custom_inbox_prefix(&self.inbox_prefix)
            .ping_interval(self.ping_interval);
        if let Some(path) = &self.creds {
            options = options.credentials_file(path).await.map_err(|error| {
                Error::with_source(ErrorKind::Nats, format!("NATS: credentials file {path}"), error)
            })?;
        }
        if let Some(seed) = &self.nkey {
            options = options.nkey(seed.expose_secret().to_owned());
        }
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        } else if let Some((user, password)) = self.in_url() {
            // The client doesn't look there, but `nats://user:password@host` is how many write it.
            options = match password {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        if let Some(token) = &self.token {
            options = options.token(token.expose_secret().to_owned());
        }
        if self.servers().is_some_and(|servers| servers.iter().any(ServerAddr::tls_required)) {
            // Of all: those beside it in the list, and those that the client learns from a server,
            // say nothing of TLS.
            options = options.require_tls(true);
        }
        if let Some(path) = &self.tls_ca {
            options = options.add_root_certificates(path.into()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            options = options.add_client_certificate(cert.into(), key.into()).require_tls(true);
        }
        Ok(options)
    }
}

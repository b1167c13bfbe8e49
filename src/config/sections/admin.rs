//! `[admin]`: the endpoint that answers over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::Reader;
use crate::config::setting::Given;

/// The loopback address, with the port that Prometheus' clients commonly take.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// `[admin]`
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Address of the admin endpoint. If it is set, it must be free.
    pub listen: Given<SocketAddr>,
    /// Token that every request needs.
    pub token: Option<SecretString>,
}

impl AdminConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let listen = reader
            .setting(
                "listen",
                "Address of the admin endpoint: /livez, /readyz, /metrics for Prometheus, /status. \
                 If you do not set it, an address that is in use causes only a warning. An address \
                 that isn't loopback needs a token. The default port is the one that Prometheus' \
                 clients commonly take.",
            )
            .given_or(DEFAULT_LISTEN.to_string())
            .map(|text| {
                text.parse().unwrap_or_else(|_| {
                    let reason = format!("{text:?} is not an address such as \"{DEFAULT_LISTEN}\"");
                    reader.mistake("listen", reason);
                    DEFAULT_LISTEN
                })
            });

        let token = reader
            .setting("token", "Token that every request needs, as `Authorization: Bearer …`.")
            .example("\"a long random word\"")
            .secret();

        let can_be_sent = |token: &SecretString| {
            let token = token.expose_secret();
            token.trim() == token && token.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        if token.as_ref().is_some_and(|token| !can_be_sent(token)) {
            reader.mistake(
                "token",
                "can't be sent in a header: give printable ASCII without blanks at its ends",
            );
        }

        if !listen.get().ip().is_loopback() && token.is_none() {
            reader.missing("listen", "is not on loopback; set admin.token or admin.token_file too");
        }

        Self { listen, token }
    }
}

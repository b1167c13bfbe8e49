//! `[console]`: the web page for people, off unless an address is set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::config::reader::Reader;

/// Where `outboxd console` listens unless an address is set.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);
/// Shortest token. With fewer characters, guessing one is a matter of hours.
const MIN_TOKEN: usize = 20;

/// `[console]`
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    /// Where the console listens; `outboxd run` serves none unless it is set.
    pub listen: Option<SocketAddr>,
    /// Paths of the certificate and its private key.
    pub tls: Option<(String, String)>,
    /// Who may sign in.
    pub people: Vec<PersonConfig>,
    /// The proxy that signs people in.
    pub proxy: Option<ProxyConfig>,
    /// Paths in payloads, headers and other fields whose values are never shown.
    pub redact: Vec<String>,
    /// Address of a trace, with `{trace_id}` in it.
    pub trace_url: Option<String>,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and act.
    Operator,
}

/// A person who signs in with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonConfig {
    /// For the audit.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// SHA-256 of the token.
    pub token: [u8; 32],
}

/// A proxy that signs people in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Name of the header that holds the person's name, in lower case.
    pub header: String,
    /// Where it connects from: networks as address and bits of the prefix.
    pub networks: Vec<(IpAddr, u8)>,
    /// Names of the people who may act; the others may look.
    pub operators: Vec<String>,
}

impl ConsoleConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let listen = reader
            .setting(
                "listen",
                "Address of the console, a web page for people. While it is not set, `outboxd run` \
                 serves no console, and `outboxd console` listens on 127.0.0.1:9465 and prints a \
                 token. An address that isn't loopback needs TLS or a proxy.",
            )
            .example("\"127.0.0.1:9465\"")
            .read::<String>();
        let parsed = listen.as_ref().and_then(|text| text.parse::<SocketAddr>().ok());
        if let (Some(text), None) = (&listen, parsed) {
            let reason = format!("{text:?} is not an address such as \"{DEFAULT_LISTEN}\"");
            reader.mistake("listen", reason);
        }

        let console = Self {
            listen: parsed,
            tls: tls(reader),
            people: people(reader),
            proxy: proxy(reader),
            redact: redact(reader),
            trace_url: trace_url(reader),
        };

        if let Some(listen) = parsed {
            if console.people.is_empty() && console.proxy.is_none() {
                reader.missing(
                    "listen",
                    "is set, but nobody may sign in; set console.tokens_file, or \
                     console.proxy_header and console.proxy_addresses",
                );
            }

            if !listen.ip().is_loopback() && console.tls.is_none() && console.proxy.is_none() {
                reader.missing(
                    "listen",
                    "is not on loopback; set console.tls_cert and console.tls_key, or have a proxy \
                     with TLS in front and set console.proxy_header and console.proxy_addresses",
                );
            }
        }

        console
    }

    /// The address, or the default one.
    pub fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(DEFAULT_LISTEN)
    }
}

impl PersonConfig {
    /// A person with this token.
    pub fn new(name: &str, role: Role, token: &str) -> Self {
        Self { name: name.to_owned(), role, token: Sha256::digest(token).into() }
    }
}

impl ProxyConfig {
    /// Whether a connection from this address is the proxy's.
    pub fn is_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|(network, prefix)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let bits = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                network.to_bits() & bits == address.to_bits() & bits
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let bits = u128::MAX.checked_shl(128 - u32::from(*prefix)).unwrap_or(0);
                network.to_bits() & bits == address.to_bits() & bits
            }
            _ => false,
        })
    }
}

fn tls(reader: &mut Reader<'_>) -> Option<(String, String)> {
    let cert: Option<String> = reader
        .setting(
            "tls_cert",
            "Path of the console's certificate, a PEM file, together with `tls_key`. The console \
             then speaks TLS only.",
        )
        .example("\"/run/secrets/console.crt\"")
        .read();
    let key: Option<String> = reader
        .setting("tls_key", "Path of the certificate's private key, a PEM file, unencrypted.")
        .example("\"/run/secrets/console.key\"")
        .read();

    match (cert, key) {
        (Some(cert), Some(key)) => {
            reader.identity("tls_cert", Path::new(&cert), Path::new(&key));
            Some((cert, key))
        }
        (None, None) => None,
        _ => {
            reader.mistake("tls_cert", "certificate and key go together");
            None
        }
    }
}

fn people(reader: &mut Reader<'_>) -> Vec<PersonConfig> {
    let tokens = reader
        .setting(
            "tokens",
            "Who may sign in with a token: a line for each person, with the role (viewer or \
             operator), the name for the audit, and the token of at least 20 characters. Keep \
             them in a file: `tokens_file`.",
        )
        .example("\"operator alice a-long-random-word-of-32-letters\"")
        .secret();

    let (mut people, mut mistakes) = (Vec::new(), Vec::new());
    let text = tokens.as_ref().map_or("", SecretString::expose_secret);
    for (number, line) in text.lines().enumerate() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [role, name, token] = *words else {
            if !words.is_empty() && !words[0].starts_with('#') {
                mistakes.push((number, "is not `ROLE NAME TOKEN`"));
            }
            continue;
        };

        let role = match role {
            _ if role.starts_with('#') => continue,
            "viewer" => Role::Viewer,
            "operator" => Role::Operator,
            _ => {
                mistakes.push((number, "has another role than viewer and operator"));
                continue;
            }
        };
        if token.len() < MIN_TOKEN {
            mistakes.push((number, "has a token of fewer than 20 characters"));
        }
        people.push(PersonConfig::new(name, role, token));
    }

    // A line may hold a secret, and is never repeated.
    for (number, reason) in mistakes {
        reader.mistake("tokens", format!("line {} {reason}", number + 1));
    }
    people
}

fn proxy(reader: &mut Reader<'_>) -> Option<ProxyConfig> {
    let header: Option<String> = reader
        .setting(
            "proxy_header",
            "Header in which a proxy with single sign-on gives the person's name, together with \
             `proxy_addresses`. The proxy must remove this header from what people send.",
        )
        .example("\"X-Forwarded-User\"")
        .read();
    let addresses: Option<Vec<String>> = reader
        .setting(
            "proxy_addresses",
            "Addresses or networks that the proxy connects from. The header counts from there \
             alone.",
        )
        .example("[\"10.0.0.5\", \"fd00::/64\"]")
        .read();
    let operators: Vec<String> = reader
        .setting(
            "proxy_operators",
            "Names, as the proxy gives them, of the people who may act on events. Everybody else \
             whom the proxy lets through may look.",
        )
        .or(Vec::new());

    let mut networks = Vec::new();
    for text in addresses.iter().flatten() {
        match network(text) {
            Some(network) => networks.push(network),
            None => {
                let reason = format!("{text:?} is not an address such as 10.0.0.5 or fd00::/64");
                reader.mistake("proxy_addresses", reason);
            }
        }
    }

    match (header, addresses) {
        (Some(header), Some(_)) => {
            if axum::http::HeaderName::try_from(&header).is_err() {
                reader.mistake("proxy_header", format!("{header:?} is not the name of a header"));
            }
            Some(ProxyConfig { header: header.to_lowercase(), networks, operators })
        }
        (None, None) => None,
        _ => {
            reader.mistake("proxy_header", "header and addresses of the proxy go together");
            None
        }
    }
}

/// An address, or a network in the notation of CIDR.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };

    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    Some((address, prefix.unwrap_or(longest))).filter(|(_, prefix)| *prefix <= longest)
}

fn redact(reader: &mut Reader<'_>) -> Vec<String> {
    let paths: Vec<String> = reader
        .setting(
            "redact",
            "Paths whose values the console never shows: in payloads, among headers, and among the \
             other fields of an event except its id, subject, key and failures. `*` is any field or \
             any element of an array; a path goes through arrays without naming their elements.",
        )
        .example("[\"customer.email\", \"items.*.price\"]")
        .read()
        .unwrap_or_default();
    for path in paths.iter().filter(|path| path.split('.').any(str::is_empty)) {
        reader.mistake("redact", format!("{path:?} is not a path such as \"customer.email\""));
    }

    paths
}

fn trace_url(reader: &mut Reader<'_>) -> Option<String> {
    let url: Option<String> = reader
        .setting(
            "trace_url",
            "Where a trace is shown: the address of its page, with {trace_id} in the place of its \
             id. An event that carries a `traceparent` then links there.",
        )
        .example("\"https://jaeger.example/trace/{trace_id}\"")
        .read();

    let is_url = |url: &String| {
        url.contains("{trace_id}")
            && reqwest::Url::parse(url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
    };
    if url.as_ref().is_some_and(|url| !is_url(url)) {
        reader.mistake("trace_url", "is not a URL such as https://host/trace/{trace_id}");
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_network() {
        let networks = ["10.1.0.0/16", "192.168.0.7", "fd00::/64", "0.0.0.0/0"].map(network);
        let [ten, one, six, all] = networks.map(|network| network.expect("a network"));
        let is_at = |network, address: &str| {
            let proxy =
                ProxyConfig { header: String::new(), networks: vec![network], operators: vec![] };
            proxy.is_at(address.parse().expect("an address"))
        };
        assert!(is_at(ten, "10.1.255.1") && is_at(ten, "::ffff:10.1.2.3"));
        assert!(!is_at(ten, "10.2.0.1") && !is_at(ten, "fd00::1"));
        assert!(is_at(one, "192.168.0.7") && !is_at(one, "192.168.0.8"));
        assert!(is_at(six, "fd00::1") && !is_at(six, "fd01::1"));
        assert!(is_at(all, "8.8.8.8"));

        for wrong in ["10.0.0.0/33", "host", "10.0.0.0/", "fd00::/129", ""] {
            assert!(network(wrong).is_none(), "{wrong}");
        }
    }
}

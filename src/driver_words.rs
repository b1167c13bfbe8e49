//! Every pattern that is looked for in the text of a driver's error.
//!
//! Most errors have a type and are matched by it, where they occur. These arrive as text only: the
//! MongoDB driver keeps a server's failed handshake inside the description of all servers, and the
//! NATS server reports a denied publish as a line for the connection. Each pattern names the
//! library and the version whose text it was taken from; callers get an enum or a part of the text,
//! never a pattern. A driver that is updated is checked against the tests of this file.
//!
//! The crate `outboxd-client` has one pattern of its own, in `enqueue.rs`: the MongoDB driver has
//! no other sign that a session is already in a transaction.

#[cfg(test)]
mod tests;

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// The certificate belongs to another host.
    WrongName,
    /// No trusted CA signed the certificate.
    Untrusted,
    /// The server presents a CA's certificate as its own.
    CaAsServer,
    /// The certificate has another defect.
    Certificate,
    /// The server requires a client certificate, or rejects the one it got.
    ClientCertificate,
    /// The server ended the handshake for another reason.
    Refused,
    /// The server does not speak TLS.
    Plaintext,
    /// The server closed the connection without an answer: it requires TLS or a client certificate.
    HungUp,
}

/// Texts of a failed handshake; the first that occurs counts. rustls 0.23.46 unless noted.
const TLS: &[(&str, TlsFault)] = &[
    ("invalid peer certificate: certificate expired", TlsFault::Expired),
    ("invalid peer certificate: certificate not valid yet", TlsFault::NotYetValid),
    ("invalid peer certificate: certificate not valid for name", TlsFault::WrongName),
    ("invalid peer certificate: UnknownIssuer", TlsFault::Untrusted),
    // The signing CA has the name of a trusted one and another key.
    ("invalid peer certificate: BadSignature", TlsFault::Untrusted),
    // As `openssl req -x509` makes certificates. The inner word is rustls-webpki 0.103.16's.
    ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity", TlsFault::CaAsServer),
    ("invalid peer certificate: ", TlsFault::Certificate),
    ("received fatal alert: CertificateRequired", TlsFault::ClientCertificate),
    ("received fatal alert: BadCertificate", TlsFault::ClientCertificate),
    ("received fatal alert: CertificateExpired", TlsFault::ClientCertificate),
    ("received fatal alert: CertificateUnknown", TlsFault::ClientCertificate),
    ("received fatal alert: UnknownCA", TlsFault::ClientCertificate),
    ("received fatal alert: ", TlsFault::Refused),
    ("received corrupt message of type ", TlsFault::Plaintext),
    // tokio-rustls 0.26.6
    ("tls handshake eof", TlsFault::Plaintext),
    ("peer closed connection without sending TLS close_notify", TlsFault::HungUp),
    // std::io, in what mongodb 3.9.1 keeps of a server without TLS.
    ("unexpected end of file", TlsFault::HungUp),
];

/// The TLS fault in an error's text, and the text behind the pattern, which has the details.
pub(crate) fn tls_fault(text: &str) -> Option<(TlsFault, &str)> {
    TLS.iter().find_map(|(words, fault)| Some((*fault, text.split_once(words)?.1)))
}

/// The names in what rustls says of a certificate of another host, without its types for them.
pub(crate) fn certified_names(text: &str) -> String {
    let mut names = text.to_owned();
    for form in ["DnsName(", "IpAddress("] {
        while let Some((before, rest)) = names.split_once(form) {
            let (name, after) = rest.split_once(')').unwrap_or((rest, ""));
            names = format!("{before}{name}{after}");
        }
    }

    names
}

/// The word in the middle of one of rustls's errors within errors: `Other(OtherError(Word))`.
pub(crate) fn innermost(text: &str) -> &str {
    let word = text.rsplit('(').next().unwrap_or(text);
    word.split([')', ' ', '{']).next().unwrap_or(word)
}

/// One server in the text of a failed server selection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnusableServer<'a> {
    pub(crate) address: &'a str,
    server_type: &'a str,
    /// The driver's last error with this server.
    pub(crate) error: Option<String>,
}

impl UnusableServer<'_> {
    /// What it is, when there is no error. The words of the driver's own types (mongodb 3.9.1).
    pub(crate) fn what(&self) -> &'static str {
        match self.server_type {
            "Standalone" => "a standalone, no member of a replica set",
            "Mongos" => "a mongos",
            "RSPrimary" => "the primary",
            "RSSecondary" => "a secondary",
            "RSArbiter" => "an arbiter",
            "RSGhost" => "a member of a replica set that was never initiated, or that removed it",
            "RSOther" => "hidden, starting or recovering",
            _ => "no answer",
        }
    }

    /// Whether nothing came of a question to it within its time.
    pub(crate) fn is_silent(&self) -> bool {
        match &self.error {
            Some(error) => error.contains("timed out") || error.contains("timeout"),
            None => self.what() == "no answer",
        }
    }
}

/// The servers in a failed server selection (mongodb 3.9.1):
/// `… Topology: { …, Servers: [ { Address: a:1, Type: Unknown, Error: Kind: …, labels: {} } ] }`.
pub(crate) fn unusable_servers(text: &str) -> Vec<UnusableServer<'_>> {
    let servers = text.split("{ Address: ").skip(1).filter_map(|server| {
        let (address, rest) = server.split_once(", Type: ")?;
        let error = rest.split_once("Error: ").map(|(_, error)| plain(error));
        let server_type = rest.split([',', ' ']).next().unwrap_or_default();

        Some(UnusableServer { address, server_type, error })
    });
    servers.collect()
}

/// The name of the replica set in a failed server selection, and whether the driver took it for one
/// (mongodb 3.9.1).
pub(crate) fn replica_set(text: &str) -> Option<&str> {
    let (_, topology) = text.split_once(" Topology: { Type: ReplicaSet")?;
    let (_, set) = topology.split_once(", Set Name: ")?;
    set.split([',', ' ']).next()
}

/// A failed server selection without the description of the servers (mongodb 3.9.1).
pub(crate) fn without_topology(text: &str) -> &str {
    text.split(" Topology: ").next().unwrap_or(text)
}

/// Headings that say no more than what follows them (mongodb 3.9.1, async-nats 0.51.0).
const HEADINGS: [&str; 4] = ["I/O error: ", "IO error: ", "Command failed: ", "nats: "];

/// What happened to a connection to NATS, without the name of the library (async-nats 0.51.0):
/// `client error: nats: IO error`.
pub(crate) fn event(text: &str) -> String {
    text.replacen(" error: nats: ", " error: ", 1)
}

/// Causes that only introduce the next one (reqwest 0.13, hyper-util 0.1).
pub(crate) const INTRODUCTIONS: [&str; 3] =
    ["client error (Connect)", "client error (SendRequest)", "tcp connect error"];

/// An error's text without the driver's form of an error within an error (mongodb 3.9.1):
/// `…: Kind: …, labels: {}, source: None, server response: None`. The inner one stays where the
/// outer one only introduces it; elsewhere the outer one has repeated it.
pub(crate) fn plain(text: &str) -> String {
    let text = text.strip_prefix("Kind: ").unwrap_or(text);
    let (own, inner) =
        text.split_once(": Kind: ").map_or((text, None), |(own, inner)| (own, Some(inner)));
    let own = own.split(", labels: ").next().unwrap_or(own);
    let own = HEADINGS.iter().find_map(|heading| own.strip_prefix(heading)).unwrap_or(own);

    match inner {
        Some(inner) if own.ends_with("failed with") => format!("{own}: {}", plain(inner)),
        _ => own_words(own),
    }
}

/// What async-nats 0.51.0 says of a server's error, once: `authorization violation: nats:
/// authorization violation`.
fn own_words(text: &str) -> String {
    match text.split_once(": nats: ") {
        Some((kind, words)) if kind.eq_ignore_ascii_case(words) => kind.to_owned(),
        Some((kind, words)) => format!("{kind}: {words}"),
        None => text.to_owned(),
    }
}

/// Why a name was not resolved (std 1.9x: getaddrinfo's own words).
pub(crate) fn failed_lookup(text: &str) -> Option<&str> {
    Some(text.split_once("failed to lookup address information: ")?.1)
}

/// A failed look-up of an SRV or TXT record without the question, in hickory's form for its
/// developers (mongodb 3.9.1, hickory 0.25): `DNS error: no records found for Query { … }`.
pub(crate) fn without_query(text: &str) -> &str {
    let text = text.strip_prefix("DNS error: ").unwrap_or(text);
    text.split(" for Query {").next().unwrap_or(text)
}

/// Whether what answered is no MongoDB: NATS, HTTP and others begin with words that the driver takes
/// for a header (mongodb 3.9.1).
pub(crate) fn is_another_protocol(text: &str) -> bool {
    ["Invalid wire protocol opcode", "invalid message length", "exceeds maximum"]
        .iter()
        .any(|words| text.contains(words))
}

/// A failed authentication without the name of its mechanism (mongodb 3.9.1):
/// `SCRAM failure: Authentication failed.`.
pub(crate) fn without_mechanism(text: &str) -> &str {
    text.split_once(" failure: ").map_or(text, |(_, reason)| reason)
}

/// Whether a refusal is about the rights of a user who is known (mongod 6.0 to 8.0, and the proxy of
/// hosted tiers).
pub(crate) fn lacks_right(message: &str) -> bool {
    message.starts_with("not authorized on ") || message.contains("is not allowed to do action")
}

/// A server's refusal of a command without the command, which may be long (mongod 6.0 to 8.0):
/// `not authorized on shop to execute command { find: "outbox", … }`.
pub(crate) fn without_command(message: &str) -> String {
    match message.split_once(" to execute command { ") {
        Some((refusal, command)) => {
            let name = command.split(':').next().unwrap_or_default();
            format!("{refusal} to execute {name}")
        }
        None => message.to_owned(),
    }
}

/// For the refusal of an option that the driver does not have: the name that is similar, if one is
/// (mongodb 3.9.1).
pub(crate) fn unknown_option(text: &str) -> Option<Option<&str>> {
    let (_, rest) = text.split_once(" is an invalid option")?;
    Some(rest.split_once("similar name exists: ").map(|(_, similar)| similar))
}

/// The subject in `Permissions Violation for Publish to "subject"` (nats-server 2.9 to 2.15;
/// async-nats 0.51.0 hands the line on, in lower case or not).
pub(crate) fn denied_subject(text: &str) -> Option<&str> {
    const DENIED: &str = "permissions violation for publish to \"";
    let start = text.to_ascii_lowercase().find(DENIED)? + DENIED.len();

    text.get(start..)?.split('"').next()
}

/// Whether an error of nats-server is about a subscription that it has ended or refused: a violation
/// of permissions, or `maximum subscriptions exceeded` and the like (2.10 to 2.15). What stands in
/// quotes is a subject, which whoever writes events has chosen.
pub(crate) fn ends_subscription(text: &str) -> bool {
    let words = text.split('"').next().unwrap_or_default();
    words.to_ascii_lowercase().contains("subscription")
}

/// The subject of the subscription in `Permissions Violation for Subscription to "subject"` (nats-server
/// 2.10 to 2.15).
pub(crate) fn ended_subscription(text: &str) -> Option<&str> {
    let mut quoted = text.split('"');
    let words = quoted.next()?;
    quoted.next().filter(|_| is_violation(words))
}

/// Whose port a client connected to, if it is none for clients: `attempted to connect to route port`
/// and the like (nats-server 2.10 to 2.15).
pub(crate) fn other_port(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let ports = [("route", "routes"), ("leaf node", "leaf nodes"), ("gateway", "gateways")];
    let of = |(word, whose)| text.contains(&format!("to connect to {word} port")).then_some(whose);
    ports.into_iter().find_map(of)
}

/// Whether an error of nats-server is about a missing permission.
pub(crate) fn is_violation(text: &str) -> bool {
    text.to_ascii_lowercase().contains("permissions violation")
}

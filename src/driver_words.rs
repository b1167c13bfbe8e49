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

/// One server in the text of a failed server selection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnusableServer<'a> {
    pub(crate) address: &'a str,
    pub(crate) server_type: &'a str,
    /// The driver's last error with this server.
    pub(crate) error: Option<&'a str>,
}

/// The servers in a failed server selection (mongodb 3.9.1):
/// `… Topology: { …, Servers: [ { Address: a:1, Type: Unknown, Error: Kind: …, labels: {} } ] }`.
pub(crate) fn unusable_servers(text: &str) -> Vec<UnusableServer<'_>> {
    let servers = text.split("{ Address: ").skip(1).filter_map(|server| {
        let (address, rest) = server.split_once(", Type: ")?;
        let error = rest
            .split_once("Error: Kind: ")
            .and_then(|(_, error)| error.split(", labels: ").next());
        let server_type = rest.split([',', ' ']).next().unwrap_or_default();

        Some(UnusableServer { address, server_type, error })
    });
    servers.collect()
}

/// A failed server selection without the description of the servers (mongodb 3.9.1).
pub(crate) fn without_topology(text: &str) -> &str {
    text.split(" Topology: ").next().unwrap_or(text)
}

/// A failed authentication, such as `SCRAM failure: …`, without the error that it repeats in full
/// (mongodb 3.9.1).
pub(crate) fn without_inner_error(text: &str) -> &str {
    text.split(": Kind: ").next().unwrap_or(text)
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

/// Whether an error of nats-server is about a missing permission.
pub(crate) fn is_violation(text: &str) -> bool {
    text.to_ascii_lowercase().contains("permissions violation")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failed_handshake_is_known_by_the_libraries_texts() {
        for (text, fault, rest) in [
            (
                "IO error: invalid peer certificate: certificate expired: verification time 5",
                TlsFault::Expired,
                ": verification time 5",
            ),
            (
                "invalid peer certificate: certificate not valid yet: verification time 5 (UNIX)",
                TlsFault::NotYetValid,
                ": verification time 5 (UNIX)",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"",
                TlsFault::WrongName,
                " \"a\"",
            ),
            ("invalid peer certificate: UnknownIssuer", TlsFault::Untrusted, ""),
            ("invalid peer certificate: BadSignature", TlsFault::Untrusted, ""),
            (
                "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
                TlsFault::CaAsServer,
                "))",
            ),
            ("invalid peer certificate: BadEncoding", TlsFault::Certificate, "BadEncoding"),
            ("received fatal alert: CertificateRequired", TlsFault::ClientCertificate, ""),
            ("received fatal alert: BadCertificate", TlsFault::ClientCertificate, ""),
            ("received fatal alert: CertificateExpired", TlsFault::ClientCertificate, ""),
            ("received fatal alert: CertificateUnknown", TlsFault::ClientCertificate, ""),
            ("received fatal alert: UnknownCA", TlsFault::ClientCertificate, ""),
            ("received fatal alert: ProtocolVersion", TlsFault::Refused, "ProtocolVersion"),
            (
                "received corrupt message of type InvalidContentType",
                TlsFault::Plaintext,
                "InvalidContentType",
            ),
            ("tls handshake eof", TlsFault::Plaintext, ""),
            (
                "peer closed connection without sending TLS close_notify: see the docs",
                TlsFault::HungUp,
                ": see the docs",
            ),
            ("I/O error: unexpected end of file", TlsFault::HungUp, ""),
        ] {
            assert_eq!(tls_fault(text), Some((fault, rest)), "{text}");
        }
        assert_eq!(tls_fault("Connection refused"), None);
    }

    #[test]
    fn every_pattern_can_be_reached() {
        for (i, (words, fault)) in TLS.iter().enumerate() {
            assert_eq!(tls_fault(words), Some((*fault, "")), "{words}");
            assert!(TLS[..i].iter().all(|(other, _)| other != words), "{words} twice");
        }
    }

    /// The text of rustls itself, so that an update that changes it fails here.
    #[test]
    fn the_patterns_are_those_of_the_linked_rustls() {
        use rustls::pki_types::{ServerName, UnixTime};
        use rustls::{AlertDescription, CertificateError, Error};

        let [early, late] = [5, 10].map(|at| UnixTime::since_unix_epoch(Duration::from_secs(at)));
        let expired = CertificateError::ExpiredContext { time: late, not_after: early };
        let not_yet_valid = CertificateError::NotValidYetContext { time: early, not_before: late };
        let wrong_name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a").expect("a name"),
            presented: vec!["b".to_owned()],
        };

        for (error, fault) in [
            (expired.into(), TlsFault::Expired),
            (not_yet_valid.into(), TlsFault::NotYetValid),
            (wrong_name.into(), TlsFault::WrongName),
            (CertificateError::UnknownIssuer.into(), TlsFault::Untrusted),
            (CertificateError::BadSignature.into(), TlsFault::Untrusted),
            (CertificateError::BadEncoding.into(), TlsFault::Certificate),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                TlsFault::ClientCertificate,
            ),
            (Error::AlertReceived(AlertDescription::BadCertificate), TlsFault::ClientCertificate),
            (Error::AlertReceived(AlertDescription::UnknownCA), TlsFault::ClientCertificate),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), TlsFault::Refused),
            (
                Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                TlsFault::Plaintext,
            ),
        ] {
            let error: Error = error;
            let found = tls_fault(&error.to_string()).map(|(fault, _)| fault);
            assert_eq!(found, Some(fault), "{error}");
        }
    }

    #[test]
    fn the_servers_of_a_failed_selection_have_their_reasons() {
        let text = "Server selection timeout: No available servers. Topology: { Type: Single, \
                    Servers: [ { Address: a:1, Type: Unknown, Error: Kind: I/O error: unexpected \
                    end of file, labels: {}, source: None }, { Address: b:2, Type: RsSecondary, \
                    Average RTT: 1ms } ] }";
        assert_eq!(
            unusable_servers(text),
            [
                UnusableServer {
                    address: "a:1",
                    server_type: "Unknown",
                    error: Some("I/O error: unexpected end of file"),
                },
                UnusableServer { address: "b:2", server_type: "RsSecondary", error: None },
            ]
        );
        assert_eq!(without_topology(text), "Server selection timeout: No available servers.");
        assert_eq!(unusable_servers("Error: other"), []);
        assert_eq!(without_topology("Error: other"), "Error: other");
    }

    /// The driver's own text, so that an update that changes it fails here.
    #[tokio::test]
    async fn the_linked_driver_describes_a_server_that_refuses_connections() {
        let uri = "mongodb://127.0.0.1:1/?directConnection=true&serverSelectionTimeoutMS=300";
        let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
        let error = client.list_database_names().await.unwrap_err().kind.to_string();

        let servers = unusable_servers(&error);
        assert_eq!(servers.len(), 1, "{error}");
        assert_eq!(servers[0].address, "127.0.0.1:1", "{error}");

        let reason = servers[0].error.expect("a reason");
        assert!(reason.starts_with("I/O error: Connection refused"), "{error}");
    }

    #[test]
    fn a_failed_authentication_loses_the_error_it_repeats() {
        let text = "SCRAM failure: Authentication failed.: Kind: Command failed: Error code 18";
        assert_eq!(without_inner_error(text), "SCRAM failure: Authentication failed.");
    }

    #[test]
    fn a_denied_publish_names_its_subject() {
        let denied = "Permissions Violation for Publish to \"Shop.made\"";
        assert_eq!(denied_subject(denied), Some("Shop.made"));
        assert_eq!(denied_subject("permissions violation for publish to \"a\""), Some("a"));
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"a\""), None);
    }
}

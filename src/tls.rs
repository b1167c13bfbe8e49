//! Why a server was not reached, as a sentence about it, and the remedy of a failed TLS handshake.

use crate::driver_words::{
    TlsFault, certified_names, failed_lookup, innermost, is_another_protocol, plain, tls_fault,
};

impl TlsFault {
    /// The fault in an error's text, if TLS is to blame.
    pub(crate) fn of(text: &str) -> Option<Self> {
        tls_fault(text).map(|(fault, _)| fault)
    }

    /// The remedy for a connection to mongod, which was made over TLS or not.
    pub(crate) fn mongodb_remedy(self, over_tls: bool) -> &'static str {
        match self {
            Self::Expired | Self::NotYetValid | Self::CaAsServer | Self::Certificate => {
                "mongod.conf: net: { tls: { certificateKeyFile: <a certificate that is valid> } }\n\
                 mongosh> db.adminCommand({rotateCertificates: 1})"
            }
            Self::WrongName => {
                "MONGODB_URI: a host that the certificate names, or\n\
                 mongod.conf: net: { tls: { certificateKeyFile: <a certificate that names this \
                 host> } }"
            }
            Self::Untrusted => {
                "MONGODB_URI: tlsCAFile=<file of the CA that signed mongod's certificate>"
            }
            Self::ClientCertificate => {
                "MONGODB_URI: tlsCertificateKeyFile=<file with a certificate of mongod's CA and \
                 its key>"
            }
            Self::Refused => "mongod.conf: net: { tls: … }   # TLS 1.2 or 1.3",
            Self::Plaintext => {
                "mongod.conf: net: { tls: { mode: requireTLS, certificateKeyFile: <file> } }"
            }
            // A server that hangs up on a TLS client can only lack the client's certificate.
            Self::HungUp if over_tls => Self::ClientCertificate.mongodb_remedy(over_tls),
            Self::HungUp => {
                "MONGODB_URI: tls=true&tlsCAFile=<file of the CA that signed mongod's certificate>"
            }
        }
    }

    /// The remedy for a connection to nats-server.
    pub(crate) fn nats_remedy(self) -> &'static str {
        match self {
            Self::Expired | Self::NotYetValid | Self::CaAsServer | Self::Certificate => {
                "nats-server.conf: tls { cert_file: <a certificate that is valid> }\n\
                 $ nats-server --signal reload"
            }
            Self::WrongName => {
                "NATS_URL: a host that the certificate names, or\n\
                 nats-server.conf: tls { cert_file: <a certificate that names this host> }"
            }
            Self::Untrusted => "NATS_CA: the file of the CA that signed nats-server's certificate",
            Self::ClientCertificate | Self::HungUp => {
                "NATS_CERT, NATS_KEY: the files of a certificate of nats-server's CA and its key"
            }
            Self::Refused => "nats-server.conf: tls { min_version: \"1.2\" }",
            Self::Plaintext => "nats-server.conf: tls { cert_file: <file>, key_file: <file> }",
        }
    }
}

/// A sentence about the server if TLS or its name is to blame for an error, else the error's own
/// words.
pub(crate) fn describe(text: &str) -> String {
    if let Some(reason) = failed_lookup(text) {
        return format!("this machine can't resolve its name ({reason})");
    }

    if is_another_protocol(text) {
        return "what listens there is no MongoDB".to_owned();
    }

    let Some((fault, details)) = tls_fault(text) else {
        return plain(text);
    };

    match fault {
        TlsFault::Expired => "its certificate has expired by this machine's clock".to_owned(),
        TlsFault::NotYetValid => "its certificate is not valid yet, or a clock is wrong".to_owned(),
        TlsFault::WrongName => {
            format!("its certificate is not valid for name{}", certified_names(details))
        }
        TlsFault::Untrusted => "its certificate is not signed by a trusted CA".to_owned(),
        TlsFault::CaAsServer => "it presents a CA's certificate as its own".to_owned(),
        TlsFault::Certificate => format!("its certificate is invalid: {}", innermost(details)),
        TlsFault::ClientCertificate => "it requires a client certificate that it trusts".to_owned(),
        TlsFault::Refused => format!("it refused the TLS handshake: {}", innermost(details)),
        TlsFault::Plaintext => "it does not speak TLS, which the configuration requires".to_owned(),
        TlsFault::HungUp => {
            "it closed the connection, as a server does that requires TLS or a client certificate"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_becomes_a_sentence_about_the_server() {
        for (text, sentence) in [
            (
                "IO error: invalid peer certificate: certificate expired: verification time 5",
                "its certificate has expired by this machine's clock",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is \
                 only valid for DnsName(\"b\")",
                "its certificate is not valid for name \"a\"; certificate is only valid for \
                 \"b\"",
            ),
            ("invalid peer certificate: BadEncoding", "its certificate is invalid: BadEncoding"),
            (
                "invalid peer certificate: Other(OtherError(UnsupportedCertVersion))",
                "its certificate is invalid: UnsupportedCertVersion",
            ),
            (
                "received fatal alert: ProtocolVersion",
                "it refused the TLS handshake: ProtocolVersion",
            ),
            ("IO error: Connection refused", "Connection refused"),
            (
                "failed to lookup address information: Name or service not known",
                "this machine can't resolve its name (Name or service not known)",
            ),
        ] {
            assert_eq!(describe(text), sentence);
        }
    }

    #[test]
    fn a_mongod_that_hangs_up_over_tls_requires_a_client_certificate() {
        let remedy = |over_tls| TlsFault::HungUp.mongodb_remedy(over_tls);
        assert!(remedy(true).contains("tlsCertificateKeyFile"), "{}", remedy(true));
        assert!(remedy(false).contains("tls=true"), "{}", remedy(false));
    }
}

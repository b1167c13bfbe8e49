//! Why two ends don't come together over TLS: the words of the libraries as a sentence about the
//! server, and what mends it.
//!
//! The libraries' errors are texts by the time they come here: the MongoDB driver keeps what a
//! server's monitor met in the description of everything it knows.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's certificate was valid once.
    Expired,
    /// It will be.
    NotYetValid,
    /// It is another host's.
    WrongName,
    /// Nobody who is trusted here vouches for it.
    Untrusted,
    /// Something else is wrong with it.
    Certificate,
    /// The server wants a certificate, or another one.
    ClientCertificate,
    /// It ended the handshake for another reason.
    Refused,
    /// It doesn't speak TLS, and was asked to.
    Plaintext,
    /// It said nothing: it wants TLS, or a certificate.
    HungUp,
}

use Fault::*;

/// What the libraries say; the first that is found counts.
const WORDS: &[(&str, Fault)] = &[
    ("invalid peer certificate: certificate expired", Expired),
    ("invalid peer certificate: certificate not valid yet", NotYetValid),
    ("invalid peer certificate: certificate not valid for name", WrongName),
    ("invalid peer certificate: UnknownIssuer", Untrusted),
    // Of a CA that is called like one that is trusted: its key was changed, say.
    ("invalid peer certificate: BadSignature", Untrusted),
    ("invalid peer certificate: ", Certificate),
    ("received fatal alert: CertificateRequired", ClientCertificate),
    ("received fatal alert: BadCertificate", ClientCertificate),
    ("received fatal alert: CertificateExpired", ClientCertificate),
    ("received fatal alert: CertificateUnknown", ClientCertificate),
    ("received fatal alert: UnknownCA", ClientCertificate),
    ("received fatal alert: ", Refused),
    ("received corrupt message of type ", Plaintext),
    ("tls handshake eof", Plaintext),
    ("peer closed connection without sending TLS close_notify", HungUp),
    ("unexpected end of file", HungUp),
];

impl Fault {
    /// In what a library said, with the rest of it.
    fn find(said: &str) -> Option<(Self, &str)> {
        WORDS.iter().find_map(|(words, fault)| Some((*fault, said.split_once(words)?.1)))
    }

    /// What is wrong, if TLS is to blame.
    pub(crate) fn of(said: &str) -> Option<Self> {
        Self::find(said).map(|(fault, _)| fault)
    }

    /// What mends it between the relay and mongod, which was spoken to over TLS or not.
    pub(crate) fn mongodb(self, over_tls: bool) -> &'static str {
        match self {
            Expired | NotYetValid | Certificate => {
                "mongod.conf: net: { tls: { certificateKeyFile: <a certificate that is valid> } }\n\
                 mongosh> db.adminCommand({rotateCertificates: 1})"
            }
            WrongName => {
                "MONGODB_URI: a host that the certificate names, or\n\
                 mongod.conf: net: { tls: { certificateKeyFile: <a certificate that names this host> } }"
            }
            Untrusted => "MONGODB_URI: tlsCAFile=<file of the CA that signed mongod's certificate>",
            ClientCertificate => {
                "MONGODB_URI: tlsCertificateKeyFile=<file with a certificate of mongod's CA and its key>"
            }
            Refused => "mongod.conf: net: { tls: … }   # TLS 1.2 or 1.3",
            Plaintext => {
                "mongod.conf: net: { tls: { mode: requireTLS, certificateKeyFile: <file> } }"
            }
            // Over TLS there is one thing left that it may want.
            HungUp if over_tls => ClientCertificate.mongodb(over_tls),
            HungUp => {
                "MONGODB_URI: tls=true&tlsCAFile=<file of the CA that signed mongod's certificate>"
            }
        }
    }

    /// What mends it between the relay and nats-server.
    pub(crate) fn nats(self) -> &'static str {
        match self {
            Expired | NotYetValid | Certificate => {
                "nats-server.conf: tls { cert_file: <a certificate that is valid> }\n$ nats-server --signal reload"
            }
            WrongName => {
                "NATS_URL: a host that the certificate names, or\n\
                 nats-server.conf: tls { cert_file: <a certificate that names this host> }"
            }
            Untrusted => "NATS_CA: the file of the CA that signed nats-server's certificate",
            ClientCertificate | HungUp => {
                "NATS_CERT, NATS_KEY: the files of a certificate of nats-server's CA and its key"
            }
            Refused => "nats-server.conf: tls { min_version: \"1.2\" }",
            Plaintext => "nats-server.conf: tls { cert_file: <file>, key_file: <file> }",
        }
    }
}

/// What a library said, in a sentence about the server if TLS is to blame, else in its own words.
pub(crate) fn says(said: &str) -> String {
    let Some((fault, rest)) = Fault::find(said) else {
        return said.to_owned();
    };
    match fault {
        Expired => "its certificate has expired".to_owned(),
        NotYetValid => "its certificate is not valid yet, or a clock is wrong".to_owned(),
        WrongName => format!("its certificate is not valid for name{rest}"),
        Untrusted => "its certificate is signed by nobody who is trusted here".to_owned(),
        // As `openssl req -x509` makes them.
        Certificate if rest.contains("CaUsedAsEndEntity") => {
            "it shows a CA's certificate as its own".to_owned()
        }
        Certificate => format!("its certificate can't be accepted: {rest}"),
        ClientCertificate => "it wants a client certificate that it trusts".to_owned(),
        Refused => format!("it refused the TLS handshake: {rest}"),
        Plaintext => "it does not speak TLS, which it is asked to".to_owned(),
        HungUp => "it hung up, as a server does that wants TLS or a client certificate".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_words_become_a_sentence_about_the_server() {
        let name = "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for DnsName(\"b\")";
        for (said, fault, sentence) in [
            (
                "IO error: invalid peer certificate: certificate expired: verification time 5 (UNIX)",
                Expired,
                "has expired",
            ),
            (
                name,
                WrongName,
                "not valid for name \"a\"; certificate is only valid for DnsName(\"b\")",
            ),
            ("invalid peer certificate: UnknownIssuer", Untrusted, "nobody who is trusted"),
            ("invalid peer certificate: BadSignature", Untrusted, "nobody who is trusted"),
            ("invalid peer certificate: BadEncoding", Certificate, "BadEncoding"),
            (
                "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
                Certificate,
                "a CA's certificate",
            ),
            (
                "received fatal alert: CertificateRequired",
                ClientCertificate,
                "wants a client certificate",
            ),
            ("received fatal alert: ProtocolVersion", Refused, "ProtocolVersion"),
            (
                "received corrupt message of type InvalidContentType",
                Plaintext,
                "does not speak TLS",
            ),
        ] {
            assert_eq!(Fault::of(said), Some(fault), "{said}");
            assert!(says(said).contains(sentence), "{}", says(said));
        }
        assert_eq!(
            (Fault::of("Connection refused"), says("Connection refused")),
            (None, "Connection refused".into())
        );
    }
}

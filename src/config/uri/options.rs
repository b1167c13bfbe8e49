//! Options that only other drivers have.
//!
//! What changes nothing for a relay is left out. What somebody may count on is refused, with what
//! to do instead. Every other name is the driver's to judge.

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The driver gets it.
    Kept,
    /// outboxd does without it.
    LeftOut,
    /// It is a mistake, for this reason.
    Refused(&'static str),
}

/// Options that are left out, in lower case. outboxd decides these itself, or does without.
const LEFT_OUT: &[&str] = &[
    // Other drivers' names and types for what a document holds; outboxd reads what is stored.
    "uuidrepresentation",
    "guids",
    "document_class",
    "tz_aware",
    "datetime_conversion",
    "unicode_decode_error_handler",
    "promotevalues",
    "promotelongs",
    "promotebuffers",
    "bsonregexp",
    "ignoreundefined",
    "serializefunctions",
    "forceserverobjectid",
    "raw",
    // Compression, which outboxd does without: events leave mongod once.
    "compressors",
    "zlibcompressionlevel",
    // How others write. outboxd waits for a majority of its own accord.
    "j",
    "fsync",
    "safe",
    "wtimeout",
    // How long others queue for a connection and keep it. A timeout of operations, which the driver
    // does not have, is not among them: whoever sets one counts on it.
    "waitqueuetimeoutms",
    "waitqueuemultiple",
    "waitqueuesize",
    "maxlifetimems",
    "maxlifetime",
    "maxconnectionlifetimems",
    "maxconnectionlifetime",
    "maintenancefrequencyms",
    "socketcheckintervalms",
    // Habits of older drivers, and how others keep and choose their connections.
    "usenewurlparser",
    "useunifiedtopology",
    "usecreateindex",
    "usefindandmodify",
    "autoreconnect",
    "auto_reconnect",
    "reconnecttries",
    "reconnectinterval",
    "keepalive",
    "keepaliveinitialdelay",
    "nodelay",
    "family",
    "poolsize",
    "minsize",
    "streamtype",
    "connect",
    "slaveok",
    "serverselectiontryonce",
    "minheartbeatfrequencyms",
    "buffermaxentries",
    "buffercommands",
    "monitorcommands",
    "adaptiveretries",
    "maxadaptiveretries",
    "enableoverloadretargeting",
    // Checks of revoked certificates, which rustls does not make.
    "tlsdisableocspendpointcheck",
    "tlsdisablecertificaterevocationcheck",
];

/// Options of a graphical client begin like this.
const LEFT_OUT_PREFIX: &str = "3t.";

/// Options that are refused, in lower case, with what to do.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["sockettimeoutms", "sockettimeout", "timeoutms", "timeout"],
        "a timeout of operations is not supported; leave it out, and set connectTimeoutMS or \
         serverSelectionTimeoutMS if need be",
    ),
    (
        &["proxyhost", "proxyport", "proxyusername", "proxypassword"],
        "outboxd connects to MongoDB without a proxy; leave it out",
    ),
    (
        &["tlsallowinvalidhostnames", "sslallowinvalidhostnames", "sslinvalidhostnameallowed"],
        "outboxd always compares the host with the names in its certificate; leave it out, and \
         name a host that the certificate names",
    ),
    (
        &["sslverifycertificate", "ssl_cert_reqs"],
        "outboxd verifies certificates; leave it out, and name the file of their CA with tlsCAFile",
    ),
    (&["sslcertificateauthorityfile", "ssl_ca_certs"], "write it as tlsCAFile"),
    (
        &[
            "sslclientcertificatekeyfile",
            "sslpemkeyfile",
            "ssl_certfile",
            "ssl_keyfile",
            "tlscertificatefile",
            "tlsprivatekeyfile",
        ],
        "write tlsCertificateKeyFile, with certificate and key in one file",
    ),
    (&["tlscrlfile", "ssl_crlfile"], "outboxd reads no list of revoked certificates; leave it out"),
    (&["connecttimeout"], "write it as connectTimeoutMS, in milliseconds"),
    (&["serverselectiontimeout"], "write it as serverSelectionTimeoutMS, in milliseconds"),
    (
        &["heartbeatinterval", "heartbeatfrequency"],
        "write it as heartbeatFrequencyMS, in milliseconds",
    ),
];

/// What becomes of this option.
pub(super) fn fate(name: &str, value: &str) -> Fate {
    let name = name.to_ascii_lowercase();
    if name == "connect" && value.eq_ignore_ascii_case("direct") {
        return Fate::Refused("write it as directConnection=true");
    }

    if LEFT_OUT.contains(&name.as_str()) || name.starts_with(LEFT_OUT_PREFIX) {
        return Fate::LeftOut;
    }

    let refused = REFUSED.iter().find(|(names, _)| names.contains(&name.as_str()));
    refused.map_or(Fate::Kept, |(_, reason)| Fate::Refused(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_in_one_list_and_in_lower_case() {
        let refused = REFUSED.iter().flat_map(|(names, _)| names.iter());
        let mut all: Vec<_> = LEFT_OUT.iter().chain(refused).collect();
        assert!(all.iter().all(|name| **name == name.to_ascii_lowercase()));

        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }

    #[test]
    fn a_direct_connection_of_other_drivers_is_not_left_out() {
        assert_eq!(fate("connect", "replicaSet"), Fate::LeftOut);
        assert!(matches!(fate("connect", "direct"), Fate::Refused(why) if why.contains("direct")));
        assert_eq!(fate("replicaSet", "rs0"), Fate::Kept);
    }
}

//! How outboxd proves to NATS who it is, and the files for TLS: settings of `[nats]`.

use std::path::Path;

use nkeys::{KeyPair, KeyPairType};
use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::Reader;

/// How outboxd proves to NATS who it is: with one of these, or with a user and password in the URL.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Path of a `.creds` file.
    pub creds: Option<String>,
    /// Seed of an nkey.
    pub nkey: Option<SecretString>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Token.
    pub token: Option<SecretString>,
}

/// Paths of the PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The client certificate.
    pub cert: Option<String>,
    /// The client certificate's private key.
    pub key: Option<String>,
    /// The CA's certificates.
    pub ca: Option<String>,
}

impl Credentials {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let credentials = Self {
            creds: reader
                .setting(
                    "creds",
                    "Credentials: path of a .creds file with a user's JWT and seed. Instead of it, \
                     give an nkey, a user with a password, or a token.",
                )
                .variables(&["NATS_CREDS"])
                .example("\"/run/secrets/nats.creds\"")
                .read(),
            nkey: reader
                .setting("nkey", "Credentials: seed of an nkey.")
                .variables(&["NATS_NKEY"])
                .example("\"SUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEQ\"")
                .secret(),
            user: reader
                .setting("user", "Credentials: user name, together with `password`.")
                .variables(&["NATS_USER"])
                .example("\"tickets\"")
                .read(),
            password: reader
                .setting("password", "Credentials: password, together with `user`.")
                .variables(&["NATS_PASSWORD"])
                .example("\"…\"")
                .secret(),
            token: reader
                .setting("token", "Credentials: token.")
                .variables(&["NATS_TOKEN"])
                .example("\"…\"")
                .secret(),
        };

        if credentials.user.is_some() != credentials.password.is_some() {
            reader.missing("user", "user and password go together");
        }

        let is_user = |seed: &SecretString| {
            KeyPair::from_seed(seed.expose_secret())
                .is_ok_and(|pair| pair.key_pair_type() == KeyPairType::User)
        };
        if credentials.nkey.as_ref().is_some_and(|seed| !is_user(seed)) {
            reader.mistake("nkey", "is not the seed of a user's nkey, which begins with SU");
        }

        if let Some(path) = &credentials.creds {
            reader.credentials("creds", Path::new(path));
        }

        credentials
    }
}

impl TlsFiles {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let tls = Self {
            cert: reader
                .setting(
                    "tls_cert",
                    "Path of the client certificate, a PEM file, together with `tls_key`. Once it \
                     is set, outboxd connects with TLS only, as with `tls://`.",
                )
                .variables(&["NATS_CERT"])
                .example("\"/run/secrets/tls.crt\"")
                .read(),
            key: reader
                .setting(
                    "tls_key",
                    "Path of the client certificate's private key, a PEM file, unencrypted.",
                )
                .variables(&["NATS_KEY"])
                .example("\"/run/secrets/tls.key\"")
                .read(),
            ca: reader
                .setting(
                    "tls_ca",
                    "Path of the CA's certificates, a PEM file. Once it is set, outboxd connects \
                     with TLS only, as with `tls://`. Without it, outboxd trusts the CAs of the \
                     system.",
                )
                .variables(&["NATS_CA"])
                .example("\"/run/secrets/ca.crt\"")
                .read(),
        };

        match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                reader.identity("tls_cert", Path::new(cert), Path::new(key));
            }
            (None, None) => {}
            _ => reader.mistake("tls_cert", "certificate and key go together"),
        }

        if let Some(path) = &tls.ca {
            reader.authorities("tls_ca", Path::new(path));
        }

        tls
    }
}

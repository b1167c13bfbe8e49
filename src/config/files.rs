//! What the files must hold that settings name: credentials, certificates, keys.
//!
//! Each file is read with the configuration, and rejected when it can't be what its setting wants,
//! for example when it is half written.

use std::path::Path;

use async_nats::ConnectOptions;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::reader::Reader;

impl Reader<'_> {
    /// Reads the file that the setting `key` names.
    fn file(&mut self, key: &str, path: &Path) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(content) => {
                self.remember(path, &content);
                Some(content)
            }
            Err(error) => {
                self.missing(key, format!("the file {} can't be read: {error}", path.display()));
                None
            }
        }
    }

    /// Checks that a file holds a NATS user's JWT with its seed.
    pub(super) fn credentials(&mut self, key: &str, path: &Path) {
        let Some(content) = self.file(key, path) else { return };

        let whole = str::from_utf8(&content)
            .is_ok_and(|text| ConnectOptions::new().credentials(text).is_ok());
        if !whole {
            self.mistake(
                key,
                format!("{} is not a credentials file, with a user's JWT and seed", path.display()),
            );
        }
    }

    /// Checks that a file holds the certificates of one or more CAs, as PEM.
    pub(super) fn authorities(&mut self, key: &str, path: &Path) {
        let Some(content) = self.file(key, path) else { return };
        if certificates(&content).is_none() {
            self.mistake(key, format!("{} holds no certificate as PEM", path.display()));
        }
    }

    /// Checks that the files hold a certificate and its private key, as PEM. Both may be in one
    /// file.
    pub(super) fn identity(&mut self, key: &str, certificate: &Path, private: &Path) {
        let Some(content) = self.file(key, certificate) else { return };

        let same = private == certificate;
        let private_content = if same { Some(content.clone()) } else { self.file(key, private) };
        let Some(private_content) = private_content else { return };

        let Some(chain) = certificates(&content) else {
            return self
                .mistake(key, format!("{} holds no certificate as PEM", certificate.display()));
        };

        let Ok(private_key) = PrivateKeyDer::from_pem_slice(&private_content) else {
            return self
                .mistake(key, format!("{} holds no unencrypted key as PEM", private.display()));
        };

        if CertifiedKey::from_der(chain, private_key, &default_provider()).is_err() {
            self.mistake(
                key,
                format!("the key in {} is not that of the certificate", private.display()),
            );
        }
    }
}

/// The certificates of a PEM file. Nothing when there is none, or when one can't be read.
fn certificates(content: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(content).collect();
    read.ok().filter(|read| !read.is_empty())
}

//! The files that settings name: secrets, credentials, certificates.
//!
//! Each is read when the configuration is, and refused if it can't be what its setting wants, as
//! one that is half written. What was in it is remembered as a digest, so that `run` sees when it
//! is rotated: by its content, since orchestrators swap links and the times of a file say nothing
//! then.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::Config;
use super::reader::Reader;

/// A file as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedFile {
    path: PathBuf,
    /// Nothing when it couldn't be read.
    digest: Option<[u8; 32]>,
}

impl NamedFile {
    fn new(path: &Path, content: Option<&[u8]>) -> Self {
        Self {
            path: path.to_owned(),
            digest: content.map(|content| Sha256::digest(content).into()),
        }
    }

    fn now(&self) -> Self {
        Self::new(&self.path, std::fs::read(&self.path).ok().as_deref())
    }
}

/// Its path: a digest would let anyone try passwords on it.
impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl fmt::Debug for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl Config {
    /// Whether any setting names a file.
    pub fn names_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// The named files that hold something else than when the configuration was read, as they are
    /// now.
    pub fn rotated(&self) -> Vec<NamedFile> {
        self.files
            .iter()
            .map(|file| (file, file.now()))
            .filter(|(was, is)| *was != is)
            .map(|(_, is)| is)
            .collect()
    }
}

impl Reader {
    /// Remembers what a file holds.
    pub(super) fn remember(&mut self, path: &Path, content: &[u8]) {
        self.files.push(NamedFile::new(path, Some(content)));
    }

    /// What the file holds that `key` names, if it can be read.
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

    /// A NATS user's JWT with its seed.
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

    /// The certificates of one or more CAs, as PEM.
    pub(super) fn authorities(&mut self, key: &str, path: &Path) {
        let Some(content) = self.file(key, path) else { return };
        if certificates(&content).is_none() {
            self.mistake(key, format!("{} holds no certificate as PEM", path.display()));
        }
    }

    /// A certificate and the key that goes with it, as PEM; `private` may be the same file.
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

/// All of them, or none.
fn certificates(content: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(content).collect();
    read.ok().filter(|read| !read.is_empty())
}

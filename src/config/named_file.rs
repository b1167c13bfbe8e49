//! A file that a setting names, as it was when the configuration was read.
//!
//! The content is remembered as a digest, so that `outboxd run` notices a rotation by the content.
//! Orchestrators swap links, so the times of a file show nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedFile {
    path: PathBuf,
    /// Nothing when the file could not be read.
    digest: Option<[u8; 32]>,
}

impl NamedFile {
    pub(super) fn new(path: &Path, content: Option<&[u8]>) -> Self {
        Self {
            path: path.to_owned(),
            digest: content.map(|content| Sha256::digest(content).into()),
        }
    }

    /// The file as it is now, if its content changed. While the process can't open files, nothing is
    /// known to have changed.
    pub(super) fn changed(&self) -> Option<Self> {
        let read = std::fs::read(&self.path);
        if read.as_ref().is_err_and(|error| error.raw_os_error().is_some_and(is_full)) {
            return None;
        }

        let now = Self::new(&self.path, read.ok().as_deref());
        (now != *self).then_some(now)
    }
}

/// Whether an error of the operating system says that no file descriptor is left, in the process
/// (EMFILE) or in the system (ENFILE).
fn is_full(code: i32) -> bool {
    [libc::EMFILE, libc::ENFILE].contains(&code)
}

/// The path alone. With the digest, anyone could try passwords.
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

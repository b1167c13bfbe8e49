//! The settings of a process, as they are read again while it runs.
//!
//! Every outbox of a fleet asks for its own after a signal, and each reading reads all tables: a hundred
//! outboxes would read ten thousand of them. So outboxes that ask at about the same time share a reading.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::config::{Config, Fleet, Sources};
use crate::error::{Error, ErrorKind, Result};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    sources: Arc<Mutex<Sources>>,
    last: Arc<Mutex<Option<Reading>>>,
}

/// What was read last.
#[derive(Debug)]
struct Reading {
    began: Instant,
    read: Arc<Read>,
}

/// A reading, or why it failed.
type Read = std::result::Result<Fleet, (ErrorKind, String)>;

impl Settings {
    pub(super) fn new(sources: &Sources) -> Self {
        Self { sources: Arc::new(Mutex::new(sources.clone())), last: Arc::default() }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Database and collection of the outboxes that were found.
    pub(super) fn found(&self) -> Vec<(String, String)> {
        self.sources().found.clone()
    }

    /// Other outboxes were found.
    pub(super) fn find(&self, found: Vec<(String, String)>) {
        self.sources().found = found;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// All outboxes that are meant.
    ///
    /// # Errors
    /// As [`Fleet::load`] and [`Fleet::meant`].
    pub(super) async fn fleet(&self) -> Result<Fleet> {
        let name = self.sources().outbox.clone();
        self.reading(move |fleet| fleet.clone().meant(name.as_deref())).await
    }

    /// The outbox of this name, or the one that is meant.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(super) async fn outbox(&self, name: Option<&str>) -> Result<Config> {
        let name = name.map(str::to_owned).or_else(|| self.sources().outbox.clone());
        self.reading(move |fleet| fleet.outbox(name.as_deref())).await
    }

    /// Takes something from a reading that began after this was called.
    async fn reading<T: Send + 'static>(
        &self,
        take: impl FnOnce(&Fleet) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (settings, asked) = (self.clone(), Instant::now());

        // A volume that hangs holds up this task and no other.
        let reading = spawn_blocking(move || match &*settings.read_since(asked) {
            Ok(fleet) => take(fleet),
            Err((kind, why)) => Err(Error::new(*kind, why.clone())),
        });

        reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn read_since(&self, asked: Instant) -> Arc<Read> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.began >= asked) {
            return last.read.clone();
        }

        let (began, sources) = (Instant::now(), self.sources().clone());
        let read = Fleet::load(&sources);
        let read = read.map_err(|error| (error.kind(), error.report().to_string()));

        let reading = last.insert(Reading { began, read: Arc::new(read) });
        reading.read.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    /// Settings in a file of its own with so many tables.
    fn settings(tables: usize) -> (tempfile::NamedTempFile, Settings) {
        let tables =
            (0..tables).map(|n| format!("[[outbox]]\ndatabase = \"d{n}\"\nstream = \"S\"\n"));

        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), tables.collect::<String>()).expect("the file is written");
        let env = [("MONGODB_URI", "mongodb://m/"), ("OUTBOXD_STREAM__SUBJECTS", "s.>")];
        let env = env.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();

        let sources = Sources { file: Some(file.path().to_owned()), env, ..Sources::default() };
        (file, Settings::new(&sources))
    }

    #[tokio::test]
    async fn outboxes_that_ask_at_once_share_readings_and_each_gets_its_own() {
        let (_file, settings) = settings(50);
        let asking = (0..50).map(|n| {
            let settings = settings.clone();
            async move {
                let name = format!("d{n}.outbox");
                let config = settings.outbox(Some(&name)).await.expect("its settings");
                assert_eq!(config.outbox(), name);
                let last = settings.last.lock().expect("the last reading");
                last.as_ref().expect("a reading").began
            }
        });

        let mut readings = join_all(asking).await;
        readings.sort();
        readings.dedup();
        assert!(readings.len() <= 3, "{} readings", readings.len());
    }

    #[tokio::test]
    async fn who_asks_later_reads_again_and_a_mistake_is_reported_to_each() {
        let (file, settings) = settings(1);
        assert!(settings.outbox(Some("d0.outbox")).await.is_ok());
        std::fs::write(file.path(), "[[outbox]]\ncolour = 1\n").expect("the file is written");
        for _ in 0..2 {
            let error = settings.outbox(Some("d0.outbox")).await.expect_err("a mistake");
            assert!(error.report().to_string().contains("colour"), "{error}");
        }
    }
}

//! An outbox of the console: its connections, and what was last seen of it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mongodb::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::sample::Live;
use crate::check;
use crate::config::{Config, Fleet, MongodbConfig};
use crate::error::Result;
use crate::finding::{Finding, Level};
use crate::mongodb::act::Act;
use crate::mongodb::inspect::Inspect;
use crate::operator::clients::Clients;
use crate::operator::{act, kept};

/// An older sample is not shown to somebody who opens a page.
const FRESH: Duration = Duration::from_secs(5);
/// How long each server may take to answer a check, as in the command.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a new sample before the last one is shown, with its time.
const PATIENCE: Duration = Duration::from_secs(1);

/// An outbox that people look at.
#[derive(Debug)]
pub(super) struct Outbox {
    /// `database.collection`
    pub(super) name: String,
    connection: RwLock<Arc<Connection>>,
    pub(super) live: watch::Sender<Arc<Live>>,
    /// Somebody looks now.
    pub(super) wanted: Notify,
    looked_at: Mutex<Instant>,
    /// The last check.
    checked: RwLock<Option<Checked>>,
    /// One check at a time.
    checking: tokio::sync::Mutex<()>,
}

/// What `outboxd check` found.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    at: Instant,
    pub(super) findings: Arc<[Finding]>,
    /// Whether this console's user has fewer rights than the relay's, so that what was denied to it is
    /// left out.
    pub(super) is_partial: bool,
}

/// What an outbox is read and changed through.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) config: Config,
    pub(super) inspect: Inspect,
    pub(super) client: Client,
}

impl Connection {
    fn new(config: &Config, client: Client) -> Arc<Self> {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let layout = config.event.layout.clone();
        let inspect = Inspect::new(client.database(database), collection, layout);
        Arc::new(Self { config: config.clone(), inspect, client })
    }

    /// Its audit, and what changes its events.
    pub(super) fn act(&self) -> Act {
        let mongodb = &self.config.mongodb;
        let layout = self.config.event.layout.clone();
        Act::new(self.client.database(&mongodb.database), &mongodb.collection, layout)
    }

    /// Its kept events.
    pub(super) fn kept(&self) -> kept::Outbox {
        kept::Outbox::new(self.config.clone(), self.client.clone())
    }

    /// The outbox as somebody acts on it.
    pub(super) fn acted_on_by(&self, who: String) -> act::Outbox {
        act::Outbox::new(self.config.clone(), self.inspect.clone(), self.client.clone(), who)
    }
}

impl Outbox {
    /// Every outbox of the configuration.
    ///
    /// # Errors
    /// As [`MongodbConfig::client`].
    pub(super) async fn open_all(fleet: &Fleet) -> Result<Vec<Arc<Self>>> {
        let mut clients = Clients::default();
        let mut outboxes = Vec::with_capacity(fleet.outboxes().len());
        for config in fleet.outboxes() {
            let client = clients.of(config).await?;
            outboxes.push(Arc::new(Self {
                name: config.outbox(),
                connection: RwLock::new(Connection::new(config, client)),
                live: watch::Sender::default(),
                wanted: Notify::new(),
                looked_at: Mutex::new(Instant::now()),
                checked: RwLock::default(),
                checking: tokio::sync::Mutex::default(),
            }));
        }
        Ok(outboxes)
    }

    /// Connects with other secrets.
    pub(super) fn rotate(&self, config: &Config, client: Client) {
        let connection = Connection::new(config, client);
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that somebody looks.
    pub(super) fn look(&self) {
        *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.wanted.notify_one();
    }

    /// How long nobody has looked.
    pub(super) fn unwatched(&self) -> Duration {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The last check, if there was one.
    pub(super) fn checked(&self) -> Option<Checked> {
        self.checked.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A check that is at most so old. Who asks while one is made waits for it.
    pub(super) async fn check(&self, oldest: Duration) -> Checked {
        let _alone = self.checking.lock().await;
        if let Some(checked) = self.checked().filter(|checked| checked.at.elapsed() < oldest) {
            return checked;
        }

        let config = self.connection().config.clone();
        let mut findings = check::look(&config, CHECK_TIMEOUT).await;
        let is_partial = findings.iter().any(lacks_rights);
        findings.retain(|finding| !is_partial || !is_denied(finding));

        let (at, findings) = (Instant::now(), findings.into());
        let checked = Checked { at, findings, is_partial };
        *self.checked.write().unwrap_or_else(PoisonError::into_inner) = Some(checked.clone());
        checked
    }

    /// The last sample, or a newer one when it is old. One sample serves everybody who waits.
    pub(super) async fn sample(&self) -> Arc<Live> {
        let mut live = self.live.subscribe();
        let last = live.borrow_and_update().clone();
        self.look();

        if last.taken.is_some_and(|taken| taken.elapsed() < FRESH) {
            return last;
        }

        // What comes is newer; what doesn't leaves the last one, which shows its time.
        let _ = timeout(PATIENCE, live.changed()).await;
        live.borrow().clone()
    }
}

/// Whether the user that checked lacks rights of the relay's.
fn lacks_rights(finding: &Finding) -> bool {
    // A user with too many is a warning, and can check everything.
    finding.check == "mongodb.privileges" && finding.level == Level::Fail
}

/// Whether a finding is about the user that checked, and not about the relay's.
fn is_denied(finding: &Finding) -> bool {
    lacks_rights(finding) || finding.level != Level::Ok && finding.found.contains("Unauthorized")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_too_many_rights_lacks_none() {
        let root = Finding::warn("mongodb.privileges", "db", "root has the role root", "");
        let few = Finding::fail("mongodb.privileges", "db", "x lacks find on a.b", "");
        assert!(!lacks_rights(&root) && lacks_rights(&few));
    }
}

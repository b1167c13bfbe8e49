//! An outbox of the console: its connections, and what was last seen of it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mongodb::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::sample::Live;
use crate::config::{Config, Fleet, MongodbConfig};
use crate::error::Result;
use crate::mongodb::inspect::Inspect;
use crate::operator::clients::Clients;

/// An older sample is not shown to somebody who opens a page.
const FRESH: Duration = Duration::from_secs(5);
/// Longest wait for a new sample before the last one is shown, with its time.
const PATIENCE: Duration = Duration::from_secs(3);

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

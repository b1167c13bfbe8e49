//! The clients of MongoDB that the outboxes of a process share: one set for each connection string.
//!
//! A rotated secret is another connection string. So the outboxes that use it get new clients, and
//! the old ones end with the last outbox that used them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use mongodb::Client;

use crate::config::{Follow, MongodbConfig};
use crate::error::Result;
use crate::mongodb::outbox::Store;
use crate::mongodb::shared::Changes;

/// Most connections of a client that several outboxes follow changes with: each outbox with a change
/// stream of its own holds one.
const MAX_FOLLOWING: u32 = 2000;
/// Most connections of each other client that several outboxes use. An outbox uses a handful while
/// it has much to do.
const MAX_SHARED: u32 = 100;

/// Most connections to the leases. Those of all outboxes are renewed at about the same time, and the
/// server syncs its journal once for those that wait together: on a slow disk, many rounds take long.
const MAX_LEASE: u32 = 32;

/// The sets of clients in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Pools {
    sets: Arc<Mutex<Vec<Known>>>,
    /// Whether several outboxes may use a set.
    is_shared: bool,
}

#[derive(Debug)]
struct Known {
    config: MongodbConfig,
    clients: Weak<Clients>,
}

/// The clients of one connection string. Each has a pool of its own: following an outbox and holding
/// its lease never wait for a query.
#[derive(Debug)]
pub(super) struct Clients {
    follow: Client,
    /// Those that come over `follow`.
    changes: Changes,
    pub(super) queries: Client,
    pub(super) lease: Client,
    pub(super) admin: Client,
}

impl Clients {
    /// The outbox over the connections that follow it.
    pub(super) fn follow(&self, store: &Store, follow: Follow) -> Store {
        let changes = match follow {
            Follow::Shared => self.changes.clone(),
            Follow::Own => Changes::Own,
        };

        store.through(self.follow.clone(), changes)
    }
}

impl Pools {
    /// For a fleet.
    pub(super) fn shared() -> Self {
        Self { is_shared: true, ..Self::default() }
    }

    /// Whether several outboxes may use a set.
    pub(super) fn are_shared(&self) -> bool {
        self.is_shared
    }

    /// The clients for an outbox with these settings.
    ///
    /// # Errors
    /// As [`MongodbConfig::options`].
    pub(super) async fn of(&self, config: &MongodbConfig) -> Result<Arc<Clients>> {
        if let Some(clients) = self.known(config) {
            return Ok(clients);
        }

        // Not under the lock: resolving a name may take long. Of two at once, one is kept.
        let clients = Arc::new(self.connect(config).await?);
        if let Some(earlier) = self.known(config) {
            return Ok(earlier);
        }

        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|known| known.clients.strong_count() > 0);
        sets.push(Known { config: config.clone(), clients: Arc::downgrade(&clients) });
        Ok(clients)
    }

    fn known(&self, config: &MongodbConfig) -> Option<Arc<Clients>> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&Known| self.is_shared && known.config.is_same_server(config);
        sets.iter().find(is_same)?.clients.upgrade()
    }

    async fn connect(&self, config: &MongodbConfig) -> Result<Clients> {
        let most = |connections| self.is_shared.then_some(connections);
        let (follow, queries, lease, admin) = tokio::try_join!(
            config.pooled("follow", most(MAX_FOLLOWING)),
            config.pooled("outbox", most(MAX_SHARED)),
            config.pooled("lease", most(MAX_LEASE)),
            config.pooled("admin", None),
        )?;
        let changes = if self.is_shared { Changes::shared(&follow) } else { Changes::Own };
        Ok(Clients { follow, changes, queries, lease, admin })
    }
}

//! The change stream that the outboxes of a daemon share: of the cluster, or of one database where
//! the user's rights allow no more. An outbox whose database the user may not watch has a stream of
//! its own.
//!
//! A stream costs the server the same whatever it wants, because it reads the whole oplog: sixty
//! streams cost 2.5 ms for each transaction, and one costs 0.1 ms.
//!
//! - [`cursor`]: a stream of many collections, and where it is

mod cursor;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::Client;
use tracing::warn;

use self::cursor::{Scope, Source};
use crate::relay::ports::StoreResult;
use crate::relay::ports::shared::Watched;
use crate::relay::shared::{Share, SharedStream};

/// Where the changes of an outbox come from.
#[derive(Debug, Clone)]
pub(crate) enum Changes {
    /// From change streams of its own.
    Own,
    /// From those that the outboxes of a client share.
    Shared(Arc<Shared>),
}

impl Changes {
    /// Shared by all that get a copy of this. Nothing is opened before the first of them joins.
    pub(crate) fn shared(client: &Client) -> Self {
        Self::Shared(Arc::new(Shared {
            client: client.clone(),
            cluster: SharedStream::new(Source { client: client.clone(), scope: Scope::Cluster }),
            is_refused: AtomicBool::new(false),
            databases: Mutex::default(),
        }))
    }

    /// Takes part in a shared stream. `None` if the outbox needs one of its own.
    pub(super) async fn join(&self, watched: Watched) -> StoreResult<Option<Share>> {
        match self {
            Self::Own => Ok(None),
            Self::Shared(shared) => shared.join(watched).await,
        }
    }
}

/// The shared streams of a client. Which of them the user may open is found out once: new rights
/// count for new connections.
#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    cluster: SharedStream,
    /// Whether the user may not watch the cluster.
    is_refused: AtomicBool,
    /// By the name of the database; `None` for one that the user may not watch.
    databases: Mutex<HashMap<String, Option<SharedStream>>>,
}

impl Shared {
    async fn join(&self, watched: Watched) -> StoreResult<Option<Share>> {
        if !self.is_refused.load(Ordering::Relaxed) {
            let share = self.cluster.join(watched.clone()).await?;
            if share.is_some() {
                return Ok(share);
            }

            if !self.is_refused.swap(true, Ordering::Relaxed) {
                warn!(
                    "the MongoDB user may not watch the cluster, so each database of an outbox has \
                     a change stream of its own, which costs mongod more; grant the role that \
                     `outboxd privileges --role relay` prints, or set mongodb.follow = \"own\""
                );
            }
        }

        let Some(stream) = self.of_database(&watched.database) else { return Ok(None) };
        let database = watched.database.clone();
        let share = stream.join(watched).await?;
        if share.is_none() {
            self.refuse(database);
        }

        Ok(share)
    }

    fn of_database(&self, database: &str) -> Option<SharedStream> {
        let mut streams = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = streams.get(database) {
            return known.clone();
        }

        let scope = Scope::Database(database.to_owned());
        let stream = SharedStream::new(Source { client: self.client.clone(), scope });
        streams.insert(database.to_owned(), Some(stream.clone()));
        Some(stream)
    }

    fn refuse(&self, database: String) {
        let mut streams = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = streams.get(&database).is_some_and(Option::is_some);
        if was_open {
            warn!(
                database,
                "the MongoDB user may not watch this database either, so each of its outboxes has \
                 change streams of its own"
            );
        }
        streams.insert(database, None);
    }
}

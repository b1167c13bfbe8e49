//! The daemons that share the outboxes of a fleet, in the order of their places.
//!
//! A daemon announces itself with a lease that it renews: `{_id: "$daemon/<place>", holder, term, expiresAt,
//! unable}` in `outboxd_lease`, beside those of the outboxes. A place that nobody renews is free, and the next
//! daemon takes it; so the documents are as many as there ever were daemons at once, and nobody removes any. A
//! collection can't have such a name.

use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::{Client, Collection};

use super::collation::simple;
use super::collections::LEASE;
use super::lease::LeaseDocument;
use crate::relay::ports::{Claimed, LeaseStore as _, StoreResult};

/// What the names of places begin with.
const PLACE: &str = "$daemon/";
/// Most daemons that share a fleet. One more has no place, and takes what nobody else relays.
const MAX_DAEMONS: usize = 100;
/// In the document: the outboxes that the daemon can't relay.
const UNABLE: &str = "unable";

/// A daemon that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) is_self: bool,
    /// The outboxes that it can't relay.
    pub(crate) unable: Vec<String>,
}

/// The daemons of a fleet, as one of them sees the others.
#[derive(Debug)]
pub(crate) struct Daemons {
    collection: Collection<Document>,
    /// Each place as a lease.
    places: Vec<LeaseDocument>,
    own: Option<Own>,
}

/// The place of this daemon.
#[derive(Debug)]
struct Own {
    at: usize,
    term: i64,
    /// What its document has.
    unable: Vec<String>,
}

fn name(place: usize) -> String {
    format!("{PLACE}{place:03}")
}

impl Daemons {
    /// They meet in this database. `holder` is what this one is called there.
    pub(crate) fn new(client: &Client, database: &str, holder: &str) -> Self {
        let place = |at| LeaseDocument::new(client, database, &name(at), holder.to_owned());
        Self {
            collection: client.database(database).collection(LEASE),
            places: (0..MAX_DAEMONS).map(place).collect(),
            own: None,
        }
    }

    /// Announces this daemon for `ttl`, with the outboxes that it can't relay. Returns every daemon
    /// that is alive.
    pub(crate) async fn announce(
        &mut self,
        ttl: Duration,
        unable: &[String],
    ) -> StoreResult<Vec<Daemon>> {
        let is_renewed = match &self.own {
            Some(own) => self.places[own.at].renew(own.term, ttl, None).await?,
            None => false,
        };
        if !is_renewed {
            self.own = self.claim(ttl).await?;
        }

        if let Some(own) = self.own.as_mut().filter(|own| own.unable != unable) {
            let set = doc! { "$set": { UNABLE: unable } };
            self.collection.update_one(doc! { "_id": name(own.at) }, set).await?;
            own.unable = unable.to_vec();
        }

        self.alive().await
    }

    /// Takes the first place that is free.
    async fn claim(&self, ttl: Duration) -> StoreResult<Option<Own>> {
        for (at, place) in self.places.iter().enumerate() {
            if let Some(Claimed { term, .. }) = place.claim(ttl).await? {
                return Ok(Some(Own { at, term, unable: Vec::new() }));
            }
        }
        Ok(None)
    }

    async fn alive(&self) -> StoreResult<Vec<Daemon>> {
        let own = self.own.as_ref().map(|own| name(own.at));
        let alive = doc! {
            "_id": { "$gte": PLACE, "$lt": format!("{PLACE}~") },
            "$expr": { "$gt": ["$expiresAt", "$$NOW"] },
        };
        let found = self.collection.find(alive).sort(doc! { "_id": 1 }).collation(simple()).await?;

        let daemon = |document: Document| {
            let unable = document.get_array(UNABLE).into_iter().flatten();
            Daemon {
                is_self: document.get_str("_id").ok() == own.as_deref(),
                unable: unable.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            }
        };
        Ok(found.map_ok(daemon).try_collect().await?)
    }

    /// Gives its place up: the others share what it had.
    pub(crate) async fn leave(&mut self) -> StoreResult<()> {
        match self.own.take() {
            Some(own) => self.places[own.at].release(own.term, None).await,
            None => Ok(()),
        }
    }
}

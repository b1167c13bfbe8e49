//! The outboxes of a fleet in one process. Each has a lease, a pipeline, metrics and alerts of its
//! own. One that can't be relayed is tried again, and holds up no other.
//!
//! When the settings are read again, outboxes that are new start and those that are gone drain.
//! What else changed is up to each of them; see `rotation`. Which of the others are relayed by this
//! daemon, and which are left to other daemons, is up to `shares`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::outbox::Outbox;
use super::pools::Clients;
use super::process::{Asked, Process};
use super::shares::{Move, Seen, Shares};
use crate::config::{Config, Fleet};
use crate::error::mongodb_reason;
use crate::mongodb::daemons::{Daemon, Daemons};
use crate::mongodb::discovery;
use crate::relay::leadership::parts::Totals;
use crate::telemetry::seldom::Seldom;

/// How often a daemon looks which outboxes are its own. A free lease waits for at most as long.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks for outboxes, and how long a look may take.
const FIND: Duration = Duration::from_secs(10);
/// Longest wait for an answer of MongoDB. An outbox whose deployment does not answer is tried: its
/// own relay waits for it, and holds up no other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Leases that are looked at at once.
const AT_ONCE: usize = 8;
/// A daemon that died is gone from the others' list before its leases expire.
const OF_TTL: (u32, u32) = (2, 3);

/// The outboxes of this process.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
    stop: CancellationToken,
    outboxes: BTreeMap<String, Outbox>,
    shares: Shares,
    /// Where the daemons meet, once that was reached.
    daemons: Option<(Arc<Clients>, Daemons)>,
    /// Looks at which the other daemons were not known.
    unasked: Seldom,
    totals: Totals,
    /// What this daemon is called among the daemons.
    holder: String,
}

impl Running {
    pub(super) fn new(process: Process, name: &str, stop: &CancellationToken) -> Self {
        Self {
            process,
            stop: stop.clone(),
            outboxes: BTreeMap::new(),
            shares: Shares::default(),
            daemons: None,
            unasked: Seldom::default(),
            totals: Totals::default(),
            holder: format!("{name} {:08x}", rand::random::<u32>()),
        }
    }

    /// Relays this daemon's share of the outboxes until `stop`, then drains all at once.
    pub(super) async fn run(mut self, mut fleet: Fleet, asked: &Asked) -> Totals {
        self.change(&fleet).await;

        let stop = self.stop.clone();
        let (mut looks, mut finds) = (every(LOOK), every(FIND));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => {
                    let Some(home) = fleet.home() else { continue };
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.share(home) => {}
                    }
                }
                _ = finds.tick(), if fleet.discovers().is_some() => {
                    let is_news = tokio::select! {
                        () = stop.cancelled() => break,
                        is_news = self.find(&fleet) => is_news,
                    };
                    if is_news {
                        self.load(&mut fleet).await;
                    }
                }
                () = asked.reload.notified() => {
                    self.load(&mut fleet).await;
                    self.outboxes.values().for_each(Outbox::reload);
                }
            }
        }

        if let Some((_, daemons)) = &mut self.daemons {
            // The others would find out soon anyway.
            _ = timeout(PATIENCE, daemons.leave()).await;
        }
        self.drain(|_| true).await;
        self.totals
    }

    /// Reads the settings again.
    async fn load(&mut self, fleet: &mut Fleet) {
        match self.process.settings.fleet().await {
            Ok(loaded) => {
                self.change(&loaded).await;
                let place = |fleet: &Fleet| fleet.home().map(Config::outbox);
                if place(fleet) != place(&loaded) {
                    self.daemons = None;
                }
                *fleet = loaded;
            }
            Err(error) => {
                let error = error.report();
                warn!(%error, "the settings cannot be used: keeping the old ones");
            }
        }
    }

    /// Looks for outboxes. Returns whether there are new ones, or some are gone.
    async fn find(&mut self, fleet: &Fleet) -> bool {
        let Some((patterns, settings)) = fleet.discovers() else { return false };
        let Ok(clients) = self.process.pools.of(&settings.mongodb).await else { return false };

        let found = match timeout(FIND, discovery::look(&clients.admin)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                warn!(
                    error = mongodb_reason(&error),
                    "could not list the databases to find outboxes"
                );
                return false;
            }
            Err(_) => {
                warn!("could not list the databases to find outboxes: MongoDB does not answer");
                return false;
            }
        };

        let known = &self.process.settings.found();
        let found = patterns.news(found.outboxes, known, |database| {
            found.unread.iter().any(|unread| unread == database)
        });
        let tables: Vec<_> = fleet
            .outboxes()
            .iter()
            .map(|config| (config.mongodb.database.clone(), config.mongodb.collection.clone()))
            .filter(|table| !known.contains(table))
            .collect();
        let found: Vec<_> = found.into_iter().filter(|one| !tables.contains(one)).collect();

        let is_news = found != *known;
        self.process.settings.find(found);
        is_news
    }

    /// Starts the outboxes that are new, and drains those that are gone.
    async fn change(&mut self, fleet: &Fleet) {
        let wanted: BTreeMap<_, _> =
            fleet.outboxes().iter().map(|config| (config.outbox(), config)).collect();

        for name in self.drain(|name| !wanted.contains_key(name)).await {
            self.process.endpoint.remove(&name);
            info!(outbox = name, "the outbox is not relayed any more");
        }

        for (name, config) in wanted {
            match self.outboxes.entry(name) {
                Entry::Occupied(mut known) => known.get_mut().follow(config),
                Entry::Vacant(place) => {
                    let stop = self.stop.child_token();
                    place.insert(Outbox::new(config.clone(), &self.process, stop));
                }
            }
        }
    }

    /// Takes the outboxes that are this daemon's to relay, and leaves those that are not.
    async fn share(&mut self, home: &Config) {
        let now = Instant::now();
        let unable = self.shares.unable(now);
        let daemons = timeout(PATIENCE, self.announce(home, &unable)).await.ok().flatten();
        let seen = self.look().await;

        for (name, step) in self.shares.moves(&seen, daemons.as_deref(), Instant::now()) {
            if let Some(outbox) = self.outboxes.get(&name) {
                match step {
                    Move::Take => {}
                    Move::Rest => info!(outbox = name, "leaving the outbox to another daemon"),
                }
                outbox.turn(step == Move::Take);
            }
        }
    }

    /// Announces this daemon, and returns all that are alive; `None` while they are not known.
    async fn announce(&mut self, home: &Config, unable: &[String]) -> Option<Vec<Daemon>> {
        if self.daemons.is_none() {
            let clients = self.process.pools.of(&home.mongodb).await.ok()?;
            let daemons = Daemons::new(&clients.lease, &home.mongodb.database, &self.holder);
            self.daemons = Some((clients, daemons));
        }

        let ttl = home.lease.ttl * OF_TTL.0 / OF_TTL.1;
        match self.daemons.as_mut()?.1.announce(ttl, unable).await {
            Ok(daemons) => Some(daemons),
            Err(error) => {
                if self.unasked.count(1).is_some() {
                    warn!(%error, "cannot read which other daemons run: taking free outboxes");
                }
                None
            }
        }
    }

    /// What each outbox is to this daemon. One whose lease can't be read counts as free.
    async fn look(&mut self) -> BTreeMap<String, Seen> {
        let (pools, holder) = (&self.process.pools, &self.holder);
        let looks = self.outboxes.iter_mut().map(|(name, outbox)| async move {
            let seen = match outbox.seen() {
                Some(seen) => seen,
                None => match timeout(PATIENCE, outbox.is_anothers(pools, holder)).await {
                    Ok(Some(true)) => Seen::Anothers,
                    Ok(Some(false) | None) | Err(_) => Seen::Free,
                },
            };
            (name.clone(), seen)
        });
        stream::iter(looks).buffer_unordered(AT_ONCE).collect().await
    }

    /// Drains these outboxes, all at once. Returns their names.
    async fn drain(&mut self, which: impl Fn(&str) -> bool) -> Vec<String> {
        let gone: Vec<_> = self.outboxes.extract_if(.., |name, _| which(name)).collect();
        gone.iter().for_each(|(_, outbox)| outbox.stop());

        let mut names = Vec::with_capacity(gone.len());
        for (name, outbox) in gone {
            match outbox.ended().await {
                Ok(totals) => self.totals += totals,
                Err(error) => {
                    error!(outbox = name, %error, "the outbox's relay ended before its time");
                }
            }
            names.push(name);
        }
        names
    }
}

/// Ticks at once and then at this interval, however long a tick takes.
fn every(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

//! An outbox of a fleet: relayed while it is this daemon's turn, and again after whatever fails.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info_span};

use super::connect::lives;
use super::member::Member;
use super::pools::{Clients, Pools};
use super::process::Process;
use super::settings::Settings;
use super::shares::Seen;
use crate::backoff::Backoff;
use crate::config::{Config, MongodbConfig};
use crate::mongodb::lease::LeaseDocument;
use crate::relay::leadership::parts::Totals;
use crate::telemetry::health::Health;

/// Waits before an outbox that can't be relayed is tried again. What is wrong needs a person.
const WAITS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// An outbox, and the task that relays it.
#[derive(Debug)]
pub(super) struct Outbox {
    config: Config,
    /// Looks at its lease while it rests.
    lease: Option<(Arc<Clients>, LeaseDocument)>,
    health: Arc<Health>,
    stop: CancellationToken,
    reload: Arc<Notify>,
    is_on: watch::Sender<bool>,
    relaying: JoinHandle<Totals>,
}

impl Outbox {
    /// It rests until [`Outbox::turn`].
    pub(super) fn new(config: Config, process: &Process, stop: CancellationToken) -> Self {
        let (name, reload) = (config.outbox(), Arc::<Notify>::default());
        let (is_on, turn) = watch::channel(false);
        let member = Member::new(&name, process, reload.clone());
        let health = member.health().clone();
        let settings = process.settings.clone();
        let again = Again { name: name.clone(), reload: reload.clone(), settings, turn };
        let relaying = again.relay(member, config.clone(), stop.clone());
        let relaying = tokio::spawn(relaying.instrument(info_span!("outbox", name)));
        Self { config, lease: None, health, stop, reload, is_on, relaying }
    }

    /// Looks at its lease with these settings from now on.
    pub(super) fn follow(&mut self, config: &Config) {
        (self.config, self.lease) = (config.clone(), None);
    }

    /// Whether another holder has its lease; `None` if that can't be read.
    pub(super) async fn is_anothers(&mut self, pools: &Pools, holder: &str) -> Option<bool> {
        if self.lease.is_none() {
            let MongodbConfig { database, collection, .. } = &self.config.mongodb;
            let clients = pools.of(&self.config.mongodb).await.ok()?;
            let lease = LeaseDocument::new(&clients.lease, database, collection, holder.to_owned());
            self.lease = Some((clients, lease));
        }

        self.lease.as_ref()?.1.is_anothers().await.ok()
    }

    /// Whether this daemon relays it, or tries to.
    pub(super) fn turn(&self, is_on: bool) {
        self.is_on.send_replace(is_on);
    }

    /// What it is to this daemon, as far as its health shows; `None` while it rests.
    pub(super) fn seen(&self) -> Option<Seen> {
        let is_on = *self.is_on.borrow();
        is_on.then(|| match (self.health.is_leading(), self.health.can_deliver()) {
            (true, true) => Seen::Led,
            (true, false) => Seen::LedInVain,
            (false, _) if self.health.is_outrun() => Seen::Outrun,
            (false, _) => Seen::Tried,
        })
    }

    /// Has it read the settings again.
    pub(super) fn reload(&self) {
        self.reload.notify_one();
    }

    /// Has it drain.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has drained.
    ///
    /// # Errors
    /// When its task panicked.
    pub(super) async fn ended(self) -> Result<Totals, JoinError> {
        self.relaying.await
    }
}

/// What it takes to relay an outbox again and again.
struct Again {
    name: String,
    reload: Arc<Notify>,
    settings: Settings,
    turn: watch::Receiver<bool>,
}

impl Again {
    /// Relays an outbox whenever it is its turn, until `stop`.
    async fn relay(
        mut self,
        member: Member,
        mut config: Config,
        stop: CancellationToken,
    ) -> Totals {
        let (mut totals, mut waits) = (Totals::default(), WAITS);
        loop {
            member.health().rests();
            tokio::select! {
                () = stop.cancelled() => return totals,
                () = turned(&mut self.turn, true) => {}
                never = lives(member.health()) => match never {},
            }

            member.health().starts();
            let turn = stop.child_token();
            let mut relaying = pin!(member.turns(config.clone(), &turn));
            let relayed = tokio::select! {
                relayed = &mut relaying => relayed,
                () = turned(&mut self.turn, false) => {
                    turn.cancel();
                    relaying.await
                }
            };

            match relayed {
                Ok(relayed) => {
                    totals += relayed;
                    waits = WAITS;
                }
                Err(error) => {
                    let (error, wait) = (error.report().to_string(), waits.next_wait());
                    error!(error, again_in = ?wait, "the outbox cannot be relayed");
                    member.health().problem(error);
                    self.pause(&member, wait, &stop).await;
                }
            }

            if stop.is_cancelled() {
                return totals;
            }
            // As they are now: somebody may have corrected them.
            if let Ok(loaded) = self.settings.outbox(Some(&self.name)).await {
                config = loaded;
            }
        }
    }

    /// Waits; a reload ends the wait.
    async fn pause(&self, member: &Member, wait: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
            () = self.reload.notified() => {}
            never = lives(member.health()) => match never {},
        }
    }
}

/// Waits until it is the daemon's turn, or not any more.
async fn turned(turn: &mut watch::Receiver<bool>, wanted: bool) {
    if turn.wait_for(|is_on| *is_on == wanted).await.is_err() {
        // The fleet is gone, and stops what it had.
        std::future::pending::<()>().await;
    }
}

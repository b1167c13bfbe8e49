//! The daemon half: wires the stages, owns start and drain order.
//!
//! ```text
//!            ┌─ sweep ─┐
//!  [outbox] ─┤         ├─▶ dispatch ─▶ publish ─▶ [JetStream]
//!     ▲      ├─ tail ──┤      ▲            │
//!     │      └─ retry ─┘      │ settled    ▼ outcome
//!     └──────────────────── settle ◀───────┘
//! ```
//!
//! One leadership is one pipeline: taking the lease builds it, losing the lease or a stop takes it
//! down in the order of the data: intake ends, publishes under way finish, their fate is written,
//! the lease is resigned.

mod acks;
mod breaker;
mod clock;
mod crash;
pub(crate) mod dispatch;
mod failed;
mod follow;
mod lane;
pub mod lease;
mod nats;
pub mod policy;
pub(crate) mod publish;
mod pump;
mod retry;
mod settle;
#[cfg(test)]
mod simulation;
pub mod stream;
mod stuck;
mod sweep;
mod tail;
mod twins;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use self::lease::Lease;
pub use self::nats::Nats;
use self::pump::{Pump, Stopped};
use self::stream::JetStream;
use self::stuck::Stuck;
use self::world::{EventBus, EventStore, LeaseStore};
use crate::admin::Health;
use crate::config::{Config, MongodbConfig};
use crate::error::{Error, ErrorKind, Result, mongodb_says};
use crate::migrations::Migrations;
use crate::outbox::store::Store;
use crate::telemetry::alerts::{AlertLog, Alerts};
use crate::telemetry::metrics;

/// Wait between attempts to connect at start.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A relay with its connections made and its outbox and stream verified. It has written nothing
/// yet.
#[derive(Debug)]
pub struct Relay {
    parts: Parts<Store, JetStream>,
    lease: Arc<Lease>,
    alert_log: AlertLog,
    /// Ends the watch for stuck events.
    watching: DropGuard,
}

/// What each leadership is built from.
#[derive(Debug, Clone)]
struct Parts<S, B> {
    config: Config,
    /// The outbox, over connections of its own: following it never waits for a query.
    follow: S,
    store: S,
    bus: B,
    health: Arc<Health>,
    alerts: Alerts,
}

/// What a relay did between start and stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events acked by the stream.
    pub published: u64,
    /// Of those, how many the stream had already.
    pub duplicates: u64,
    /// Publishes that were marked as failed.
    pub failed: u64,
    /// Events that were given back unpublished when the relay stopped; they stay in the outbox.
    pub abandoned: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Self { published, duplicates, failed, abandoned } = other;
        self.published += published;
        self.duplicates += duplicates;
        self.failed += failed;
        self.abandoned += abandoned;
    }
}

impl Relay {
    /// Connects to both sides, trying again until they can be reached, and verifies outbox and
    /// stream. `None` when stopped before that.
    ///
    /// # Errors
    /// What waiting doesn't mend: missing migrations, no such stream, a stream that can't serve an
    /// outbox, refused credentials files, an alert log that can't be written.
    pub async fn connect(
        config: Config,
        health: Arc<Health>,
        stop: &CancellationToken,
    ) -> Result<Option<Self>> {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let outbox = format!("{database}.{collection}");
        let (alerts, alert_log) = Alerts::open(&config.alerts, &outbox, &config.nats.client_id)?;
        let [follow, queries, lease] =
            ["follow", "outbox", "lease"].map(|role| config.mongodb.client(role));
        let (follow, queries, lease) = (follow.await?, queries.await?, lease.await?);
        let migrations =
            Migrations::new(queries.database(database), collection, config.event.layout.clone());
        let Some(()) = until_reached(stop, &health, || migrations.require_applied()).await? else {
            return Ok(None);
        };
        let store = Store::new(queries, &config);
        // A restarted process with the same name is another holder: the old one may still be
        // running.
        let holder = format!("{} {:08x}", config.nats.client_id, rand::random::<u32>());
        health.mongodb(true);
        let lease = Arc::new(
            Lease::new(&lease, database, collection, holder, config.lease.ttl)
                .watched(health.clone()),
        );
        let stuck = Stuck {
            store: store.clone(),
            lease: lease.clone(),
            alerts: alerts.clone(),
            after: config.alerts.stuck_after,
            was_stuck: alert_log.was_stuck,
        };
        let watching = CancellationToken::new();
        tokio::spawn(stuck.watch(watching.clone()));
        let watching = watching.drop_guard();
        let Some(nats) = until_reached(stop, &health, || Nats::connect(&config.nats)).await? else {
            return Ok(None);
        };
        let Some(differences) =
            until_reached(stop, &health, || stream::verify(&nats, &config)).await?
        else {
            return Ok(None);
        };
        for difference in differences {
            warn!(stream = config.stream.name, "the stream is risky: {difference}");
        }
        health.nats(true);
        let bus = JetStream::new(nats, &config.stream.name);
        let parts = Parts { follow: store.through(follow), store, bus, health, alerts, config };
        Ok(Some(Self { parts, lease, alert_log, watching }))
    }

    /// Publishes while it holds the lease and stands by while it doesn't, until `stop`. Then
    /// drains: publishes under way get `shutdown.grace` to finish and to be written down, and the
    /// lease is resigned.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the retrier's schedule can't be started; [`ErrorKind::Internal`]
    /// when a stage ended that never should, after what could be drained was.
    pub async fn run(self, stop: CancellationToken) -> Result<Totals> {
        let (mut scheduler, tick) = retry::schedule(&self.parts.config.retry).await?;
        let ended = self.parts.relay(&self.lease, &tick, &stop).await;
        if let Err(error) = scheduler.shutdown().await {
            warn!(%error, "the retrier's schedule did not stop");
        }
        drop((self.watching, self.parts));
        self.alert_log.close().await;
        ended
    }
}

impl<S: EventStore, B: EventBus> Parts<S, B> {
    /// One leadership after the other, until `stop`. Each `tick` lets the retrier look.
    async fn relay<L: LeaseStore>(
        &self,
        lease: &Arc<Lease<L>>,
        tick: &Arc<Notify>,
        stop: &CancellationToken,
    ) -> Result<Totals> {
        let mut totals = Totals::default();
        while let Some(held) = lease.acquire(stop).await {
            let term = held.term.number;
            info!(term, "holding the lease; relaying");
            self.health.lease(Some(term));
            metrics::leader(Some(term));
            let pump = Pump::build(self.clone(), held.term.clone(), tick.clone());
            let stopped = pump.run(stop, &held.lost, &mut totals).await;
            self.health.lease(None);
            metrics::leader(None);
            match stopped {
                Stopped::LeaseLost => {
                    warn!(term, "lost the lease; standing by");
                    continue;
                }
                Stopped::GraceOver(left) => {
                    warn!(left, "the grace is over; what isn't settled stays in the outbox")
                }
                Stopped::Drained | Stopped::StageEnded(_) => {}
            }
            match lease.resign(held).await {
                Ok(()) => info!(term, "resigned the lease"),
                Err(error) => warn!(
                    error = mongodb_says(&error),
                    term, "could not resign the lease; it expires"
                ),
            }
            if let Stopped::StageEnded(stage) = stopped {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("the {stage} has ended; start the relay again"),
                ));
            }
        }
        Ok(totals)
    }
}

/// Repeats what failed because a server can't be reached; at start the others may not be up yet.
async fn until_reached<T, F>(
    stop: &CancellationToken,
    health: &Health,
    attempt: impl Fn() -> F,
) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    while !stop.is_cancelled() {
        // A restart would not bring the server back.
        health.turned();
        // A stop doesn't wait for a server that isn't there.
        let attempted = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            attempted = attempt() => attempted,
        };
        match attempted {
            Ok(reached) => return Ok(Some(reached)),
            Err(error) if matches!(error.kind(), ErrorKind::Mongodb | ErrorKind::Nats) => {
                warn!(%error, "trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(CONNECT_WAIT) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_waits_for_a_server_lives() {
        let (stop, health, began) = (CancellationToken::new(), Health::default(), Instant::now());
        let attempt = async || match began.elapsed().as_secs() {
            ..120 => Err(Error::new(ErrorKind::Nats, "away")),
            _ => Ok(()),
        };
        assert!(matches!(until_reached(&stop, &health, attempt).await, Ok(Some(()))));
        assert!(health.is_alive());
    }
}

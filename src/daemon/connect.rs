//! Connects both sides, verifies outbox and stream, and runs the core on them.
//!
//! A relay that stops drains in the order of the data: intake ends, publishes under way finish,
//! their outcome is written, the lease is resigned.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::announce;
use super::connections::{Connections, OutboxSide, StreamSide};
use super::pools::{Clients, Pools};
use super::sound::SoundStream;
use super::stuck::Stuck;
use crate::admin;
use crate::backoff::Backoff;
use crate::config::{Config, MongodbConfig};
use crate::error::{ErrorKind, Result};
use crate::jetstream::bus::JetStream;
use crate::jetstream::lines::Lines;
use crate::mongodb::backlog::BacklogStore;
use crate::mongodb::later::LaterStore;
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::outbox::Store;
use crate::relay::leadership::parts::{Parts, Readers, Totals};
use crate::relay::lease::Lease;
use crate::relay::schedule::Schedules;
use crate::task;
use crate::telemetry::alerts::{AlertLog, Alerts};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Waits between attempts to connect at start.
const CONNECT_WAITS: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// How often a relay that waits for a server reports that it lives. One attempt may take longer
/// than a liveness probe has patience: a resolver asks each of its servers several times.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What an outbox keeps over all of its relays.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) endpoint: admin::Endpoint,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Metrics,
    pub(super) readers: Readers,
    pub(super) pools: Pools,
    pub(super) lines: Lines,
    pub(super) schedules: Schedules,
}

/// A relay that is connected, with its outbox and stream verified. It has written nothing yet.
#[derive(Debug)]
pub(super) struct Relay {
    parts: Parts<Store, JetStream>,
    /// Other outboxes find them as long as one uses them.
    clients: Arc<Clients>,
    lease: Arc<Lease<LeaseDocument>>,
    alert_log: AlertLog,
    schedules: Schedules,
    /// Ends the watches over outbox and stream.
    watching: DropGuard,
    /// The watch over the stream.
    looking: JoinHandle<()>,
}

impl Relay {
    /// Connects to both sides, retrying until they can be reached, and verifies outbox and stream.
    /// Uses the connections of a rotation where there are some. `None` when stopped before that.
    ///
    /// # Errors
    /// What a retry cannot fix: missing migrations, a missing stream, a stream that cannot serve an
    /// outbox, an alert log that cannot be written.
    pub(super) async fn connect(
        config: Config,
        rotated: Option<Connections>,
        around: &Surroundings,
        stop: &CancellationToken,
    ) -> Result<Option<Self>> {
        let Surroundings { endpoint, health, metrics, readers, pools, lines, schedules } = around;
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let outbox = config.outbox();
        let (alerts, mut alert_log) =
            Alerts::open(&config.alerts, &outbox, &config.nats.client_id, metrics)?;

        let (clients, stream) =
            rotated.map(|Connections { outbox, stream }| (outbox, stream)).unzip();
        let Some(OutboxSide { clients, sound }) =
            or_reached(clients, stop, health, || OutboxSide::reach(&config, pools)).await?
        else {
            return Ok(None);
        };

        health.mongodb(true);
        endpoint.follow(&config, &clients.admin);

        let (database, layout) = (clients.queries.database(database), &config.event.layout);
        let store = Store::new(&database, collection, layout.clone(), &config);

        // A restarted process of the same name is another holder: the old one may still run.
        let holder = format!("{} {:08x}", config.nats.client_id, rand::random::<u32>());
        let document = LeaseDocument::new(&clients.lease, database.name(), collection, holder);
        let lease = Lease::new(document.clone(), config.lease.ttl).watched(health.clone());
        let lease = Arc::new(lease);

        let later = || LaterStore::new(&database, collection, layout.clone());
        let stuck = Stuck {
            sound: sound.reported(),
            later: config.scheduled.enabled.then(later),
            store: BacklogStore::new(database, collection, layout.clone()),
            lease: document,
            alerts: alerts.clone(),
            backlog: metrics.backlog(),
            after: config.alerts.stuck_after,
            before: alert_log.before,
            seen: None,
        };

        let stopped = CancellationToken::new();
        task::spawn(stuck.watch(stopped.clone()));

        let watching = stopped.clone().drop_guard();

        let Some(StreamSide { nats, risks }) =
            or_reached(stream, stop, health, || StreamSide::reach(&config, metrics, lines)).await?
        else {
            return Ok(None);
        };

        nats.report_to(metrics, health);
        announce::start(&nats, &config.alerts, &mut alert_log);

        let stream = SoundStream::new(nats.clone(), &config, metrics, risks);
        let looking = task::spawn(stream.watch(stopped));

        let bus = JetStream::new(nats, &config.stream.name);
        let follow = clients.follow(&store, config.mongodb.follow);
        let (health, metrics, readers) = (health.clone(), metrics.clone(), readers.clone());
        let parts = Parts { follow, store, bus, health, alerts, metrics, readers, config };

        let schedules = schedules.clone();
        Ok(Some(Self { parts, clients, lease, alert_log, schedules, watching, looking }))
    }

    /// Publishes while it holds the lease and stands by while another relay does, until `stop`.
    /// Then drains: publishes under way get `shutdown.grace` to finish and to be written down, and
    /// the lease is resigned.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the retrier's schedule cannot start; [`ErrorKind::Internal`] when
    /// a stage ended before its time, after everything that could drain did.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<Totals> {
        let (schedule, wake) = self.schedules.start(&self.parts.config.retry).await?;

        let ended = self.parts.relay(&self.lease, &wake, &stop).await;

        // The alert log closes when nothing can raise an alert any more.
        drop((self.watching, self.parts, self.clients, schedule));
        // It holds the connection, whose metric the next one sets.
        if let Err(error) = self.looking.await {
            warn!(%error, "the watch over the stream did not stop");
        }

        self.alert_log.close().await;

        ended
    }
}

/// What is given, or what the attempt reaches.
async fn or_reached<T, F>(
    given: Option<T>,
    stop: &CancellationToken,
    health: &Health,
    attempt: impl Fn() -> F,
) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    match given {
        Some(given) => Ok(Some(given)),
        None => until_reached(stop, health, attempt).await,
    }
}

/// Repeats an attempt while a server cannot be reached, or its name not be resolved: servers and
/// names may appear after the relay.
async fn until_reached<T, F>(
    stop: &CancellationToken,
    health: &Health,
    attempt: impl Fn() -> F,
) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut backoff = CONNECT_WAITS;
    loop {
        let attempted = async {
            let attempted = attempt().await;
            match &attempted {
                Err(error) if matches!(error.kind(), ErrorKind::Mongodb | ErrorKind::Nats) => {
                    warn!(error = %error.report(), "trying again");
                    if error.kind() == ErrorKind::Nats {
                        health.nats(Err(error.to_string()));
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                    Ok(None)
                }
                _ => attempted.map(Some),
            }
        };

        // A stop does not wait for a server that does not answer.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            attempted = attempted => if let Some(reached) = attempted? { return Ok(Some(reached)) },
            never = lives(health) => match never {},
        }
    }
}

/// Reports signs of life. The relay counts as alive while it waits: a restart would not bring the
/// server back.
pub(super) async fn lives(health: &Health) -> Infallible {
    loop {
        health.turned();
        tokio::time::sleep(SIGN_OF_LIFE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::error::Error;

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

    #[tokio::test(start_paused = true)]
    async fn a_relay_lives_through_one_attempt_that_takes_minutes_and_a_stop_ends_it() {
        let (stop, health) = (CancellationToken::new(), Health::default());
        let attempt = async || std::future::pending::<Result<()>>().await;
        let (stopping, watched) = (stop.clone(), &health);
        let watch = async move {
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert!(watched.is_alive());
            stopping.cancel();
        };

        let (reached, ()) = tokio::join!(until_reached(&stop, &health, attempt), watch);
        assert!(matches!(reached, Ok(None)));
    }
}

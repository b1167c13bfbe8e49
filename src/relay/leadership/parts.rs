//! What a leadership is built from, and what it adds up to.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(crate) use super::stages::Readers;
use crate::config::{Config, SendBursts};
use crate::relay::lease::Term;
use crate::relay::ports::EventBus;
use crate::relay::publish::Publisher;
use crate::relay::publish::breaker::Breaker;
use crate::relay::publish::burst::Bursts;
use crate::relay::publish::clearance::Clearance;
use crate::relay::wake::Wake;
use crate::telemetry::alerts::Alerts;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// What each leadership is built from.
#[derive(Debug, Clone)]
pub(crate) struct Parts<S, B> {
    pub(crate) config: Config,
    /// The outbox, over connections of its own: following it never waits for a query.
    pub(crate) follow: S,
    pub(crate) store: S,
    pub(crate) bus: B,
    pub(crate) health: Arc<Health>,
    pub(crate) alerts: Alerts,
    pub(crate) metrics: Metrics,
    /// Those of earlier leaderships, of this relay or of the one before it in this process.
    pub(crate) readers: Readers,
}

impl<S, B: Clone> Parts<S, B> {
    /// Publishes during this term.
    pub(super) fn publisher(&self, term: Term, wake: Wake) -> Publisher<B> {
        let breaker = Breaker::new(wake, self.metrics.breaker());
        publisher(&self.config, self.bus.clone(), (breaker, term), CancellationToken::new())
    }
}

/// Publishes kept events for a command. No relay publishes those, so it needs no lease.
pub(crate) fn of_command<B: EventBus>(
    config: &Config,
    bus: B,
    stop: CancellationToken,
) -> Publisher<B> {
    let breaker = Breaker::new(Wake::default(), Metrics::none().breaker());
    publisher(config, bus, (breaker, Term::of_command()), stop)
}

fn publisher<B>(
    config: &Config,
    bus: B,
    (breaker, term): (Breaker, Term),
    stop: CancellationToken,
) -> Publisher<B> {
    let (database, collection) = (&config.mongodb.database, &config.mongodb.collection);
    Publisher {
        bus,
        stream: config.stream.name.as_str().into(),
        id_prefix: format!("{}{database}.{collection}.", config.event.id_prefix).into(),
        grace: config.retry.outage_grace,
        breaker,
        bursts: Bursts::new(config.nats.bursts == SendBursts::Auto),
        clearance: Clearance::default(),
        term,
        tracer: traces::tracer(),
        stop,
    }
}

/// What a relay did between start and stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Events acked by the stream.
    pub(crate) published: u64,
    /// Of those, how many the stream had already.
    pub(crate) duplicates: u64,
    /// Publishes that were marked as failed.
    pub(crate) failed: u64,
    /// Events given back without an answer when a leadership ended; they stay in the outbox.
    pub(crate) abandoned: u64,
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

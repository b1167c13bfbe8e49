//! Every metric: its name, its meaning, and the handle that counts it.
//!
//! [`Registry`] keeps the metrics of the process and renders them. [`Metrics`] makes the handles of
//! one outbox; each of its metrics carries the label `outbox`, "shop.outbox" for the collection
//! `outbox` of the database `shop`. Nothing is global: two registries share nothing, and two
//! outboxes of a registry differ in the label.
//!
//! No metric has an id, a subject or a key as a label, because their number has no bound. Handles
//! of events are made once per leadership, so counting an event is one atomic addition. A gauge of
//! the present returns to zero when its handle is dropped.

use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::logs;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Class;

/// Bounds of the latency histograms, in seconds. An idle pair of servers takes half a millisecond.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];
/// How often the exporter sorts recorded latencies into buckets. Until then each takes 20 bytes.
const UPKEEP: Duration = Duration::from_secs(1);

/// The metrics of the process.
#[derive(Debug, Clone)]
pub(crate) struct Registry(Arc<PrometheusRecorder>);

impl Registry {
    /// Makes a registry and the task that keeps its histograms small. The task ends with the
    /// registry.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the exporter rejects the bounds of the histograms.
    pub(crate) fn start() -> Result<Self> {
        let builder = PrometheusBuilder::new().set_buckets(SECONDS).map_err(|error| {
            Error::with_source(ErrorKind::Internal, "metrics cannot be kept", error)
        })?;
        let recorder = Arc::new(builder.build_recorder());

        with_local_recorder(&*recorder, || {
            describe();
            gauge!("outboxd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        });

        let kept = Arc::downgrade(&recorder);
        tokio::spawn(async move {
            while let Some(recorder) = kept.upgrade() {
                recorder.handle().run_upkeep();
                drop(recorder);
                tokio::time::sleep(UPKEEP).await;
            }
        });

        Ok(Self(recorder))
    }

    /// The metrics of one outbox. What never happened shows as zero from now on.
    pub(crate) fn outbox(&self, name: &str) -> Metrics {
        let metrics = Metrics { recorder: Some(self.0.clone()), outbox: name.into() };
        metrics.begin();
        metrics
    }

    /// Every metric, in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let dropped = logs::dropped();
        with_local_recorder(&*self.0, || {
            counter!("outboxd_log_lines_dropped_total").absolute(dropped);
        });
        self.0.handle().render()
    }
}

/// The metrics of one outbox: makes the handles that count.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// `None` counts nothing.
    recorder: Option<Arc<PrometheusRecorder>>,
    outbox: Arc<str>,
}

/// What happens to events.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) published: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) false_duplicates: Counter,
    pub(crate) forged: Counter,
    pub(crate) retried: Counter,
    pub(crate) parked: Counter,
    pub(crate) dead: Counter,
    pub(crate) repaired: Counter,
    pub(crate) discarded: Counter,
    pub(crate) unwritable: Counter,
    pub(crate) failed: Counters<Class>,
    /// From commit to ack, of events from the change stream.
    pub(crate) latency: Histogram,
    /// From the first send to the ack.
    pub(crate) publish: Histogram,
}

/// One counter per value of a label.
#[derive(Debug, Clone)]
pub(crate) struct Counters<T>(Arc<[(T, Counter)]>);

impl<T: PartialEq> Counters<T> {
    /// Counts one. A value that was not named when the counters were made is not counted.
    pub(crate) fn add(&self, value: T) {
        self.add_many(value, 1);
    }

    /// Counts so many, in the same way.
    pub(crate) fn add_many(&self, value: T, times: u64) {
        if let Some((_, counter)) = self.0.iter().find(|(of, _)| *of == value) {
            counter.increment(times);
        }
    }
}

/// A gauge of the present: zero again when it is dropped.
#[derive(Debug)]
pub(crate) struct Level(Gauge);

impl Level {
    pub(crate) fn set(&self, value: f64) {
        self.0.set(value);
    }

    pub(crate) fn set_flag(&self, on: bool) {
        self.0.set(u32::from(on));
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.0.set(0);
    }
}

/// What one leadership holds in memory.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) in_flight: Level,
    pub(crate) buffered_events: Level,
    pub(crate) buffered_bytes: Level,
    pub(crate) unsettled: Level,
    pub(crate) keys: Level,
}

/// The outbox as a whole, when it was last looked at.
#[derive(Debug)]
pub(crate) struct Backlog {
    events: Level,
    dead: Level,
    oldest_seconds: Level,
    scheduled: Level,
    overdue_seconds: Level,
}

impl Backlog {
    pub(crate) fn set(&self, events: u64, dead: u64, oldest_seconds: u64) {
        self.events.set(events as f64);
        self.dead.set(dead as f64);
        self.oldest_seconds.set(oldest_seconds as f64);
    }

    pub(crate) fn set_scheduled(&self, events: u64, overdue_seconds: u64) {
        self.scheduled.set(events as f64);
        self.overdue_seconds.set(overdue_seconds as f64);
    }
}

impl Metrics {
    /// Metrics that count nothing: for one-off verbs and tests.
    pub(crate) fn none() -> Self {
        Self { recorder: None, outbox: "".into() }
    }

    pub(crate) fn events(&self) -> Events {
        let classes = [Class::Unknown, Class::Transient, Class::Config, Class::Poison];
        Events {
            published: self.counter("outboxd_events_published_total"),
            duplicates: self.counter("outboxd_duplicate_acks_total"),
            false_duplicates: self.counter("outboxd_false_duplicates_total"),
            forged: self.counter("outboxd_forged_acks_total"),
            retried: self.counter("outboxd_events_retried_total"),
            parked: self.counter("outboxd_events_parked_total"),
            dead: self.counter("outboxd_events_dead_total"),
            repaired: self.counter("outboxd_events_repaired_total"),
            discarded: self.counter("outboxd_events_discarded_total"),
            unwritable: self.counter("outboxd_events_unwritable_total"),
            failed: self.counters(
                "outboxd_publish_failures_total",
                "class",
                classes.map(|class| (class, class.as_str())),
            ),
            latency: self.histogram("outboxd_delivery_latency_seconds"),
            publish: self.histogram("outboxd_publish_duration_seconds"),
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            in_flight: self.level("outboxd_in_flight_events"),
            buffered_events: self.level("outboxd_buffered_events"),
            buffered_bytes: self.level("outboxd_buffered_bytes"),
            unsettled: self.level("outboxd_unsettled_events"),
            keys: self.level("outboxd_remembered_keys"),
        }
    }

    pub(crate) fn backlog(&self) -> Backlog {
        Backlog {
            events: self.level("outboxd_backlog_events"),
            dead: self.level("outboxd_dead_events"),
            oldest_seconds: self.level("outboxd_oldest_event_age_seconds"),
            scheduled: self.level("outboxd_scheduled_events"),
            overdue_seconds: self.level("outboxd_scheduled_overdue_seconds"),
        }
    }

    /// This relay took the lease. It leads until the returned gauge is dropped.
    pub(crate) fn leads(&self, term: i64) -> Level {
        self.gauge("outboxd_lease_term").set(term as f64);
        self.counter("outboxd_lease_acquisitions_total").increment(1);

        let leader = self.level("outboxd_leader");
        leader.set_flag(true);
        leader
    }

    /// Whether the breaker is open.
    pub(crate) fn breaker(&self) -> Level {
        self.level("outboxd_breaker_open")
    }

    /// Whether the connection to NATS is up.
    pub(crate) fn nats_connected(&self) -> Level {
        self.level("outboxd_nats_connected")
    }

    /// How long the stream remembers message ids, and how long it must.
    pub(crate) fn dedupe_window(&self, found: Duration, needed: Duration) {
        self.gauge("outboxd_stream_duplicate_window_seconds").set(found.as_secs_f64());
        self.gauge("outboxd_needed_duplicate_window_seconds").set(needed.as_secs_f64());
    }

    /// Sweeps after the change stream ended, by reason.
    pub(crate) fn stream_restarts<T, const N: usize>(
        &self,
        reasons: [(T, &'static str); N],
    ) -> Counters<T> {
        self.counters("outboxd_stream_restarts_total", "reason", reasons)
    }

    /// Alerts raised, by kind.
    pub(crate) fn alerts<T, const N: usize>(&self, kinds: [(T, &'static str); N]) -> Counters<T> {
        self.counters("outboxd_alerts_total", "kind", kinds)
    }

    pub(crate) fn alerts_dropped<T, const N: usize>(
        &self,
        outlets: [(T, &'static str); N],
    ) -> Counters<T> {
        self.counters("outboxd_alerts_dropped_total", "to", outlets)
    }

    fn begin(&self) {
        let acquisitions = self.counter("outboxd_lease_acquisitions_total");
        let leader = self.level("outboxd_leader");
        drop((self.events(), self.load(), leader, acquisitions));
        drop((self.breaker(), self.nats_connected()));
    }

    fn counter(&self, name: &'static str) -> Counter {
        self.made(|outbox| counter!(name, "outbox" => outbox))
    }

    fn counters<T, const N: usize>(
        &self,
        name: &'static str,
        label: &'static str,
        values: [(T, &'static str); N],
    ) -> Counters<T> {
        let made = values.map(|(value, word)| {
            let counter = self.made(|outbox| counter!(name, "outbox" => outbox, label => word));
            (value, counter)
        });
        Counters(Arc::new(made))
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        self.made(|outbox| gauge!(name, "outbox" => outbox))
    }

    fn level(&self, name: &'static str) -> Level {
        Level(self.gauge(name))
    }

    fn histogram(&self, name: &'static str) -> Histogram {
        self.made(|outbox| histogram!(name, "outbox" => outbox))
    }

    /// Makes a handle in the recorder of these metrics.
    fn made<T>(&self, make: impl FnOnce(Arc<str>) -> T) -> T {
        let outbox = self.outbox.clone();
        match &self.recorder {
            Some(recorder) => with_local_recorder(&**recorder, || make(outbox)),
            None => with_local_recorder(&metrics::NoopRecorder, || make(outbox)),
        }
    }
}

fn describe() {
    for (name, meaning) in [
        ("outboxd_events_published_total", "Events acked by the stream."),
        ("outboxd_duplicate_acks_total", "Acks of events that the stream already had."),
        ("outboxd_false_duplicates_total", "Events that the stream wrongly took for duplicates."),
        ("outboxd_forged_acks_total", "Signs that somebody other than the stream answered."),
        ("outboxd_events_retried_total", "Publishes of events that had failed or were parked."),
        ("outboxd_events_parked_total", "Events parked behind a failed event of their key."),
        ("outboxd_events_dead_total", "Events that became dead: they wait for a person."),
        ("outboxd_events_repaired_total", "Lost events that were kept and published again."),
        ("outboxd_events_discarded_total", "Events removed unpublished at an operator's request."),
        ("outboxd_events_unwritable_total", "Events that MongoDB refuses to mark, park or delete."),
        ("outboxd_publish_failures_total", "Publishes marked as failed, by class."),
        ("outboxd_alerts_total", "Alerts raised, by kind."),
        ("outboxd_alerts_dropped_total", "Alerts that were not delivered, by destination."),
        ("outboxd_log_lines_dropped_total", "Log lines dropped: standard error was not read."),
        ("outboxd_stream_restarts_total", "Sweeps after the change stream ended, by reason."),
        ("outboxd_lease_acquisitions_total", "Times this relay took the lease."),
    ] {
        describe_counter!(name, meaning);
    }

    for (name, meaning) in [
        ("outboxd_in_flight_events", "Publishes in flight."),
        ("outboxd_buffered_events", "Events in memory."),
        ("outboxd_buffered_bytes", "Bytes of events in memory."),
        (
            "outboxd_unsettled_events",
            "Events whose delete or mark is not written yet, events in memory included.",
        ),
        ("outboxd_remembered_keys", "Keys with an event in memory or waiting in MongoDB."),
        ("outboxd_leader", "1 while this relay holds the lease."),
        ("outboxd_lease_term", "The newest term this relay has led."),
        ("outboxd_backlog_events", "Events in the outbox, when last counted."),
        ("outboxd_dead_events", "Events that wait for a person, up to 10000, when last counted."),
        (
            "outboxd_breaker_open",
            "1 while NATS gives no definite answers; the relay then sends at most one new event \
             at a time.",
        ),
        ("outboxd_nats_connected", "1 while the connection to NATS is up."),
        (
            "outboxd_stream_duplicate_window_seconds",
            "How long the stream remembers message ids, when it was last verified.",
        ),
        (
            "outboxd_needed_duplicate_window_seconds",
            "How long the stream must remember message ids, so that no retry is stored twice.",
        ),
        (
            "outboxd_oldest_event_age_seconds",
            "Age of the oldest event that is not dead, when last measured.",
        ),
        ("outboxd_scheduled_events", "Events that wait for their time, when last counted."),
        ("outboxd_scheduled_overdue_seconds", "How late the first scheduled event is."),
        ("outboxd_build_info", "1; the version is a label."),
    ] {
        describe_gauge!(name, meaning);
    }

    describe_histogram!(
        "outboxd_delivery_latency_seconds",
        "From commit (MongoDB's clock) to ack (this machine's), of events from the change stream."
    );

    describe_histogram!(
        "outboxd_publish_duration_seconds",
        "From the first send of an event to its ack."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(registry: &Registry, sample: &str) -> bool {
        registry.render().lines().any(|line| line == sample)
    }

    #[tokio::test]
    async fn two_outboxes_of_a_process_count_apart() {
        let registry = Registry::start().expect("a registry");
        let (shop, bank) = (registry.outbox("shop.outbox"), registry.outbox("bank.outbox"));
        shop.events().published.increment(3);
        shop.events().failed.add(Class::Poison);
        shop.alerts([(1, "dead")]).add(1);

        for sample in [
            "outboxd_events_published_total{outbox=\"shop.outbox\"} 3",
            "outboxd_events_published_total{outbox=\"bank.outbox\"} 0",
            "outboxd_publish_failures_total{outbox=\"shop.outbox\",class=\"poison\"} 1",
            "outboxd_publish_failures_total{outbox=\"bank.outbox\",class=\"poison\"} 0",
            "outboxd_alerts_total{outbox=\"shop.outbox\",kind=\"dead\"} 1",
            "outboxd_leader{outbox=\"bank.outbox\"} 0",
        ] {
            assert!(has(&registry, sample), "no {sample} in:\n{}", registry.render());
        }

        drop(bank);
    }

    #[tokio::test]
    async fn a_dropped_outbox_leaves_no_gauge_that_lies() {
        let registry = Registry::start().expect("a registry");
        let metrics = registry.outbox("shop.outbox");
        let (leading, load, backlog) = (metrics.leads(7), metrics.load(), metrics.backlog());

        load.in_flight.set(2.0);
        backlog.set(5, 1, 60);
        assert!(has(&registry, "outboxd_leader{outbox=\"shop.outbox\"} 1"));
        assert!(has(&registry, "outboxd_in_flight_events{outbox=\"shop.outbox\"} 2"));

        drop((leading, load, backlog));
        for gauge in ["leader", "in_flight_events", "backlog_events", "oldest_event_age_seconds"] {
            let sample = format!("outboxd_{gauge}{{outbox=\"shop.outbox\"}} 0");
            assert!(has(&registry, &sample), "no {sample} in:\n{}", registry.render());
        }

        assert!(has(&registry, "outboxd_lease_acquisitions_total{outbox=\"shop.outbox\"} 1"));
    }

    #[tokio::test]
    async fn metrics_of_none_count_nowhere() {
        let registry = Registry::start().expect("a registry");
        Metrics::none().events().published.increment(1);
        assert!(!registry.render().contains("outboxd_events_published_total{"));
    }
}

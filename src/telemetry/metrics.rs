//! Every metric: its name, what it means, and what counts it.
//!
//! No metric has an id, a subject or a key as a label: their number would have no bound. Whatever
//! counts an event is a handle made once, so counting is one atomic addition.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, ErrorKind, Result};
use crate::failure::Class;

/// Bounds of the latency histograms, in seconds: half a millisecond is what an idle pair of servers
/// takes.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];
/// How often the exporter takes in what the histograms were given.
const UPKEEP: Duration = Duration::from_secs(5);

/// What happens to events.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) published: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) retried: Counter,
    pub(crate) parked: Counter,
    pub(crate) dead: Counter,
    pub(crate) discarded: Counter,
    failed: [(Class, Counter); 4],
    /// From commit to ack, of events that the change stream brought.
    pub(crate) latency: Histogram,
    /// From the first send to the ack.
    pub(crate) publish: Histogram,
}

/// What a leadership holds.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) in_flight: Gauge,
    pub(crate) buffered_events: Gauge,
    pub(crate) buffered_bytes: Gauge,
    pub(crate) unsettled: Gauge,
    pub(crate) keys: Gauge,
}

impl Events {
    pub(crate) fn new() -> Self {
        let failed = |class: Class| {
            (class, counter!("outboxd_publish_failures_total", "class" => class.as_str()))
        };
        Self {
            published: counter!("outboxd_events_published_total"),
            duplicates: counter!("outboxd_duplicate_acks_total"),
            retried: counter!("outboxd_events_retried_total"),
            parked: counter!("outboxd_events_parked_total"),
            dead: counter!("outboxd_events_dead_total"),
            discarded: counter!("outboxd_events_discarded_total"),
            failed: [Class::Unknown, Class::Transient, Class::Config, Class::Poison].map(failed),
            latency: histogram!("outboxd_delivery_latency_seconds"),
            publish: histogram!("outboxd_publish_duration_seconds"),
        }
    }

    pub(crate) fn failed(&self, class: Class) {
        self.failed.iter().filter(|(of, _)| *of == class).for_each(|(_, count)| count.increment(1));
    }
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: gauge!("outboxd_in_flight_events"),
            buffered_events: gauge!("outboxd_buffered_events"),
            buffered_bytes: gauge!("outboxd_buffered_bytes"),
            unsettled: gauge!("outboxd_unsettled_events"),
            keys: gauge!("outboxd_remembered_keys"),
        }
    }
}

pub(crate) fn alert(kind: &'static str) {
    counter!("outboxd_alerts_total", "kind" => kind).increment(1);
}

/// The change stream has to be opened again, after a sweep.
pub(crate) fn stream_restart(reason: &'static str) {
    counter!("outboxd_stream_restarts_total", "reason" => reason).increment(1);
}

/// This relay took the lease, or lost or gave it up.
pub(crate) fn leader(term: Option<i64>) {
    gauge!("outboxd_leader").set(u32::from(term.is_some()));
    if let Some(term) = term {
        gauge!("outboxd_lease_term").set(term as f64);
        counter!("outboxd_lease_acquisitions_total").increment(1);
    }
}

/// Whether NATS answers, as the events on their way see it.
pub(crate) fn breaker(open: bool) {
    gauge!("outboxd_breaker_open").set(u32::from(open));
}

/// Whether the connection to NATS stands.
pub(crate) fn nats_connected(stands: bool) {
    gauge!("outboxd_nats_connected").set(u32::from(stands));
}

/// How long the stream remembers message ids, and how long it should.
pub(crate) fn dedupe_window(found: Duration, needed: Duration) {
    gauge!("outboxd_stream_duplicate_window_seconds").set(found.as_secs_f64());
    gauge!("outboxd_needed_duplicate_window_seconds").set(needed.as_secs_f64());
}

/// What was last seen of the outbox as a whole.
pub(crate) fn outbox(events: u64, dead: u64, oldest_seconds: u64) {
    gauge!("outboxd_backlog_events").set(events as f64);
    gauge!("outboxd_dead_events").set(dead as f64);
    gauge!("outboxd_oldest_event_age_seconds").set(oldest_seconds as f64);
}

/// Keeps the process's metrics from now on.
///
/// # Errors
/// [`ErrorKind::Internal`] when something else keeps them already.
pub(crate) fn install() -> Result<PrometheusHandle> {
    let refused = |error| Error::with_source(ErrorKind::Internal, "metrics can't be kept", error);
    let builder = PrometheusBuilder::new().set_buckets(SECONDS).map_err(refused)?;
    let handle = builder.install_recorder().map_err(refused)?;
    describe();
    // Whoever asks for what never happened gets a zero.
    drop((Events::new(), Load::new()));
    leader(None);
    breaker(false);
    gauge!("outboxd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

fn describe() {
    for (name, meaning) in [
        ("outboxd_events_published_total", "Events acked by the stream."),
        ("outboxd_duplicate_acks_total", "Acks that said the stream had the event already."),
        (
            "outboxd_events_retried_total",
            "Publishes of events that had failed or waited behind one that had.",
        ),
        ("outboxd_events_parked_total", "Events set aside behind a failed one of their key."),
        ("outboxd_events_dead_total", "Events that wait for a person from now on."),
        ("outboxd_events_discarded_total", "Events removed unpublished because an operator asked."),
        ("outboxd_publish_failures_total", "Publishes marked as failed, by class."),
        ("outboxd_alerts_total", "Alerts raised, by kind."),
        ("outboxd_stream_restarts_total", "Sweeps after the change stream ended, by reason."),
        ("outboxd_lease_acquisitions_total", "Times this relay took the lease."),
    ] {
        describe_counter!(name, meaning);
    }
    for (name, meaning) in [
        ("outboxd_in_flight_events", "Publishes under way."),
        ("outboxd_buffered_events", "Events in memory."),
        ("outboxd_buffered_bytes", "Bytes of events in memory."),
        (
            "outboxd_unsettled_events",
            "Events whose delete or mark isn't written yet, those in memory included.",
        ),
        ("outboxd_remembered_keys", "Keys with an event in memory or one that waits in MongoDB."),
        ("outboxd_leader", "1 while this relay holds the lease."),
        ("outboxd_lease_term", "The newest term this relay has led."),
        ("outboxd_backlog_events", "Events in the outbox, as last looked at."),
        (
            "outboxd_dead_events",
            "Events that wait for a person, as last looked at; counted up to 10000.",
        ),
        (
            "outboxd_breaker_open",
            "1 while NATS gives no definite answers, so that hardly anything new is sent.",
        ),
        ("outboxd_nats_connected", "1 while the connection to NATS stands."),
        (
            "outboxd_stream_duplicate_window_seconds",
            "How long the stream remembers message ids, when it was last verified.",
        ),
        (
            "outboxd_needed_duplicate_window_seconds",
            "How long it has to, for no retry to be stored twice.",
        ),
        (
            "outboxd_oldest_event_age_seconds",
            "Age of the oldest event that isn't dead, as last looked at.",
        ),
        ("outboxd_build_info", "1; the version is a label."),
    ] {
        describe_gauge!(name, meaning);
    }
    describe_histogram!(
        "outboxd_delivery_latency_seconds",
        "From commit (MongoDB's clock) to ack (this machine's), of events the change stream brought."
    );
    describe_histogram!(
        "outboxd_publish_duration_seconds",
        "From the first send of an event to its ack."
    );
}

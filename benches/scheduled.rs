//! Scheduled events: how late they are, and what a million of them cost an outbox that has other
//! work to do.

use std::time::{Duration, Instant, SystemTime};

use bson::{DateTime, Document, doc};

use super::latency::{collect, percentile};
use super::peer::Peer;
use super::process::Running;
use super::report::Report;
use super::stage::{BYTES, KEYS, Stage, epoch_seconds};

/// Milliseconds from the due time until a consumer of the stream had the event. The time that a
/// crowd took counts from its due time until the last of it arrived.
const LATE_COLUMNS: &[&str] =
    &["p50 ms late", "p99 ms late", "max ms late", "ms early", "s for the crowd", "missing"];

/// Quotients of an outbox with events for next month and one without, in the same turn; and the
/// queries of the collection of scheduled events.
const LATER_COLUMNS: &[&str] = &[
    "drain ratio",
    "start ratio",
    "CPU ratio of the drain",
    "CPU ratio when idle",
    "queries of the mover in 5 s",
];

/// Time between two due times, so that each finds an idle relay.
const APART: Duration = Duration::from_millis(97);

/// From the first insert until the first due time, or until the crowd's. All are inserted by then.
const AHEAD: Duration = Duration::from_secs(10);

/// A month, for an event that won't be due in any measurement.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The backlog of a drain beside the events for next month.
const BACKLOG: u32 = 100_000;

/// Between a drain and the time in which the relay has nothing to do, and how long that is.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);

/// The events for next month have numbers from here.
const LATER: u32 = 1 << 30;

pub(crate) fn late_title(events: u32, crowd: u32) -> String {
    format!("scheduled: {events} events apart, {crowd} at the same time")
}

pub(crate) fn later_title(later: u32) -> String {
    format!("{later} events scheduled for next month")
}

/// Measures events whose due times are apart, and a crowd with one due time.
pub(crate) async fn late(report: &mut Report, events: u32, crowd: u32) {
    let title = late_title(events, crowd);

    for turn in report.begin(&title, LATE_COLUMNS, &[Peer::Outboxd]) {
        let (late, early, missing) = late_once(turn.peer, events, APART).await;
        let (crowded, crowd_early, lost) = late_once(turn.peer, crowd, Duration::ZERO).await;

        let figures = [
            percentile(&late, 0.5),
            percentile(&late, 0.99),
            percentile(&late, 1.0),
            early.max(crowd_early),
            percentile(&crowded, 1.0) / 1e3,
            f64::from(missing + lost),
        ];
        report.add(&title, turn, &figures);
    }
}

/// Returns how late the events were in milliseconds, sorted, by how much the earliest was early,
/// and how many didn't arrive.
async fn late_once(peer: Peer, events: u32, apart: Duration) -> (Vec<f64>, f64, u32) {
    let mut stage = Stage::set_up().await;
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    stage.warm_up(&mut running).await;
    let mut arrivals = stage.consume().await;

    // Due times are MongoDB's, which has them in whole milliseconds of the same clock.
    let (now, instant) = (SystemTime::now(), Instant::now());
    let due = |number: u32| (AHEAD + apart * number).as_millis();
    let since = DateTime::from(now).timestamp_millis();
    let rounded = DateTime::from_millis(since).to_system_time();
    let offset = now.duration_since(rounded).expect("it was rounded down");
    stage.schedule(0..events, |number| since + due(number) as i64).await;
    assert!(instant.elapsed() < AHEAD, "events were due before all were inserted");

    tokio::time::sleep_until((instant + AHEAD).into()).await;
    let arrived = collect(&mut arrivals, events as usize, |_| true).await;
    drop(running);
    stage.tear_down().await;

    let mut late: Vec<_> = arrived
        .iter()
        .map(|(number, at)| {
            let since = (*at - instant) + offset;
            since.as_secs_f64() * 1e3 - due(*number) as f64
        })
        .collect();
    late.sort_by(f64::total_cmp);

    let early = late.first().map_or(0.0, |first| (-first).max(0.0));
    let missing = events - arrived.len() as u32;
    (late, early, missing)
}

/// Measures start, drain and idleness of a relay, without events for next month and with so many.
pub(crate) async fn later(report: &mut Report, later: u32) {
    let title = later_title(later);

    for turn in report.begin(&title, LATER_COLUMNS, &[Peer::Outboxd]) {
        // Both are there while each is measured, so that the server has the same data.
        let (mut without, mut with) = (Stage::set_up().await, Stage::set_up().await);
        turn.peer.prepare(&without);
        turn.peer.prepare(&with);
        let due = DateTime::from(SystemTime::now() + MONTH).timestamp_millis();
        with.schedule(LATER..LATER + later, |number| due + i64::from(number - LATER)).await;

        // The server is slower for a while after so many inserts, so none of these is the first.
        Work::measured(turn.peer, &mut without).await;
        let mut bare = Work::measured(turn.peer, &mut without).await;
        let mut beside = Work::measured(turn.peer, &mut with).await;
        beside.add(&Work::measured(turn.peer, &mut with).await);
        bare.add(&Work::measured(turn.peer, &mut without).await);
        without.tear_down().await;
        with.tear_down().await;

        let figures = [
            bare.drain_s / beside.drain_s,
            beside.start_ms / bare.start_ms,
            beside.drain_us / bare.drain_us,
            beside.idle.processor_us / bare.idle.processor_us,
            beside.idle.queries / 2.0,
        ];
        report.add(&title, turn, &figures);
    }
}

/// What a relay did on one stage, once or several times.
struct Work {
    /// From the start of the process until a consumer had the first event.
    start_ms: f64,
    drain_s: f64,
    /// Processor time.
    drain_us: f64,
    idle: Idle,
}

impl Work {
    async fn measured(peer: Peer, stage: &mut Stage) -> Self {
        stage.insert(0..BACKLOG, KEYS, BYTES).await;
        let before = stage.messages().await;
        let mut arrivals = stage.consume().await;

        let began = Instant::now();
        let mut running = peer.start(stage, epoch_seconds());
        let (_, first) = arrivals.recv().await.expect("the first event");
        drop(arrivals);
        let end = stage.delivered(&mut running, before + u64::from(BACKLOG)).await;
        let drain_us = running.processor_us();
        let rate = stage.rate(before + 1, before + u64::from(BACKLOG), end).await;

        Self {
            start_ms: (first - began).as_secs_f64() * 1e3,
            drain_s: f64::from(BACKLOG) / rate,
            drain_us,
            idle: Idle::measured(stage, &running).await,
        }
    }

    fn add(&mut self, other: &Self) {
        self.start_ms += other.start_ms;
        self.drain_s += other.drain_s;
        self.drain_us += other.drain_us;
        self.idle.processor_us += other.idle.processor_us;
        self.idle.queries += other.idle.queries;
    }
}

/// What a relay did while there was nothing to do.
struct Idle {
    processor_us: f64,
    /// Of the scheduled events, in 5 s.
    queries: f64,
}

impl Idle {
    async fn measured(stage: &Stage, running: &Running) -> Self {
        tokio::time::sleep(SETTLE).await;

        profile(stage, 2).await;
        let processor_before = running.fine_processor_us();
        tokio::time::sleep(IDLE).await;
        let processor_us = running.fine_processor_us() - processor_before;
        profile(stage, 0).await;

        Self { processor_us, queries: queries(stage).await * 5.0 / IDLE.as_secs_f64() }
    }
}

/// Whether the server notes down what the clients of this database run: 2, or 0 for not.
async fn profile(stage: &Stage, level: i32) {
    let answer = stage.client.database(&stage.name).run_command(doc! { "profile": level }).await;
    answer.expect("the server takes the level of its profiler");
}

/// How many queries of the scheduled events the server has noted down.
async fn queries(stage: &Stage) -> f64 {
    let profile = stage.client.database(&stage.name).collection::<Document>("system.profile");
    let kinds = ["command.find", "command.aggregate", "command.count"];
    let ran = doc! {
        "ns": format!("{}.outbox_scheduled", stage.name),
        "$or": kinds.map(|kind| doc! { kind: { "$exists": true } }).to_vec(),
        // The change stream is opened once.
        "command.pipeline.0.$changeStream": { "$exists": false },
    };
    let count = profile.count_documents(ran).await.expect("a count");
    profile.drop().await.expect("the profile is dropped");
    count as f64
}

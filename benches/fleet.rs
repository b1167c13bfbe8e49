//! Many outboxes: one daemon for all of them, a sidecar for each, and one sidecar with one outbox.

use std::fmt::Write as _;
use std::time::Duration;

use bson::doc;
use futures_util::future::join_all;

use super::latency::{Latencies, WARM_UP, collect};
use super::load::Service;
use super::peer::Peer;
use super::process::{Running, processor_us};
use super::report::Report;
use super::stage::{BYTES, KEYS, Stage, epoch_seconds};

const COLUMNS: &[&str] = &[
    "mongod CPU µs/transaction",
    "p50 ms after return",
    "idle % of a core",
    "idle mongod % of a core",
    "MB",
];

/// All of the outboxes that services write to at the same time.
const WRITTEN: usize = 10;

/// Outboxes whose backlogs are drained together.
pub(crate) const DRAINED: u32 = 20;

/// Until an outbox that has become empty counts as idle.
const SETTLE: Duration = Duration::from_secs(35);

pub(crate) fn title(outboxes: u32, rate: u32) -> String {
    format!("{outboxes} outboxes, {rate} transactions/s")
}

pub(crate) fn drain_title(events: u32) -> String {
    format!("drain {events} events of {DRAINED} outboxes")
}

/// The outboxes of one turn, and what relays them.
struct Fleet {
    stages: Vec<Stage>,
    running: Vec<Running>,
    mongod: u32,
}

/// Measures the relays while nothing happens, and under load.
pub(crate) async fn fleet(report: &mut Report, outboxes: u32, rate: u32, seconds: u32) {
    let title = title(outboxes, rate);
    for turn in report.begin(&title, COLUMNS, &[Peer::Outboxd, Peer::Fleet, Peer::Sidecars]) {
        let figures = fleet_once(turn.peer, outboxes, rate, seconds).await;
        report.add(&title, turn, &figures);
    }
}

async fn fleet_once(peer: Peer, outboxes: u32, rate: u32, seconds: u32) -> [f64; 5] {
    let mut fleet = Fleet::set_up(peer, outboxes).await;
    fleet.start(peer);
    fleet.warm_up().await;
    tokio::time::sleep(SETTLE).await;

    let during = Duration::from_secs(seconds.into());

    let (relays, mongod) = fleet.processors();
    tokio::time::sleep(during).await;
    let (relays, mongod) = (fleet.processors().0 - relays, fleet.processors().1 - mongod);
    let [relays, mongod] = [relays, mongod].map(|us| us / 1e4 / during.as_secs_f64());
    let mb = fleet.running.iter().map(Running::resident_mb).sum();

    let (per_transaction, p50) = fleet.under_load(rate, during).await;
    fleet.tear_down().await;
    [per_transaction, p50, relays, mongod, mb]
}

/// Measures backlogs that exist before the relay starts: as many events in many outboxes as in one.
pub(crate) async fn drain(report: &mut Report, events: u32) {
    let title = drain_title(events);
    for turn in report.begin(&title, &["events/s"], &[Peer::Outboxd, Peer::Fleet]) {
        let rate = drain_once(turn.peer, events).await;
        report.add(&title, turn, &[rate]);
    }
}

async fn drain_once(peer: Peer, events: u32) -> f64 {
    let mut fleet = Fleet::set_up(peer, DRAINED).await;
    let each = events / fleet.stages.len() as u32;
    for stage in &fleet.stages {
        stage.insert(0..each, KEYS, BYTES).await;
    }

    fleet.start(peer);
    let mut ends = Vec::with_capacity(fleet.stages.len());
    for stage in &mut fleet.stages {
        ends.push(stage.delivered(&mut fleet.running[0], each.into()).await);
    }

    let began = join_all(fleet.stages.iter().map(Stage::began)).await;
    let (began, end) = (began.into_iter().min(), ends.into_iter().max());
    let took = end.expect("an outbox").duration_since(began.expect("an outbox"));

    let drained = f64::from(each) * fleet.stages.len() as f64;
    fleet.tear_down().await;
    drained / took.expect("the end comes after the beginning").as_secs_f64()
}

impl Fleet {
    /// The outboxes, or one for a single sidecar.
    async fn set_up(peer: Peer, outboxes: u32) -> Self {
        let outboxes = if peer == Peer::Fleet || peer == Peer::Sidecars { outboxes } else { 1 };
        let mut stages = vec![Stage::set_up().await];
        while stages.len() < outboxes as usize {
            let next = stages[0].beside().await;
            stages.push(next);
        }
        stages.iter().for_each(|stage| peer.prepare(stage));

        let status = doc! { "serverStatus": 1 };
        let status = stages[0].client.database("admin").run_command(status).await;
        let pid = status.expect("the server's status").get_i64("pid").expect("its process");
        Self { stages, running: Vec::new(), mongod: u32::try_from(pid).expect("a process") }
    }

    fn start(&mut self, peer: Peer) {
        let since = epoch_seconds();
        self.running = match peer {
            Peer::Fleet => {
                let tables = self.tables();
                vec![peer.start_with(&self.stages[0], since, &[("OUTBOXD_CONFIG", &tables)])]
            }
            _ => self.stages.iter().map(|stage| peer.start(stage, since)).collect(),
        };
    }

    /// A table for each outbox.
    fn tables(&self) -> String {
        let mut tables = String::new();
        for Stage { name, .. } in &self.stages {
            let table = writeln!(
                tables,
                "[[outbox]]\ndatabase = {name:?}\nstream = {name:?}\nsubjects = [\"{name}.*\"]"
            );
            table.expect("a text grows");
        }
        tables
    }

    /// Every outbox has been relayed once.
    async fn warm_up(&mut self) {
        for stage in &self.stages {
            stage.insert(0..1, 1, BYTES).await;
        }
        for (at, stage) in self.stages.iter_mut().enumerate() {
            let relay = at.min(self.running.len() - 1);
            stage.delivered(&mut self.running[relay], 1).await;
        }
    }

    /// Processor time so far, in microseconds: of the relays, and of mongod.
    fn processors(&self) -> (f64, f64) {
        let relays = self.running.iter().map(Running::fine_processor_us).sum();
        (relays, processor_us(self.mongod))
    }

    /// mongod's processor time for a transaction, in microseconds, and the median latency.
    async fn under_load(&mut self, rate: u32, during: Duration) -> (f64, f64) {
        let written = &self.stages[..self.stages.len().min(WRITTEN)];
        let rate = rate / written.len() as u32;
        let services = join_all(written.iter().map(Service::start)).await;
        let arrivals = join_all(written.iter().map(Stage::consume)).await;

        let before = self.processors().1;
        let committed =
            join_all(services.iter().map(|service| service.at_rate(rate, during + WARM_UP))).await;
        let took = self.processors().1 - before;

        let (mut transactions, mut p50) = (0, 0.0);
        for (committed, mut arrivals) in committed.iter().zip(arrivals) {
            let arrived = collect(&mut arrivals, committed.len(), |_| true).await;
            let latencies = Latencies::after(WARM_UP, (committed, rate), &arrived);
            assert_eq!(latencies.missing(), 0, "an event did not arrive");
            transactions += committed.len();
            p50 += latencies.since_return(0.5) / written.len() as f64;
        }
        (took / transactions as f64, p50)
    }

    async fn tear_down(self) {
        drop(self.running);
        for stage in self.stages {
            stage.tear_down().await;
        }
    }
}

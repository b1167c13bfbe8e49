//! The cost of a relay that has nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::peer::Peer;
use super::report::Report;
use super::stage::{Stage, epoch_seconds};

pub(crate) const TITLE: &str = "idle";

const COLUMNS: &[&str] = &[
    "% of a core",
    "MB",
    "getMore/s",
    "lease/s",
    "retrier and gauges/s",
    "heartbeats/s",
    "other commands/s",
];

/// Time between warm-up and measurement, so that the cost of the start isn't counted.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures a relay with an empty outbox.
pub(crate) async fn idle(report: &mut Report, seconds: u32) {
    for turn in report.begin(TITLE, COLUMNS, &[Peer::Outboxd, Peer::BareStream]) {
        let figures = idle_once(turn.peer, seconds).await;
        report.add(TITLE, turn, &figures);
    }
}

async fn idle_once(peer: Peer, seconds: u32) -> [f64; 7] {
    let mut stage = Stage::set_up().await;
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    stage.warm_up(&mut running).await;
    tokio::time::sleep(SETTLE).await;

    let (commands_before, processor_before) = (commands(&stage).await, running.processor_us());
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let processor_us = running.processor_us() - processor_before;
    let mb = running.resident_mb();
    let commands = commands(&stage).await;

    drop(running);
    stage.tear_down().await;

    let seconds = f64::from(seconds);
    let [get_more, lease, reads, heartbeats, other] =
        by_purpose(peer, &commands_before, commands).map(|commands| commands as f64 / seconds);
    [processor_us / 1e4 / seconds, mb, get_more, lease, reads, heartbeats, other]
}

/// The commands since `before`, by what a relay runs them for: the change stream, the lease, reads
/// by retrier and gauges, heartbeats, and anything else. The last are printed by name.
fn by_purpose(
    peer: Peer,
    before: &BTreeMap<String, i64>,
    after: BTreeMap<String, i64>,
) -> [i64; 5] {
    let [mut get_more, mut lease, mut reads, mut heartbeats, mut other] = [0; 5];

    for (name, count) in after {
        let count = count - before.get(&name).copied().unwrap_or(0);
        match name.as_str() {
            // This program's own command, and the server's.
            "serverStatus" | "replSetUpdatePosition" => {}
            "getMore" => get_more += count,
            "findAndModify" | "update" => lease += count,
            "find" | "aggregate" | "count" => reads += count,
            "hello" | "isMaster" | "ping" => heartbeats += count,
            _ if count > 0 => {
                eprintln!("idle, {}: {count} × {name}", peer.name());
                other += count;
            }
            _ => {}
        }
    }

    [get_more, lease, reads, heartbeats, other]
}

/// How often the server has run each command, for all its clients.
async fn commands(stage: &Stage) -> BTreeMap<String, i64> {
    let status = stage
        .client
        .database("admin")
        .run_command(doc! { "serverStatus": 1 })
        .await
        .expect("the server's status");
    let commands = status
        .get_document("metrics")
        .and_then(|metrics| metrics.get_document("commands"))
        .expect("metrics.commands in the server's status");

    let total = |command: &Bson| Document::get_i64(command.as_document()?, "total").ok();
    commands.iter().filter_map(|(name, command)| Some((name.clone(), total(command)?))).collect()
}

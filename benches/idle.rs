//! What a relay costs that has nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::drain::now;
use super::peer::Peer;
use super::report::Report;
use super::stage::Stage;

pub(crate) const TITLE: &str = "idle";
pub(crate) const COLUMNS: &[&str] = &[
    "% of a core",
    "MB",
    "getMore/s",
    "lease/s",
    "retrier and gauges/s",
    "heartbeats/s",
    "other commands/s",
];
/// What a start costs isn't counted.
const SETTLE: Duration = Duration::from_secs(5);

/// Nothing happens.
pub(crate) async fn idle(report: &mut Report, seconds: u32) {
    let peers = report.begin(TITLE, COLUMNS, &[Peer::Outboxd, Peer::BareStream]);
    for round in 1..=report.rounds {
        for peer in &peers {
            let mut stage = Stage::set_up().await;
            peer.prepare(&stage);
            let mut running = peer.start(&stage, now());
            stage.warm_up(&mut running).await;
            tokio::time::sleep(SETTLE).await;
            let (commands, processor_us) = (commands(&stage).await, running.processor_us());
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            let percent = (running.processor_us() - processor_us) / 1e4 / f64::from(seconds);
            let mb = running.resident_mb();
            let (mut lease, mut get_more, mut reads, mut heartbeats, mut other) = (0, 0, 0, 0, 0);
            for (name, count) in self::commands(&stage).await {
                let count = count - commands.get(&name).copied().unwrap_or(0);
                match name.as_str() {
                    // Of this look itself, and the server's own.
                    "serverStatus" | "replSetUpdatePosition" => continue,
                    "getMore" => get_more += count,
                    "findAndModify" | "update" => lease += count,
                    "find" | "aggregate" | "count" => reads += count,
                    "hello" | "isMaster" | "ping" => heartbeats += count,
                    _ if count > 0 => {
                        eprintln!("idle, {}: {name} {count} times", peer.name());
                        other += count;
                    }
                    _ => {}
                }
            }
            drop(running);
            let per_second = |count: i64| count as f64 / f64::from(seconds);
            let figures = [
                percent,
                mb,
                per_second(get_more),
                per_second(lease),
                per_second(reads),
                per_second(heartbeats),
                per_second(other),
            ];
            report.add(TITLE, round, *peer, &figures);
            stage.tear_down().await;
        }
    }
}

/// How often the server has run each command, whoever sent it.
async fn commands(stage: &Stage) -> BTreeMap<String, i64> {
    let status = stage
        .client
        .database("admin")
        .run_command(doc! { "serverStatus": 1 })
        .await
        .expect("its status");
    let commands = status
        .get_document("metrics")
        .and_then(|metrics| metrics.get_document("commands"))
        .expect("commands");
    let total = |command: &Bson| Document::get_i64(command.as_document()?, "total").ok();
    commands.iter().filter_map(|(name, command)| Some((name.clone(), total(command)?))).collect()
}

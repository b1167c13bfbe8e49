//! Events that a test schedules, and the ledger of what must become of them.

use std::time::Duration;

use bson::{DateTime, doc, oid::ObjectId};
use outboxd_client::EventId;

use super::scheduled;
use crate::support::{Ledger, Outcome, Scene, checker, until};

/// Events in one transaction of a plan.
const TOGETHER: usize = 500;

/// So long from now, by MongoDB's clock.
pub(super) async fn from_now(scene: &Scene, millis: i64) -> DateTime {
    let hello = scene.database.run_command(doc! { "hello": 1 }).await.expect("a reply");
    let now = hello.get_datetime("localTime").expect("the server's clock");
    DateTime::from_millis(now.timestamp_millis() + millis)
}

/// Schedules one event of each of these times, over so many keys in turn, and records them. Of each
/// key the times must rise.
pub(super) async fn schedule(
    scene: &Scene,
    ledger: &mut Ledger,
    keys: usize,
    times: impl IntoIterator<Item = DateTime>,
) {
    let events: Vec<_> = times
        .into_iter()
        .enumerate()
        .map(|(n, at)| (format!("s{}", n % keys), u32::try_from(n / keys).unwrap() + 1, at))
        .collect();

    for some in events.chunks(TOGETHER) {
        let mut session = scene.transaction().await;
        for (key, number, at) in some {
            let id = ObjectId::new();
            let event = scene.event(key, *number).with_id(EventId::ObjectId(id)).unwrap();
            scene.outbox.schedule(&mut session, event, *at).await.expect("it is scheduled");
            ledger.scheduled(id, key, *number, Outcome::Committed, at.timestamp_millis());
        }
        session.commit_transaction().await.expect("the events are committed");
    }
}

/// Waits until nothing is scheduled that isn't dead, and the outbox is empty.
pub(super) async fn delivered(scene: &Scene) {
    until("everything scheduled is moved", async || {
        let waiting = doc! { "deadAt": null };
        let waiting = scheduled(scene).count_documents(waiting).await.ok()?;
        (waiting == 0).then_some(())
    })
    .await;
    scene.drained().await;
}

/// How long after they were due the events were stored in the stream: the shortest first.
pub(super) async fn lateness(scene: &Scene, ledger: &Ledger) -> Vec<Duration> {
    let due: std::collections::HashMap<_, _> =
        ledger.committed().filter_map(|event| Some((event.id.clone(), event.due_ms?))).collect();
    let stream = checker::stream(scene).await;
    let late = |message: &checker::Published| {
        let due = i128::from(*due.get(&message.id)?) * 1_000_000;
        Some(Duration::from_nanos(u64::try_from(message.at - due).unwrap_or(0)))
    };
    let mut late: Vec<_> = stream.iter().filter_map(late).collect();
    late.sort();
    late
}

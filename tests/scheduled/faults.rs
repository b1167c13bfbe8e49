//! The mover's leader is killed, deposed and cut off while scheduled events are due: none is lost,
//! copied, early or out of order.

use std::time::Duration;

use bson::{DateTime, doc};
use tokio::time::sleep;

use super::plan::{delivered, from_now, lateness, schedule};
use super::scheduled;
use crate::support::{
    ALONE, Ledger, NatsServer, Outcome, Relay, ReplicaSet, Scene, checker, until,
};

const SIGKILL: i32 = 9;
const KEYS: usize = 10;

/// Times that begin so long from now, so many of them, and so far apart, in ms.
async fn times(scene: &Scene, from_ms: i64, count: i64, apart_ms: i64) -> Vec<DateTime> {
    let begin = from_now(scene, from_ms).await.timestamp_millis();
    (0..count).map(|n| DateTime::from_millis(begin + n * apart_ms)).collect()
}

/// Two relays; the leader is killed at this point, at its first move and at later ones.
async fn crash_at(point: &str) {
    let scene = Scene::new().await;
    let mut ledger = Ledger::default();
    let times = times(&scene, 3000, 1500, 10).await;
    schedule(&scene, &mut ledger, KEYS, times).await;

    let mut killed = 0;
    for pass in [1, 2, 5] {
        let at = format!("{point}:{pass}");
        let settings = [("OUTBOXD_LEASE__TTL", "1s"), ("OUTBOXD_CRASH_AT", &at)];
        let mut relay = Relay::start(&scene, &settings);
        killed += u64::from(relay.ended_by().await == Some(SIGKILL));
    }
    let relay = Relay::leading(&scene, &[("OUTBOXD_LEASE__TTL", "1s")]).await;
    delivered(&scene).await;

    let faults = format!("killed at {point}");
    let report = checker::check(&scene, &ledger, &[(&faults, killed)]).await;
    println!("\n{faults}\n{report}");
    assert_eq!(killed, 3);
    report.assert_all_delivered();
    // The server keeps the transaction of a dead leader for a minute, unless somebody ends it.
    let late = lateness(&scene, &ledger).await;
    println!("the last is {:?} late", late.last());
    assert!(!relay.log().contains("moving scheduled events failed"), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn killed_before_a_move() {
    crash_at("due").await;
}

#[tokio::test]
async fn killed_between_delete_and_insert() {
    crash_at("taken").await;
}

#[tokio::test]
async fn killed_before_the_commit() {
    crash_at("put").await;
}

#[tokio::test]
async fn killed_after_the_commit() {
    crash_at("moved").await;
}

/// The leader is frozen in its move, so the server keeps what it has deleted from others.
#[tokio::test]
async fn a_frozen_leader_keeps_no_event_from_the_next_one() {
    let scene = Scene::new().await;
    let settings = [("OUTBOXD_LEASE__TTL", "1s")];
    let first = Relay::leading(&scene, &settings).await;
    let mut ledger = Ledger::default();
    let times = times(&scene, 500, 2000, 1).await;
    schedule(&scene, &mut ledger, KEYS, times).await;

    for _ in 0..5 {
        first.pause();
        sleep(Duration::from_millis(100)).await;
        first.resume();
        sleep(Duration::from_millis(150)).await;
    }
    first.pause();
    let second = Relay::leading(&scene, &settings).await;
    delivered(&scene).await;
    first.resume();
    until("the first relay sees that it is deposed", async || {
        first.log().contains("lost the lease").then_some(())
    })
    .await;

    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_primary_that_steps_down_while_events_are_due_costs_none() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let relays = [Relay::start(&scene, &[]), Relay::start(&scene, &[])];
    let mut ledger = Ledger::default();
    let times = times(&scene, 4000, 3000, 4).await;
    schedule(&scene, &mut ledger, KEYS, times).await;

    let mut stepped = 0;
    for _ in 0..4 {
        sleep(Duration::from_secs(3)).await;
        stepped += u64::from(set.step_down().await);
    }
    delivered(&scene).await;

    let report = checker::check(&scene, &ledger, &[("stepped down", stepped)]).await;
    println!("{report}");
    report.assert_all_delivered();
    for relay in relays {
        assert_eq!(relay.stop(), Some(0));
    }
}

/// What is due while nothing can be published can still be cancelled.
#[tokio::test]
async fn nats_that_is_away_across_the_due_time_costs_no_event() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();
    let times = times(&scene, 1500, 200, 5).await;
    schedule(&scene, &mut ledger, KEYS, times).await;
    let cancelled = from_now(&scene, 1500).await;
    let mut session = scene.transaction().await;
    let id = scene.outbox.schedule(&mut session, scene.event("c", 1), cancelled).await.unwrap();
    session.commit_transaction().await.unwrap();

    nats.kill();
    sleep(Duration::from_secs(4)).await;
    let waiting = scheduled(&scene).count_documents(doc! {}).await.unwrap();
    assert!(waiting > 0, "what is due waits where it can be cancelled");
    let mut session = scene.transaction().await;
    assert!(scene.outbox.cancel(&mut session, &id).await.unwrap());
    session.commit_transaction().await.unwrap();
    ledger.scheduled(id, "c", 1, Outcome::Cancelled, cancelled.timestamp_millis());

    nats.start_again();
    delivered(&scene).await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    assert_eq!(relay.stop(), Some(0));
}

/// Each cancel either finds the event, and it is never delivered, or doesn't, and it is.
#[tokio::test]
async fn of_cancels_around_the_due_time_none_is_delivered_and_none_is_neither() {
    let scene = std::sync::Arc::new(Scene::new().await);
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();
    let times = times(&scene, 4000, 1000, 2).await;
    schedule(&scene, &mut ledger, 100, times).await;
    sleep(Duration::from_millis(3500)).await;

    let mut cancelling = tokio::task::JoinSet::new();
    for (n, event) in ledger.transactions.iter().enumerate() {
        let (scene, id) = (scene.clone(), event.id.clone());
        cancelling.spawn(async move {
            sleep(Duration::from_millis(u64::try_from(n).unwrap() * 2)).await;
            (n, cancel(&scene, &id).await)
        });
    }
    let mut cancelled = 0;
    while let Some(done) = cancelling.join_next().await {
        let (n, is_cancelled) = done.unwrap();
        if is_cancelled {
            ledger.transactions[n].outcome = Outcome::Cancelled;
            cancelled += 1;
        }
    }
    delivered(&scene).await;

    let report = checker::check(&scene, &ledger, &[]).await;
    println!("{cancelled} of 1000 cancelled\n{report}");
    report.assert_all_delivered();
    assert_eq!(relay.stop(), Some(0));
}

async fn cancel(scene: &Scene, id: &str) -> bool {
    let id = outboxd_client::EventId::ObjectId(id.parse().unwrap());
    loop {
        let mut session = scene.transaction().await;
        if let Ok(found) = scene.outbox.cancel(&mut session, &id).await
            && session.commit_transaction().await.is_ok()
        {
            return found;
        }
        _ = session.abort_transaction().await;
        sleep(Duration::from_millis(5)).await;
    }
}

/// A service's transaction that holds an event for long holds up that event and its key alone.
#[tokio::test]
async fn a_transaction_that_holds_an_event_holds_up_no_other() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();
    let times = times(&scene, 2000, 300, 1).await;
    schedule(&scene, &mut ledger, 100, times).await;

    let held = ledger.transactions.iter().find(|event| event.key == "s7").unwrap().id.clone();
    let held = outboxd_client::EventId::ObjectId(held.parse().unwrap());
    let mut session = scene.transaction().await;
    assert!(scene.outbox.cancel(&mut session, &held).await.unwrap());
    until("all but the events of that key are out", async || {
        let left = scheduled(&scene).count_documents(doc! { "key": { "$ne": "s7" } }).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    let of_key = doc! { "key": "s7" };
    assert_eq!(scheduled(&scene).count_documents(of_key).await.unwrap(), 3, "the key waits");

    session.abort_transaction().await.unwrap();
    delivered(&scene).await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    assert_eq!(relay.stop(), Some(0));
}

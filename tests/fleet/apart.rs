//! Outboxes of a fleet are broken in each possible way, and the others notice nothing.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use bson::doc;

use super::scene::Fleet;
use crate::support::{NatsServer, Relay, Scene, outboxd, until};

/// Events of each healthy outbox, one after the other.
const EVENTS: u32 = 100;

/// Commits an event after the other, and waits until each has been delivered and deleted. Returns the
/// time that the slowest but one took.
async fn deliver(scene: &Scene, from: u32) -> Duration {
    let mut took = Vec::new();
    for number in from..from + EVENTS {
        let began = Instant::now();
        scene.commit([scene.event("k", number)]).await;
        scene.drained().await;
        took.push(began.elapsed());
    }

    took.sort();
    took[took.len() - 2]
}

/// No event of this outbox can be delivered.
async fn fill(scene: &Scene) {
    let stream = scene.context.get_stream(&scene.stream).await.expect("the scene's stream");
    let config = stream::Config {
        max_messages: 1,
        discard: stream::DiscardPolicy::New,
        ..stream.cached_info().config.clone()
    };
    scene.context.update_stream(config).await.expect("the stream is small");
    scene.commit((0..500).map(|number| scene.event(&format!("k{number}"), number))).await;
}

/// So many documents that no event can be.
async fn poison(scene: &Scene, count: u32) {
    let bad = |number| doc! { "_id": number, "subject": "a b", "payload": "x", "isLocked": true };
    scene
        .events
        .insert_many((0..count).map(bad))
        .bypass_document_validation(true)
        .await
        .expect("anybody can write anything");
}

#[tokio::test]
async fn outboxes_that_are_broken_in_each_way_slow_down_no_other() {
    let nats = NatsServer::with_config("").await;
    let fleet = Fleet::on(&nats, 7).await;
    let _relay = fleet.run("");
    // Has a relay to itself, on the same machine and servers: what slows it down is not the fleet.
    let control = Scene::on(&nats).await;
    let (code, said) = outboxd(&control, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    let _sidecar = Relay::leading(&control, &[]).await;
    let [one, other, dead, full, revoked, gone, flooded] = &fleet.scenes[..] else {
        panic!("seven outboxes")
    };
    for scene in &fleet.scenes {
        scene.commit([scene.event("k", 0)]).await;
        scene.drained().await;
    }

    let (one_before, other_before) = tokio::join!(deliver(one, 1), deliver(other, 1));

    poison(dead, 1).await;
    dead.commit((0..500).map(|number| dead.event("k", number))).await;
    fill(full).await;
    let user = doc! { "dropUser": "outbox-relay" };
    revoked.database.run_command(user).await.expect("the user is dropped");
    gone.events.drop().await.expect("the collection is dropped");
    poison(flooded, 5000).await;
    until("the flood is dead", async || {
        let dead = flooded.events.count_documents(doc! { "deadAt": { "$ne": null } }).await;
        (dead.expect("a count") > 100).then_some(())
    })
    .await;

    let from = 1 + EVENTS;
    let (one_during, other_during, alone) =
        tokio::join!(deliver(one, from), deliver(other, from), deliver(&control, from));
    eprintln!(
        "p99 before: {one_before:?}, {other_before:?}; during: {one_during:?}, {other_during:?}, \
         and {alone:?} with a relay of its own"
    );
    for during in [one_during, other_during] {
        let most = alone * 3 + Duration::from_secs(1);
        assert!(during < most, "a healthy outbox took {during:?}, and {alone:?} on its own");
    }

    for scene in [one, other] {
        let numbers = scene.numbers().await;
        assert!(numbers["k"].iter().copied().eq(0..1 + 2 * EVENTS), "{numbers:?}");
    }
    let waiting = full.events.count_documents(doc! {}).await.expect("a count");
    assert!(waiting >= 499, "its stream takes no more: {waiting}");
}

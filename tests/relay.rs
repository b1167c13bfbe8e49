//! A committed event is published once, in the order of its key, and deleted.

use std::sync::Arc;

use bson::doc;
use outboxd_client::Event;

use crate::support::{Relay, Scene, until};

#[tokio::test]
async fn a_committed_event_is_published_and_deleted() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let id = bson::oid::ObjectId::new();
    let payload = doc! { "id": id, "at": bson::DateTime::from_millis(0), "price": 5 };
    let event = Event::new(scene.subject("ticket:created"), &payload).unwrap();
    let event = event.key("t1").unwrap().header("traceparent", "00-1").unwrap();
    let event_id = event.id().clone();
    scene.commit([event]).await;
    scene.drained().await;
    let messages = scene.messages().await;
    assert_eq!(messages.len(), 1);
    let message = &messages[0];
    assert_eq!(message.subject, scene.subject("ticket:created"));
    assert_eq!(
        message.payload,
        format!(r#"{{"id":"{id}","at":"1970-01-01T00:00:00Z","price":5}}"#)
    );
    assert_eq!(message.headers["Nats-Msg-Id"], format!("{}.outbox.{event_id}", scene.name));
    assert_eq!(message.headers["Nats-Expected-Stream"], scene.name);
    assert_eq!(message.headers["traceparent"], "00-1");
}

#[tokio::test]
async fn text_and_binary_go_out_byte_for_byte() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let binary =
        bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"{bin".to_vec() };
    let events = [
        Event::new(scene.subject("a"), "{text").unwrap(),
        Event::new(scene.subject("b"), &binary).unwrap(),
    ];
    scene.commit(events.map(|event| event.key("k").unwrap())).await;
    scene.drained().await;
    let payloads: Vec<_> =
        scene.messages().await.into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, ["{text", "{bin"]);
}

#[tokio::test]
async fn a_rolled_back_event_is_never_published() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let mut session = scene.transaction().await;
    scene.outbox.enqueue(&mut session, scene.event("k", 1)).await.unwrap();
    session.abort_transaction().await.unwrap();
    // One that commits afterwards passes the place where the other would have been.
    scene.commit([scene.event("k", 2)]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [2]);
}

#[tokio::test]
async fn a_backlog_is_drained_in_order() {
    let scene = Scene::new().await;
    for chunk in 0..10 {
        scene.commit((0..100).map(|n| scene.event(&format!("k{}", n % 7), chunk * 100 + n))).await;
    }
    let relay = Relay::start(&scene, &[]);
    scene.drained().await;
    assert_in_order(&scene, 1000).await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn sweep_hands_over_to_tail_while_writers_write() {
    let scene = Arc::new(Scene::new().await);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let scene = scene.clone();
            tokio::spawn(async move {
                for number in 0..150 {
                    scene.commit([scene.event(&format!("w{writer}"), number)]).await;
                }
            })
        })
        .collect();
    until("writers have begun", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() > 100).then_some(())
    })
    .await;
    let _relay = Relay::start(&scene, &[]);
    for writer in writers {
        writer.await.unwrap();
    }
    scene.drained().await;
    assert_in_order(&scene, 8 * 150).await;
}

#[tokio::test]
async fn a_relay_killed_in_the_middle_loses_and_reorders_nothing() {
    let scene = Scene::new().await;
    for chunk in 0..20 {
        scene.commit((0..200).map(|n| scene.event(&format!("k{}", n % 50), chunk * 200 + n))).await;
    }
    let mut kills = 0;
    while scene.events.count_documents(doc! {}).await.unwrap() > 0 && kills < 5 {
        let before = scene.events.count_documents(doc! {}).await.unwrap();
        let mut relay = Relay::leading(&scene, &[("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "8")]).await;
        until("some are published", async || {
            (scene.events.count_documents(doc! {}).await.unwrap() < before).then_some(())
        })
        .await;
        relay.kill();
        kills += 1;
    }
    assert!(kills > 1, "the backlog was gone before it could be killed twice");
    let _relay = Relay::start(&scene, &[]);
    scene.drained().await;
    assert_in_order(&scene, 20 * 200).await;
}

#[tokio::test]
async fn sigterm_drains_and_exits_0() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    scene.commit((0..500).map(|n| scene.event(&format!("k{}", n % 20), n))).await;
    assert_eq!(relay.stop(), Some(0));
    // What had been published is deleted; the rest waits for the next relay, and nothing is there
    // twice.
    let published = scene.messages().await.len() as u64;
    assert_eq!(published + scene.events.count_documents(doc! {}).await.unwrap(), 500);
    let _relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_in_order(&scene, 500).await;
}

/// Every key's numbers rise, and the stream has `count` messages: none lost, none twice, none out
/// of order.
async fn assert_in_order(scene: &Scene, count: usize) {
    let numbers = scene.numbers().await;
    for (key, numbers) in &numbers {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), count);
}

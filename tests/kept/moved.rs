//! An acked event moves: to the kept ones, and out of the outbox.

use bson::{Bson, doc};
use outboxd_client::{Event, EventId};

use super::{KEEP, kept};
use crate::support::{Relay, Scene, until};

#[tokio::test]
async fn an_acked_event_is_kept_as_it_was_with_where_the_stream_has_it() {
    let scene = Scene::new().await;
    let mut session = scene.transaction().await;
    let event = scene.event("k", 7);
    scene.outbox.enqueue(&mut session, event).await.expect("the event is written");
    session.commit_transaction().await.expect("a commit");
    let before = scene.one(doc! {}).await.expect("the event");

    let relay = Relay::leading(&scene, &KEEP).await;
    scene.drained().await;
    let mut after = kept(&scene).find_one(doc! {}).await.expect("a read").expect("it is kept");
    assert!(after.remove("publishedAt").is_some_and(|at| at.as_datetime().is_some()));
    assert_eq!(after.remove("stream"), Some(scene.stream.as_str().into()));
    assert_eq!(after.remove("seq"), Some(Bson::Int64(1)));
    assert!(after.remove("place").is_some());
    assert_eq!(after, before);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn ids_of_every_type_and_large_events_are_kept_under_their_own_sequence() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &KEEP).await;
    let large = "x".repeat(300_000);
    let mut events = Vec::new();
    for number in 0..40_u32 {
        let text = if number % 10 == 0 { large.as_str() } else { "small" };
        let payload = doc! { "key": "k", "number": number, "text": text };
        let event = Event::new(scene.subject("made"), &payload).expect("an event");
        let id = match number % 3 {
            0 => event.id().clone(),
            1 => EventId::string(format!("e.{number}")).expect("an id"),
            _ => EventId::Uuid(bson::Uuid::from_bytes([number as u8; 16])),
        };
        events.push(event.with_id(id).expect("an id"));
    }
    scene.commit(events).await;
    scene.drained().await;

    let messages = scene.messages().await;
    let mut found = kept(&scene).find(doc! {}).await.expect("a read");
    let mut count = 0;
    while found.advance().await.expect("the next one") {
        let one = found.deserialize_current().expect("a document");
        let seq = usize::try_from(one.get_i64("seq").expect("a sequence")).expect("a small one");
        let number = one.get_document("payload").expect("a payload").get("number").cloned();
        let payload: serde_json::Value =
            serde_json::from_str(&messages[seq - 1].payload).expect("JSON");
        assert_eq!(
            number.and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))),
            payload["number"].as_i64()
        );
        count += 1;
    }
    assert_eq!(count, 40);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn kept_events_are_removed_after_their_time() {
    let scene = Scene::new().await;
    let settings = [("OUTBOXD_KEEP__FOR", "6s"), KEEP[1]];
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit((0..2500).map(|n| scene.event(&format!("k{n}"), n))).await;
    scene.drained().await;
    let count = async || kept(&scene).count_documents(doc! {}).await.expect("a count");
    assert!(count().await > 0);
    until("their time is over", async || (count().await == 0).then_some(())).await;
    assert_eq!(relay.stop(), Some(0));
}

/// As today.
#[tokio::test]
async fn without_the_setting_nothing_is_kept() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    scene.commit((0..50).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    assert_eq!(kept(&scene).count_documents(doc! {}).await.expect("a count"), 0);
    assert_eq!(relay.stop(), Some(0));
}

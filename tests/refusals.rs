//! A refusal of one subject or one message is that event's: it is counted or dead, and neither the
//! breaker nor another event notices.

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use bson::doc;
use outboxd_client::Event;

use crate::support::{Relay, Scene, outboxd, until};

fn event(scene: &Scene, subject: &str, number: u32) -> Event {
    Event::new(scene.subject(subject), &doc! { "key": "k", "number": number })
        .unwrap()
        .key("k")
        .unwrap()
}

/// Has the scene's stream be as `change` makes it.
async fn limit(scene: &Scene, change: impl Fn(Config) -> Config) {
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let config = change(stream.cached_info().config.clone());
    scene.context.update_stream(config).await.unwrap();
}

/// The code of the newest failure of the event with this number.
async fn refused(scene: &Scene, number: u32, attempts: i64) -> (String, String) {
    let filter = doc! { "payload.number": number, "attempts": { "$gte": attempts } };
    let marked = until("it is refused", async || scene.one(filter.clone()).await).await;
    let failure = marked.get_array("failures").unwrap().last().unwrap().as_document().unwrap();
    let text = |name| failure.get_str(name).unwrap().to_owned();
    (text("code"), text("class"))
}

#[tokio::test]
async fn a_full_subject_is_that_subjects_refusal_and_holds_nobody_else_up() {
    let scene = Scene::new().await;
    limit(&scene, |config| Config {
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        ..config
    })
    .await;

    let settings = [("OUTBOXD_RETRY__MAX_ATTEMPTS", "2"), ("OUTBOXD_RETRY__MAX_DELAY", "1s")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit([event(&scene, "one", 1), event(&scene, "one", 2)]).await;
    let class = "config".to_owned();
    assert_eq!(refused(&scene, 2, 1).await, ("10077-subject".to_owned(), class));
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);

    // Events of other subjects leave.
    let beside = Event::new(scene.subject("two"), &doc! { "key": "other", "number": 1 }).unwrap();
    scene.commit([beside.key("other").unwrap()]).await;
    until("the other key flows", async || {
        scene.numbers().await.contains_key("other").then_some(())
    })
    .await;

    until("it is dead", async || scene.one(doc! { "deadAt": { "$ne": null } }).await).await;
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);
    let (_, said) = outboxd(&scene, &["groups", "--output", "json"]);
    assert!(said.contains("10077-subject") && said.contains("max_msgs_per_subject"), "{said}");
    let (code, said) = outboxd(&scene, &["explain", "10077"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the stream is full") && said.contains("subject is full"), "{said}");

    limit(&scene, |config| Config { max_messages_per_subject: 2, ..config }).await;
    assert_eq!(outboxd(&scene, &["retry-now", "--all", "--yes"]).0, Some(0));
    scene.drained().await;
}

#[tokio::test]
async fn a_message_larger_than_the_whole_stream_is_dead_and_holds_nobody_else_up() {
    let scene = Scene::new().await;
    limit(&scene, |config| Config { discard: DiscardPolicy::New, max_bytes: 100_000, ..config })
        .await;

    let relay = Relay::leading(&scene, &[]).await;
    let large = doc! { "key": "k", "number": 1, "more": "x".repeat(100_000) };
    scene.commit([Event::new(scene.subject("made"), &large).unwrap().key("k").unwrap()]).await;
    let dead = until("it is dead", async || scene.one(doc! { "deadAt": { "$ne": null } }).await);
    let failure = dead.await.get_array("failures").unwrap()[0].as_document().unwrap().clone();
    assert_eq!(failure.get_str("code").unwrap(), "10077-larger-than-stream", "{failure}");
    scene.commit([scene.event("other", 1)]).await;
    until("the other key flows", async || {
        scene.numbers().await.contains_key("other").then_some(())
    })
    .await;
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);
}

//! A stream that has lost what it acked is reported, by whichever relay comes next; a purge is no
//! loss.

use serde_json::Value;

use crate::support::{NatsServer, Relay, Scene, until};

/// The alerts of a loss.
fn alerts(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    lines.filter(|line: &Value| line["kind"] == "rewound").collect()
}

async fn alert(scene: &Scene) -> Value {
    until("an alert tells of the loss", async || alerts(scene).pop()).await
}

async fn publish(scene: &Scene, numbers: std::ops::Range<u32>) {
    for number in numbers {
        scene.commit([scene.event(&format!("k{}", number % 5), number)]).await;
    }
    scene.drained().await;
}

/// Somebody else's messages.
async fn grow(scene: &Scene, messages: u32) {
    for _ in 0..messages {
        let ack = scene.context.publish(scene.subject("others"), "{}".into()).await;
        ack.expect("it is sent").await.expect("it is stored");
    }
}

async fn recreate(scene: &Scene) {
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();
    scene.context.delete_stream(&scene.stream).await.expect("the stream is deleted");
    scene.context.create_stream(config).await.expect("the stream is created again");
}

/// Puts the store back to what it was before `what`.
async fn put_back(nats: &mut NatsServer, scene: &Scene, what: impl AsyncFnOnce()) {
    nats.kill();
    let copy = nats.copy();
    nats.start_again();
    until("the stream is back", async || scene.context.get_stream(&scene.stream).await.ok()).await;
    what().await;
    nats.kill();
    nats.restore(&copy);
    nats.start_again();
    until("the stream is back", async || scene.context.get_stream(&scene.stream).await.ok()).await;
}

/// Twenty events are published and the relay is stopped; then the store has the first ten.
async fn stop_and_put_back(nats: &mut NatsServer, scene: &Scene) {
    let relay = Relay::leading(scene, &[]).await;
    publish(scene, 0..10).await;
    put_back(nats, scene, async || {
        publish(scene, 10..20).await;
        assert_eq!(relay.stop(), Some(0));
    })
    .await;
}

/// The alert has these sequences, and the next relay doesn't raise it again.
async fn is_told_once(scene: &Scene, from: u64, to: u64, how: &str) {
    let alert = alert(scene).await;
    assert_eq!(alert["stream"], scene.stream.as_str(), "{alert}");
    assert_eq!((alert["from"].as_u64(), alert["to"].as_u64()), (Some(from), Some(to)), "{alert}");
    assert_eq!(alert["how"], how, "{alert}");

    let relay = Relay::leading(scene, &[]).await;
    publish(scene, 1000..1005).await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(alerts(scene).len(), 1);
}

#[tokio::test]
async fn a_relay_that_starts_after_the_stream_was_put_back_sees_the_loss() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    stop_and_put_back(&mut nats, &scene).await;
    let relay = Relay::leading(&scene, &[]).await;
    alert(&scene).await;
    assert_eq!(relay.stop(), Some(0));
    is_told_once(&scene, 20, 10, "went-back").await;
}

#[tokio::test]
async fn a_relay_that_was_killed_has_stored_what_the_stream_acked() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let mut relay = Relay::leading(&scene, &[]).await;
    publish(&scene, 0..10).await;
    put_back(&mut nats, &scene, async || {
        publish(&scene, 10..20).await;
        let lease = scene.database.collection::<bson::Document>("outboxd_lease");
        until("a renewal stores the watermark", async || {
            let lease = lease.find_one(bson::doc! { "_id": "outbox" }).await.ok()??;
            let stored = lease.get_document("watermark").ok()?.clone();
            stored.get_i64("seq").is_ok_and(|seq| seq == 20).then_some(())
        })
        .await;
        relay.kill();
    })
    .await;
    let relay = Relay::leading(&scene, &[]).await;
    alert(&scene).await;
    assert_eq!(relay.stop(), Some(0));
    is_told_once(&scene, 20, 10, "went-back").await;
}

#[tokio::test]
async fn a_stream_that_was_put_back_and_has_grown_past_is_seen_by_its_message() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    stop_and_put_back(&mut nats, &scene).await;
    grow(&scene, 15).await;
    let relay = Relay::leading(&scene, &[]).await;
    alert(&scene).await;
    assert_eq!(relay.stop(), Some(0));
    is_told_once(&scene, 20, 25, "overwritten").await;
}

#[tokio::test]
async fn a_stream_recreated_without_a_relay_and_grown_past_is_seen() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    publish(&scene, 0..10).await;
    assert_eq!(relay.stop(), Some(0));
    recreate(&scene).await;
    grow(&scene, 15).await;
    let relay = Relay::leading(&scene, &[]).await;
    alert(&scene).await;
    assert_eq!(relay.stop(), Some(0));
    is_told_once(&scene, 10, 15, "recreated").await;
}

/// Nothing goes back: only its time of creation tells.
#[tokio::test]
async fn a_stream_recreated_under_a_relay_and_grown_past_is_seen() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    publish(&scene, 0..10).await;
    recreate(&scene).await;
    grow(&scene, 15).await;
    publish(&scene, 10..11).await;
    let alert = alert(&scene).await;
    assert_eq!((alert["from"].as_u64(), alert["how"].as_str()), (Some(10), Some("recreated")));
    publish(&scene, 11..20).await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(alerts(&scene).len(), 1);
    let mine: Vec<_> =
        scene.messages().await.into_iter().filter(|one| one.payload != "{}").collect();
    assert_eq!(mine.len(), 10, "each event after the loss is stored once");
}

#[tokio::test]
async fn a_purge_and_a_consumed_message_are_no_loss() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    publish(&scene, 0..10).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    stream.purge().await.expect("the stream is purged");
    nats.kill();
    nats.start_again();
    publish(&scene, 10..20).await;
    assert_eq!(relay.stop(), Some(0));
    stream.delete_message(20).await.expect("the message is deleted");
    let relay = Relay::leading(&scene, &[]).await;
    publish(&scene, 20..30).await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(alerts(&scene), Vec::<Value>::new());
}

/// Not even while one loss follows another.
#[tokio::test]
async fn each_loss_is_told_of() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    for loss in 1..=3 {
        publish(&scene, loss * 10..loss * 10 + 10).await;
        recreate(&scene).await;
        publish(&scene, loss * 100..loss * 100 + 1).await;
        let told = async || (alerts(&scene).len() == loss as usize).then_some(());
        until("the loss is told of", told).await;
    }
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(alerts(&scene).len(), 3);
}

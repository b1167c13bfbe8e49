//! An ack of a duplicate is believed only if the stream has that very event. Otherwise the event is
//! published under another message id, the same after every crash.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, SubjectTransform};
use bson::{Document, Timestamp, doc};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::{Message, NatsServer, Relay, Scene, outboxd, outboxd_with, until};

/// Events with ids of their own and a payload that is published as it is.
async fn insert(scene: &Scene, events: impl IntoIterator<Item = (String, &str)>) {
    let subject = scene.subject("made");
    let documents = events.into_iter().map(|(id, payload)| {
        doc! {
            "_id": id, "ts": Timestamp { time: 0, increment: 0 }, "subject": &subject,
            "payload": payload, "isLocked": true, "failures": [],
        }
    });
    let documents: Vec<Document> = documents.collect();
    scene.events.insert_many(documents).await.expect("the events are inserted");
}

/// One event that is delivered before this returns.
async fn deliver(scene: &Scene, id: &str, payload: &str) {
    insert(scene, [(id.to_owned(), payload)]).await;
    scene.drained().await;
}

/// Waits until the relay knows that its deletes are written. Until then it takes another event with
/// the same id for the one that it has, and leaves it to the safety sweep.
async fn settled(relay: &Relay) {
    until("all is settled", async || {
        (relay.metric("outboxd_unsettled_events").await == 0).then_some(())
    })
    .await;
}

/// Stores a message as another outbox of the same name, or an earlier relay, would.
async fn store(scene: &Scene, subject: &str, id: &str, payload: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message_id(scene, id));
    let payload = payload.to_owned().into();
    let ack = scene.context.publish_with_headers(subject.to_owned(), headers, payload).await;
    assert!(!ack.expect("it is sent").await.expect("it is stored").duplicate, "{id}");
}

async fn purge(scene: &Scene) {
    scene.context.get_stream(&scene.stream).await.unwrap().purge().await.expect("a purge");
}

/// The message id that no other message of this database has.
fn message_id(scene: &Scene, id: &str) -> String {
    format!("{}.outbox.{id}", scene.name)
}

fn id_of(message: &Message) -> &str {
    &message.headers["Nats-Msg-Id"]
}

async fn payloads(scene: &Scene) -> Vec<String> {
    scene.messages().await.into_iter().map(|message| message.payload).collect()
}

async fn alerts(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn an_id_that_is_used_again_for_another_event_loses_neither() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    for step in ["{\"step\":1}", "{\"step\":2}", "{\"step\":3}"] {
        deliver(&scene, "cart-7", step).await;
        settled(&relay).await;
    }

    let messages = scene.messages().await;
    let found: Vec<_> = messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(found, ["{\"step\":1}", "{\"step\":2}", "{\"step\":3}"]);
    assert_eq!(id_of(&messages[0]), message_id(&scene, "cart-7"));
    for message in &messages[1..] {
        let id = id_of(message).strip_prefix(&message_id(&scene, "cart-7\"")).expect("another id");
        assert!(id.ends_with("-1"), "it names the message that was there: {id}");
    }

    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 2);
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0);
    relay.says("the stream took events for duplicates by mistake").await;
    let alert = until("an alert", async || {
        alerts(&scene).await.into_iter().find(|alert| alert["kind"] == "false-duplicate")
    })
    .await;
    assert_eq!(alert["event"]["id"], "cart-7");
    assert_eq!(alert["event"]["sequence"], 1);
}

#[tokio::test]
async fn the_same_payload_under_another_subject_is_another_event() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    store(&scene, &scene.subject("cancelled"), "order-5", "{}").await;
    deliver(&scene, "order-5", "{}").await;
    let subjects: Vec<_> = scene.messages().await.into_iter().map(|m| m.subject).collect();
    assert_eq!(subjects, [scene.subject("cancelled"), scene.subject("made")]);
}

#[tokio::test]
async fn what_is_restored_after_a_purge_is_published_each_time() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    deliver(&scene, "cart-7", "{}").await;
    let mut ids = vec![id_of(&scene.messages().await[0]).to_owned()];

    // The stream remembers the ids of all that it has had.
    for _ in 0..3 {
        purge(&scene).await;
        settled(&relay).await;
        deliver(&scene, "cart-7", "{}").await;
        let state =
            scene.context.get_stream(&scene.stream).await.unwrap().cached_info().state.clone();
        assert_eq!(state.messages, 1);
        let message = scene.messages().await.pop().unwrap();
        assert!(!ids.contains(&id_of(&message).to_owned()), "{ids:?}");
        ids.push(id_of(&message).to_owned());
    }
    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 3);

    // What is there is not published again.
    settled(&relay).await;
    deliver(&scene, "cart-7", "{}").await;
    assert_eq!(payloads(&scene).await, ["{}"]);
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 1);
}

/// Whether the server still has a connection of this relay.
async fn has_connections(scene: &Scene, relay: &str) -> bool {
    let all = doc! { "$currentOp": { "allUsers": true, "idleConnections": true } };
    let of_relay = doc! { "$match": { "appName": { "$regex": format!("^outboxd {relay} ") } } };
    let admin = scene.client.database("admin");
    let mut found = admin.aggregate([all, of_relay]).await.expect("the operations are listed");
    found.advance().await.expect("the operations are read")
}

#[tokio::test]
async fn a_relay_that_is_killed_before_the_delete_uses_the_same_other_id_again() {
    let scene = Scene::new().await;
    store(&scene, &scene.subject("made"), "cart-7", "{\"of\":\"another cluster\"}").await;
    insert(&scene, [("cart-7".to_owned(), "{}")]).await;

    let settings = [("OUTBOXD_CRASH_AT", "delete_sent:1"), ("OUTBOXD_LEASE__TTL", "1s")];
    for _ in 0..2 {
        let mut relay = Relay::start(&scene, &settings);
        relay.ended_by().await;
        until("the server has nothing more to do for it", async || {
            (!has_connections(&scene, relay.name()).await).then_some(())
        })
        .await;

        if scene.one(doc! { "_id": "cart-7" }).await.is_none() {
            // The delete got through. Put the event back as it was.
            insert(&scene, [("cart-7".to_owned(), "{}")]).await;
        }
    }

    let relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(payloads(&scene).await, ["{\"of\":\"another cluster\"}", "{}"]);
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 1);
    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 0);
}

#[tokio::test]
async fn a_thousand_true_duplicates_are_confirmed_and_none_is_stored_twice() {
    const EVENTS: usize = 1000;
    let scene = Scene::new().await;
    let large = "x".repeat(200_000);
    let payload = |i: usize| if i.is_multiple_of(100) { &*large } else { "{}" };
    let ids = || (0..EVENTS).map(|i| format!("e{i}"));
    for (i, id) in ids().enumerate() {
        store(&scene, &scene.subject("made"), &id, payload(i)).await;
    }
    insert(&scene, ids().enumerate().map(|(i, id)| (id, payload(i)))).await;

    let relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, EVENTS as u64);
    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 0);
    assert_eq!(scene.messages().await.len(), EVENTS);
}

#[tokio::test]
async fn what_a_consumer_has_removed_is_published_again_because_nobody_can_know() {
    let scene = Scene::new().await;
    let config = Config {
        name: scene.stream.clone(),
        subjects: vec![scene.subjects.clone()],
        retention: RetentionPolicy::WorkQueue,
        ..Config::default()
    };
    scene.context.delete_stream(&scene.stream).await.unwrap();
    let stream = scene.context.create_stream(config).await.unwrap();
    let consumer = pull::Config { ack_policy: AckPolicy::Explicit, ..pull::Config::default() };
    let mut messages = stream.create_consumer(consumer).await.unwrap().messages().await.unwrap();

    let relay = Relay::leading(&scene, &[]).await;
    for step in ["{\"step\":1}", "{\"step\":2}"] {
        settled(&relay).await;
        deliver(&scene, "cart-7", step).await;
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!(message.payload, step);
        message.double_ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_stores_under_other_subjects_gets_no_copies() {
    let scene = Scene::new().await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let subject_transform = Some(SubjectTransform {
        source: format!("{}.*", scene.name),
        destination: format!("{}.stored.{{{{partition(3,1)}}}}.$1", scene.name),
    });
    let config = Config { subject_transform, ..stream.cached_info().config.clone() };
    scene.context.update_stream(config).await.unwrap();
    store(&scene, &scene.subject("made"), "e1", "{}").await;
    insert(&scene, [("e1".to_owned(), "{}")]).await;

    let relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(payloads(&scene).await, ["{}"]);
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 1);
}

#[tokio::test]
async fn a_prefix_keeps_the_ids_of_two_clusters_apart() {
    let scene = Scene::new().await;
    store(&scene, &scene.subject("made"), "e1", "{}").await;
    insert(&scene, [("e1".to_owned(), "{}")]).await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_EVENT__ID_PREFIX", "eu.")]).await;
    scene.drained().await;
    let messages = scene.messages().await;
    assert_eq!(id_of(&messages[1]), format!("eu.{}", message_id(&scene, "e1")));
    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 0);

    for bad in ["two words", "line\nbreak", "ü", &"x".repeat(65)] {
        let bad = [("OUTBOXD_EVENT__ID_PREFIX", bad)];
        let (code, said) = outboxd_with(&scene, &["config", "print"], &bad);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("event.id_prefix: is not 64 or fewer printable"), "{said}");
    }
}

/// Users as an older `outboxd privileges` printed them.
fn users(scene_subjects: &str, stream: &str, more: &str) -> String {
    let user = json!({
        "user": "relay", "password": "hunter2", "permissions": {
            "publish": [scene_subjects, format!("$JS.API.STREAM.INFO.{stream}"), more],
            "subscribe": [format!("_INBOX.outboxd.{stream}.>")],
        },
    });
    let root = json!({ "user": "root", "password": "hunter2" });
    format!("no_auth_user: root\nauthorization: {}\n", json!({ "users": [user, root] }))
}

#[tokio::test]
async fn without_the_right_to_read_messages_a_duplicate_stays_in_the_outbox() {
    // A reload can change what a user may do, and not who comes without a name.
    let nats = NatsServer::with_config(&users("none", "none", "none")).await;
    let scene = Scene::alone(&nats).await;
    let (subjects, stream) = (&scene.subjects, &scene.stream);
    nats.reload(&users(subjects, stream, "none"));
    let user = [("NATS_USER", "relay"), ("NATS_PASSWORD", "hunter2")];
    // It takes a moment to know them.
    until("check finds the missing right", async || {
        let (code, said) = outboxd_with(&scene, &["check"], &user);
        let found = said.contains("nats.privileges") && said.contains("STREAM.MSG.GET");
        (found && code == Some(1)).then_some(())
    })
    .await;

    store(&scene, &scene.subject("made"), "e1", "{}").await;
    insert(&scene, [("e1".to_owned(), "{}")]).await;
    let relay = Relay::leading(&scene, &user).await;
    relay.says("the user may not read its messages").await;
    let marked = until("the event is marked", async || {
        scene.one(doc! { "failures.code": "duplicate-unchecked" }).await
    })
    .await;
    assert_eq!(marked.get_i64("attempts").unwrap(), 1, "{marked}");
    // Nobody else is held up.
    deliver_beside(&scene, "e2").await;
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);

    nats.reload(&users(subjects, stream, &format!("$JS.API.STREAM.MSG.GET.{stream}")));
    scene.drained().await;
    assert_eq!(payloads(&scene).await, ["{}", "{}"]);
    assert_eq!(outboxd(&scene, &["check"]).0, Some(0));
}

/// An event that is delivered beside one that isn't.
async fn deliver_beside(scene: &Scene, id: &str) {
    insert(scene, [(id.to_owned(), "{}")]).await;
    until("it is delivered", async || scene.one(doc! { "_id": id }).await.is_none().then_some(()))
        .await;
}

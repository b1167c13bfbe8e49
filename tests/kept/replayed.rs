//! `outboxd replay` publishes kept events again on purpose.

use std::collections::HashMap;

use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use serde_json::Value;

use super::{KEEP, kept};
use crate::support::{Message, Relay, Scene, outboxd_with};

const HEADER: &str = "Outboxd-Replay";

fn replay(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    outboxd_with(scene, &[&["replay"], args].concat(), &KEEP)
}

fn number(message: &Message) -> u64 {
    let payload: Value = serde_json::from_str(&message.payload).expect("JSON");
    payload["number"].as_u64().expect("a number")
}

async fn replayed(scene: &Scene) -> Vec<Message> {
    let messages = scene.messages().await.into_iter();
    messages.filter(|message| message.headers.contains_key(HEADER)).collect()
}

#[tokio::test]
async fn a_replay_has_ids_and_a_header_of_its_own_and_keeps_the_order_of_each_key() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((0..600).map(|n| scene.event(&format!("k{}", n % 7), n))).await;
    scene.drained().await;

    let (code, said) = replay(&scene, &["--all", "--dry-run"]);
    assert_eq!((code, said.contains("600 events in all")), (Some(0), true), "{said}");
    let (code, said) = replay(&scene, &["--all"]);
    assert_eq!((code, said.contains("confirm with --yes")), (Some(64), true), "{said}");
    assert!(replayed(&scene).await.is_empty());

    let all = ["--all", "--since", "1h", "--rate", "5000", "--reason", "index lost", "--yes"];
    let (code, said) = replay(&scene, &all);
    assert_eq!((code, said.contains("600 events replayed")), (Some(0), true), "{said}");
    let again = replayed(&scene).await;
    assert_eq!(again.len(), 600);

    let first: HashMap<_, _> = scene
        .messages()
        .await
        .into_iter()
        .filter(|message| !message.headers.contains_key(HEADER))
        .map(|message| (number(&message), message))
        .collect();
    let mut last = HashMap::new();
    for message in &again {
        let payload: Value = serde_json::from_str(&message.payload).expect("JSON");
        let (key, number) = (payload["key"].to_string(), number(message));
        assert!(last.insert(key, number) < Some(number), "{payload} is out of order");
        let was = &first[&number];
        let id = format!("{}#{}", was.headers["Nats-Msg-Id"], message.headers[HEADER]);
        assert_eq!((&message.headers["Nats-Msg-Id"], &message.payload), (&id, &was.payload));
    }

    // A replay is no part of what is kept, and the relay goes on.
    scene.commit([scene.event("k0", 600)]).await;
    scene.drained().await;
    assert_eq!(kept(&scene).count_documents(doc! {}).await.expect("a count"), 601);
    let audit = scene.database.collection::<Document>("outboxd_audit");
    let request = doc! { "action": "replay", "requested": 600_i64, "reason": "index lost" };
    assert!(audit.find_one(request).await.expect("a read").is_some());
    let outcome = doc! { "action": "replay", "events": 600_i64 };
    assert!(audit.find_one(outcome).await.expect("a read").is_some());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn events_that_share_a_place_are_not_parted_by_pages() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((0..6).map(|n| scene.event(&format!("k{n}"), n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));

    // As when the stream was put back a moment before the relay noticed it.
    let all = kept(&scene).find(doc! {}).sort(doc! { "place": 1 }).await.expect("a read");
    let all: Vec<Document> = all.try_collect().await.expect("documents");
    let shared = doc! { "$set": { "place": all[1].get_i64("place").expect("a place") } };
    for event in &all[2..4] {
        let id = doc! { "_id": event.get("_id").expect("an id") };
        kept(&scene).update_one(id, shared.clone()).await.expect("an update");
    }

    // Two on a page.
    let (code, said) = replay(&scene, &["--all", "--rate", "2", "--yes"]);
    assert_eq!((code, said.contains("6 events replayed")), (Some(0), true), "{said}");
    assert_eq!(replayed(&scene).await.len(), 6);
}

#[tokio::test]
async fn a_replay_takes_what_its_filters_and_ids_select() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((0..20).map(|n| scene.event(&format!("k{}", n % 2), n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));

    let (code, said) = replay(&scene, &["--all", "--key", "k1", "--yes"]);
    assert_eq!((code, said.contains("10 events replayed")), (Some(0), true), "{said}");
    assert!(replayed(&scene).await.iter().all(|message| number(message) % 2 == 1));
    let (code, said) = replay(&scene, &["--all", "--until", "1h", "--yes"]);
    assert_eq!((code, said.contains("no kept event matches")), (Some(0), true), "{said}");
    let (code, said) = replay(&scene, &["nothing"]);
    assert_eq!((code, said.contains("no kept event matches")), (Some(1), true), "{said}");

    let event = kept(&scene).find_one(doc! { "seq": 3_i64 }).await.expect("a read");
    let id = event.expect("it is kept").get_object_id("_id").expect("an id").to_hex();
    let (code, said) = replay(&scene, &[&id]);
    assert_eq!((code, said.contains("1 event replayed")), (Some(0), true), "{said}");
    assert_eq!(replayed(&scene).await.last().map(number), Some(2));
    assert_eq!(replayed(&scene).await.len(), 11);
}

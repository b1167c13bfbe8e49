//! Events whose `ts` the server never filled: an order, and no age of decades.

use bson::oid::ObjectId;
use bson::{Bson, Document, Timestamp, doc};

use super::Trial;
use crate::support::{Relay, Scene, outboxd};

const NEVER: Timestamp = Timestamp { time: 0, increment: 0 };

/// As an update with operators leaves it: an insert of the driver would be filled.
async fn upsert(scene: &Scene, id: impl Into<Bson>, event: Document) {
    let upsert = doc! { "q": { "_id": id.into() }, "u": { "$setOnInsert": event }, "upsert": true };
    let command =
        doc! { "update": "outbox", "updates": [upsert], "bypassDocumentValidation": true };
    let reply = scene.database.run_command(command).await.expect("an answer");
    assert_eq!(reply.get_i32("n").ok(), Some(1), "{reply}");
}

fn event(subject: &str, number: i32) -> Document {
    doc! {
        "ts": NEVER, "subject": subject, "key": "k", "payload": { "key": "k", "number": number },
        "isLocked": true, "failures": [],
    }
}

#[tokio::test]
async fn a_sweep_takes_them_first_and_in_the_order_of_their_ids() {
    let trial = Trial::new().await;
    let scene = &trial.scene;
    scene.events.insert_one(event("made.x", 4)).await.unwrap();
    upsert(scene, "b", event("made.x", 3)).await;
    upsert(scene, "a", event("made.x", 2)).await;
    let mut without = event("made.x", 1);
    without.remove("ts");
    upsert(scene, "z", without).await;

    let relay = Relay::leading(scene, &[]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3, 4]);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn their_age_is_that_of_the_id_or_unknown() {
    let trial = Trial::new().await;
    let scene = &trial.scene;
    let json = |args: &[&str]| -> serde_json::Value {
        let (code, said) = outboxd(scene, &[args, &["--output", "json"]].concat());
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).expect("JSON")
    };

    let mut failed = event("made.x", 1);
    failed.insert("isLocked", false);
    failed.insert("failures", [doc! { "code": "not-covered", "at": bson::DateTime::now() }]);

    let now = u32::try_from(bson::DateTime::now().timestamp_millis() / 1000).unwrap();
    let mut id = [7; 12];
    id[..4].copy_from_slice(&(now - 7200).to_be_bytes());
    let old = ObjectId::from_bytes(id);
    upsert(scene, "text", failed.clone()).await;
    upsert(scene, old, failed.clone()).await;
    let mut future = failed.clone();
    future.insert("ts", Timestamp { time: u32::MAX, increment: 1 });
    upsert(scene, "future", future).await;

    let all = json(&["list"]);
    let age = |id: &str| {
        let events = all["events"].as_array().unwrap();
        events.iter().find(|event| event["id"] == id).unwrap()["age_seconds"].clone()
    };
    assert_eq!((age("text"), age("future")), (serde_json::Value::Null, 0.into()), "{all}");
    let hours = 7200..9000;
    assert!(hours.contains(&age(&old.to_hex()).as_u64().unwrap()), "{all}");

    let old_ones = json(&["list", "--older-than", "1h"]);
    assert_eq!(old_ones["total"], 1, "{old_ones}");
    assert_eq!(old_ones["events"][0]["id"], old.to_hex());

    let stats = json(&["stats"]);
    assert!(hours.contains(&stats["oldest_seconds"].as_u64().unwrap()), "{stats}");
    let by_subject = &stats["stuck_by_subject"][0]["oldest_seconds"];
    assert!(hours.contains(&by_subject.as_u64().unwrap()), "{stats}");

    // Their place in the order of the key, of equal times, is that of the ids.
    assert_eq!(json(&["show", "text"])["held_by"], serde_json::Value::Null);
    assert_eq!(json(&["show", "text"])["behind_it"], 2);
    assert_eq!(json(&["show", &old.to_hex()])["held_by"]["id"], "text");

    scene.events.delete_many(doc! { "_id": { "$ne": "text" } }).await.unwrap();
    assert_eq!(json(&["stats"])["oldest_seconds"], serde_json::Value::Null);
    let (_, said) = outboxd(scene, &["show", "text"]);
    assert!(said.contains("unknown age"), "{said}");
    let (code, said) = outboxd(scene, &["discard", "--all", "--older-than", "1s", "--yes"]);
    assert!(code == Some(0) && scene.one(doc! { "_id": "text" }).await.is_some(), "{said}");
}

//! Documents that an older validator took, or none: the newest one would refuse them, and the relay
//! and its verbs still mark, park, retry and discard them. MongoDB lets a document that is invalid
//! already stay so (`validationLevel: moderate`).

use bson::{Bson, Document, doc};

use super::Trial;
use crate::support::{Relay, outboxd, until};

/// Invalid under the newest validator; the relay reads each of them as an event.
fn events(subject: &str) -> Vec<(&'static str, Document)> {
    let zero = bson::Timestamp { time: 0, increment: 0 };
    let event = |fields: Document| {
        let mut event = doc! {
            "ts": zero, "subject": subject, "key": "k", "payload": {}, "isLocked": true, "failures": [],
        };
        event.extend(fields);
        event
    };

    let mut without_time = event(doc! {});
    without_time.remove("ts");
    vec![
        ("attempts", event(doc! { "attempts": "none" })),
        ("failures", event(doc! { "failures": Bson::Null })),
        ("timeless", without_time),
    ]
}

#[tokio::test]
async fn documents_from_before_the_strict_validator_are_marked_parked_retried_and_discarded() {
    let trial = Trial::new().await;
    let scene = &trial.scene;
    let ids: Vec<Bson> = events("other.x").iter().map(|(name, _)| Bson::from(*name)).collect();

    let legacy = bson::Binary { subtype: bson::spec::BinarySubtype::UuidOld, bytes: vec![7; 16] };
    let poison = doc! {
        "_id": legacy, "ts": bson::Timestamp { time: 0, increment: 0 }, "subject": "made.x", "payload": {},
        "isLocked": true, "failures": [],
    };
    let mut all: Vec<_> = events("other.x")
        .into_iter()
        .map(|(name, mut event)| {
            event.insert("_id", name);
            event
        })
        .collect();
    all.push(poison);
    scene.events.insert_many(all).bypass_document_validation(true).await.unwrap();

    // No stream takes `other.x`: the first of the key fails, those behind it are parked.
    let relay = Relay::leading(scene, &[]).await;
    let stuck = |filter: Document| async move {
        until("all are unlocked", async || {
            let mut filter = filter.clone();
            filter.insert("isLocked", false);
            (scene.events.count_documents(filter).await.unwrap() == 3).then_some(())
        })
        .await;
    };
    stuck(doc! { "_id": { "$in": &ids } }).await;
    until("the one that is no event is dead", async || {
        scene.one(doc! { "deadAt": { "$type": "date" } }).await
    })
    .await;

    // The reason names the subtype, and the commands that are shown can be run.
    let (code, said) = outboxd(scene, &["groups", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let groups: serde_json::Value = serde_json::from_str(&said).unwrap();
    let groups = groups.as_array().expect("groups");
    let malformed = groups.iter().find(|group| group["code"] == "malformed").expect("a group");
    assert!(malformed["example"].as_str().unwrap().contains("binary subtype 3"), "{malformed}");
    let id = malformed["sample"].as_str().unwrap();
    let (code, said) = outboxd(scene, &["show", id]);
    assert!(code == Some(0) && said.contains("dead"), "{said}");
    let (code, said) = outboxd(scene, &["discard", id, "--yes"]);
    assert!(code == Some(0) && said.contains("1 event discarded"), "{said}");

    let (code, said) = outboxd(scene, &["retry-now", "--all", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = outboxd(scene, &["discard", "failures", "--yes"]);
    assert!(code == Some(0) && said.contains("1 event discarded"), "{said}");

    for id in ["attempts", "timeless"] {
        let set = doc! { "$set": { "subject": "made.x" } };
        scene.events.update_one(doc! { "_id": id }, set).await.unwrap();
    }
    let drained = tokio::time::timeout(std::time::Duration::from_secs(40), scene.drained()).await;
    assert!(drained.is_ok(), "{:?}\n{}", scene.one(doc! {}).await, relay.log());
    assert_eq!(scene.messages().await.len(), 2);
    assert_eq!(relay.stop(), Some(0));
}

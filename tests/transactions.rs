//! A transaction may touch the events that it inserts. What was committed is published, whether a
//! tail or a sweep finds it.

use std::collections::HashMap;

use bson::{Bson, Document, Timestamp, doc};
use mongodb::ClientSession;

use crate::support::{Relay, Scene, until};

/// What came out: of each key the ids and versions in the order of the stream, and the ids that are
/// dead.
type Outcome = (HashMap<String, Vec<(String, i64)>>, Vec<String>);

fn event(scene: &Scene, id: impl Into<Bson>, key: &str, version: i32) -> Document {
    doc! {
        "_id": id.into(), "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject("made"), "key": key,
        "payload": { "key": key, "version": version }, "isLocked": true, "failures": [],
    }
}

fn version(version: i32) -> Document {
    doc! { "$set": { "payload.version": version } }
}

async fn insert(scene: &Scene, session: &mut ClientSession, event: Document) {
    let insert = scene.events.insert_one(event).bypass_document_validation(true);
    insert.session(session).await.expect("the event is inserted");
}

async fn update(scene: &Scene, session: &mut ClientSession, id: &str, update: Document) {
    let update = scene.events.update_one(doc! { "_id": id }, update);
    let updated = update.bypass_document_validation(true).session(session).await;
    assert_eq!(updated.expect("the event is updated").modified_count, 1);
}

async fn delete(scene: &Scene, session: &mut ClientSession, id: impl Into<Bson>) {
    let deleted = scene.events.delete_one(doc! { "_id": id.into() }).session(session).await;
    assert_eq!(deleted.expect("the event is deleted").deleted_count, 1);
}

/// Plays `$story` in a transaction of its own, with events of a key that is named like it.
macro_rules! transactions {
    ($scene:ident, $session:ident: $($key:literal => $story:block)+) => {$({
        let mut $session = $scene.transaction().await;
        let first = event($scene, $key, $key, 1);
        insert($scene, &mut $session, first).await;
        $story
        $session.commit_transaction().await.expect("the transaction is committed");
    })+};
}

async fn touch(scene: &Scene) {
    let events = &scene.events;
    transactions! { scene, session:
        "left-alone" => {}
        "updated" => { update(scene, &mut session, "updated", version(2)).await; }
        "updated-twice" => {
            update(scene, &mut session, "updated-twice", version(2)).await;
            update(scene, &mut session, "updated-twice", version(3)).await;
        }
        "computed" => {
            let twice = doc! { "$set": { "payload.version": { "$add": ["$payload.version", 1] } } };
            let update = events.update_one(doc! { "_id": "computed" }, vec![twice]);
            update.session(&mut session).await.unwrap();
        }
        "replaced" => {
            let second = event(scene, "replaced", "replaced", 2);
            events.replace_one(doc! { "_id": "replaced" }, second).session(&mut session).await.unwrap();
        }
        "found-and-updated" => {
            let found = doc! { "_id": "found-and-updated" };
            events.find_one_and_update(found, version(2)).session(&mut session).await.unwrap();
        }
        "deleted" => { delete(scene, &mut session, "deleted").await; }
        "found-and-deleted" => {
            let found = doc! { "_id": "found-and-deleted" };
            events.find_one_and_delete(found).session(&mut session).await.unwrap();
        }
        "updated-and-deleted" => {
            update(scene, &mut session, "updated-and-deleted", version(2)).await;
            delete(scene, &mut session, "updated-and-deleted").await;
        }
        "inserted-again" => {
            insert(scene, &mut session, event(scene, "other", "inserted-again", 1)).await;
            delete(scene, &mut session, "inserted-again").await;
            insert(scene, &mut session, event(scene, "inserted-again", "inserted-again", 2)).await;
        }
        "inserted-again-and-updated" => {
            let id = "inserted-again-and-updated";
            delete(scene, &mut session, id).await;
            insert(scene, &mut session, event(scene, id, id, 2)).await;
            update(scene, &mut session, id, version(3)).await;
        }
        "replaced-behind-another" => {
            let id = "replaced-behind-another";
            insert(scene, &mut session, event(scene, "another", id, 1)).await;
            events.replace_one(doc! { "_id": id }, event(scene, id, id, 2)).session(&mut session).await.unwrap();
        }
        "of-another-key" => {
            update(scene, &mut session, "of-another-key", doc! { "$set": { "key": "this-key" } }).await;
        }
        "malformed-at-first" => {
            let second = doc! { "_id": "second", "key": "malformed-at-first" };
            insert(scene, &mut session, second).await;
            events.replace_one(doc! { "_id": "second" }, event(scene, "second", "malformed-at-first", 2))
                .session(&mut session).await.unwrap();
        }
        "malformed-at-last" => {
            update(scene, &mut session, "malformed-at-last", doc! { "$set": { "subject": 7 } }).await;
        }
        "never-an-event" => {
            insert(scene, &mut session, doc! { "_id": 7, "no": "event" }).await;
            delete(scene, &mut session, 7).await;
        }
        "among-others" => {
            for number in 2..8 {
                insert(scene, &mut session, event(scene, format!("{number}"), "among-others", 1)).await;
            }
            delete(scene, &mut session, "among-others").await;
            delete(scene, &mut session, "4").await;
            let some = doc! { "_id": { "$in": ["3", "4", "6"] } };
            events.update_many(some, version(2)).session(&mut session).await.unwrap();
        }
    }
}

/// What [`touch`] leaves.
fn touched() -> Outcome {
    let keys = [
        ("left-alone", vec![("left-alone", 1)]),
        ("updated", vec![("updated", 2)]),
        ("updated-twice", vec![("updated-twice", 3)]),
        ("computed", vec![("computed", 2)]),
        ("replaced", vec![("replaced", 2)]),
        ("found-and-updated", vec![("found-and-updated", 2)]),
        ("inserted-again", vec![("other", 1), ("inserted-again", 2)]),
        ("inserted-again-and-updated", vec![("inserted-again-and-updated", 3)]),
        ("replaced-behind-another", vec![("another", 1), ("replaced-behind-another", 2)]),
        ("of-another-key", vec![("of-another-key", 1)]),
        ("malformed-at-first", vec![("malformed-at-first", 1), ("second", 2)]),
        ("never-an-event", vec![("never-an-event", 1)]),
        ("among-others", vec![("2", 1), ("3", 2), ("5", 1), ("6", 2), ("7", 1)]),
    ];
    let named = |events: Vec<(&str, i64)>| {
        events.into_iter().map(|(id, version)| (id.to_owned(), version)).collect()
    };
    let keys = keys.map(|(key, events)| (key.to_owned(), named(events)));
    (keys.into(), vec!["malformed-at-last".to_owned()])
}

/// Waits until nothing but dead events is left, and returns what came out.
async fn outcome(scene: &Scene) -> Outcome {
    until("what can leave has left", async || {
        let waiting = doc! { "deadAt": { "$exists": false } };
        (scene.events.count_documents(waiting).await.unwrap() == 0).then_some(())
    })
    .await;

    let mut keys: HashMap<_, Vec<_>> = HashMap::new();
    let prefix = format!("{}.outbox.", scene.name);
    for message in scene.messages().await {
        let payload: serde_json::Value = serde_json::from_str(&message.payload).unwrap();
        let id = message.headers["Nats-Msg-Id"].strip_prefix(&prefix).expect("an id").to_owned();
        let key = payload["key"].as_str().expect("a key").to_owned();
        keys.entry(key).or_default().push((id, payload["version"].as_i64().expect("a version")));
    }

    let dead = scene.events.distinct("_id", doc! {}).await.unwrap();
    (keys, dead.into_iter().map(|id| id.as_str().expect("a string").to_owned()).collect())
}

/// A relay that tails.
async fn tailing(scene: &Scene) -> Relay {
    let relay = Relay::leading(scene, &[("OUTBOXD_LOG__LEVEL", "warn,outboxd=debug")]).await;
    relay.says("swept; tailing").await;
    relay
}

/// Of a transaction that one reply of the change stream can't hold: every third event is updated
/// at the end, every third deleted, and some of those inserted again.
async fn touch_many(scene: &Scene, count: i32, padding: usize) {
    let id = |number: i32| format!("{number:05}");
    let padded = |number: i32, version: i32| {
        let mut event = event(scene, id(number), &format!("k{}", number % 3), version);
        event.get_document_mut("payload").unwrap().insert("padding", "x".repeat(padding));
        event
    };

    let mut session = scene.transaction().await;
    for from in (0..count).step_by(20) {
        let events = (from..count.min(from + 20)).map(|number| padded(number, 1));
        scene.events.insert_many(events).session(&mut session).await.unwrap();
    }

    let every_third = |from: i32| (from..count).step_by(3).map(id).collect::<Vec<_>>();
    let of = |ids: Vec<String>| doc! { "_id": { "$in": ids } };
    let update = scene.events.update_many(of(every_third(0)), version(2));
    update.session(&mut session).await.unwrap();
    scene.events.delete_many(of(every_third(1))).session(&mut session).await.unwrap();

    for number in (1..count).step_by(30) {
        insert(scene, &mut session, padded(number, 3)).await;
    }
    session.commit_transaction().await.unwrap();
}

/// What [`touch_many`] leaves.
fn many_touched(count: i32) -> Outcome {
    let mut keys: HashMap<_, Vec<_>> = HashMap::new();
    for number in 0..count {
        let version = match number % 3 {
            0 => 2,
            1 if number % 30 == 1 => 3,
            1 => continue,
            _ => 1,
        };
        keys.entry(format!("k{}", number % 3)).or_default().push((format!("{number:05}"), version));
    }
    (keys, vec![])
}

#[tokio::test]
async fn a_tail_publishes_what_a_transaction_left_of_its_events() {
    let scene = Scene::new().await;
    let relay = tailing(&scene).await;
    touch(&scene).await;
    assert_eq!(outcome(&scene).await, touched());
    assert!(relay.log().contains("a transaction deleted events that it had inserted"));
}

#[tokio::test]
async fn a_sweep_publishes_what_a_transaction_left_of_its_events() {
    let scene = Scene::new().await;
    touch(&scene).await;
    let _relay = Relay::leading(&scene, &[]).await;
    assert_eq!(outcome(&scene).await, touched());
}

#[tokio::test]
async fn a_tail_publishes_what_a_transaction_of_many_replies_left() {
    for (count, padding) in [(3000, 0), (90, 300_000), (1000, 0), (999, 0)] {
        let scene = Scene::new().await;
        let relay = tailing(&scene).await;
        touch_many(&scene, count, padding).await;
        assert_eq!(outcome(&scene).await, many_touched(count), "{count} events");
        assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0);
        assert!(!relay.log().contains("sweeping again"));
    }
}

/// A change that doesn't fit ends a reply, however small what came before.
#[tokio::test]
async fn a_huge_event_does_not_hide_what_its_transaction_does_to_a_small_one() {
    let scene = &Scene::new().await;
    let relay = tailing(scene).await;
    transactions! { scene, session:
        "small" => {
            let mut huge = event(scene, "huge", "huge", 1);
            huge.insert("more", "x".repeat(15 << 20));
            insert(scene, &mut session, huge).await;
            update(scene, &mut session, "huge", doc! { "$unset": { "more": 1 } }).await;
            delete(scene, &mut session, "small").await;
        }
    }

    let (keys, dead) = outcome(scene).await;
    assert_eq!(keys, HashMap::from([("huge".to_owned(), vec![("huge".to_owned(), 1)])]));
    assert!(dead.is_empty());
    assert!(!relay.log().contains("sweeping again"));
}

/// What was committed first may be published, and so may what a later transaction made of it.
#[tokio::test]
async fn an_event_that_a_later_transaction_touches_is_published_once() {
    let scene = Scene::new().await;
    let _relay = tailing(&scene).await;
    for number in 0..20 {
        let id = format!("{number}");
        let mut session = scene.transaction().await;
        insert(&scene, &mut session, event(&scene, id.as_str(), "k", 1)).await;
        session.commit_transaction().await.unwrap();
        let touched = scene.events.update_one(doc! { "_id": id }, version(2)).await;
        touched.expect("an update, if the event is still there");
    }

    let (keys, _) = outcome(&scene).await;
    let numbers: Vec<_> = keys["k"].iter().map(|(id, _)| id.parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_acked_event_that_somebody_else_writes_to_is_deleted_after_that() {
    let scene = Scene::new().await;
    scene.commit((0..100).map(|n| scene.event(&format!("k{n}"), n))).await;
    let mut others = scene.transaction().await;
    let one = scene.events.find_one(doc! {}).await.expect("a read").expect("an event");
    let id = doc! { "_id": one.get("_id").expect("an id") };
    let write = doc! { "$set": { "note": "in somebody's hands" } };
    scene.events.update_one(id, write).session(&mut others).await.expect("an update");

    let relay = Relay::leading(&scene, &[]).await;
    until("all are published", async || (scene.messages().await.len() == 100).then_some(())).await;
    assert!(scene.events.count_documents(doc! {}).await.expect("a count") > 0);
    others.abort_transaction().await.expect("it ends");
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(scene.messages().await.len(), 100, "once each");
}

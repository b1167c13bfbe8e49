//! What MongoDB refuses to write, for whatever reason, is left as it is and costs no other event
//! anything: no place in the buffer, and no repeats.

use async_nats::ConnectOptions;
use bson::{Document, Timestamp, doc};

use serde_json::Value;

use crate::support::{NatsServer, Relay, ReplicaSet, Scene, outboxd, until};

/// A small buffer, so that a few thousand events are more than fit.
const BUFFER: (&str, &str) = ("OUTBOXD_DISPATCH__MAX_BUFFERED_EVENTS", "512");
/// More than the buffer.
const MANY: usize = 2000;
/// More than the buffer and the events that may be unsettled.
const VERY_MANY: usize = 8800;
/// More than a list of a sweep.
const LISTS: usize = 120_000;

/// Documents that break the contract, which an insert past the validator writes.
async fn insert(scene: &Scene, documents: impl Iterator<Item = Document>) {
    let documents: Vec<_> = documents.collect();
    for chunk in documents.chunks(1000) {
        let insert = scene.events.insert_many(chunk).bypass_document_validation(true);
        insert.await.expect("the documents are written");
    }
}

fn event(scene: &Scene, subject: &str, number: usize) -> Document {
    doc! {
        "_id": format!("{subject}-{number}"), "ts": Timestamp { time: 0, increment: 0 },
        "subject": scene.subject(subject), "payload": { "number": number as i64 },
        "isLocked": true, "failures": [],
    }
}

fn alerts(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

async fn good_ones_leave(scene: &Scene, number: u32) {
    scene.commit([scene.event("good", number)]).await;
    let left = async || scene.events.count_documents(doc! { "key": "good" }).await.unwrap();
    until("the good event is out", async || (left().await == 0).then_some(())).await;
}

/// Two arrays in the index of unlocked events.
#[tokio::test]
async fn unmarkable_events_take_no_room_however_many_there_are() {
    let scene = Scene::new().await;
    let parallel = |number: usize| {
        let mut event = event(&scene, "made", number);
        event.extend(doc! { "ts": [1, 2], "key": [1, 2] });
        event
    };
    insert(&scene, (0..MANY).map(parallel)).await;

    let relay = Relay::leading(&scene, &[BUFFER]).await;
    good_ones_leave(&scene, 1).await;
    relay.says("MongoDB can't mark events").await;

    // Once more in a leadership that has them from the start, and from the tail.
    assert_eq!(relay.stop(), Some(0));
    let relay = Relay::leading(&scene, &[BUFFER]).await;
    insert(&scene, (MANY..MANY + 1000).map(parallel)).await;
    good_ones_leave(&scene, 2).await;

    until("an alert", async || {
        alerts(&scene).into_iter().find(|alert| alert["kind"] == "unwritable")
    })
    .await;
    assert!(relay.log().lines().count() < 500, "each is no line of its own: {}", relay.log());
    assert!(!relay.log().contains("event is dead"), "none is: {}", relay.log());
    assert_eq!(relay.metric("outboxd_events_dead_total").await, 0);
    let locked = scene.events.count_documents(doc! { "isLocked": true }).await.unwrap();
    assert_eq!(locked, MANY as u64 + 1000, "they are as they were");
}

/// What can't leave is listed again by each list, and passed over.
#[tokio::test]
async fn a_sweep_passes_over_more_events_of_a_blocked_key_than_a_list_has() {
    let scene = Scene::new().await;
    // It has no room for a mark.
    let mut full = event(&scene, "a b", 0);
    // MongoDB replaces a zero by the time of the insert.
    let at = |time| Timestamp { time, increment: 1 };
    full.extend(doc! { "ts": at(1), "key": "blocked", "payload": { "text": "" } });
    let room = (16 << 20) - bson::serialize_to_vec(&full).expect("BSON").len();
    full.insert("payload", doc! { "text": "x".repeat(room) });
    insert(&scene, std::iter::once(full)).await;

    let behind = (1..=LISTS).map(|number| {
        let mut event = event(&scene, "made", number);
        event.extend(doc! { "ts": at(2), "key": "blocked" });
        event
    });
    insert(&scene, behind).await;

    let relay = Relay::leading(&scene, &[]).await;
    good_ones_leave(&scene, 1).await;

    let locked = scene.events.count_documents(doc! { "isLocked": true }).await.unwrap();
    assert_eq!(locked, LISTS as u64 + 1, "they are as they were: {}", relay.log());
}

/// Events that follow the contract, that the stream doesn't take, and that a validator of somebody
/// else's keeps locked.
#[tokio::test]
async fn failed_events_that_a_validator_keeps_locked_take_no_room() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let validator = doc! { "isLocked": true };
    let modify = doc! { "collMod": "outbox", "validator": validator };
    scene.database.run_command(modify).await.unwrap();
    insert(&scene, (0..VERY_MANY).map(|number| event(&scene, "uncovered", number))).await;

    let made = scene.subject("made");
    let settings = [
        BUFFER,
        ("OUTBOXD_SWEEP__INTERVAL", "2s"),
        ("OUTBOXD_RETRY__CRON", "* * * * * *"),
        ("OUTBOXD_STREAM__SUBJECTS", made.as_str()),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    relay.says("MongoDB can't mark events").await;
    good_ones_leave(&scene, 1).await;

    // Those behind the first thousand are found by the safety sweep.
    insert(&scene, [event(&scene, "made", 1)].into_iter()).await;
    until("it is out", async || scene.one(doc! { "_id": "made-1" }).await.is_none().then_some(()))
        .await;
}

/// A unique index of somebody else's, which only one unlocked event of a subject fits.
#[tokio::test]
async fn a_refused_mark_is_the_affair_of_its_event_alone() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let index = doc! {
        "createIndexes": "outbox",
        "indexes": [{
            "name": "theirs", "key": { "subject": 1 }, "unique": true,
            "partialFilterExpression": { "isLocked": false },
        }],
    };
    scene.database.run_command(index).await.unwrap();

    let made = scene.subject("made");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &made)]).await;
    insert(&scene, (0..3).map(|number| event(&scene, "uncovered", number))).await;
    relay.says("duplicate key").await;
    for number in 1..=5 {
        good_ones_leave(&scene, number).await;
    }

    let marked = doc! { "failures.0": { "$exists": true } };
    assert_eq!(scene.events.count_documents(marked).await.unwrap(), 1);
    assert_eq!(scene.messages().await.len(), 5);
    relay.says("event failed").await;
    let failed = relay.log().lines().filter(|line| line.contains("event failed")).count();
    assert_eq!(failed, 1, "{}", relay.log());
}

/// A command that the server refuses as a whole is repeated, and an operator sees it.
#[tokio::test]
async fn a_command_that_is_refused_is_reported_and_repeated() {
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let scene = Scene::reached(set.uri(), nats.url.clone(), ConnectOptions::new()).await;
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    let relay = Relay::leading(&scene, &[]).await;
    let refused = doc! { "failCommands": ["delete"], "errorCode": 13 };
    set.fail(doc! { "times": 3 }, refused).await;

    scene.commit((1..=3).map(|number| scene.event("good", number))).await;
    relay.says("MongoDB refuses to delete events").await;
    scene.drained().await;
    until("an alert", async || {
        alerts(&scene).into_iter().find(|alert| alert["kind"] == "unwritable")
    })
    .await;
}

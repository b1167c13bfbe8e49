//! A sweep ends, however large the backlog and however short the server keeps its snapshots, and
//! dead events cost nothing.
//!
//! `OUTBOXD_TEST_PILE` events, 20,000 unless set; `make proofs` takes 1,000,000 in one of the tests.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{DateTime, Document, Timestamp, doc};
use futures_util::TryStreamExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{ALONE, NatsServer, Relay, ReplicaSet, Scene, checker, outboxd, until};

/// The parameter of the server that says for how many seconds it keeps a snapshot.
const WINDOW: &str = "minSnapshotHistoryWindowInSeconds";
/// MB of the oplog: all that the tests write.
const OPLOG: u32 = 512;
/// Bytes of a payload, as an ordinary record has them.
const BYTES: usize = 2000;

fn pile() -> u32 {
    std::env::var("OUTBOXD_TEST_PILE").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// A server of the test's own that keeps a snapshot for so many seconds.
async fn server(window: i32) -> (ReplicaSet, NatsServer, Scene) {
    let (set, nats) = (ReplicaSet::remembering(1, OPLOG).await, NatsServer::start().await);
    let set_window = doc! { "setParameter": 1, WINDOW: window };
    set.direct(0).await.run_command(set_window).await.expect("the window is set");
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    (set, nats, scene)
}

fn event(scene: &Scene, key: &str, number: u32) -> Document {
    doc! {
        "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject("made"), "key": key,
        "payload": { "key": key, "number": number, "more": "x".repeat(BYTES) }, "isLocked": true,
        "failures": [],
    }
}

/// A dead event whose key is its own.
fn dead(scene: &Scene, number: u32) -> Document {
    let failure = doc! {
        "at": DateTime::now(), "attempt": 1_i64, "class": "poison", "code": "malformed",
        "error": "e", "relay": "r",
    };
    let mut dead = event(scene, &format!("dead{number}"), number);
    dead.extend(doc! { "isLocked": false, "failures": [failure], "deadAt": DateTime::now() });
    dead
}

async fn insert(scene: &Scene, events: impl Iterator<Item = Document>) {
    let events: Vec<_> = events.collect();
    for some in events.chunks(1000) {
        scene.events.insert_many(some).await.expect("the events are written");
    }
}

/// Writes events of one key, one at a time, until it is stopped; returns how many.
fn write(scene: &Arc<Scene>, key: &'static str, stop: &CancellationToken) -> JoinHandle<u32> {
    let (scene, stop) = (scene.clone(), stop.clone());
    tokio::spawn(async move {
        let mut written = 0;
        while !stop.is_cancelled() {
            written += 1;
            scene.commit([scene.event(key, written)]).await;
        }
        written
    })
}

/// Waits, however long, as long as fewer and fewer of these are left.
async fn left(scene: &Scene, which: Document) {
    let count = async || scene.events.count_documents(which.clone()).await.expect("a count");
    let mut left = count().await;
    while left > 0 {
        until("fewer events are left", async || (count().await < left).then_some(())).await;
        left = count().await;
    }
}

/// The numbers of each key, in the order of the stream.
async fn published(scene: &Scene) -> HashMap<String, Vec<u32>> {
    let mut published = HashMap::<_, Vec<_>>::new();
    for message in checker::stream(scene).await {
        published.entry(message.key).or_default().push(message.number);
    }
    published
}

/// A backlog with writers beside it, on a server that keeps its snapshots for so long.
async fn drains_within(window: i32) {
    let _alone = ALONE.lock().await;
    let (_set, _nats, scene) = server(window).await;
    let (scene, stop) = (Arc::new(scene), CancellationToken::new());
    let (pile, keys) = (pile(), 100);
    insert(&scene, (0..pile).map(|n| event(&scene, &format!("k{}", n % keys), n / keys))).await;

    let writers = ["w1", "w2"].map(|key| (key, write(&scene, key, &stop)));
    let relay = Relay::start(&scene, &[]);
    left(&scene, doc! { "key": { "$regex": "^k" } }).await;

    stop.cancel();
    let mut expected = pile as usize;
    for (key, writer) in writers {
        let written = writer.await.expect("the writer ends well");
        expected += written as usize;
        left(&scene, doc! { "key": key }).await;
    }

    let published = published(&scene).await;
    assert_eq!(published.values().map(Vec::len).sum::<usize>(), expected, "none lost, none twice");
    for (key, numbers) in &published {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert!(!relay.log().contains("sweeping again"), "{}", relay.log());
    println!("window {window}: {pile} events, at most {} kB", relay.peak_rss());
}

#[tokio::test]
async fn a_backlog_drains_on_a_server_that_keeps_no_snapshot() {
    drains_within(0).await;
}

#[tokio::test]
async fn a_backlog_drains_on_a_server_that_keeps_a_snapshot_for_a_second() {
    drains_within(1).await;
}

#[tokio::test]
async fn a_backlog_drains_on_a_server_that_keeps_a_snapshot_for_five_seconds() {
    drains_within(5).await;
}

/// What waits behind a failure is read in one moment too.
#[tokio::test]
async fn what_failed_leaves_on_a_server_that_keeps_no_snapshot() {
    let _alone = ALONE.lock().await;
    let (_set, _nats, scene) = server(0).await;
    let scene = Arc::new(scene);
    scene.cover(&["other"]).await;
    let covered = scene.subject("other");
    let settings =
        [("OUTBOXD_STREAM__SUBJECTS", covered.as_str()), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000")];
    let relay = Relay::leading(&scene, &settings).await;

    let keys = 1500;
    insert(&scene, (0..3 * keys).map(|n| event(&scene, &format!("k{}", n % keys), n / keys))).await;
    left(&scene, doc! { "isLocked": true }).await;

    let stop = CancellationToken::new();
    scene.cover(&[">"]).await;
    let writer = write(&scene, "w", &stop);
    left(&scene, doc! { "key": { "$regex": "^k" } }).await;
    stop.cancel();
    writer.await.expect("the writer ends well");
    left(&scene, doc! {}).await;

    for (key, numbers) in published(&scene).await {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert!(!relay.log().contains("could not read"), "{}", relay.log());
}

/// Events that failed leave at once when a relay starts, with a key and without.
#[tokio::test]
async fn what_is_due_leaves_after_the_sweep() {
    let scene = Scene::new().await;
    let waiting = |key: Option<&str>, number: u32| {
        let mut waiting = event(&scene, key.unwrap_or("none"), number);
        waiting.insert("isLocked", false);
        if key.is_none() {
            waiting.remove("key");
        }
        waiting
    };
    insert(&scene, [waiting(Some("a"), 1), waiting(None, 1)].into_iter()).await;
    insert(&scene, [event(&scene, "a", 2), event(&scene, "b", 1)].into_iter()).await;

    // The schedule would look once a year.
    let _relay = Relay::start(&scene, &[("OUTBOXD_RETRY__CRON", "0 0 0 1 1 *")]);
    until("all but what is parked have left", async || {
        let left = scene.events.count_documents(doc! {}).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(published(&scene).await["a"], [1, 2]);
}

#[tokio::test]
async fn an_outbox_without_its_indexes_is_swept() {
    let scene = Scene::new().await;
    for index in ["outboxd_locked", "outboxd_waiting"] {
        scene.events.drop_index(index).await.expect("the index is dropped");
    }

    insert(&scene, (0..50).map(|n| dead(&scene, n))).await;
    insert(&scene, (0..5000).map(|n| event(&scene, &format!("k{}", n % 10), n / 10))).await;
    let mut failed = event(&scene, "f", 1);
    failed.insert("isLocked", false);
    insert(&scene, [failed].into_iter()).await;

    let relay = Relay::start(&scene, &[]);
    left(&scene, doc! { "deadAt": null }).await;
    let (code, said) = outboxd(&scene, &["stats"]);
    assert_eq!(code, Some(0), "{said}");
    for (key, numbers) in published(&scene).await {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert!(!relay.log().contains("could not read"), "{}", relay.log());
}

/// No command of a relay reads dead events, whatever the relay does meanwhile.
#[tokio::test]
async fn dead_events_cost_nothing() {
    for on_dead in ["hold", "skip"] {
        let scene = Scene::new().await;
        scene.cover(&["made"]).await;
        let covered = scene.subject("made");
        insert(&scene, (0..3000).map(|n| dead(&scene, n))).await;
        scene.database.run_command(doc! { "profile": 2 }).await.expect("commands are recorded");

        let settings = [
            ("OUTBOXD_STREAM__SUBJECTS", covered.as_str()),
            ("OUTBOXD_DISPATCH__ON_DEAD", on_dead),
            ("OUTBOXD_SWEEP__INTERVAL", "1s"),
            ("OUTBOXD_ALERTS__STUCK_AFTER", "1s"),
            ("OUTBOXD_RETRY__MAX_ATTEMPTS", "3"),
            ("OUTBOXD_RETRY__BASE_DELAY", "1s"),
        ];
        let relay = Relay::leading(&scene, &settings).await;
        // One key whose events leave, and one whose first can't.
        let mut refused = event(&scene, "f", 0);
        refused.insert("subject", scene.subject("elsewhere"));
        insert(&scene, [refused, event(&scene, "f", 1)].into_iter()).await;
        scene.commit((0..20).map(|n| scene.event("a", n))).await;
        until("the first of its key is dead", async || {
            scene.one(doc! { "key": "f", "deadAt": { "$type": "date" } }).await
        })
        .await;
        until("the others have left", async || {
            (published(&scene).await.get("a").map(Vec::len) == Some(20)).then_some(())
        })
        .await;
        relay.stop();

        scene.database.run_command(doc! { "profile": 0 }).await.expect("no longer recorded");
        let commands = scene.database.collection::<Document>("system.profile");
        // The change stream examines the oplog, which is every test's.
        let no_stream = doc! { "$exists": false };
        let by_relays = doc! {
            "appName": { "$regex": "^outboxd" },
            "docsExamined": { "$gt": 100 },
            "command.pipeline.0.$changeStream": &no_stream,
            "originatingCommand.pipeline.0.$changeStream": &no_stream,
        };
        let costly: Vec<_> = commands.find(by_relays).await.unwrap().try_collect().await.unwrap();
        let asked: Vec<_> = costly.iter().map(|command| command.get("command")).collect();
        assert!(costly.is_empty(), "{on_dead}: {asked:#?}");
    }
}

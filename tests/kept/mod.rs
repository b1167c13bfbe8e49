//! Events are kept after their ack, and what the stream loses of them comes back: all of it, once, in
//! order, before anything newer, and nobody types anything.

mod crashed;
mod majority;
mod moved;
mod replayed;
mod verified;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use serde_json::Value;
use tokio::time::sleep;

use crate::support::checker::{self, Report};
use crate::support::{ALONE, NatsServer, Relay, Scene, Writers, until};

const KEYS: u32 = 50;
const PER_SECOND: u32 = 200;
const KEEP: [(&str, &str); 3] = [
    ("OUTBOXD_KEEP__FOR", "1h"),
    ("OUTBOXD_LEASE__TTL", "2s"),
    ("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "16"),
];
/// Most events that are on their way when the stream loses what it has: as many as are in flight.
/// Each may be stored before its key's lost ones.
const ON_THE_WAY: usize = 16;

fn alerts(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    lines.filter(|line: &Value| line["kind"] == "rewound").collect()
}

async fn is_back(scene: &Scene) {
    until("the stream is back", async || scene.context.get_stream(&scene.stream).await.ok()).await;
}

async fn last_sequence(scene: &Scene) -> u64 {
    until("the stream describes itself", async || {
        let stream = scene.context.get_stream(&scene.stream).await.ok()?;
        Some(stream.cached_info().state.last_sequence)
    })
    .await
}

/// The stream gets so many more messages.
async fn grows(scene: &Scene, by: u64) {
    let before = last_sequence(scene).await;
    until("the stream grows", async || {
        let stream = scene.context.get_stream(&scene.stream).await.ok()?;
        (stream.cached_info().state.last_sequence >= before + by).then_some(())
    })
    .await;
}

async fn recreate(scene: &Scene) {
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();
    scene.context.delete_stream(&scene.stream).await.expect("the stream is deleted");
    scene.context.create_stream(config).await.expect("the stream is created again");
}

fn kept(scene: &Scene) -> mongodb::Collection<Document> {
    scene.database.collection("outbox_published")
}

/// Writers end, everything drains, and nothing is lost or there twice.
async fn all_there(scene: &Scene, writers: Writers, fault: &str) -> Report {
    sleep(Duration::from_secs(2)).await;
    let ledger = writers.stop().await;
    scene.drained().await;
    let report = checker::check(scene, &ledger, &[(fault, 1)]).await;
    println!("{report}");
    assert_eq!((&report.lost, &report.copies), (&vec![], &vec![]), "{report}");
    assert!(report.phantom.is_empty(), "{report}");

    // Each is kept once, under the sequence that it has now.
    let sequences = kept(scene).distinct("seq", doc! {}).await.expect("the sequences").len();
    let committed = kept(scene).count_documents(doc! {}).await.expect("a count");
    assert_eq!((sequences as u64, report.in_stream as u64), (committed, committed), "{report}");
    report
}

/// Only keys of which an event was on its way are out of order.
fn in_order(report: &Report) {
    // An event and its key, and its number.
    let key = |event: &String| event.split(' ').nth(1).map(str::to_owned);
    let keys: HashSet<_> = report.reordered.iter().map(key).collect();
    assert!(keys.len() <= ON_THE_WAY, "{report}");
}

/// One alert told of the loss, and one entry of the audit of the repair.
async fn told_once(scene: &Scene) -> Value {
    let mut alerts = alerts(scene);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let audit = scene.database.collection::<Document>("outboxd_audit");
    let entries = audit.count_documents(doc! { "action": "repair" }).await.expect("a count");
    assert_eq!(entries, 1);
    let alert = alerts.remove(0);
    assert_eq!(alert["unrecoverable"], 0, "{alert}");
    assert!(alert["kept"].as_u64() > Some(0), "{alert}");
    alert
}

#[tokio::test]
async fn a_store_put_back_under_a_relay_gets_back_what_it_lost() {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let _relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 200).await;
    nats.kill();
    let copy = nats.copy();
    nats.start_again();
    is_back(&scene).await;
    grows(&scene, 600).await;
    nats.kill();
    nats.restore(&copy);
    nats.start_again();
    in_order(&all_there(&scene, writers, "store put back").await);
    assert_eq!(told_once(&scene).await["how"], "went-back");
}

#[tokio::test]
async fn a_stream_recreated_under_a_relay_gets_everything_kept() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let _relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 600).await;
    recreate(&scene).await;
    in_order(&all_there(&scene, writers, "stream recreated").await);
    told_once(&scene).await;
}

#[tokio::test]
async fn a_stream_recreated_without_a_relay_and_grown_past_gets_everything_kept() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let relay = Relay::leading(&scene, &KEEP).await;
    let events = 300_u64;
    for number in 0..events as u32 {
        scene.commit([scene.event(&format!("k{}", number % 5), number)]).await;
    }
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    recreate(&scene).await;
    for _ in 0..events + 50 {
        let ack = scene.context.publish(scene.subject("others"), "{}".into()).await;
        ack.expect("it is sent").await.expect("it is stored");
    }
    // What is new comes behind.
    scene.commit((1000..1010).map(|n| scene.event(&format!("k{}", n % 5), n))).await;
    let settings = [KEEP[0], KEEP[1], ("OUTBOXD_NATS__VERIFY_ACKS", "always")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.drained().await;
    let messages = scene.messages().await.into_iter().filter(|one| one.payload != "{}");
    let mut last = std::collections::HashMap::new();
    let mut count = 0;
    for message in messages {
        let payload: Value = serde_json::from_str(&message.payload).expect("JSON");
        let (key, number) = (payload["key"].to_string(), payload["number"].as_u64());
        assert!(last.insert(key, number) < Some(number), "{payload} is out of order");
        count += 1;
    }
    assert_eq!(count, events + 10);
    assert_eq!(told_once(&scene).await["how"], "recreated");
    assert_eq!(relay.metric("outboxd_events_repaired_total").await, events);
}

/// The server cuts what it can't read off the end of its last file.
#[tokio::test]
async fn a_last_block_that_was_cut_off_is_filled_up_again() {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let _relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 400).await;
    nats.kill();
    nats.cut_last_block();
    nats.start_again();
    in_order(&all_there(&scene, writers, "last block cut off").await);
    told_once(&scene).await;
}

#[tokio::test]
async fn a_purge_is_left_alone() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((0..50).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    stream.purge().await.expect("the stream is purged");
    nats.kill();
    nats.start_again();
    scene.commit((50..60).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((60..70).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 20, "what was purged stays away");
    assert!(alerts(&scene).is_empty());
    assert_eq!(relay.metric("outboxd_events_repaired_total").await, 0);
}

#[tokio::test]
async fn with_repair_alert_a_person_decides() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let settings = [KEEP[0], KEEP[1], ("OUTBOXD_KEEP__REPAIR", "alert")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit((0..50).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    recreate(&scene).await;
    scene.commit((50..60).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    let alert = until("an alert tells of the loss", async || alerts(&scene).pop()).await;
    // One of the later ones may have been acked before the loss was seen.
    assert!(alert["kept"].as_u64().is_some_and(|kept| (50..=60).contains(&kept)), "{alert}");
    assert_eq!(alert["unrecoverable"], 0, "{alert}");
    assert_eq!(relay.stop(), Some(0));
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit((60..70).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(alerts(&scene).len(), 1);
    assert_eq!(scene.messages().await.len(), 20);
}

/// Only what is kept comes back, and the alert says how much does not.
#[tokio::test]
async fn a_loss_larger_than_what_is_kept_is_counted() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit((0..50).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    // As if the time of most of them were over.
    let old = doc! { "$set": { "publishedAt": bson::DateTime::from_millis(0) } };
    kept(&scene).update_many(doc! { "seq": { "$lte": 30_i64 } }, old).await.expect("an update");
    let relay = Relay::leading(&scene, &KEEP).await;
    until("their time is over", async || {
        (kept(&scene).count_documents(doc! {}).await.ok()? == 20).then_some(())
    })
    .await;
    recreate(&scene).await;
    scene.commit((50..60).map(|n| scene.event("k", n))).await;
    scene.drained().await;
    let alert = until("an alert tells of the loss", async || alerts(&scene).pop()).await;
    assert!(alert["kept"].as_u64().is_some_and(|kept| (20..=30).contains(&kept)), "{alert}");
    assert_eq!(alert["unrecoverable"], 30, "{alert}");
    let stored = async || (scene.messages().await.len() == 30).then_some(());
    until("all that is kept is there", stored).await;
    assert_eq!(relay.stop(), Some(0));
}

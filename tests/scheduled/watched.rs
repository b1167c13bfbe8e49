//! How many events are scheduled and how late they are, in metrics and as an alert, at a bounded
//! cost.

use std::time::{Duration, SystemTime};

use bson::{Bson, DateTime, Document, doc};
use serde_json::Value;

use super::{kill, later, schedule, scheduled};
use crate::support::{Relay, Scene, outboxd, until};

/// Nobody answers there: the relay watches and never leads.
const NOWHERE: [(&str, &str); 2] =
    [("NATS_URL", "nats://127.0.0.1:1"), ("OUTBOXD_ALERTS__STUCK_AFTER", "2s")];

fn alerts(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn kinds(scene: &Scene) -> Vec<String> {
    alerts(scene).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

async fn wait_for_alert(scene: &Scene, kind: &str) -> Value {
    until(&format!("an alert says {kind}"), async || {
        alerts(scene).into_iter().find(|line| line["kind"] == kind)
    })
    .await
}

/// Raised by a relay that doesn't lead, while none does: so a person learns that nobody moves them.
#[tokio::test]
async fn overdue_events_raise_one_alert_and_their_end_another() {
    let scene = Scene::new().await;
    let late =
        schedule(&scene, scene.event("k", 1), SystemTime::now() - Duration::from_secs(60)).await;
    schedule(&scene, scene.event("k", 2), SystemTime::now() - Duration::from_secs(30)).await;
    later(&scene, "in-time", "k").await;
    let dead = later(&scene, "dead", "k").await;
    kill(&scene, &dead, "x").await;

    let relay = Relay::start(&scene, &NOWHERE);
    let overdue = wait_for_alert(&scene, "overdue").await;
    assert_eq!(overdue["event"]["id"], late.to_string());
    assert!(overdue["overdue_seconds"].as_u64().unwrap() >= 60, "{overdue}");
    let said = overdue["text"].as_str().unwrap();
    assert!(said.starts_with("2 scheduled events are due"), "{said}");

    until("the metrics are set", async || {
        let seen = [
            relay.metric("outboxd_scheduled_events").await,
            relay.metric("outboxd_dead_events").await,
        ];
        (seen == [3, 1]).then_some(())
    })
    .await;
    assert!(relay.metric("outboxd_scheduled_overdue_seconds").await >= 60);

    // A relay that starts again does not repeat it.
    assert_eq!(relay.stop(), Some(0));
    let relay = Relay::start(&scene, &NOWHERE);
    until("it has looked", async || {
        (relay.metric_once_there("outboxd_scheduled_events").await == Some(3)).then_some(())
    })
    .await;
    assert_eq!(kinds(&scene), ["overdue"]);

    let due = doc! { "deliverAt": { "$lte": DateTime::now() } };
    scheduled(&scene).delete_many(due).await.unwrap();
    wait_for_alert(&scene, "on-time").await;
    assert_eq!(kinds(&scene), ["overdue", "on-time"]);
    until("none is late", async || {
        (relay.metric("outboxd_scheduled_overdue_seconds").await == 0).then_some(())
    })
    .await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn with_scheduling_off_nobody_looks() {
    let scene = Scene::new().await;
    schedule(&scene, scene.event("k", 1), SystemTime::now() - Duration::from_secs(60)).await;
    scene.events.insert_one(doc! {
        "_id": "old", "ts": bson::Timestamp { time: 1_700_000_000, increment: 1 }, "subject": "a",
        "payload": {}, "isLocked": true, "failures": [],
    })
    .await
    .unwrap();

    let settings = [NOWHERE[0], NOWHERE[1], ("OUTBOXD_SCHEDULED__ENABLED", "false")];
    let relay = Relay::start(&scene, &settings);
    wait_for_alert(&scene, "stuck").await;
    assert_eq!(relay.metric("outboxd_scheduled_events").await, 0);
    assert_eq!(kinds(&scene), ["stuck"]);
    assert_eq!(relay.stop(), Some(0));
}

/// By the server's own account of what it read.
#[tokio::test]
async fn a_look_at_many_reads_an_index_and_no_documents() {
    const EVENTS: u32 = 25_000;
    let scene = Scene::new().await;
    let (now, hour) = (DateTime::now().timestamp_millis(), 3_600_000);
    let event = |number: u32| {
        let at = now + hour + i64::from(number) * 1000;
        doc! {
            "_id": format!("e{number}"), "subject": "a", "payload": {}, "isLocked": true, "failures": [],
            "deliverAt": DateTime::from_millis(at),
        }
    };
    let all: Vec<Document> = (0..EVENTS).map(event).collect();
    scheduled(&scene).insert_many(all).await.unwrap();

    scene.database.run_command(doc! { "profile": 2 }).await.unwrap();
    let (code, said) = outboxd(&scene, &["stats", "--output", "json"]);
    let page = outboxd(&scene, &["list", "--scheduled", "--output", "json"]);
    scene.database.run_command(doc! { "profile": 0 }).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let stats: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(stats["scheduled"]["events"], EVENTS, "above the bound by the metadata");
    assert_eq!(serde_json::from_str::<Value>(&page.1).unwrap()["total"], EVENTS);

    let profile = scene.database.collection::<Document>("system.profile");
    let of_scheduled =
        doc! { "ns": { "$regex": "outbox_scheduled$" }, "command.aggregate": { "$exists": true } };
    let mut found = profile.find(of_scheduled).await.unwrap();
    let mut looks = 0;
    while found.advance().await.unwrap() {
        let query: Document = found.deserialize_current().unwrap();
        let read = |name: &str| match query.get(name) {
            Some(Bson::Int32(number)) => i64::from(*number),
            number => number.and_then(Bson::as_i64).unwrap_or(0),
        };
        let is_count = query.to_string().contains("\"n\"");
        if !is_count {
            assert!(read("docsExamined") <= 100, "{query}");
            assert!(read("keysExamined") <= 30_100, "{query}");
            assert_ne!(query.get_str("planSummary").ok(), Some("COLLSCAN"), "{query}");
        }
        looks += 1;
    }
    assert!(looks >= 2, "{looks}");
}

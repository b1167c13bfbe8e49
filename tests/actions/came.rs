//! What came of each event: delivered, refused, held, or not done because MongoDB refuses or is away.

use std::process::{Command, Stdio};

use bson::{DateTime, doc};
use serde_json::Value;

use super::{
    are_dead, count, event, failed, insert, json, on_terminal, relayed, says, with, without_colours,
};
use crate::support::{OUTBOXD, Proxy, Relay, Scene, Toxic, mongodb_uri, outboxd, until};

#[tokio::test]
async fn who_waits_learns_what_came_of_each_event() {
    let (scene, relay) = relayed().await;
    let head = event(&scene, "uncovered", "k", 1);
    let head_id = head.id().to_string();
    let behind = event(&scene, "covered", "k", 2);
    let behind_id = behind.id().to_string();
    scene.commit([head, behind]).await;
    are_dead(&scene, 1).await;
    until("the other waits", async || scene.one(doc! { "isLocked": false, "deadAt": null }).await)
        .await;

    let refused = format!("refused    {head_id}: not-covered");
    says(
        &scene,
        &["retry-now", &head_id, "--wait"],
        1,
        &[&refused, "it is dead", "1 event refused again"],
    );
    let held = format!("{behind_id}: held by {head_id} (dead, not-covered)");
    says(&scene, &["retry-now", &behind_id, "--wait=10s"], 1, &[&held, "1 event still wait"]);

    // On a terminal it waits by itself.
    scene.cover(&[">"]).await;
    let (code, said) = on_terminal(&scene, &["retry-now", &head_id], 80, "");
    assert!(code == Some(0) && without_colours(&said).contains("1 event delivered"), "{said}");
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2]);

    assert_eq!(relay.stop(), Some(0));
    insert(&scene, [failed(&scene, "alone", "timeout", "e")]).await;
    says(&scene, &["retry-now", "alone", "--wait"], 1, &["NO RELAY runs", "outboxd run"]);
    says(&scene, &["retry-now", "alone"], 0, &["1 event due now"]);
    let (code, said) = on_terminal(&scene, &["retry-now", "alone", "--no-wait"], 80, "");
    assert!(code == Some(0) && !said.contains("NO RELAY"), "{said}");
}

#[tokio::test]
async fn many_events_are_made_due_bit_by_bit() {
    let scene = Scene::new().await;
    insert(&scene, (0..1500).map(|n| failed(&scene, format!("e{n}"), "timeout", "e"))).await;
    says(
        &scene,
        &["retry-now", "--all", "--yes"],
        0,
        &["1000 a second; --rate N", "1500 events due now"],
    );
    let due = scene.events.distinct("nextAttemptAt", doc! {}).await.unwrap();
    assert!(due.len() >= 3, "{due:?}");
    let said = says(&scene, &["retry-now", "--all", "--yes", "--rate", "100000"], 0, &[]);
    assert!(!said.contains("a second"), "{said}");
}

#[tokio::test]
async fn an_event_that_mongodb_refuses_to_update_stops_no_other() {
    let scene = Scene::new().await;
    insert(
        &scene,
        (0..5).map(|n| with(failed(&scene, format!("e{n}"), "timeout", "e"), doc! { "n": n })),
    )
    .await;
    // Somebody's index: an event that was asked for may be there once.
    let unique = |field: &str| {
        let partial = doc! { "n": { "$in": [1, 3] } };
        doc! { "createIndexes": "outbox", "indexes": [{
            "name": field, "key": { field: 1 }, "unique": true, "partialFilterExpression": partial,
        }] }
    };
    let taken =
        |n: i32, field: &str| doc! { "$set": { field: DateTime::from_millis(i64::from(n)) } };
    for n in [1, 3] {
        for field in ["retryRequestedAt", "discardRequestedAt"] {
            scene.events.update_one(doc! { "n": n }, taken(n, field)).await.unwrap();
        }
    }
    scene.database.run_command(unique("retryRequestedAt")).await.unwrap();
    scene.database.run_command(unique("discardRequestedAt")).await.unwrap();

    let wanted = ["4 events due now", "refused by MongoDB: e3 (", "an index or a validator"];
    let (code, said) = outboxd(&scene, &["retry-now", "e0", "e1", "e2", "e3", "e4"]);
    assert_eq!(code, Some(1), "{said}");
    wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "{wanted}: {said}"));
    assert!(!said.contains("WriteError"), "{said}");

    let (code, said) = outboxd(&scene, &["discard", "e0", "e1", "e2", "e3", "e4"]);
    assert!(code == Some(1) && said.contains("4 events discarded"), "{said}");
    assert!(said.contains("refused by MongoDB: e3 ("), "{said}");
    assert_eq!(count(&scene).await, 1);
    let audit = json(&scene, &["audit"]);
    assert_eq!((&audit[0]["requested"], &audit[0]["events"]), (&5.into(), &4.into()), "{audit}");
}

/// A relay holds the lease and lets go of nothing, so the discard is under way as MongoDB goes.
#[tokio::test]
async fn a_discard_that_loses_mongodb_midway_says_so_and_nothing_comes_true_later() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_LEASE__TTL", "60s")]).await;
    relay.pause();
    insert(&scene, [failed(&scene, "w", "timeout", "e")]).await;

    let host = mongodb_uri().split_once('@').map_or_else(
        || mongodb_uri().trim_start_matches("mongodb://").to_owned(),
        |(_, rest)| rest.to_owned(),
    );
    let host = host.split(['/', '?', ',']).next().unwrap().to_owned();
    let proxy = Proxy::start(&host).await;
    let uri =
        scene.env_of("discard").into_iter().find(|(name, _)| name == "MONGODB_URI").unwrap().1;
    let uri = uri
        .replacen(&host, &proxy.address, 1)
        .replace("replicaSet=rs0&directConnection=false", "directConnection=true");
    let separator = if uri.contains('?') { "&" } else { "?" };
    let uri = format!("{uri}{separator}serverSelectionTimeoutMS=1000&connectTimeoutMS=1000");
    let discard = Command::new(OUTBOXD)
        .env_clear()
        .envs(scene.env_of("discard"))
        .env("MONGODB_URI", uri)
        .args(["discard", "w"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let requested = doc! { "discardRequestedBy": { "$exists": true } };
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(20),
        until("it is requested", async || scene.one(requested.clone()).await),
    );
    if asked.await.is_err() {
        panic!("{:?}", discard.wait_with_output());
    }
    proxy.set(Toxic::BlackHole);
    proxy.reset();

    let output = tokio::task::spawn_blocking(|| discard.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("0 events discarded"), "{said}");
    assert!(!said.contains("Kind:") && !said.contains("labels"), "driver text: {said}");
    let audit = json(&scene, &["audit"]);
    assert_eq!((&audit[0]["requested"], &audit[0]["events"]), (&1.into(), &Value::Null), "{audit}");
    assert_eq!(count(&scene).await, 1, "it was not removed");

    // The request has lapsed by the time that the relay looks.
    let old = DateTime::from_millis(DateTime::now().timestamp_millis() - 31_000);
    let lapsed = doc! { "$set": { "discardRequestedAt": old, "nextAttemptAt": old } };
    scene.events.update_one(doc! { "_id": "w" }, lapsed).await.unwrap();
    relay.resume();
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 1);
}

//! What an operator sees of an outbox, and does to it.

use bson::{Timestamp, doc};
use outboxd_client::Event;

use crate::support::{Relay, Scene, json, outboxd, says, until};

fn event(scene: &Scene, subject: &str, key: &str, number: u32) -> Event {
    Event::new(scene.subject(subject), &doc! { "key": key, "number": number })
        .unwrap()
        .key(key)
        .unwrap()
}

/// A scene whose stream takes `covered` alone, and settings for a relay on it.
async fn scene() -> (Scene, Vec<(String, String)>) {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", scene.subject("covered")),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "1".to_owned()),
        // Nothing is tried again by itself.
        ("OUTBOXD_RETRY__CRON", "0 0 0 1 1 *".to_owned()),
    ];
    (scene, settings.map(|(name, text)| (name.to_owned(), text)).into())
}

async fn relay(scene: &Scene, settings: &[(String, String)]) -> Relay {
    let settings: Vec<_> =
        settings.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Relay::leading(scene, &settings).await
}

async fn dead(scene: &Scene, events: u64) {
    until("they are dead", async || {
        (scene.events.count_documents(doc! { "deadAt": { "$ne": null } }).await.unwrap() == events)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_stuck_and_why_and_what_to_do_are_told() {
    let (scene, settings) = scene().await;
    says(&scene, &["stats"], &["NO RELAY", "backlog          0"]);
    says(&scene, &["list"], &["no stuck event matches"]);
    says(&scene, &["groups"], &["no event has failed"]);
    let _relay = relay(&scene, &settings).await;
    let head = event(&scene, "uncovered", "k", 1);
    let id = head.id().to_string();
    let behind = event(&scene, "covered", "k", 2);
    let behind_id = behind.id().to_string();
    scene.commit([head, behind, event(&scene, "uncovered", "other", 1)]).await;
    let bad = doc! { "_id": "bad", "ts": Timestamp { time: 0, increment: 0 }, "subject": "a b", "payload": "secret", "isLocked": true };
    scene.events.insert_one(bad).bypass_document_validation(true).await.unwrap();
    dead(&scene, 3).await;

    says(
        &scene,
        &["stats"],
        &["relayed by", "dead             3", "parked           1", "`outboxd groups` shows why"],
    );
    let stats = json(&scene, &["stats"]);
    assert_eq!(
        (&stats["backlog"], &stats["locked"], &stats["dead"]),
        (&4.into(), &0.into(), &3.into()),
        "{stats}"
    );
    assert_eq!(stats["stuck_by_subject"].as_array().unwrap().len(), 3, "{stats}");

    says(
        &scene,
        &["groups"],
        &["FAILED  DEAD  HELD  CODE", "0       2     1     not-covered  no subject of stream"],
    );
    let groups = json(&scene, &["groups"]);
    let of_both = groups[0]["id"].as_str().unwrap();
    says(
        &scene,
        &["groups", of_both],
        &["not-covered (config), 2 events", "add the subject to the stream", "dead (2)"],
    );
    assert_eq!(
        (&groups[0]["code"], &groups[0]["events"]),
        (&"not-covered".into(), &2.into()),
        "{groups}"
    );
    assert_eq!(
        (&groups[1]["code"], &groups[1]["sample"]),
        (&"malformed".into(), &"bad".into()),
        "{groups}"
    );

    says(&scene, &["list"], &[&id, "dead", "not-covered", "1 to 4 of 4"]);
    let list = |args: &[&str]| {
        let list = json(&scene, &[&["list"], args].concat());
        let ids = list["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(list(&["--parked"]), [behind_id.as_str()]);
    assert_eq!(list(&["--key", "k", "--dead"]), [id.as_str()]);
    assert_eq!(list(&["--subject", "*.uncov*"]).len(), 2);
    assert_eq!(list(&["--class", "poison"]), ["bad"]);
    assert_eq!(list(&["--code", "not-covered", "--limit", "1", "--page", "2"]).len(), 1);
    assert!(list(&["--older-than", "1h"]).is_empty());
    assert!(list(&["--key", "$where"]).is_empty());
    let (code, said) = outboxd(&scene, &["list", "--subject", "$where"]);
    assert!(code == Some(64) && said.contains("belong to the server"), "{said}");

    says(
        &scene,
        &["show", &id],
        &[
            "holds",
            "1 event of its key that came later",
            "attempt 1",
            "not-covered (config)",
            "what to do: add the subject",
        ],
    );
    says(&scene, &["show", &behind_id], &["held by", &format!("it waits behind {id}")]);
    let said =
        says(&scene, &["show", "bad"], &["invalid subject", "(hidden", "correct the writer"]);
    assert!(!said.contains("secret"), "{said}");
    says(&scene, &["show", "bad", "--payload"], &["secret"]);
    let (code, said) = outboxd(&scene, &["show", "nobody"]);
    assert_eq!(
        (code, said.contains("no event nobody is in the outbox")),
        (Some(1), true),
        "{said}"
    );
}

#[tokio::test]
async fn a_dead_event_is_published_at_once_when_an_operator_says_so() {
    let (scene, settings) = scene().await;
    let running = relay(&scene, &settings).await;
    let head = event(&scene, "uncovered", "k", 1);
    let id = head.id().to_string();
    scene.commit([head, event(&scene, "covered", "k", 2)]).await;
    dead(&scene, 1).await;
    scene.cover(&[">"]).await;
    says(&scene, &["retry-now", &id, "--reason", "covered it"], &["1 event due now"]);
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2], "what waited behind it follows");
    let audit = json(&scene, &["audit"]);
    assert_eq!(
        (&audit[0]["action"], &audit[0]["events"]),
        (&"retry-now".into(), &1.into()),
        "{audit}"
    );
    assert_eq!(
        (&audit[0]["reason"], &audit[0]["ids"][0]),
        (&"covered it".into(), &id.as_str().into()),
        "{audit}"
    );
    says(&scene, &["audit"], &["retry-now", "covered it"]);

    // With no relay running, the next one does it.
    scene.cover(&["covered"]).await;
    scene.commit([event(&scene, "uncovered", "k", 3)]).await;
    dead(&scene, 1).await;
    assert_eq!(running.stop(), Some(0));
    scene.cover(&[">"]).await;
    says(&scene, &["retry-now", "--all", "--yes"], &["1 event in all", "1 event due now"]);
    let _relay = relay(&scene, &settings).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3]);
}

#[tokio::test]
async fn a_bulk_action_shows_what_it_would_do_and_asks() {
    let (scene, settings) = scene().await;
    let _relay = relay(&scene, &settings).await;
    scene.commit((0..7).map(|n| event(&scene, "uncovered", &format!("k{n}"), n))).await;
    dead(&scene, 7).await;
    let before = scene.one(doc! {}).await;
    let said = says(&scene, &["discard", "--all", "--dry-run"], &["7 events in all"]);
    assert_eq!(said.matches("not-covered  ").count(), 5, "a sample: {said}");
    let (code, said) = outboxd(&scene, &["discard", "--all"]);
    assert_eq!((code, said.contains("--count 7 --yes")), (Some(64), true), "{said}");
    let (code, said) = outboxd(&scene, &["discard", "--all", "--dead"]);
    assert_eq!((code, said.contains("confirm with --yes")), (Some(64), true), "{said}");
    assert_eq!(outboxd(&scene, &["discard"]).0, Some(64), "neither ids nor --all");
    assert_eq!(scene.one(doc! {}).await, before);
    says(
        &scene,
        &["discard", "--all", "--yes", "--key", "k3", "--rate", "10"],
        &["1 event discarded"],
    );
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 6);
    assert_eq!(json(&scene, &["audit"])[0]["selection"], "--all --key k3");
}

#[tokio::test]
async fn an_event_that_is_still_tried_is_discarded_by_whoever_has_it_in_hand() {
    let (scene, mut settings) = scene().await;
    settings.push(("OUTBOXD_RETRY__MAX_ATTEMPTS".to_owned(), "100".to_owned()));
    let running = relay(&scene, &settings).await;
    let head = event(&scene, "uncovered", "k", 1);
    let id = head.id().to_string();
    scene.commit([head, event(&scene, "covered", "k", 2)]).await;
    until("it has failed", async || scene.one(doc! { "attempts": 1 }).await).await;
    says(&scene, &["discard", &id], &["1 event discarded"]);
    running.says("let go of events that an operator discards").await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [2], "what waited behind it follows");

    // With no relay there is nobody to ask.
    let head = event(&scene, "uncovered", "k", 3);
    let id = head.id().to_string();
    scene.commit([head]).await;
    until("it has failed", async || scene.one(doc! { "attempts": 1 }).await).await;
    assert_eq!(running.stop(), Some(0));
    says(&scene, &["discard", &id], &["1 event discarded"]);
    scene.drained().await;

    let locked = event(&scene, "covered", "k", 4);
    let id = locked.id().to_string();
    scene.commit([locked]).await;
    let (code, said) = outboxd(&scene, &["discard", &id]);
    assert_eq!((code, said.contains("is locked: the relay owns it")), (Some(1), true), "{said}");
}

#[tokio::test]
async fn a_retry_that_may_come_twice_is_warned_of() {
    let (scene, _) = scene().await;
    let failure = |minutes: i64| {
        let at = bson::DateTime::from_millis(
            bson::DateTime::now().timestamp_millis() - minutes * 60_000,
        );
        doc! { "at": at, "attempt": 0_i64, "class": "unknown", "code": "timeout", "error": "no ack", "relay": "r" }
    };
    for (id, minutes) in [("long-ago", 60), ("just-now", 1)] {
        let unanswered = doc! {
            "_id": id, "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject("covered"), "payload": {},
            "isLocked": false, "failures": [failure(minutes)],
        };
        scene.events.insert_one(unanswered).await.unwrap();
    }
    says(
        &scene,
        &["retry-now", "--all", "--dry-run"],
        &["2 events in all", "WARNING: the last publish of 1 of them got no answer"],
    );
}

#[tokio::test]
async fn looking_at_what_is_stuck_leaves_the_rest_of_the_outbox_alone() {
    let scene = Scene::new().await;
    let locked = (0..3000)
        .map(|n| doc! { "_id": format!("l{n}"), "subject": "a", "payload": {}, "isLocked": true });
    let stuck = (0..30).map(|n| doc! { "_id": format!("s{n}"), "subject": "a", "payload": {}, "isLocked": false, "failures": [{ "code": "c" }] });
    scene.events.insert_many(locked.chain(stuck)).bypass_document_validation(true).await.unwrap();
    scene.database.run_command(doc! { "profile": 2 }).await.unwrap();
    for args in [
        &["stats"][..],
        &["groups"],
        &["list"],
        &["list", "--code", "c", "--subject", "a*"],
        &["retry-now", "--all", "--yes"],
    ] {
        says(&scene, args, &[]);
    }
    scene.database.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = scene.database.collection::<bson::Document>("system.profile");
    let asked =
        doc! { "ns": format!("{}.outbox", scene.name), "docsExamined": { "$exists": true } };
    let mut asked = profile.find(asked).await.unwrap();
    let mut seen = 0;
    while asked.advance().await.unwrap() {
        let asked = asked.deserialize_current().unwrap();
        let examined = asked.get_i32("docsExamined").unwrap();
        assert!(examined <= 30, "{examined} documents for {}", asked.get("command").unwrap());
        seen += 1;
    }
    assert!(seen >= 7, "only {seen} reads were seen");
}

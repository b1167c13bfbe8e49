//! The last word of an operator holds: a request ends with its command, and the audit has what was
//! asked and what came of it.

use std::process::{Child, Command, Stdio};

use bson::{DateTime, Document, Timestamp, doc};
use serde_json::Value;

use crate::support::{OUTBOXD, Relay, Scene, outboxd, until};

/// Events that failed once, and that nobody retries by himself.
async fn failed(scene: &Scene, ids: impl IntoIterator<Item = String>) {
    let at = DateTime::now();
    let later = DateTime::from_millis(at.timestamp_millis() + 3_000_000);
    let failure = doc! {
        "at": at, "attempt": 1_i64, "class": "config", "code": "not-covered", "error": "e",
        "relay": "r",
    };
    let events = ids.into_iter().map(|id| {
        doc! {
            "_id": id, "ts": Timestamp { time: 1, increment: 1 }, "subject": scene.subject("made"),
            "payload": {}, "isLocked": false, "failures": [failure.clone()], "attempts": 1_i64,
            "nextAttemptAt": later,
        }
    });
    scene.events.insert_many(events).await.unwrap();
}

async fn set(scene: &Scene, id: &str, fields: Document) {
    let set = doc! { "$set": fields };
    assert_eq!(scene.events.update_one(doc! { "_id": id }, set).await.unwrap().matched_count, 1);
}

fn starts(scene: &Scene, args: &[&str]) -> Child {
    Command::new(OUTBOXD)
        .env_clear()
        .envs(scene.env_of(args[0]))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ends(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|all| String::from_utf8_lossy(&all).into_owned());
    (output.status.code(), said.concat())
}

/// Action, requested and events of each record, the oldest first.
fn audit(scene: &Scene) -> Vec<(String, u64, Option<u64>)> {
    let (code, said) = outboxd(scene, &["audit", "--limit", "1000", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let records: Vec<Value> = serde_json::from_str(&said).unwrap();
    let read = |record: &Value| {
        let action = record["action"].as_str().unwrap().to_owned();
        (action, record["requested"].as_u64().unwrap(), record["events"].as_u64())
    };
    records.iter().rev().map(read).collect()
}

fn record(action: &str, requested: u64, events: Option<u64>) -> (String, u64, Option<u64>) {
    (action.to_owned(), requested, events)
}

async fn is_requested(scene: &Scene) -> bool {
    let requested = doc! { "$or": [
        { "discardRequestedAt": { "$exists": true } },
        { "discardRequestedBy": { "$exists": true } },
        { "discardGrantedTo": { "$exists": true } },
    ] };
    scene.one(requested).await.is_some()
}

/// A relay that holds the lease and does nothing.
async fn frozen(scene: &Scene) -> Relay {
    let relay = Relay::leading(scene, &[("OUTBOXD_LEASE__TTL", "60s")]).await;
    relay.pause();
    relay
}

#[tokio::test]
async fn a_discard_that_was_not_carried_out_never_comes_true() {
    let scene = Scene::new().await;
    let relay = frozen(&scene).await;
    failed(&scene, ["w1".to_owned()]).await;

    let (code, said) = outboxd(&scene, &["discard", "w1"]);
    assert!(code == Some(1) && said.contains("0 events discarded"), "{said}");
    assert!(said.contains("outboxd leaves them alone"), "{said}");
    assert!(!is_requested(&scene).await, "{:?}", scene.one(doc! {}).await);

    let (code, said) = outboxd(&scene, &["retry-now", "w1", "--reason", "keep it after all"]);
    assert!(code == Some(0) && said.contains("1 event due now"), "{said}");
    relay.resume();
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 1);
    assert_eq!(audit(&scene), [record("discard", 1, Some(0)), record("retry-now", 1, Some(1))]);
}

#[tokio::test]
async fn a_discard_that_is_interrupted_takes_its_request_back() {
    let scene = Scene::new().await;
    let relay = frozen(&scene).await;

    for (number, signal) in ["-INT", "-TERM", "-HUP"].into_iter().enumerate() {
        let id = format!("z{number}");
        failed(&scene, [id.clone()]).await;
        let discard = starts(&scene, &["discard", &id]);
        until("it is requested", async || is_requested(&scene).await.then_some(())).await;
        let sent = Command::new("kill").args([signal, &discard.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let (code, said) = ends(discard);
        assert!(code == Some(1) && said.contains("0 events discarded"), "{signal}: {said}");
        assert!(said.contains("interrupted; 1 event left"), "{signal}: {said}");
        assert!(!is_requested(&scene).await, "{signal}");
    }

    let (code, said) = outboxd(&scene, &["retry-now", "--all", "--yes"]);
    assert!(code == Some(0) && said.contains("3 events due now"), "{said}");
    relay.resume();
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 3);
}

#[tokio::test]
async fn the_request_of_a_discard_that_was_killed_lapses_and_a_retry_takes_it_back() {
    let scene = Scene::new().await;
    let relay = frozen(&scene).await;
    failed(&scene, ["k1", "k2"].map(str::to_owned)).await;
    let mut discard = starts(&scene, &["discard", "k1", "k2"]);
    until("it is requested", async || is_requested(&scene).await.then_some(())).await;
    discard.kill().unwrap();
    discard.wait().unwrap();
    assert!(is_requested(&scene).await);
    assert_eq!(audit(&scene), [record("discard", 2, None)], "it was asked, and nobody knows");

    // One is retried. For the other, the time passes: it is due, and its request is old.
    outboxd(&scene, &["retry-now", "k1"]);
    let old = DateTime::from_millis(DateTime::now().timestamp_millis() - 31_000);
    set(&scene, "k2", doc! { "discardRequestedAt": old, "nextAttemptAt": old }).await;
    relay.resume();
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 2);
}

/// As a client wrote it by hand, or with a clock that was far ahead.
#[tokio::test]
async fn what_is_no_request_that_holds_keeps_no_event_back() {
    let scene = Scene::new().await;
    let far = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    let requests: [bson::Bson; 7] = [
        far.into(),
        DateTime::from_millis(0).into(),
        "now".into(),
        bson::Bson::Null,
        bson::Bson::Array(vec![DateTime::now().into()]),
        bson::Bson::MaxKey,
        true.into(),
    ];
    let past = DateTime::from_millis(0);
    failed(&scene, (0..requests.len()).map(|number| format!("n{number}"))).await;
    for (number, request) in requests.into_iter().enumerate() {
        let request = doc! {
            "discardRequestedAt": request, "discardRequestedBy": "me", "discardGrantedTo": "me",
            "nextAttemptAt": past,
        };
        set(&scene, &format!("n{number}"), request).await;
    }
    let _relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 7);
}

#[tokio::test]
async fn two_discards_at_once_count_each_event_once() {
    let scene = Scene::new().await;
    failed(&scene, (0..1500).map(|number| format!("d{number:04}"))).await;
    let dead = doc! { "$set": { "deadAt": DateTime::now() } };
    scene.events.update_many(doc! {}, dead).await.unwrap();

    let both = [(); 2].map(|()| starts(&scene, &["discard", "--all", "--dead", "--yes"])).map(ends);
    let counted = |said: &str| -> u64 {
        let line = said.lines().find(|line| line.ends_with(" discarded")).expect("a count");
        line.split(' ').next().unwrap().parse().unwrap()
    };
    let said: u64 = both.iter().map(|(_, said)| counted(said)).sum();
    let recorded: u64 = audit(&scene).iter().filter_map(|(_, _, events)| *events).sum();
    assert_eq!((said, recorded), (1500, 1500), "{both:?}");
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_retry_and_a_discard_at_once_agree_on_what_was_published() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    failed(&scene, (0..300).map(|number| format!("b{number:03}"))).await;
    let both =
        ["retry-now", "discard"].map(|verb| starts(&scene, &[verb, "--all", "--failed", "--yes"]));
    let both = both.map(ends);
    // What the discard could not have is published, now or when its time comes.
    outboxd(&scene, &["retry-now", "--all", "--yes"]);
    scene.drained().await;

    let discarded: u64 = audit(&scene)
        .iter()
        .filter(|(action, ..)| action == "discard")
        .filter_map(|(_, _, events)| *events)
        .sum();
    assert_eq!(scene.messages().await.len() as u64 + discarded, 300, "{both:?}");
}

#[tokio::test]
async fn without_a_record_nothing_is_done() {
    let scene = Scene::new().await;
    failed(&scene, ["a1", "a2"].map(str::to_owned)).await;
    let before = scene.one(doc! { "_id": "a1" }).await;
    let validator =
        doc! { "collMod": "outboxd_audit", "validator": { "ticket": { "$exists": true } } };
    scene.database.run_command(validator).await.unwrap();

    for verb in ["discard", "retry-now"] {
        let (code, said) = outboxd(&scene, &[verb, "a1"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("nothing is done") && said.contains("failed validation"), "{said}");
        assert!(!said.contains("WriteError") && !said.contains('{'), "driver text: {said}");
        assert_eq!(scene.one(doc! { "_id": "a1" }).await, before, "{verb}");
    }
}

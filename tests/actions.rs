//! An operator acts on exactly what was shown: groups, filters, ids and counts mean what they say, and
//! a command says what came of each event.

mod behind; // what waits behind failed events, and leaves once they are gone
mod came; // what came of each event that was acted on
mod edited; // a dead event is corrected, judged by the relay's parser
mod shown; // ids that can be pasted, and output that fits

use std::io::{Read, Write};

use bson::{Bson, DateTime, Document, Timestamp, doc};
use serde_json::Value;

use crate::support::{Relay, Scene, outboxd, terminal, until};

/// An event that failed so, and that nobody retries by himself.
fn failed(scene: &Scene, id: impl Into<Bson>, code: &str, error: &str) -> Document {
    let at = DateTime::now();
    let later = DateTime::from_millis(at.timestamp_millis() + 3_000_000);
    doc! {
        "_id": id.into(), "ts": Timestamp { time: 1, increment: 1 }, "subject": scene.subject("made"),
        "payload": {}, "isLocked": false, "attempts": 1_i64, "nextAttemptAt": later,
        "failures": [{
            "at": at, "attempt": 1_i64, "class": "config", "code": code, "error": error,
            "relay": "r",
        }],
    }
}

fn with(mut event: Document, fields: Document) -> Document {
    event.extend(fields);
    event
}

fn dead(event: Document) -> Document {
    with(event, doc! { "deadAt": DateTime::now() })
}

fn parked(scene: &Scene, id: &str, key: &str) -> Document {
    doc! {
        "_id": id, "ts": Timestamp { time: 2, increment: 1 }, "subject": scene.subject("made"),
        "key": key, "payload": {}, "isLocked": false,
    }
}

async fn insert(scene: &Scene, events: impl IntoIterator<Item = Document>) {
    let events = scene.events.insert_many(events).bypass_document_validation(true);
    events.await.unwrap();
}

async fn count(scene: &Scene) -> u64 {
    scene.events.count_documents(doc! {}).await.unwrap()
}

fn says(scene: &Scene, args: &[&str], code: i32, wanted: &[&str]) -> String {
    let (exit, said) = outboxd(scene, args);
    assert_eq!(exit, Some(code), "{args:?}: {said}");
    wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "no {wanted:?} in:\n{said}"));
    said
}

fn json(scene: &Scene, args: &[&str]) -> Value {
    let said = says(scene, &[args, &["--output", "json"]].concat(), 0, &[]);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Runs a verb on a terminal of so many columns, with what a person types.
fn on_terminal(scene: &Scene, args: &[&str], columns: u16, typed: &str) -> (Option<i32>, String) {
    let (mut child, mut terminal) = terminal::on_terminal(args, scene.env_of(args[0]), columns);
    terminal.write_all(typed.as_bytes()).unwrap();
    let (mut said, mut taken) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = terminal.read(&mut taken) {
        said.extend_from_slice(&taken[..read]);
    }
    let said = String::from_utf8_lossy(&said).replace("\r\n", "\n");
    (child.wait().unwrap().code(), said)
}

#[tokio::test]
async fn commands_of_a_group_act_on_that_group_alone() {
    let scene = Scene::new().await;
    let nan = |n: usize| {
        dead(failed(&scene, format!("n{n}"), "malformed", &format!("`payload.list.{n}` is NaN")))
    };
    insert(&scene, (0..20).map(nan)).await;
    let other = dead(failed(&scene, "m", "malformed", "`subject` is missing"));
    // Its key is a part of the subject, and a word like any other.
    let uncovered = |key: &str, id: &str| {
        let error = format!("no subject covers tenants.{key}.orders.{id}.made");
        with(failed(&scene, format!("u-{key}"), "not-covered", &error), doc! { "key": key })
    };
    insert(
        &scene,
        [
            other,
            uncovered("acme", "9f3c2b1e-77aa-4c1d-9d53-0f6f4f0a1b2c"),
            uncovered("globex", "4711"),
        ],
    )
    .await;

    let groups = json(&scene, &["groups"]);
    let counted: Vec<_> = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["code"].clone(), group["events"].clone()))
        .collect();
    assert_eq!(
        counted,
        [
            ("malformed".into(), 20.into()),
            ("not-covered".into(), 2.into()),
            ("malformed".into(), 1.into())
        ]
    );
    let ids: Vec<_> =
        groups.as_array().unwrap().iter().map(|group| group["id"].as_str().unwrap()).collect();
    assert_eq!(ids[2], "59a93a4f", "the same in every release");

    // One line for each, then the details of one.
    let said =
        says(&scene, &["groups"], 0, &["0       20    malformed    `payload.list.#` is NaN"]);
    assert_eq!(said.lines().count(), 6, "{said}");
    let said = says(
        &scene,
        &["groups", ids[0], "--older-than", "1s"],
        0,
        &["20 events", "such as", "dead (20)"],
    );
    for command in said.lines().filter(|line| line.contains("--all")) {
        assert!(command.contains(&format!("--older-than 1s --group {}", ids[0])), "{command}");
    }
    assert_eq!(json(&scene, &["list", "--group", ids[1]])["total"], 2);
    assert_eq!(
        json(&scene, &["list", "--group", ids[0], "--limit", "15", "--page", "2"])["events"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    assert_eq!(json(&scene, &["list", "--group", ids[2]])["events"][0]["group"], ids[2]);
    says(&scene, &["groups", "00000000"], 1, &["no stuck event of group 00000000"]);
    says(&scene, &["groups", "x"], 64, &["8 hexadecimal digits"]);

    says(&scene, &["discard", "--all", "--group", ids[2], "--yes"], 0, &["1 event discarded"]);
    says(&scene, &["retry-now", "--all", "--group", ids[0], "--yes"], 0, &["20 events due now"]);
    assert_eq!(
        scene
            .events
            .count_documents(
                doc! { "retryRequestedAt": { "$ne": null }, "_id": { "$regex": "^n" } }
            )
            .await
            .unwrap(),
        20
    );
    assert_eq!(json(&scene, &["audit"])[0]["selection"], format!("--all --group {}", ids[0]));
    assert_eq!(count(&scene).await, 22);
}

#[tokio::test]
async fn a_discard_of_everything_is_counted_and_leaves_healthy_events() {
    let scene = Scene::new().await;
    insert(
        &scene,
        (0..3).map(|n| {
            with(failed(&scene, format!("f{n}"), "timeout", "no ack"), doc! { "key": "k" })
        }),
    )
    .await;
    insert(
        &scene,
        [
            dead(failed(&scene, "d", "malformed", "e")),
            parked(&scene, "p1", "k"),
            parked(&scene, "p2", "k"),
        ],
    )
    .await;

    for wide in [&["--subject", ">"][..], &["--subject", "*"], &["--older-than", "0s"], &[]] {
        let args = [&["discard", "--all", "--yes"], wide].concat();
        let code = if wide == ["--subject", "*"] { 0 } else { 64 };
        says(&scene, &args, code, &[]);
    }
    assert_eq!(count(&scene).await, 6);
    let shown = [
        "4 events in all: failed (3), dead (1)",
        "timeout (3), malformed (1)",
        "keys      k (3), - (1)",
        "2 events also match, but only wait behind",
    ];
    says(&scene, &["discard", "--all", "--dry-run"], 0, &shown);
    says(
        &scene,
        &["discard", "--all", "--count", "6", "--yes"],
        64,
        &["4 events match; nothing is done"],
    );
    says(
        &scene,
        &["discard", "--all", "--key", "k", "--dry-run"],
        0,
        &["3 events in all", "2 events also match"],
    );
    says(
        &scene,
        &["discard", "--all", "--key", "k", "--parked", "--dry-run"],
        0,
        &["2 events in all: parked (2)"],
    );

    // A person types the number, and nothing else will do.
    for typed in ["y\n", "5\n", "\n"] {
        let (code, said) = on_terminal(&scene, &["discard", "--all"], 80, typed);
        assert!(code == Some(0) && said.contains("nothing is done"), "{typed:?}: {said}");
    }
    assert_eq!(count(&scene).await, 6);
    let (code, said) = on_terminal(&scene, &["discard", "--all"], 80, "4\n");
    assert!(code == Some(0) && said.contains("4 events discarded"), "{said}");
    assert_eq!(count(&scene).await, 2);
    says(&scene, &["discard", "p1", "--reason", "by name"], 0, &["1 event discarded"]);
    says(&scene, &["discard", "--all", "--parked", "--yes"], 0, &["1 event discarded"]);
    assert_eq!(json(&scene, &["audit"]).as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_filter_that_can_match_nothing_is_an_error() {
    let scene = Scene::new().await;
    insert(
        &scene,
        [with(failed(&scene, "a", "made-up", "e"), doc! { "subject": "tickets.a.b.c" })],
    )
    .await;
    for verb in [
        &["list"][..],
        &["groups"],
        &["retry-now", "--all", "--dry-run"],
        &["discard", "--all", "--dry-run"],
    ] {
        for (filter, why) in [
            (&["--code", "not-coverd"][..], "did you mean not-covered?"),
            (&["--parked", "--code", "timeout"], "has not failed"),
            (&["--subject", "a b"], "matches no subject"),
            (&["--code", "malformed", "--class", "config"], "of class poison"),
        ] {
            says(&scene, &[verb, filter].concat(), 64, &[why]);
        }
        // What is there is found, whatever its code.
        says(&scene, &[verb, &["--code", "made-up"]].concat(), 0, &["made-up"]);
        says(&scene, &[verb, &["--code", "10999"]].concat(), 0, &["no "]);
    }
    for (subject, found) in [
        ("tickets.>", 1),
        ("tickets.*.b.c", 1),
        ("tickets.*", 0),
        (">", 1),
        ("*.*.*.*", 1),
        ("tick*", 1),
        ("tickets.a.b.c", 1),
        ("tickets.a.b.c.>", 0),
    ] {
        assert_eq!(json(&scene, &["list", "--subject", subject])["total"], found, "{subject}");
    }
}

#[tokio::test]
async fn an_unknown_id_is_named_and_stops_no_other() {
    let scene = Scene::new().await;
    insert(
        &scene,
        [dead(failed(&scene, "a", "malformed", "e")), dead(failed(&scene, "b", "malformed", "e"))],
    )
    .await;
    let locked = doc! { "_id": "l", "ts": Timestamp { time: 1, increment: 1 }, "subject": "a", "payload": {}, "isLocked": true };
    insert(&scene, [locked]).await;

    let named = ["x is not in the outbox", "l is locked", "1 event due now", "2 ids were skipped"];
    says(&scene, &["retry-now", "a", "x", "l"], 1, &named);
    says(&scene, &["discard", "nobody"], 1, &["nobody is not in the outbox"]);
    says(&scene, &["discard", "b", "y"], 1, &["y is not in the outbox", "1 event discarded"]);
    says(&scene, &["discard", "a", "--dead"], 1, &["a is failed, so the filters exclude it"]);
    assert_eq!(count(&scene).await, 2);
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// A scene whose stream takes `covered` alone, with a relay that gives up at once.
async fn relayed() -> (Scene, Relay) {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", covered.as_str()),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "1"),
        // Nothing is tried again by itself.
        ("OUTBOXD_RETRY__CRON", "0 0 0 1 1 *"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    (scene, relay)
}

fn event(scene: &Scene, subject: &str, key: &str, number: u32) -> outboxd_client::Event {
    outboxd_client::Event::new(scene.subject(subject), &doc! { "key": key, "number": number })
        .unwrap()
        .key(key)
        .unwrap()
}

async fn are_dead(scene: &Scene, events: u64) {
    until("they are dead", async || {
        let dead = doc! { "deadAt": { "$type": "date" } };
        (scene.events.count_documents(dead).await.unwrap() == events).then_some(())
    })
    .await;
}

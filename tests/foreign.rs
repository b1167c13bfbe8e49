//! What an operator looks at was written by anybody: queries are bounded, what is printed is visible,
//! and what is printed to be pasted means what it says.

use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;

use bson::{Bson, DateTime, Document, doc};

use crate::support::{NatsServer, OUTBOXD, ReplicaSet, Scene, outboxd};

fn dead(id: impl Into<Bson>, others: Document) -> Document {
    let mut event = doc! {
        "_id": id.into(), "ts": bson::Timestamp { time: 1, increment: 1 }, "subject": "a",
        "payload": {}, "isLocked": false, "deadAt": DateTime::now(),
        "failures": [{ "at": DateTime::now(), "class": "config", "code": "c", "error": "e 1" }],
    };
    event.extend(others);
    event
}

fn failure(error: impl Into<Bson>) -> Document {
    let error = error.into();
    doc! { "failures": [{ "at": DateTime::now(), "class": "x", "code": "y", "error": error }] }
}

fn ids_of_groups(scene: &Scene) -> Vec<String> {
    let (code, said) = outboxd(scene, &["groups", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let groups: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    groups.iter().map(|group| group["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn documents_of_any_size_and_type_are_looked_at() {
    let scene = Scene::new().await;
    let huge = (15 << 20) + 1000;
    let events = [
        dead("text", failure("1 ".repeat(huge / 2))),
        dead("text2", failure("1 ".repeat(51_200))),
        dead("marks", failure("a1b 2\u{202e} ".repeat(200_000))),
        dead("many", doc! { "failures": vec![doc! { "code": 1 }; 500_000] }),
        dead("field", doc! { "other": "x".repeat(huge) }),
        dead("subject", doc! { "subject": "x".repeat(huge), "key": "k" }),
        dead("key", doc! { "key": "x".repeat(huge / 2), "headers": { "a": "x".repeat(huge / 2) } }),
        dead("code", doc! { "failures": [{ "code": "x".repeat(huge), "at": "x", "class": [] }] }),
        dead(doc! { "a": "x".repeat(huge / 2) }, failure("e")),
        dead(Bson::MaxKey, failure(Bson::MinKey)),
        dead(f64::NAN, failure(vec![Bson::Null])),
        dead(true, doc! { "failures": { "0": 1 }, "attempts": "x", "nextAttemptAt": 5 }),
    ];
    for event in events {
        scene.events.insert_one(event).bypass_document_validation(true).await.unwrap();
    }

    for args in [
        &["groups"][..],
        &["groups", "--output", "json"],
        &["list"],
        &["list", "--output", "json"],
        &["stats"],
        &["show", "text"],
        &["show", "many"],
        &["watch", "--count", "1"],
        &["retry-now", "--all", "--dry-run"],
    ] {
        let began = Instant::now();
        let (code, said) = outboxd(&scene, args);
        assert_eq!(code, Some(0), "{args:?}: {}", &said[..said.len().min(500)]);
        // The server would need minutes for the largest text if it took out the numbers.
        assert!(began.elapsed().as_secs() < 60, "{args:?}");
        assert!(!said.contains('\u{202e}'), "{args:?}");
    }

    let (_, said) = outboxd(&scene, &["list"]);
    assert!(said.contains("12 of 12"), "{said}");
    let (code, said) = outboxd(&scene, &["discard", "--all", "--dead", "--yes"]);
    assert!(code == Some(0) && said.contains("12 events discarded"), "{code:?}");
}

#[tokio::test]
async fn what_is_printed_to_be_pasted_means_what_it_says() {
    let scene = Scene::new().await;
    let ids = ["--all", "--yes", "-h", "--", "-", "--config=x", "$(reboot)", "a;b", "'q"];
    for (number, id) in ids.iter().enumerate() {
        let code = format!("--code{number}");
        let others = doc! { "failures": [{ "class": "config", "code": code, "error": "e" }] };
        scene.events.insert_one(dead(*id, others)).await.unwrap();
    }
    scene.events.insert_one(dead("other", doc! {})).await.unwrap();

    let env = scene.env_of("discard");
    let pasted = |line: &str| {
        let line = line.replacen("outboxd", OUTBOXD, 1);
        let output = Command::new("sh").args(["-c", &line]).env_clear().envs(env.clone()).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };

    let groups: Vec<String> = ids_of_groups(&scene);
    let groups = groups.iter().map(|id| outboxd(&scene, &["groups", id]).1);
    for line in groups.collect::<String>().lines().filter(|line| line.contains("look at one")) {
        let command = line.split_once("look at one   ").unwrap().1;
        let (code, said) = pasted(command);
        assert!(code == Some(0) && said.contains("what to do"), "{command}: {said}");
        // The advice has commands as well.
        let discard = said.rsplit('`').nth(1).unwrap();
        assert!(discard.starts_with("outboxd discard"), "{said}");
        let (code, said) = pasted(discard);
        assert!(code == Some(0) && said.contains("1 event discarded"), "{discard}: {said}");
    }
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn commands_of_a_hostile_code_select_its_events_alone() {
    let scene = Scene::new().await;
    for (id, code) in [("a", "--all"), ("b", "-y"), ("c", "fine")] {
        let others = doc! { "failures": [{ "class": "config", "code": code, "error": "e" }] };
        scene.events.insert_one(dead(id, others)).await.unwrap();
    }
    for (number, id) in ids_of_groups(&scene).iter().enumerate() {
        let (_, group) = outboxd(&scene, &["groups", id]);
        let wanted = format!("discard --all --group {id} ");
        assert!(group.contains(&wanted), "{wanted}: {group}");
        let mut args: Vec<&str> = wanted.split_whitespace().collect();
        args.push("--yes");
        let (exit, said) = outboxd(&scene, &args);
        assert!(exit == Some(0) && said.contains("1 event discarded"), "{said}");
        let left = scene.events.count_documents(doc! {}).await.unwrap();
        assert_eq!(left, 2 - number as u64, "{said}");
    }
    // The codes themselves, as values of an option.
    for (id, code) in [("a", "--all"), ("b", "-y"), ("c", "fine")] {
        let others = doc! { "failures": [{ "class": "config", "code": code, "error": "e" }] };
        scene.events.insert_one(dead(id, others)).await.unwrap();
        let code = format!("--code={code}");
        let (exit, said) = outboxd(&scene, &["discard", "--all", &code, "--yes"]);
        assert!(exit == Some(0) && said.contains("1 event discarded"), "{said}");
    }
}

#[tokio::test]
async fn characters_that_are_not_seen_reach_no_terminal() {
    let scene = Scene::new().await;
    let hidden = "\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{ad}\u{e0041}\u{e000}\u{9b}";
    let with = |text: &str| format!("{text}{hidden}");
    let others = doc! {
        "subject": with("s"), "key": with("k"), with("name"): with("value"),
        "failures": [{
            "at": DateTime::now(), "class": with("c"), "code": with("c"), "error": with("e"),
            "relay": with("r"),
        }],
    };
    let event = dead(with("id"), others);
    scene.events.insert_one(event).bypass_document_validation(true).await.unwrap();
    outboxd(&scene, &["retry-now", "--all", "--yes", "--dry-run", "--reason", &with("why")]);

    let id = with("id");
    for args in [
        &["stats"][..],
        &["list"],
        &["groups"],
        &["show", &id, "--payload"],
        &["show", &id, "--output", "json"],
        &["list", "--output", "json"],
        &["groups", "--output", "json"],
        &["stats", "--output", "json"],
        &["show", &with("nobody")],
        &["discard", &id, "--reason", &with("why")],
        &["audit"],
        &["audit", "--output", "json"],
    ] {
        let (_, said) = outboxd(&scene, args);
        assert!(!said.chars().any(|c| hidden.contains(c)), "{args:?}: {said:?}");
    }
}

/// An operator looks when a server is overloaded, too. One that answers late is waited for.
#[tokio::test]
async fn a_server_that_does_not_answer_for_a_while_is_waited_for() {
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let scene = Scene::reached(set.uri(), nats.url.clone(), ConnectOptions::new()).await;
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    scene.events.insert_one(dead("a", doc! {})).bypass_document_validation(true).await.unwrap();

    set.pause(0);
    let env = scene.env_of("groups");
    let groups = tokio::process::Command::new(OUTBOXD)
        .args(["groups", "--output", "json"])
        .env_clear()
        .envs(env)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Longer than the driver waits for a connection, and for a server to be of use.
    tokio::time::sleep(Duration::from_secs(8)).await;
    set.resume(0);

    let output = groups.wait_with_output().await.unwrap();
    let [out, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("MongoDB does not answer; waiting for it"), "{said}");
    let groups: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(groups[0]["events"], 1, "{groups}");
}

//! Several outboxes in one daemon: each has what a daemon of its own would give it.

mod apart;
mod console;
mod followed;
mod found;
mod idle;
mod lines;
pub(crate) mod scene;
mod shared;

use bson::doc;
use serde_json::Value;

use self::scene::Fleet;
use crate::support::{OUTBOXD, Relay, until};

async fn get(relay: &Relay, path: &str) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer =
        reqwest::get(format!("http://{}{path}", relay.admin().await)).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("its text"))
}

async fn get_json(relay: &Relay, path: &str) -> (u16, Value) {
    let (code, text) = get(relay, path).await;
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn each_outbox_is_relayed_and_reported_by_its_name() {
    let fleet = Fleet::migrated(3).await;
    let relay = fleet.run("");
    for (at, scene) in fleet.scenes.iter().enumerate() {
        let events = (0..20).map(|n| fleet.first().event(&format!("k{at}"), n));
        scene.commit(events).await;
    }
    fleet.drained().await;

    let numbers = fleet.first().numbers().await;
    assert_eq!(numbers.len(), 3);
    assert!(numbers.values().all(|numbers| numbers.iter().copied().eq(0..20)), "{numbers:?}");

    let (_, metrics) = get(&relay, "/metrics").await;
    for name in fleet.names() {
        let published = format!("outboxd_events_published_total{{outbox=\"{name}\"}} 20");
        assert!(metrics.contains(&published), "no {published} in:\n{metrics}");
    }

    let (code, ready) = get_json(&relay, "/readyz").await;
    let outboxes = ready["outboxes"].as_object().expect("an entry for each");
    assert_eq!((code, outboxes.len(), &ready["ready"]), (200, 3, &true.into()));
    assert!(outboxes.values().all(|outbox| outbox["ready"] == true), "{ready}");

    let (code, status) = get_json(&relay, "/status").await;
    let listed: Vec<_> =
        status.as_array().unwrap().iter().map(|of| of["outbox"].as_str().unwrap()).collect();
    let mut names = fleet.names();
    names.sort();
    assert_eq!((code, listed), (200, names.iter().map(String::as_str).collect::<Vec<_>>()));
    let (code, one) = get_json(&relay, &format!("/status?outbox={}", names[1])).await;
    assert_eq!((code, &one["backlog"]), (200, &0.into()));
    assert_eq!(get(&relay, "/status?outbox=none").await.0, 404);
}

#[tokio::test]
async fn an_outbox_that_cannot_be_relayed_holds_up_no_other_and_is_tried_again() {
    let fleet = Fleet::migrated(1).await.with_bare().await;
    let relay = fleet.run("");
    let (good, bare) = (&fleet.scenes[0], &fleet.scenes[1]);
    relay.says("the outbox cannot be relayed").await;
    good.commit([fleet.first().event("k", 1)]).await;
    good.drained().await;

    let ready = until("what is wrong is reported", async || {
        let (code, ready) = get_json(&relay, "/readyz").await;
        assert_eq!(code, 200, "one outbox is ready: {ready}");
        let problem = &ready["outboxes"][&fleet.names()[1]]["problem"];
        problem.is_string().then(|| problem.to_string())
    })
    .await;
    assert!(ready.contains("outboxd migrate"), "{ready}");

    let (code, said) = fleet.outboxd("migrate", &["--outbox", &bare.name]);
    assert_eq!(code, Some(0), "{said}");
    let other = format!("MongoDB outbox {}.", good.name);
    assert!(!said.contains(&other), "it was not meant: {said}");
    bare.commit([fleet.first().event("other", 1)]).await;
    bare.drained().await;
}

#[tokio::test]
async fn outboxes_come_and_go_with_a_reload() {
    let fleet = Fleet::migrated(3).await;
    let file = fleet.file("run", 0..2, "");
    let relay = fleet.run_with(&file);
    for scene in &fleet.scenes[..2] {
        scene.commit([fleet.first().event(&scene.name, 1)]).await;
        scene.drained().await;
    }

    std::fs::write(&file, fleet.tables("run", 1..3)).expect("the file is written");
    relay.signal("-HUP");
    relay.says("the outbox is not relayed any more").await;
    for scene in &fleet.scenes[1..] {
        scene.commit([fleet.first().event(&scene.name, 2)]).await;
        scene.drained().await;
    }

    let (_, ready) = get_json(&relay, "/readyz").await;
    let outboxes = ready["outboxes"].as_object().expect("an entry for each");
    assert!(!outboxes.contains_key(&fleet.names()[0]) && outboxes.len() == 2, "{ready}");
    fleet.scenes[0].commit([fleet.first().event("k", 3)]).await;
    let left = fleet.scenes[0].events.count_documents(doc! {}).await.expect("a count");
    assert_eq!(left, 1, "nobody relays it");
}

#[tokio::test]
async fn verbs_show_the_fleet_or_the_outbox_that_is_named() {
    let fleet = Fleet::migrated(2).await;
    let [good, bad] = &fleet.scenes[..] else { panic!("two outboxes") };
    let dead = doc! { "_id": "bad", "subject": "a b", "payload": "x", "isLocked": true };
    bad.events.insert_one(dead).bypass_document_validation(true).await.expect("an event");
    let _relay = fleet.run("");
    until("it is dead", async || bad.one(doc! { "deadAt": { "$ne": null } }).await).await;

    let (code, said) = fleet.outboxd("stats", &["--output", "json"]);
    let rows: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, rows.as_array().map(Vec::len)), (Some(0), Some(2)));
    assert_eq!(
        (&rows[0]["outbox"], &rows[0]["dead"]),
        (&fleet.names()[1].clone().into(), &1.into())
    );

    let (code, said) = fleet.outboxd("stats", &["--outbox", &good.name]);
    assert!(code == Some(0) && said.starts_with(&format!("outbox {}", fleet.names()[0])), "{said}");
    let (code, said) = fleet.outboxd("groups", &[]);
    assert!(code == Some(0) && said.contains(&fleet.names()[1]), "{said}");
    assert!(!said.contains(&good.name), "it has no groups: {said}");
    let (_, said) = fleet.outboxd("watch", &["--count", "1"]);
    assert!(said.starts_with("2 outboxes") && said.contains(&fleet.names()[0]), "{said}");

    let (code, said) = fleet.outboxd("list", &[]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("there are 2 outboxes") && said.contains(&fleet.names()[1]), "{said}");
    let (code, said) = fleet.outboxd("list", &["--outbox", &fleet.names()[1]]);
    assert!(code == Some(0) && said.contains("bad"), "{said}");
    let (code, said) = fleet.outboxd("list", &["--outbox", "none"]);
    assert!(code == Some(64) && said.contains("--outbox none"), "{said}");
    let (code, said) = fleet.outboxd("discard", &["bad", "--outbox", &bad.name, "--yes"]);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_relay_of_one_outbox_of_a_fleet_leaves_the_others_alone() {
    let fleet = Fleet::migrated(2).await;
    let file = fleet.file("run", 0..2, "");
    let relay = Relay::start_with(fleet.first(), &[("OUTBOXD_CONFIG", &file)], |command| {
        command.args(["--outbox", &fleet.scenes[1].name]);
    });
    fleet.scenes[1].commit([fleet.first().event("k", 1)]).await;
    fleet.scenes[1].drained().await;

    let (_, ready) = get_json(&relay, "/readyz").await;
    assert_eq!(ready["outboxes"].as_object().map(serde_json::Map::len), Some(1), "{ready}");
}

/// What `outboxd config check` says of this file.
fn checked(text: &str) -> std::process::Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("the file is written");
    std::process::Command::new(OUTBOXD)
        .args(["config", "check"])
        .arg(file.path())
        .env_clear()
        .output()
        .expect("outboxd runs")
}

#[test]
fn what_every_table_lacks_is_missing_once() {
    let text = "[[outbox]]\ndatabase = \"a\"\n[[outbox]]\ndatabase = \"b\"\nstream = \"B\"\n";
    let output = checked(text);

    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches("mongodb.uri: is not set").count(), 1, "{said}");
    assert!(said.contains("\n  mongodb.uri: is not set"), "{said}");
    assert!(said.contains("\n  outbox[0].stream.name: is not set"), "{said}");
}

#[test]
fn a_mistake_names_its_table() {
    let text = "[stream]\nname = \"S\"\nsubjects = [\"s.>\"]\n\
                [[outbox]]\ndatabase = \"a\"\n\
                [[outbox]]\ndatabase = \"b\"\nstream = \"A B\"\nlog.level = \"debug\"\n\
                [[outbox]]\ndatabase = \"a\"\nmongodb.database = \"c\"\n\
                [[outbox]]\ndatabase = \"b\"\ncolection = \"d\"\n";
    let output = checked(text);

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for wanted in [
        "outbox[1].stream.name: a stream's name has no spaces",
        "outbox[1].log.level: all tables share `log.level`; set it outside of them",
        "outbox[2].mongodb.database",
        "outbox[3].colection: there is no such setting",
        "outbox[3]: outbox[1] has the outbox b.outbox, too; keep one",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
}

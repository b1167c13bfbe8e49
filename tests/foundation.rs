//! What lies under an outbox: MongoDB that deletes events by itself, refuses some, or takes two ids
//! for one. Each does on a real server what `check` reports; where events are lost, `migrate` and
//! `run` refuse, and the line that they print fixes it.

mod collation; // keys and ids that the collection takes for one are two

use std::time::Duration;

use bson::{Bson, DateTime, Document, Timestamp, doc};
use serde_json::Value;

use crate::support::{Relay, Scene, outboxd, outboxd_with, until};

const EXPIRY: &str = "outbox.expiry";
const COLLECTION: &str = "outbox.collection";
const OTHERS: &str = "outbox.other_indexes";
/// What is wrong with the configuration, or with what it names.
const CONFIG: Option<i32> = Some(78);

/// An event as a writer inserts it.
fn event(scene: &Scene, id: impl Into<Bson>, key: &str) -> Document {
    doc! {
        "_id": id, "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject("made"),
        "key": key, "payload": { "key": key, "number": 1 }, "isLocked": true, "failures": [],
    }
}

/// The findings of one check: level, what was found, remedy.
fn findings(scene: &Scene, settings: &[(&str, &str)], name: &str) -> Vec<(String, String, String)> {
    let (_, output) = outboxd_with(scene, &["check", "--output", "json"], settings);
    let all: Vec<Value> =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    all.iter()
        .filter(|finding| finding["check"] == name)
        .map(|finding| (text(finding, "level"), text(finding, "found"), text(finding, "remedy")))
        .collect()
}

/// The only finding of a check; asserts its level and a part of what was found.
#[track_caller]
fn finding(scene: &Scene, name: &str, level: &str, part: &str) -> String {
    let mut all = findings(scene, &[], name);
    assert_eq!(all.len(), 1, "{all:?}");
    let (found_level, found, remedy) = all.remove(0);
    assert!(found_level == level && found.contains(part), "{level} {part}: {found_level} {found}");
    remedy
}

/// `migrate` and `run` refuse, and print each line of the remedy.
#[track_caller]
fn refused(scene: &Scene, remedy: &str) {
    for verb in ["migrate", "run"] {
        let (code, output) = outboxd(scene, &[verb]);
        assert_eq!(code, CONFIG, "{verb}: {output}");
        assert!(output.contains("would lose events"), "{verb}: {output}");
        remedy.lines().for_each(|line| assert!(output.contains(line), "{line} in {output}"));
    }
}

#[track_caller]
fn migrated(scene: &Scene) {
    let (code, output) = outboxd(scene, &["migrate"]);
    assert_eq!(code, Some(0), "{output}");
}

/// MongoDB looks for expired documents each second from now on, on behalf of any test.
async fn expire_soon(scene: &Scene) {
    let often = doc! { "setParameter": 1, "ttlMonitorSleepSecs": 1 };
    scene.client.database("admin").run_command(often).await.unwrap();
}

async fn index(scene: &Scene, spec: Document) {
    scene
        .database
        .run_command(doc! { "createIndexes": "outbox", "indexes": [spec] })
        .await
        .unwrap();
}

async fn emptied(scene: &Scene) {
    until("MongoDB has deleted the event", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ttl_index_deletes_unpublished_events_and_nothing_starts_on_it() {
    let scene = Scene::new().await;
    expire_soon(&scene).await;
    let name = scene.name.clone();
    for spec in [
        doc! { "name": "createdAt_1", "key": { "createdAt": 1 }, "expireAfterSeconds": 1 },
        doc! {
            "name": "hidden", "key": { "createdAt": 1 }, "expireAfterSeconds": 1, "hidden": true,
        },
        doc! {
            "name": "partial", "key": { "createdAt": -1 }, "expireAfterSeconds": 1,
            "partialFilterExpression": { "isLocked": true },
        },
    ] {
        let called = spec.get_str("name").unwrap().to_owned();
        index(&scene, spec).await;
        let mut event = event(&scene, "e", "k");
        event.insert("createdAt", DateTime::now());
        scene.events.insert_one(event).await.unwrap();
        emptied(&scene).await;

        let remedy =
            finding(&scene, EXPIRY, "fail", &format!("the TTL index {called} on createdAt"));
        let line = format!("db.getSiblingDB(\"{name}\").outbox.dropIndex(\"{called}\")");
        assert_eq!(remedy, format!("mongosh> {line}"));
        refused(&scene, &remedy);
        scene.events.drop_index(called).await.unwrap();
    }
    finding(&scene, EXPIRY, "ok", "no event by itself");
    let relay = Relay::leading(&scene, &[]).await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn an_index_on_a_field_of_the_relays_own_expires_too() {
    let scene = Scene::new().await;
    index(&scene, doc! { "name": "dead", "key": { "deadAt": 1 } }).await;
    finding(&scene, EXPIRY, "ok", "");
    let expire = doc! { "name": "dead", "expireAfterSeconds": 1 };
    scene.database.run_command(doc! { "collMod": "outbox", "index": expire }).await.unwrap();
    expire_soon(&scene).await;
    let mut dead = event(&scene, "e", "k");
    dead.insert("isLocked", false);
    dead.insert("deadAt", DateTime::now());
    scene.events.insert_one(dead).await.unwrap();
    emptied(&scene).await;
    refused(&scene, &finding(&scene, EXPIRY, "fail", "the TTL index dead on deadAt"));
}

#[tokio::test]
async fn a_clustered_collection_expires_until_the_remedy_was_run() {
    let scene = Scene::bare().await;
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    let create = doc! { "create": "outbox", "clusteredIndex": clustered, "expireAfterSeconds": 60 };
    scene.database.run_command(create).await.unwrap();
    let remedy = finding(&scene, EXPIRY, "fail", "it is clustered and makes MongoDB delete");
    let off = format!(
        "mongosh> db.getSiblingDB(\"{}\").runCommand({{collMod: \"outbox\", expireAfterSeconds: \
         \"off\"}})",
        scene.name
    );
    assert_eq!(remedy, off);
    refused(&scene, &remedy);

    let off = doc! { "collMod": "outbox", "expireAfterSeconds": "off" };
    scene.database.run_command(off).await.unwrap();
    migrated(&scene);
    finding(&scene, COLLECTION, "warn", "it is clustered: with ids that don't rise");
    let relay = Relay::leading(&scene, &[]).await;
    scene.events.insert_one(event(&scene, "b", "k")).await.unwrap();
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_capped_collection_is_replaced_by_its_remedy_with_all_that_waits() {
    let scene = Scene::bare().await;
    let create = doc! { "create": "outbox", "capped": true, "size": 1 << 20, "max": 3 };
    scene.database.run_command(create).await.unwrap();
    for id in ["a", "b", "c", "d"] {
        scene.events.insert_one(event(&scene, id, "k")).await.unwrap();
    }
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 3, "one is gone");
    let remedy = finding(&scene, EXPIRY, "fail", "it is capped");
    refused(&scene, &remedy);

    let lines: Vec<_> = remedy.lines().collect();
    let db = format!("mongosh> db.getSiblingDB(\"{}\")", scene.name);
    assert!(lines[0].starts_with(&format!("{db}.outbox.renameCollection(\"outbox_old\")")));
    assert_eq!(lines[3], format!("{db}.outbox_old.aggregate([{{$merge: \"outbox\"}}])"));
    let name = |collection: &str| format!("{}.{collection}", scene.name);
    let rename = doc! { "renameCollection": name("outbox"), "to": name("outbox_old") };
    scene.client.database("admin").run_command(rename).await.unwrap();
    migrated(&scene);
    let old = scene.database.collection::<Document>("outbox_old");
    old.aggregate([doc! { "$merge": "outbox" }]).await.unwrap();

    let relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 3);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn what_is_no_collection_is_refused() {
    for (create, part) in [
        (doc! { "create": "outbox", "viewOn": "other", "pipeline": [] }, "it is a view"),
        (doc! { "create": "outbox", "timeseries": { "timeField": "t" } }, "it is a time series"),
    ] {
        let scene = Scene::bare().await;
        scene.database.run_command(create).await.unwrap();
        let remedy = finding(&scene, COLLECTION, "fail", part);
        assert_eq!(
            remedy,
            "environment: OUTBOXD_MONGODB__COLLECTION=outbox_events\n$ outboxd migrate"
        );
        refused(&scene, &remedy);
    }
}

#[tokio::test]
async fn databases_and_names_of_others_are_refused_before_anything_is_written() {
    let scene = Scene::bare().await;
    for (setting, value, part) in [
        ("OUTBOXD_MONGODB__DATABASE", "admin", "the database admin is the server's own"),
        ("OUTBOXD_MONGODB__DATABASE", "config", "the database config is the server's own"),
        ("OUTBOXD_MONGODB__DATABASE", "local", "the database local is the server's own"),
        ("OUTBOXD_MONGODB__COLLECTION", "system.outbox", "is the server's own"),
        ("OUTBOXD_MONGODB__COLLECTION", "outboxd_lease", "is outboxd's own"),
        ("OUTBOXD_MONGODB__COLLECTION", "a_scheduled", "the scheduled events of the outbox a"),
        ("OUTBOXD_MONGODB__COLLECTION", "a_published", "the kept events of the outbox a"),
    ] {
        let settings = [(setting, value)];
        for verb in ["migrate", "run"] {
            let (code, output) = outboxd_with(&scene, &[verb], &settings);
            assert_eq!(code, CONFIG, "{verb}: {output}");
            assert!(output.contains(part) && output.contains("environment: "), "{output}");
        }
        let found = findings(&scene, &settings, COLLECTION);
        assert!(found[0].0 == "fail" && found[0].1.contains(part), "{found:?}");
    }
    assert!(scene.database.list_collection_names().await.unwrap().is_empty());
}

#[tokio::test]
async fn unique_indexes_of_others_refuse_writers_and_marks_and_hold_up_nobody() {
    let scene = Scene::new().await;
    index(&scene, doc! { "name": "one_per_key", "key": { "key": 1 }, "unique": true }).await;
    scene.events.insert_one(event(&scene, "a", "k")).await.unwrap();
    let twin = scene.events.insert_one(event(&scene, "b", "k")).await.unwrap_err();
    assert!(twin.to_string().contains("E11000"), "{twin}");
    let remedy = finding(&scene, OTHERS, "warn", "fails in its writer's transaction (E11000)");
    assert!(remedy.ends_with(".outbox.dropIndex(\"one_per_key\")"), "{remedy}");
    scene.events.drop_index("one_per_key").await.unwrap();
    scene.events.delete_many(doc! {}).await.unwrap();

    index(
        &scene,
        doc! {
            "name": "one_failed", "key": { "isLocked": 1 }, "unique": true,
            "partialFilterExpression": { "isLocked": false },
        },
    )
    .await;
    finding(&scene, OTHERS, "warn", "the relay can't mark a second event as failed");
    let relay = Relay::leading(&scene, &[]).await;
    scene.cover(&["made"]).await;
    for (id, key) in [("a", "1"), ("b", "2")] {
        let mut refused = event(&scene, id, key);
        refused.insert("subject", scene.subject("nowhere"));
        scene.events.insert_one(refused).await.unwrap();
    }
    until("one is marked", async || scene.one(doc! { "isLocked": false }).await).await;
    for (id, key) in [("c", "3"), ("d", "4")] {
        scene.events.insert_one(event(&scene, id, key)).await.unwrap();
    }
    until("the others are through", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 2).then_some(())
    })
    .await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn indexes_of_special_types_refuse_documents_and_ordinary_ones_do_not() {
    let scene = Scene::new().await;
    for spec in [
        doc! { "name": "ordinary", "key": { "payload.x": 1 }, "sparse": true },
        doc! { "name": "wildcard", "key": { "payload.$**": 1 } },
        doc! {
            "name": "partial", "key": { "subject": 1 }, "partialFilterExpression": { "key": "k" },
        },
        doc! { "name": "hashed", "key": { "key": "hashed" } },
        doc! { "name": "with_id", "key": { "key": 1, "_id": 1 }, "unique": true },
    ] {
        index(&scene, spec).await;
    }
    finding(&scene, OTHERS, "ok", "");
    let mut placed = event(&scene, "a", "k");
    placed.insert("payload", doc! { "at": [500, 500] });
    scene.events.insert_one(&placed).await.unwrap();
    scene.events.delete_many(doc! {}).await.unwrap();

    index(&scene, doc! { "name": "places", "key": { "payload.at": "2dsphere" } }).await;
    assert!(scene.events.insert_one(&placed).await.is_err());
    finding(&scene, OTHERS, "warn", "the index places on payload.at refuses some documents");
    scene.events.drop_index("places").await.unwrap();
    index(&scene, doc! { "name": "failed", "key": { "failures": "hashed" } }).await;
    assert!(scene.events.insert_one(event(&scene, "a", "k")).await.is_err());
    finding(&scene, OTHERS, "warn", "the index failed on failures");
}

#[tokio::test]
async fn what_costs_or_changes_events_is_reported() {
    let scene = Scene::new().await;
    let images = |enabled: bool| {
        doc! { "collMod": "outbox", "changeStreamPreAndPostImages": { "enabled": enabled } }
    };
    scene.database.run_command(images(true)).await.unwrap();
    let remedy = finding(&scene, COLLECTION, "warn", "changeStreamPreAndPostImages");
    assert!(remedy.contains("{enabled: false}"), "{remedy}");
    scene.database.run_command(images(false)).await.unwrap();
    finding(&scene, COLLECTION, "ok", "");

    let ttl = doc! { "name": "old", "key": { "at": 1 }, "expireAfterSeconds": 60 };
    scene
        .database
        .run_command(doc! { "createIndexes": "outboxd_lease", "indexes": [ttl] })
        .await
        .unwrap();
    let remedy =
        finding(&scene, COLLECTION, "warn", "the collection outboxd_lease has a TTL index");
    assert!(remedy.ends_with(".outboxd_lease.dropIndex(\"old\")"), "{remedy}");
    scene.database.collection::<Document>("outboxd_lease").drop_index("old").await.unwrap();

    // A layout of its own keeps the validator that was there.
    let known = doc! { "_id": {}, "aggregateid": {}, "payload": {} };
    let schema = doc! { "$jsonSchema": { "properties": known, "additionalProperties": false } };
    scene.database.run_command(doc! { "collMod": "outbox", "validator": schema }).await.unwrap();
    let found = findings(&scene, &[("OUTBOXD_EVENT__LAYOUT", "debezium")], COLLECTION).remove(0);
    assert!(found.0 == "warn" && found.1.contains("additionalProperties: false"), "{found:?}");
}

#[tokio::test]
async fn a_user_who_may_not_look_is_told_so() {
    let scene = Scene::new().await;
    let denied = doc! { "db": &scene.name, "collection": "" };
    let revoke = doc! {
        "revokePrivilegesFromRole": "outbox-relay",
        "privileges": [{ "resource": denied, "actions": ["listCollections"] }],
    };
    scene.database.run_command(revoke).await.unwrap();
    let relay = Relay::leading(&scene, &[]).await;
    assert!(relay.log().contains("may not list collections"), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_change_while_a_relay_runs_is_an_alert_once() {
    let scene = Scene::new().await;
    let settings = [("OUTBOXD_ALERTS__STUCK_AFTER", "2s")];
    let relay = Relay::leading(&scene, &settings).await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        max_messages_per_subject: 1,
        ..stream.cached_info().config.clone()
    };
    scene.context.update_stream(&config).await.unwrap();
    relay.says("the stream is risky: max_msgs_per_subject 1").await;

    index(&scene, doc! { "name": "ttl", "key": { "createdAt": 1 }, "expireAfterSeconds": 3600 })
        .await;
    relay.says("the outbox loses events: the TTL index ttl on createdAt").await;
    let alerts = || std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    until("the alert is there", async || alerts().contains("\"unsound\"").then_some(())).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;

    // It looks several times more before the next event is through.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(alerts().matches("\"unsound\"").count(), 1, "{}", alerts());
    assert_eq!(relay.log().matches("the stream is risky").count(), 1, "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

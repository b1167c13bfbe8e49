//! A collection with a default collation: keys and ids that it takes for one are two.

use bson::{Document, doc};

use super::{COLLECTION, event, finding, findings, index, migrated};
use crate::support::{Relay, Scene, outboxd, until};

/// A migrated scene whose outbox takes `a` and `A` for one.
async fn case_blind() -> Scene {
    let scene = Scene::bare().await;
    let collation = doc! { "locale": "en", "strength": 2 };
    let create = doc! { "create": "outbox", "collation": collation };
    scene.database.run_command(create).await.unwrap();
    migrated(&scene);
    scene
}

#[tokio::test]
async fn keys_that_the_collation_takes_for_one_are_two() {
    let scene = case_blind().await;
    let remedy = finding(&scene, COLLECTION, "warn", "its collation (en)");
    assert!(remedy.contains("renameCollection"), "{remedy}");
    assert_eq!(findings(&scene, &[], "outbox.index")[0].0, "ok");
    let indexes: Vec<Document> = scene
        .database
        .run_command(doc! { "listIndexes": "outbox" })
        .await
        .unwrap()
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap()
        .iter()
        .map(|index| index.as_document().unwrap().clone())
        .collect();
    for index in indexes {
        let is_ours = index.get_str("name").unwrap().starts_with("outboxd_");
        assert_eq!(index.contains_key("collation"), !is_ours, "{index}");
    }

    // One of `t1` is dead; one of `T1` fails until the stream takes its subject.
    let relay = Relay::leading(&scene, &[]).await;
    scene.cover(&["made"]).await;
    let mut malformed = event(&scene, "a", "t1");
    malformed.insert("payload", doc! { "x": f64::NAN });
    let mut late = event(&scene, "b", "T1");
    late.insert("subject", scene.subject("late"));
    scene.events.insert_many([malformed, late]).await.unwrap();
    until("both have failed", async || {
        let failed = doc! { "failures.0": { "$exists": true } };
        (scene.events.count_documents(failed).await.unwrap() == 2).then_some(())
    })
    .await;
    scene.cover(&["made", "late"]).await;
    until("only the dead one is left", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 1).then_some(())
    })
    .await;
    assert!(scene.one(doc! { "_id": "a" }).await.is_some());

    let (code, output) = outboxd(&scene, &["list", "--key", "T1"]);
    assert!(code == Some(0) && !output.contains("t1"), "{output}");
    for verb in ["show", "retry-now", "discard"] {
        let (code, output) = outboxd(&scene, &[verb, "A"]);
        assert_ne!(code, Some(0), "{verb}: {output}");
    }
    assert!(scene.one(doc! { "_id": "a" }).await.is_some(), "another id's discard");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn ids_that_the_collation_takes_for_one_are_two() {
    let scene = case_blind().await;
    scene.events.insert_one(event(&scene, "a", "k")).await.unwrap();
    let twin = scene.events.insert_one(event(&scene, "A", "k")).await.unwrap_err();
    assert!(twin.to_string().contains("E11000"), "{twin}");

    // A delete that is repeated late must not take the twin that was inserted since.
    let of_a = doc! { "_id": { "$in": ["a"] } };
    scene.events.delete_one(doc! { "_id": "a" }).await.unwrap();
    scene.events.insert_one(event(&scene, "A", "k")).await.unwrap();
    let relays = doc! {
        "delete": "outbox",
        "deletes": [{
            "q": of_a, "limit": 0, "hint": { "_id": 1 }, "collation": { "locale": "simple" },
        }],
    };
    let reply = scene.database.run_command(relays).await.unwrap();
    assert_eq!(reply.get_i32("n").unwrap(), 0);
    let relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn an_index_that_took_the_collation_or_was_hidden_is_replaced_by_the_remedy() {
    let scene = case_blind().await;
    scene.events.drop_index("outboxd_unlocked").await.unwrap();
    let (_, _, remedy) = findings(&scene, &[], "outbox.index").remove(0);
    let spec = remedy.split("indexes: [").nth(1).unwrap().trim_end_matches("]})");
    let wanted: Document = serde_json::from_str(spec).unwrap();
    let mut inherits = wanted.clone();
    inherits.remove("collation");
    index(&scene, inherits).await;
    let (level, found, _) = findings(&scene, &[], "outbox.index").remove(0);
    assert!(level == "fail" && found.contains("retries scan the whole outbox"), "{found}");

    scene.events.drop_index("outboxd_unlocked").await.unwrap();
    index(&scene, wanted).await;
    assert_eq!(findings(&scene, &[], "outbox.index")[0].0, "ok");
    let hide = doc! { "name": "outboxd_unlocked", "hidden": true };
    scene.database.run_command(doc! { "collMod": "outbox", "index": hide }).await.unwrap();
    assert_eq!(findings(&scene, &[], "outbox.index")[0].0, "fail");
}

/// What a command asks of an outbox, unless it compares no texts of it.
fn asks(command: &Document) -> bool {
    let Some((verb, _)) = command.iter().next() else { return false };
    let is_change_stream = command
        .get_array("pipeline")
        .is_ok_and(|stages| stages.iter().any(|stage| stage.to_string().contains("$changeStream")));

    match verb.as_str() {
        "find" => {
            let all = command.get_document("filter").is_ok_and(Document::is_empty);
            !all || command.contains_key("sort")
        }
        "distinct" | "findAndModify" | "q" => true,
        "aggregate" => !is_change_stream,
        "count" => command.contains_key("query"),
        _ => false,
    }
}

#[tokio::test]
async fn every_query_of_the_relay_and_of_every_verb_names_the_simple_collation() {
    let scene = case_blind().await;
    scene.database.run_command(doc! { "profile": 2 }).await.unwrap();
    let relay = Relay::leading(&scene, &[("OUTBOXD_SWEEP__INTERVAL", "1s")]).await;
    scene.cover(&["made"]).await;
    for (id, subject) in [("a", "made"), ("b", "nowhere"), ("c", "made"), ("d", "nowhere")] {
        let mut event = event(&scene, id, "k");
        event.insert("subject", scene.subject(subject));
        scene.events.insert_one(event).await.unwrap();
    }
    let mut malformed = event(&scene, "e", "other");
    malformed.insert("payload", doc! { "x": f64::NAN });
    scene.events.insert_one(malformed).await.unwrap();
    let mut session = scene.transaction().await;
    scene.events.insert_one(event(&scene, "f", "f")).session(&mut session).await.unwrap();
    let touched = doc! { "$set": { "payload.number": 2 } };
    scene.events.update_one(doc! { "_id": "f" }, touched).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    until("one is parked and one is dead", async || {
        let parked = scene.one(doc! { "_id": "c", "isLocked": false }).await?;
        let dead = scene.one(doc! { "deadAt": { "$type": "date" } }).await?;
        Some((parked, dead))
    })
    .await;
    for verb in [
        &["stats"][..],
        &["groups"],
        &["list", "--key", "k"],
        &["show", "b"],
        &["retry-now", "b"],
        &["discard", "d"],
        &["discard", "e"],
        &["audit"],
        &["check"],
        &["watch", "--count", "1"],
    ] {
        outboxd(&scene, verb);
    }
    assert_eq!(relay.stop(), Some(0));

    scene.database.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = scene.database.collection::<Document>("system.profile");
    let mut entries = profile.find(doc! { "appName": { "$regex": "^outboxd" } }).await.unwrap();
    let mut asked = 0;
    while entries.advance().await.unwrap() {
        let entry: Document = entries.deserialize_current().unwrap();
        let command = entry.get_document("command").unwrap();
        if asks(command) {
            let collation = command.get_document("collation").ok();
            let locale = collation.and_then(|collation| collation.get_str("locale").ok());
            assert_eq!(locale, Some("simple"), "{entry}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
}

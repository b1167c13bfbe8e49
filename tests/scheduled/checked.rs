//! `outboxd check` finds what keeps scheduled events from being moved, and each role has what it needs
//! for them and no more.

use std::time::{Duration, SystemTime};

use bson::{DateTime, Document, doc};
use mongodb::{Client, Database};
use outboxd_client::Event;
use serde_json::Value;

use super::{later, schedule, scheduled};
use crate::support::{Scene, outboxd_with};

const OFF: [(&str, &str); 1] = [("OUTBOXD_SCHEDULED__ENABLED", "false")];

fn findings(scene: &Scene, settings: &[(&str, &str)]) -> Vec<Value> {
    let (_, said) = outboxd_with(scene, &["check", "--output", "json"], settings);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Asserts that a finding of this check and level says and advises so.
#[track_caller]
fn finds(scene: &Scene, (check, level): (&str, &str), found: &str, remedy: &str) {
    let all = findings(scene, &[]);
    let is_it = |finding: &&Value| {
        let has =
            |name: &str, part: &str| finding[name].as_str().unwrap_or_default().contains(part);
        finding["check"] == check
            && finding["level"] == level
            && has("found", found)
            && has("remedy", remedy)
    };
    assert!(
        all.iter().any(|finding| is_it(&finding)),
        "no {check} says {found:?} and {remedy:?}: {all:#?}"
    );
}

fn passes(scene: &Scene, settings: &[(&str, &str)]) {
    let all = findings(scene, settings);
    assert!(all.iter().all(|finding| finding["level"] != "fail"), "{all:#?}");
}

/// Takes privileges away from the relay's role: on these collections, these actions.
async fn take_away(scene: &Scene, taken: &[(&str, &str)]) {
    let role = doc! { "rolesInfo": "outbox-relay", "showPrivileges": true };
    let info = scene.database.run_command(role).await.unwrap();
    let role = info.get_array("roles").unwrap()[0].as_document().unwrap();
    let mut privileges = Vec::new();
    for privilege in role.get_array("privileges").unwrap() {
        let mut privilege = privilege.as_document().unwrap().clone();
        let resource = privilege.get_document("resource").unwrap();
        let collection = resource.get_str("collection").unwrap_or_default().to_owned();
        let left: Vec<_> = privilege
            .get_array("actions")
            .unwrap()
            .iter()
            .filter(|action| !taken.contains(&(&collection, action.as_str().unwrap())))
            .cloned()
            .collect();
        privilege.insert("actions", left);
        privileges.push(privilege);
    }
    privileges.retain(|privilege| !privilege.get_array("actions").unwrap().is_empty());
    let update = doc! { "updateRole": "outbox-relay", "privileges": privileges };
    scene.database.run_command(update).await.unwrap();
}

#[tokio::test]
async fn a_lost_index_validator_or_collection_is_found() {
    let scene = Scene::new().await;
    passes(&scene, &[]);

    let drop = doc! { "dropIndexes": "outbox_scheduled", "index": "outboxd_due" };
    scene.database.run_command(drop).await.unwrap();
    finds(
        &scene,
        ("outbox.index", "fail"),
        "outboxd_due is missing",
        "createIndexes: \"outbox_scheduled\"",
    );

    let open = doc! { "collMod": "outbox_scheduled", "validator": {} };
    scene.database.run_command(open).await.unwrap();
    let differs = "the validator of outbox_scheduled is not the one";
    finds(&scene, ("outbox.validators", "fail"), differs, "0009_scheduled_collection");

    scheduled(&scene).drop().await.unwrap();
    let missing = "collection outbox_scheduled is missing";
    finds(&scene, ("outbox.validators", "fail"), missing, "$ outboxd migrate");
}

#[tokio::test]
async fn lateness_a_setting_that_delivers_nothing_and_a_subject_without_a_stream_are_found() {
    let scene = Scene::new().await;
    let elsewhere = Event::new("elsewhere.made", &doc! { "key": "k", "number": 1 }).unwrap();
    schedule(&scene, elsewhere, SystemTime::now() - Duration::from_secs(90)).await;
    let due = "1 scheduled events are due, and no relay has moved them";
    finds(&scene, ("outbox.scheduled", "warn"), due, "outboxd stats");
    finds(&scene, ("outbox.subjects", "warn"), "does not cover elsewhere.made", "nats stream edit");

    let off = findings(&scene, &OFF);
    let off = off.iter().find(|finding| finding["check"] == "outbox.scheduled").unwrap();
    assert_eq!(off["level"], "warn");
    assert!(off["found"].as_str().unwrap().contains("scheduled.enabled is false"), "{off}");
}

/// The collection loses events as an outbox would, so the relay doesn't start.
#[tokio::test]
async fn a_ttl_index_on_scheduled_events_is_refused() {
    let scene = Scene::new().await;
    let index = doc! {
        "key": { "deliverAt": 1 }, "name": "expires", "expireAfterSeconds": 3600,
    };
    let create = doc! { "createIndexes": "outbox_scheduled", "indexes": [index] };
    scene.database.run_command(create).await.unwrap();
    let drop = "outbox_scheduled.dropIndex(\"expires\")";
    finds(&scene, ("outbox.expiry", "fail"), "TTL index expires", drop);

    let (code, said) = outboxd_with(&scene, &["run"], &[]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("would lose events"), "{said}");
}

#[tokio::test]
async fn a_right_that_the_relay_lacks_is_found_unless_scheduling_is_off() {
    let scene = Scene::new().await;
    passes(&scene, &OFF);
    take_away(&scene, &[("outbox", "insert"), ("outbox_scheduled", "changeStream")]).await;
    let lacks =
        format!("lacks insert on {0}.outbox; changeStream on {0}.outbox_scheduled", scene.name);
    finds(&scene, ("mongodb.privileges", "fail"), &lacks, "scheduled.enabled = false");
    passes(&scene, &OFF);
}

#[tokio::test]
async fn the_relay_may_insert_events_only_while_scheduling_is_on() {
    let scene = Scene::new().await;
    let privileges = |settings: &[(&str, &str)]| -> Vec<Value> {
        let (code, said) = outboxd_with(&scene, &["privileges", "--output", "json"], settings);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let of = |all: &[Value], role: &str, collection: &str| -> Vec<String> {
        let role = all.iter().find(|printed| printed["role"] == role).unwrap();
        let privileges = role["mongodb"]["privileges"].as_array().unwrap().iter();
        let on = privileges.filter(|on| on["resource"]["collection"] == collection);
        let actions = on.flat_map(|on| on["actions"].as_array().unwrap().clone());
        actions.map(|action| action.as_str().unwrap().to_owned()).collect()
    };

    let on = privileges(&[]);
    assert!(of(&on, "relay", "outbox").contains(&"insert".to_owned()));
    assert_eq!(
        of(&on, "relay", "outbox_scheduled"),
        ["find", "changeStream", "update", "remove", "listIndexes"]
    );
    assert_eq!(of(&on, "writer", "outbox_scheduled"), ["find", "insert", "update", "remove"]);
    assert_eq!(of(&on, "writer", "outbox"), ["insert"]);

    let off = privileges(&OFF);
    assert!(!of(&off, "relay", "outbox").contains(&"insert".to_owned()));
    for role in ["relay", "operator", "writer"] {
        assert!(of(&off, role, "outbox_scheduled").is_empty(), "{role}");
    }

    let (_, said) = outboxd_with(&scene, &["privileges", "--role", "relay"], &[]);
    assert!(
        said.contains("insert into outbox") && said.contains("scheduled.enabled = false"),
        "{said}"
    );
    let (_, said) = outboxd_with(&scene, &["privileges", "--role", "relay"], &OFF);
    assert!(!said.contains("scheduled"), "{said}");
}

/// The role is enough for the library, and for nothing of the outbox's.
#[tokio::test]
async fn a_writer_schedules_and_cancels_as_the_printed_role() {
    let scene = Scene::new().await;
    let id = later(&scene, "anybody's", "k").await;
    let env = scene.env_of("run");
    let (_, uri) = env.iter().find(|(name, _)| name == "MONGODB_URI").unwrap();
    let uri = uri.replace("outbox-relay:", "outbox-writer:");
    let client = Client::with_uri_str(&uri).await.unwrap();
    let database: Database = client.database(&scene.name);
    let outbox = outboxd_client::Outbox::new(&database, "outbox");

    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let own =
        outbox.schedule(&mut session, scene.event("k", 2), super::in_an_hour()).await.unwrap();
    assert!(outbox.reschedule(&mut session, &own, DateTime::now()).await.unwrap());
    assert!(outbox.cancel(&mut session, &own).await.unwrap());
    assert!(outbox.cancel(&mut session, &id).await.unwrap());
    outbox.enqueue(&mut session, scene.event("k", 3)).await.unwrap();
    session.commit_transaction().await.unwrap();

    let events = database.collection::<Document>("outbox");
    assert!(events.find_one(doc! {}).await.is_err(), "a writer reads no event of the outbox");
}

//! Every verb of every test runs as a user with what `outboxd privileges` prints; here, that those
//! users may do nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_nats::{ConnectOptions, Event};
use bson::{Document, doc};
use mongodb::{Client, Database};

use crate::support::{OUTBOXD, Relay, Scene, outboxd, until};

/// MongoDB's code for what a user may not do.
const UNAUTHORIZED: i32 = 13;

fn env(scene: &Scene, verb: &str) -> HashMap<String, String> {
    scene.env_of(verb).into_iter().collect()
}

async fn database(scene: &Scene, verb: &str) -> Database {
    Client::with_uri_str(&env(scene, verb)["MONGODB_URI"]).await.unwrap().database(&scene.name)
}

/// What happened to a command: the server's code, if it refused.
async fn refused(database: &Database, command: Document) -> Option<i32> {
    match database.run_command(command).await {
        Ok(_) => None,
        Err(error) => match *error.kind {
            mongodb::error::ErrorKind::Command(error) => Some(error.code),
            other => panic!("not a refusal: {other}"),
        },
    }
}

#[tokio::test]
async fn what_mongodb_refuses_to_each_role() {
    let scene = Scene::new().await;
    scene.commit([scene.event("a", 1)]).await;
    let insert = |collection: &str| doc! { "insert": collection, "documents": [{ "_id": 1 }] };
    let event = doc! {
        "ts": bson::Timestamp { time: 0, increment: 0 }, "subject": "made", "payload": {}, "isLocked": true, "failures": [],
    };
    let outbox = doc! { "insert": "outbox", "documents": [event] };
    let find = |collection: &str| doc! { "find": collection };
    let watch = doc! { "aggregate": "outbox", "pipeline": [{ "$changeStream": {} }], "cursor": {} };
    let remove = |limit: i32| doc! { "delete": "outbox", "deletes": [{ "q": { "_id": 0 }, "limit": limit }] };
    let drop = doc! { "drop": "outbox" };
    let user = doc! { "createUser": "me", "pwd": "x", "roles": ["root"] };
    for (verb, refused_to_it, allowed) in [
        (
            "run",
            vec![
                insert("outbox_scheduled"),
                insert("orders"),
                find("orders"),
                find("outboxd_audit"),
                drop.clone(),
                user.clone(),
            ],
            vec![find("outbox"), watch.clone(), remove(0)],
        ),
        (
            "retry-now",
            vec![
                outbox.clone(),
                insert("orders"),
                find("orders"),
                watch.clone(),
                drop.clone(),
                user.clone(),
            ],
            vec![find("outbox"), find("outboxd_audit"), remove(0)],
        ),
        (
            "migrate",
            vec![outbox, find("outbox"), find("orders"), watch, remove(0), drop, user],
            vec![find("outboxd_migrations")],
        ),
    ] {
        let database = database(&scene, verb).await;
        for command in refused_to_it {
            assert_eq!(
                refused(&database, command.clone()).await,
                Some(UNAUTHORIZED),
                "{verb}: {command}"
            );
        }
        for command in allowed {
            assert_eq!(refused(&database, command.clone()).await, None, "{verb}: {command}");
        }
    }
}

#[tokio::test]
async fn what_nats_refuses_to_the_relay() {
    let scene = Scene::new().await;
    let env = env(&scene, "run");
    let said = Arc::new(Mutex::new(Vec::new()));
    let hears = said.clone();
    let client = ConnectOptions::with_user_and_password(
        env["NATS_USER"].clone(),
        env["NATS_PASSWORD"].clone(),
    )
    .event_callback(move |event| {
        if let Event::ServerError(error) = event {
            hears.lock().unwrap().push(error.to_string().to_lowercase());
        }
        std::future::ready(())
    })
    .connect(&scene.nats_url)
    .await
    .unwrap();
    let stream = &scene.stream;
    for subject in [
        "other.made".to_owned(),
        format!("$JS.API.STREAM.CREATE.{stream}"),
        format!("$JS.API.STREAM.UPDATE.{stream}"),
        format!("$JS.API.STREAM.DELETE.{stream}"),
        format!("$JS.API.STREAM.PURGE.{stream}"),
        format!("$JS.API.STREAM.MSG.DELETE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        "$JS.API.STREAM.INFO.OTHER".to_owned(),
    ] {
        client.publish(subject.clone(), "{}".into()).await.unwrap();
        let denied = format!("permissions violation for publish to \"{}\"", subject.to_lowercase());
        until(&denied, async || {
            said.lock().unwrap().iter().any(|said| said.contains(&denied)).then_some(())
        })
        .await;
    }
    for subject in [
        ">".to_owned(),
        format!("{stream}.>"),
        "_INBOX.>".to_owned(),
        "_INBOX.outboxd.OTHER.>".to_owned(),
    ] {
        let _denied = client.subscribe(subject.clone()).await.unwrap();
        let denied =
            format!("permissions violation for subscription to \"{}\"", subject.to_lowercase());
        until(&denied, async || {
            said.lock().unwrap().iter().any(|said| said.contains(&denied)).then_some(())
        })
        .await;
    }
    assert!(scene.context.get_stream(stream).await.is_ok(), "the stream is as it was");
}

#[tokio::test]
async fn with_these_it_relays_and_an_operator_acts() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    for args in [vec!["check"], vec!["migrate", "--status"]] {
        let (code, said) = outboxd(&scene, &args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    scene.cover(&["made"]).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    scene
        .commit([outboxd_client::Event::new(
            scene.subject("elsewhere"),
            &doc! { "key": "b", "number": 2 },
        )
        .unwrap()])
        .await;
    let stuck = until("an event is stuck", async || {
        scene.one(doc! { "isLocked": false, "failures.0": { "$exists": true } }).await
    })
    .await;
    let id = stuck.get_object_id("_id").unwrap().to_hex();
    for args in [
        vec!["stats"],
        vec!["groups"],
        vec!["list"],
        vec!["show", &id],
        vec!["audit"],
        vec!["watch", "--count", "1"],
        vec!["retry-now", &id],
        vec!["discard", &id, "--reason", "a test"],
    ] {
        let (code, said) = outboxd(&scene, &args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

/// A pipe of a new deployment prints roles before there is a server.
#[tokio::test]
async fn privileges_are_printed_without_a_connection_string_and_a_writer_inserts_and_schedules() {
    let print = |args: &[&str]| {
        let output = std::process::Command::new(OUTBOXD).args(args).env_clear().output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said, errors) = print(&["privileges", "--role", "writer"]);
    assert_eq!((code, &*errors), (Some(0), ""), "{said}");
    assert!(
        said.contains("put the outbox's database in the place of <mongodb.database>"),
        "{said}"
    );
    assert!(said.contains(r#"collection: "outbox" }, actions: ["insert"]"#), "{said}");
    assert!(!said.contains("nats-server.conf"), "{said}");
    assert_eq!(print(&["privileges"]).0, Some(0));

    let scene = Scene::new().await;
    let uri = env(&scene, "run")["MONGODB_URI"].replace("outbox-relay:", "outbox-writer:");
    let database = Client::with_uri_str(&uri).await.unwrap().database(&scene.name);
    let (code, said) = outboxd(&scene, &["privileges", "--role", "writer", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let printed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let role = printed[0]["mongodb"]["role"].as_str().unwrap();
    assert_eq!(role, "outbox-writer");
    let on: Vec<_> = printed[0]["mongodb"]["privileges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|on| &on["resource"]["collection"])
        .collect();
    assert_eq!(on, ["outbox", "outbox_scheduled"]);

    let event = doc! {
        "_id": 1, "ts": bson::Timestamp { time: 0, increment: 0 }, "subject": "made", "payload": {},
        "isLocked": true, "failures": [],
    };
    let insert = doc! { "insert": "outbox", "documents": [event] };
    assert_eq!(refused(&database, insert.clone()).await, None);
    let mut around = insert;
    around.insert("bypassDocumentValidation", true);
    for command in [
        doc! { "find": "outbox" },
        doc! { "delete": "outbox", "deletes": [{ "q": {}, "limit": 0 }] },
        doc! { "update": "outbox", "updates": [{ "q": {}, "u": { "$set": { "a": 1 } } }] },
        doc! { "find": "outboxd_lease" },
        around,
    ] {
        let code = refused(&database, command.clone()).await;
        assert_eq!(code, Some(UNAUTHORIZED), "{command}");
    }
}

#[tokio::test]
async fn a_command_that_takes_the_lease_is_no_relay_and_the_last_relay_keeps_its_name() {
    let scene = Scene::new().await;
    let first = doc! {
        "_id": "never-relayed", "subject": scene.subject("elsewhere"), "payload": {},
        "isLocked": false, "failures": [{ "code": "malformed", "error": "x" }],
    };
    scene.events.insert_one(first).bypass_document_validation(true).await.unwrap();
    let (code, said) = outboxd(&scene, &["discard", "never-relayed", "--reason", "a test"]);
    assert_eq!(code, Some(0), "{said}");
    let leases =
        scene.events.client().database(&scene.name).collection::<Document>("outboxd_lease");
    let lease = leases.find_one(doc! {}).await.unwrap().expect("the command took the lease");
    assert!(lease.get_str("holder").unwrap().starts_with("outboxd discard"), "{lease}");
    let (_, said) = outboxd(&scene, &["stats"]);
    assert!(said.contains("NO RELAY has ever run"), "{said}");

    let relay = Relay::leading(&scene, &[("NATS_CLIENT_ID", "the-real-one")]).await;
    assert_eq!(relay.stop(), Some(0));
    for id in ["one", "two"] {
        let event = doc! {
            "_id": id, "subject": scene.subject("elsewhere"), "payload": {},
            "isLocked": false, "failures": [{ "code": "malformed", "error": "x" }],
        };
        scene.events.insert_one(event).bypass_document_validation(true).await.unwrap();
        let (code, said) = outboxd(&scene, &["discard", id, "--reason", "a test"]);
        assert_eq!(code, Some(0), "{said}");
        let (_, said) = outboxd(&scene, &["stats"]);
        assert!(said.contains("NO RELAY: the lease of the-real-one "), "{said}");
    }

    let relay = Relay::leading(&scene, &[("NATS_CLIENT_ID", "the-next")]).await;
    let (_, said) = outboxd(&scene, &["stats"]);
    assert!(said.contains("relayed by the-next "), "{said}");
    assert_eq!(relay.stop(), Some(0));
}

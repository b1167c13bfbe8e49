//! `outboxd migrate`: idempotent, safe at once, never edited.

use bson::{Document, doc};

use crate::support::{Mongod, OUTBOXD, Scene, outboxd, outboxd_with};

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let scene = Scene::bare().await;
    let (code, said) = outboxd(&scene, &["migrate", "--status"]);
    assert_eq!(code, Some(1), "no stream yet: {said}");
    assert_eq!(said.matches("pending").count(), 10, "{said}");
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!((code, said.contains("created; subjects")), (Some(0), true), "{said}");
    let before = records(&scene).await;
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!((code, said.contains("exists, unchanged")), (Some(0), true), "{said}");
    assert_eq!(records(&scene).await, before);
    let (code, said) = outboxd(&scene, &["migrate", "--status"]);
    assert_eq!((code, said.contains("pending")), (Some(0), false), "{said}");
}

#[tokio::test]
async fn many_at_once_agree() {
    let scene = Scene::bare().await;
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let mut command = tokio::process::Command::new(OUTBOXD);
            command.arg("migrate").env_clear().envs(scene.env());
            tokio::spawn(async move { command.output().await.unwrap() })
        })
        .collect();
    for run in runs {
        let output = run.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(records(&scene).await.len(), 10);
}

#[tokio::test]
async fn an_edited_file_is_refused() {
    let scene = Scene::new().await;
    let id = "outbox/0002_outbox_unlocked_index";
    let records = scene.database.collection::<Document>("outboxd_migrations");
    records.update_one(doc! { "_id": id }, doc! { "$set": { "checksum": "0123" } }).await.unwrap();
    for verb in ["migrate", "run"] {
        let (code, said) = outboxd(&scene, &[verb]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("0002_outbox_unlocked_index was applied with checksum 0123"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_relay_makes_nothing_itself() {
    let scene = Scene::bare().await;
    let (code, said) = outboxd(&scene, &["run"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("lacks 0001_outbox_collection"), "{said}");
    assert!(said.contains("run `outboxd migrate`"), "{said}");
    assert!(scene.database.list_collection_names().await.unwrap().is_empty());
    assert!(scene.context.get_stream(&scene.name).await.is_err());
}

#[tokio::test]
async fn a_missing_stream_stops_the_relay_with_the_remedy_and_one_of_other_subjects_stays() {
    let scene = Scene::new().await;
    scene.context.delete_stream(&scene.name).await.unwrap();
    let (code, said) = outboxd(&scene, &["run"]);
    let helps = said.contains("doesn't exist in") && said.contains("$ outboxd migrate");
    assert_eq!((code, helps), (Some(1), true), "{said}");

    let config = async_nats::jetstream::stream::Config {
        name: scene.name.clone(),
        subjects: vec![scene.subject("other")],
        ..Default::default()
    };
    scene.context.create_stream(&config).await.unwrap();
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!((code, said.contains("none of which covers")), (Some(0), true), "{said}");
    let unaltered = scene.context.get_stream(&scene.name).await.unwrap();
    assert_eq!(unaltered.cached_info().config.subjects, [scene.subject("other")]);
}

#[tokio::test]
async fn print_needs_no_server_and_shows_the_real_commands() {
    let scene = Scene::bare().await;
    let (code, said) =
        outboxd(&scene, &["migrate", "--print", "--set", "mongodb.collection=events"]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "\"create\": \"events\"",
        "\"createIndexes\": \"events\"",
        "\"create\": \"outboxd_lease\"",
        &scene.name,
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(scene.database.list_collection_names().await.unwrap().is_empty());
}

async fn records(scene: &Scene) -> Vec<Document> {
    let mut cursor =
        scene.database.collection::<Document>("outboxd_migrations").find(doc! {}).await.unwrap();
    let mut records = Vec::new();
    while cursor.advance().await.unwrap() {
        records.push(cursor.deserialize_current().unwrap());
    }
    records
}

#[tokio::test]
async fn a_standalone_is_refused_with_the_way_out() {
    let (scene, mongod) = (Scene::bare().await, Mongod::standalone().await);
    let uri = format!("mongodb://{}/shop", mongod.address);
    for verb in ["migrate", "run"] {
        let (code, said) = outboxd_with(&scene, &[verb], &[("MONGODB_URI", &uri)]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("MongoDB is a standalone")
                && said.contains("`outboxd check` prints the lines"),
            "{said}"
        );
    }
}

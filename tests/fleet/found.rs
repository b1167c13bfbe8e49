//! A daemon finds outboxes while it runs.

use bson::doc;
use serde_json::Value;

use super::scene::Fleet;
use crate::support::{Relay, outboxd_with, until};

/// Has the daemon find the outboxes of these scenes: their names begin alike.
fn discovers(fleet: &Fleet) -> String {
    let names = fleet.scenes.iter().map(|scene| format!("{:?}", format!("{}.*", scene.name)));
    let names = names.collect::<Vec<_>>().join(", ");
    let path = fleet.first().folder.path().join("found.toml");
    std::fs::write(&path, format!("[outboxes]\ndiscover = [{names}]\n"))
        .expect("the file is written");
    path.display().to_string()
}

#[tokio::test]
async fn outboxes_are_found_while_it_runs_and_those_that_are_gone_are_dropped() {
    let fleet = Fleet::migrated(2).await.with_bare().await;
    let file = discovers(&fleet);
    // One user for all databases.
    let uri = fleet.first().mongodb_uri.clone();
    let settings = [("OUTBOXD_CONFIG", file.as_str()), ("MONGODB_URI", uri.as_str())];
    let relay = Relay::start(fleet.first(), &settings);
    for scene in &fleet.scenes[..2] {
        scene.commit([fleet.first().event(&scene.name, 1)]).await;
        scene.drained().await;
    }

    let late = &fleet.scenes[2];
    let (code, said) = fleet.outboxd("migrate", &["--outbox", &late.name]);
    assert_eq!(code, Some(0), "{said}");
    late.commit([fleet.first().event(&late.name, 1)]).await;
    late.drained().await;

    let (code, said) = outboxd_with(fleet.first(), &["stats", "--output", "json"], &settings);
    let rows: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, rows.as_array().map(Vec::len)), (Some(0), Some(3)), "{said}");

    fleet.scenes[1].database.drop().await.expect("the database is dropped");
    relay.says("the outbox is not relayed any more").await;
    let gone = until("it is gone", async || {
        let (code, said) = outboxd_with(fleet.first(), &["stats"], &settings);
        (code == Some(0) && !said.contains(&fleet.scenes[1].name)).then_some(said)
    })
    .await;
    assert!(gone.starts_with("2 outboxes"), "{gone}");

    fleet.first().commit([fleet.first().event("k", 2)]).await;
    fleet.first().drained().await;
    let count = late.events.count_documents(doc! {}).await.expect("a count");
    assert_eq!(count, 0);
}

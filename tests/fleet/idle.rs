//! What an outbox of a fleet asks while it has nothing to do, and how a fleet stops.

use std::process::Command;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt as _;

use super::scene::Fleet;
use crate::support::{Scene, until};

/// The operations on one collection of an outbox's database since the profile began, oldest first.
pub(super) async fn profiled(scene: &Scene, collection: &str) -> Vec<Document> {
    let profile = scene.database.collection::<Document>("system.profile");
    let of = doc! { "ns": format!("{}.{collection}", scene.name) };
    let found = profile.find(of).sort(doc! { "ts": 1 }).await.expect("the profile is read");
    found.try_collect().await.expect("the profile is read")
}

/// The server keeps all operations on the outbox's database from now on.
pub(super) async fn profile(scene: &Scene) {
    let profile = doc! { "profile": 2 };
    scene.database.run_command(profile).await.expect("the profile begins");
}

#[tokio::test]
async fn an_outbox_that_is_empty_costs_the_renewals_of_its_lease() {
    const RENEWALS: usize = 4;

    let fleet = Fleet::migrated(2).await;
    // The retrier's schedule rings every second, and the leases of the scenes are renewed as often.
    let _relay = fleet.run("[retry]\ncron = \"* * * * * *\"\n");
    for scene in &fleet.scenes {
        scene.commit([fleet.first().event(&scene.name, 1)]).await;
    }
    fleet.drained().await;

    let [idle, other] = &fleet.scenes[..] else { panic!("two outboxes") };
    profile(idle).await;
    until("only the lease is renewed", async || {
        // What its change stream waits for is no query.
        let mut asked = profiled(idle, "outbox").await;
        asked.retain(|of| of.get_str("op").ok() != Some("getmore"));
        let last = asked.pop().and_then(|last| last.get_datetime("ts").ok().copied());
        let renewals = profiled(idle, "outboxd_lease").await;
        let since = renewals.iter().filter(|of| of.get_datetime("ts").ok().copied() > last);
        (since.count() >= RENEWALS).then_some(())
    })
    .await;

    // Nobody but the schedule finds an event that was written unlocked and is due later.
    for scene in [idle, other] {
        let due = DateTime::from_millis(DateTime::now().timestamp_millis() + 1500);
        let late = doc! {
            "_id": "late", "subject": fleet.first().subject("made"), "payload": {}, "isLocked": false,
            "failures": [{ "code": "timeout" }], "attempts": 1_i64, "nextAttemptAt": due,
        };

        let insert = scene.events.insert_one(late).bypass_document_validation(true);
        insert.await.expect("the event is written");
    }
    fleet.drained().await;
}

#[tokio::test]
async fn a_fleet_that_stops_reads_no_settings() {
    let fleet = Fleet::migrated(3).await;
    let file = fleet.file("run", 0..3, "");
    let relay = fleet.run_with(&file);
    for scene in &fleet.scenes {
        scene.commit([fleet.first().event(&scene.name, 1)]).await;
    }
    fleet.drained().await;

    // Whoever opens this waits for ever.
    std::fs::remove_file(&file).expect("the file is removed");
    let made = Command::new("mkfifo").arg(&file).status().expect("mkfifo runs");
    assert!(made.success());
    assert_eq!(relay.stop(), Some(0));
}

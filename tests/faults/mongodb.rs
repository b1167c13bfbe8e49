//! A replica set that loses its primary, its majority, its history, or the outbox.

use std::time::Duration;

use bson::doc;
use tokio::time::sleep;

use super::{Trial, again_and_again, length};
use crate::support::{
    ALONE, Mongod, NatsServer, PASSWORD, Relay, ReplicaSet, Scene, checker, outboxd_with, until,
};

const HISTORY_LOST: i32 = 286;

async fn trial(set: &ReplicaSet, nats: &NatsServer, relays: usize) -> Trial {
    trial_with(set, nats, relays, &[]).await
}

async fn trial_with(
    set: &ReplicaSet,
    nats: &NatsServer,
    relays: usize,
    settings: &[(&str, &str)],
) -> Trial {
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    Trial::begin(scene, relays, settings).await
}

#[tokio::test]
async fn a_primary_that_steps_down_again_and_again_costs_no_event() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 2).await;
    let steps = again_and_again(Duration::from_secs(5), async || set.step_down().await).await;
    trial.end(&[("stepped down", steps)]).await;
}

#[tokio::test]
async fn a_killed_primary_costs_no_event() {
    let _alone = ALONE.lock().await;
    let (mut set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 2).await;
    let kills = again_and_again(Duration::from_secs(4), async || {
        let Some(primary) = set.primary().await else { return false };
        set.kill(primary);
        sleep(Duration::from_secs(3)).await;
        set.start_again(primary);
        true
    })
    .await;
    trial.end(&[("primary killed", kills)]).await;
}

/// The primary alone has them, durably, when it dies; the others elect one that never heard of
/// them.
#[tokio::test]
#[ignore = "make faults"]
async fn what_is_rolled_back_after_a_failover_is_never_published() {
    let _alone = ALONE.lock().await;
    let (mut set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 1).await;
    let old = set.primary().await.expect("a primary");
    let others: Vec<_> = (0..3).filter(|member| *member != old).collect();
    // Killed, not paused: what reaches their sockets they would read when they wake.
    others.iter().for_each(|other| set.kill(*other));
    let outbox = set.direct(old).await.client().database(&trial.scene.name);
    let event = |number: i32| {
        let subject = trial.scene.subject("made");
        let ts = bson::Timestamp { time: 0, increment: 0 };
        doc! { "ts": ts, "subject": subject, "key": "rolled", "payload": { "key": "rolled", "number": number }, "isLocked": true, "failures": [] }
    };
    let alone = doc! { "insert": "outbox", "documents": (1..=10).map(event).collect::<Vec<_>>(), "writeConcern": { "w": 1, "j": true } };
    let written = outbox.run_command(alone).await.expect("the primary takes them");
    assert_eq!(written.get_i32("n").ok(), Some(10), "{written}");
    // Time enough to publish them, if they were seen.
    sleep(Duration::from_millis(500)).await;
    set.kill(old);
    others.iter().for_each(|other| set.start_again(*other));
    until("another is primary", async || set.primary().await).await;
    set.start_again(old);
    until("they are rolled back", async || set.has_rolled_back(old).then_some(())).await;
    trial.end(&[("writes rolled back", 1)]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_paused_primary_is_left_for_another_and_what_it_says_when_it_wakes_harms_nothing() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 2).await;
    let paused = set.primary().await.expect("a primary");
    set.pause(paused);
    sleep(length()).await;
    let other = until("another is primary", async || set.primary().await).await;
    set.resume(paused);
    trial.end(&[("another primary", u64::from(other != paused))]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn without_a_majority_it_says_so_and_goes_on_when_there_is_one() {
    let _alone = ALONE.lock().await;
    let (mut set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 1).await;
    let primary = set.primary().await.expect("a primary");
    let lost: Vec<_> = (0..3).filter(|member| *member != primary).collect();
    lost.iter().for_each(|member| set.kill(*member));
    let address = trial.relays[0].admin().await;
    let ready = async || {
        Some(reqwest::get(format!("http://{address}/readyz")).await.ok()?.status().as_u16())
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    until("it isn't ready", async || (ready().await == Some(503)).then_some(())).await;
    sleep(length()).await;
    lost.iter().for_each(|member| set.start_again(*member));
    until("it is ready again", async || (ready().await == Some(200)).then_some(())).await;
    trial.end(&[("majority lost", 1)]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn lost_history_is_swept_up_without_a_hot_loop() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 1).await;
    let labels = ["NonResumableChangeStreamError"];
    let lost = doc! { "failCommands": ["getMore"], "errorCode": HISTORY_LOST, "errorLabels": labels, "appName": "outboxd r0 follow" };
    set.fail(doc! { "times": 1 }, lost.clone()).await;
    let said = async || {
        trial.relays[0].log().matches("following the outbox failed; sweeping again").count()
    };
    until("it is told once", async || (said().await == 1).then_some(())).await;
    sleep(length()).await;
    let times = said().await;
    let entered = set.fail("off", lost).await;
    assert_eq!(times, 1, "{}", trial.relays[0].log());
    trial.end(&[("history lost", entered.unsigned_abs())]).await;
}

/// Whether the relay `r0` waits for the next changes of the outbox.
async fn following(trial: &Trial) -> bool {
    let follows = doc! {
        "appName": "outboxd r0 follow",
        "command.getMore": { "$exists": true },
        "ns": format!("{}.outbox", trial.scene.name),
    };
    let all = doc! { "$currentOp": { "allUsers": true } };
    let admin = trial.scene.client.database("admin");
    let mut found = admin
        .aggregate([all, doc! { "$match": follows }])
        .await
        .expect("the operations are listed");
    found.advance().await.expect("the operations are read")
}

/// The real thing: while the relay is paused, more is written than the oplog holds.
#[tokio::test]
async fn an_oplog_that_rolled_over_while_the_relay_slept_costs_no_event() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    // Longer than the pause: a relay that lost the lease begins anew, and reads nothing on.
    let trial = trial_with(&set, &nats, 1, &[("OUTBOXD_LEASE__TTL", "2m")]).await;
    until("the relay follows the outbox", async || following(&trial).await.then_some(())).await;
    trial.relays[0].pause();

    // What it had asked for is answered first: the place that it has read up to stays behind.
    until("it asks for nothing more", async || (!following(&trial).await).then_some(())).await;
    let oldest = async || {
        let oplog = trial.scene.client.database("local").collection::<bson::Document>("oplog.rs");
        let first =
            oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.expect("the oplog is read");
        first.expect("an entry").get_timestamp("ts").expect("its time")
    };
    let before = trial.scene.database.run_command(doc! { "hello": 1 }).await.expect("an answer");
    let before = before
        .get_document("lastWrite")
        .and_then(|write| write.get_document("opTime"))
        .expect("a time");
    let before = before.get_timestamp("ts").expect("a time");
    let flood = trial.scene.database.collection::<bson::Document>("flood");
    let much = "x".repeat(1 << 20);
    until("the oplog begins after the pause", async || {
        flood.insert_many((0..8).map(|_| doc! { "much": &much })).await.expect("it is written");
        (oldest().await > before).then_some(())
    })
    .await;
    trial.relays[0].resume();
    until("it has seen it", async || {
        trial.relays[0].log().contains("sweeping again").then_some(())
    })
    .await;
    trial.end(&[("oplog rolled over", 1)]).await;
}

#[tokio::test]
async fn a_holder_that_cannot_renew_hands_over_and_publishes_nothing_meanwhile() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 2).await;
    let holder = until("one holds the lease", async || trial.holder().await).await;
    let block = doc! {
        "failCommands": ["update", "findAndModify"], "blockConnection": true, "blockTimeMS": 30_000,
        "appName": format!("outboxd r{holder} lease"),
    };
    set.fail("alwaysOn", block.clone()).await;
    until("the other holds it", async || trial.holder().await.filter(|now| *now != holder)).await;
    sleep(length()).await;
    let entered = set.fail("off", block).await;
    assert!(
        trial.relays[holder].log().contains("lost the lease"),
        "{}",
        trial.relays[holder].log()
    );
    trial.end(&[("renewal blocked", entered.unsigned_abs())]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn slow_answers_cost_neither_the_lease_nor_an_event() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 1).await;
    let slow = doc! {
        "failCommands": ["find", "update", "delete", "aggregate", "bulkWrite"], "blockConnection": true, "blockTimeMS": 700,
        "appName": "outboxd r0 outbox",
    };
    set.fail("alwaysOn", slow.clone()).await;
    sleep(length()).await;
    let entered = set.fail("off", slow).await;
    assert!(!trial.relays[0].log().contains("lost the lease"), "{}", trial.relays[0].log());
    trial.end(&[("slow answers", entered.unsigned_abs())]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn deletes_that_fail_are_repeated_and_publish_nothing_twice() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let trial = trial(&set, &nats, 1).await;
    let cut = doc! { "failCommands": ["delete"], "closeConnection": true, "appName": "outboxd r0 outbox" };
    set.fail(doc! { "activationProbability": 0.5 }, cut.clone()).await;
    sleep(length()).await;
    let entered = set.fail("off", cut).await;
    trial.end(&[("delete cut off", entered.unsigned_abs())]).await;
}

#[tokio::test]
async fn an_outbox_that_is_dropped_and_made_again_is_followed_again() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let gone = async || relay.log().matches("the outbox collection is gone").count();
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    scene.events.drop().await.expect("the outbox is dropped");
    until("it sees that", async || (gone().await == 1).then_some(())).await;
    scene.commit([scene.event("a", 2)]).await;
    scene.drained().await;
    let (from, to) = (format!("{}.outbox", scene.name), format!("{}.aside", scene.name));
    let rename = doc! { "renameCollection": from, "to": to };
    scene.client.database("admin").run_command(rename).await.expect("the outbox is renamed");
    until("it sees that too", async || (gone().await == 2).then_some(())).await;
    scene.commit([scene.event("a", 3)]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["a"], [1, 2, 3]);
    // Each was told of once: it didn't turn in circles.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.log().matches("sweeping again").count(), 2, "{}", relay.log());
}

#[tokio::test]
async fn a_transaction_with_very_many_events_is_delivered_whole_and_in_order() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    scene.commit((0..10_000).map(|n| scene.event(&format!("k{}", n % 50), n / 50))).await;
    scene.drained().await;
    let mut next = std::collections::HashMap::new();
    for message in checker::stream(&scene).await {
        let next = next.entry(message.key).or_insert(0);
        assert_eq!(message.number, *next);
        *next += 1;
    }
    assert!(next.len() == 50 && next.values().all(|next| *next == 200), "{next:?}");
}

#[tokio::test]
async fn rights_that_are_revoked_stop_the_relay_until_they_are_given_back() {
    let (scene, mongod) = (Scene::bare().await, Mongod::with_users().await);
    let admin_uri = mongod.uri("admin", PASSWORD, "shop");
    let (code, said) = outboxd_with(&scene, &["migrate"], &[("MONGODB_URI", &admin_uri)]);
    assert_eq!(code, Some(0), "{said}");
    let admin =
        mongodb::Client::with_uri_str(&admin_uri).await.expect("a client").database("admin");
    let roles = [doc! { "role": "readWrite", "db": "shop" }];
    let create = doc! { "createUser": "relay", "pwd": PASSWORD, "roles": roles.clone() };
    admin.run_command(create).await.expect("the user is made");
    let mut relay =
        Relay::leading(&scene, &[("MONGODB_URI", &mongod.uri("relay", PASSWORD, "shop"))]).await;
    let events = admin.client().database("shop").collection::<bson::Document>("outbox");
    let write = async |number: i32| {
        let event = doc! {
            "ts": bson::Timestamp { time: 0, increment: 0 }, "subject": scene.subject("made"), "key": "a",
            "payload": { "key": "a", "number": number }, "isLocked": true, "failures": [],
        };
        events.insert_one(event).await.expect("it is written");
    };
    let empty =
        async || (events.count_documents(doc! {}).await.expect("a count") == 0).then_some(());
    write(1).await;
    until("it is out", empty).await;
    admin
        .run_command(doc! { "revokeRolesFromUser": "relay", "roles": roles.clone() })
        .await
        .expect("they are revoked");
    until("it says so", async || relay.log().contains("not authorized").then_some(())).await;
    write(2).await;
    sleep(length()).await;
    assert!(relay.is_running(), "{}", relay.log());
    assert!(empty().await.is_none());
    admin
        .run_command(doc! { "grantRolesToUser": "relay", "roles": roles })
        .await
        .expect("they are given back");
    until("the other is out, too", empty).await;
    assert_eq!(scene.numbers().await["a"], [1, 2]);
}

/// A new primary may show a moment from before what was parked on the old one.
#[tokio::test]
#[ignore = "make faults"]
async fn events_that_wait_behind_a_failed_one_keep_their_order_while_the_primary_steps_down() {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let never = scene.subject("never");
    let settings =
        [("OUTBOXD_STREAM__SUBJECTS", never.as_str()), ("OUTBOXD_RETRY__MAX_DELAY", "1s")];
    let trial = Trial::begin(scene, 2, &settings).await;
    let scene = trial.scene.clone();
    let mut spells = 0;
    let steps = again_and_again(Duration::from_millis(700), async || {
        spells += 1;
        scene
            .cover(if spells % 2 == 0 { &["never", "made"] } else { &["never", "elsewhere"] })
            .await;
        // While there is something to park, and while it follows.
        spells % 3 == 0 && set.step_down().await
    })
    .await;
    scene.cover(&["never", "made"]).await;
    let mut parked = 0;
    for relay in &trial.relays {
        parked += relay.metric("outboxd_events_parked_total").await;
    }
    trial.end(&[("stepped down", steps), ("parked", parked)]).await;
}

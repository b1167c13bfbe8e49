//! The change stream that the outboxes of a daemon share.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use serde_json::Value;

use super::get;
use super::idle::{profile, profiled};
use super::scene::Fleet;
use crate::support::{PASSWORD, Relay, Scene, until};

/// A document above this isn't in the stream: see `mongodb/tail`.
const LARGE: usize = 2 << 20;

/// The collections of the change streams that the server has open for these outboxes: `$cmd` for one of
/// a database.
async fn streams(fleet: &Fleet) -> Vec<String> {
    let every = doc! { "$currentOp": { "allUsers": true, "idleCursors": true } };
    let streams = doc! { "$match": { "cursor.originatingCommand.pipeline.0.$changeStream": { "$exists": true } } };
    let admin = fleet.first().client.database("admin");
    let found = admin.aggregate([every, streams]).await.expect("the operations of the server");
    let found: Vec<Document> = found.try_collect().await.expect("the operations of the server");

    let is_ours = |operation: &&Document| {
        let operation = operation.to_string();
        fleet.scenes.iter().any(|scene| operation.contains(&scene.name))
    };
    let mut names: Vec<_> = found
        .iter()
        .filter(is_ours)
        .map(|operation| operation.get_str("ns").expect("a namespace"))
        // While nobody asks for its changes, a stream of a database has another name.
        .map(|namespace| namespace.trim_end_matches(".aggregate").to_owned())
        .collect();
    names.sort();
    names
}

/// A daemon whose outboxes all use the same user.
fn run_as(fleet: &Fleet, uri: &str, more: &str) -> Relay {
    let mut text = more.to_owned();
    for scene in &fleet.scenes {
        text += &format!("[[outbox]]\ndatabase = {:?}\nmongodb.uri = {uri:?}\n", scene.name);
    }
    let path = fleet.first().folder.path().join("shared.toml");
    std::fs::write(&path, text).expect("the file is written");
    fleet.run_with(&path.display().to_string())
}

/// Commits so many events to each outbox, one transaction for each round.
async fn commit(fleet: &Fleet, numbers: std::ops::Range<u32>) {
    for number in numbers {
        for scene in &fleet.scenes {
            scene.commit([fleet.first().event(&scene.name, number)]).await;
        }
    }
}

/// Each outbox's events have come once and in their order.
async fn arrived(fleet: &Fleet, upto: u32) {
    fleet.drained().await;
    let numbers = fleet.first().numbers().await;
    for scene in &fleet.scenes {
        assert!(numbers[&scene.name].iter().copied().eq(0..upto), "{numbers:?}");
    }
}

/// How often the outbox was swept again because of its change stream.
async fn restarts(relay: &Relay, outbox: &str) -> u64 {
    let (_, metrics) = get(relay, "/metrics").await;
    let of = format!("outboxd_stream_restarts_total{{outbox=\"{outbox}\"");
    let counts = metrics.lines().filter(|line| line.starts_with(&of));
    counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn outboxes_of_one_user_share_one_change_stream() {
    let fleet = Fleet::migrated(3).await;
    let relay = run_as(&fleet, &fleet.first().mongodb_uri, "");
    commit(&fleet, 0..20).await;
    fleet.drained().await;
    until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(())).await;

    // What the stream brings, not the sweep.
    commit(&fleet, 20..40).await;
    arrived(&fleet, 40).await;
    for name in fleet.names() {
        assert_eq!(restarts(&relay, &name).await, 0, "{}", relay.log());
    }
    assert_eq!(streams(&fleet).await.len(), 1);
}

#[tokio::test]
async fn each_outbox_has_a_stream_of_its_own_if_that_is_wanted() {
    let fleet = Fleet::migrated(2).await;
    let _relay = run_as(&fleet, &fleet.first().mongodb_uri, "[mongodb]\nfollow = \"own\"\n");
    commit(&fleet, 0..5).await;
    arrived(&fleet, 5).await;

    let outboxes = fleet.names();
    until("each outbox is followed", async || {
        let streams = streams(&fleet).await;
        outboxes.iter().all(|name| streams.contains(name)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_and_nothing_is_lost_or_doubled() {
    let fleet = Fleet::migrated(3).await;
    let relay = run_as(&fleet, &fleet.first().mongodb_uri, "");
    commit(&fleet, 0..3).await;
    fleet.drained().await;

    for round in 1..4 {
        until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(()))
            .await;
        kill_streams(&fleet).await;
        commit(&fleet, round * 10 - 7..round * 10 + 3).await;
    }
    arrived(&fleet, 33).await;

    for name in fleet.names() {
        assert!(restarts(&relay, &name).await > 0, "{name} had no error:\n{}", relay.log());
    }
}

/// Has the server end the shared stream.
async fn kill_streams(fleet: &Fleet) {
    let admin = fleet.first().client.database("admin");
    let every = doc! { "$currentOp": { "allUsers": true, "idleCursors": true } };
    let streams = doc! { "$match": { "cursor.originatingCommand.pipeline.0.$changeStream.allChangesForCluster": true } };
    let found = admin.aggregate([every, streams]).await.expect("the operations of the server");
    let found: Vec<Document> = found.try_collect().await.expect("the operations of the server");
    for operation in found.iter().filter(|of| of.to_string().contains(&fleet.first().name)) {
        let cursor = operation.get_document("cursor").expect("a cursor");
        let id = cursor.get("cursorId").cloned().unwrap_or(Bson::Null);
        let kill = doc! { "killCursors": "$cmd.aggregate", "cursors": [id] };
        admin.run_command(kill).await.expect("the cursor is killed");
    }
}

#[tokio::test]
async fn an_outbox_that_is_dropped_ends_for_itself_alone() {
    let fleet = Fleet::migrated(2).await;
    let relay = run_as(&fleet, &fleet.first().mongodb_uri, "");
    let [dropped, other] = &fleet.scenes[..] else { panic!("two outboxes") };
    commit(&fleet, 0..3).await;
    fleet.drained().await;
    until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(())).await;

    dropped.events.drop().await.expect("the collection is dropped");
    until("its follower sweeps again", async || {
        (restarts(&relay, &fleet.names()[0]).await > 0).then_some(())
    })
    .await;
    for number in 3..10 {
        other.commit([fleet.first().event(&other.name, number)]).await;
    }
    other.drained().await;
    let numbers = fleet.first().numbers().await;
    assert!(numbers[&other.name].iter().copied().eq(0..10), "{numbers:?}");
    assert_eq!(restarts(&relay, &fleet.names()[1]).await, 0, "{}", relay.log());
}

#[tokio::test]
async fn what_a_transaction_leaves_of_its_events_is_published_and_large_ones_are_read() {
    let fleet = Fleet::migrated(2).await;
    let relay =
        run_as(&fleet, &fleet.first().mongodb_uri, "[dispatch]\nmax_buffered_bytes = 16777216\n");
    commit(&fleet, 0..1).await;
    fleet.drained().await;
    until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(())).await;

    for scene in &fleet.scenes {
        let mut session = scene.transaction().await;
        let events = (1..5).map(|number| fleet.first().event(&scene.name, number));
        scene.outbox.enqueue_many(&mut session, events).await.expect("the events are written");
        let withdrawn = doc! { "payload.number": 2 };
        scene.events.delete_one(withdrawn).session(&mut session).await.expect("it is deleted");
        let changed = doc! { "$set": { "payload.number": 30 } };
        let which = doc! { "payload.number": 3 };
        let update = scene.events.update_one(which, changed).session(&mut session);
        update.await.expect("it is updated");
        session.commit_transaction().await.expect("the transaction is committed");
    }
    fleet.drained().await;

    let numbers = fleet.first().numbers().await;
    for scene in &fleet.scenes {
        assert_eq!(numbers[&scene.name], [0, 1, 30, 4]);
        assert_eq!(restarts(&relay, &format!("{}.outbox", scene.name)).await, 0);
    }

    // NATS takes 1 MB: the event that isn't in the stream is found, read, and marked.
    let large = doc! { "_id": "large", "subject": fleet.first().subject("made"), "key": "large", "isLocked": true, "payload": "x".repeat(LARGE) };
    let scene = &fleet.scenes[1];
    scene.events.insert_one(large).bypass_document_validation(true).await.expect("an event");
    until("it is marked", async || scene.one(doc! { "_id": "large", "isLocked": false }).await)
        .await;
    assert_eq!(restarts(&relay, &fleet.names()[1]).await, 0, "{}", relay.log());
}

#[tokio::test]
async fn a_scheduled_event_is_known_from_the_shared_stream() {
    let fleet = Fleet::migrated(2).await;
    let _relay = run_as(&fleet, &fleet.first().mongodb_uri, "");
    commit(&fleet, 0..1).await;
    fleet.drained().await;
    until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(())).await;

    for scene in &fleet.scenes {
        let followed = format!("{}.outbox_scheduled", scene.name);
        until("the stream has its due times", async || {
            shared_stream(&fleet).await.contains(&followed).then_some(())
        })
        .await;
        profile(scene).await;

        let at = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3000);

        let mut session = scene.transaction().await;
        let event = fleet.first().event(&scene.name, 1);
        scene.outbox.schedule(&mut session, event, at).await.expect("it is scheduled");
        session.commit_transaction().await.expect("the transaction is committed");
        until("it arrives", async || {
            (fleet.first().numbers().await[&scene.name].len() == 2).then_some(())
        })
        .await;

        // Told, the mover asks at once when the event is due, and next when it is moved. If it had to
        // look by itself, it would ask four times a second, or not before the event is due.
        let asked = profiled(scene, "outbox_scheduled").await;
        let is_question = |of: &&Document| {
            let command = of.get_document("command").expect("a command");
            of.to_string().contains("$$NOW") && !command.contains_key("autocommit")
        };
        let ts = |of: &Document| *of.get_datetime("ts").expect("a time");
        let before = asked.iter().filter(is_question).filter(|of| ts(of) < at).count();
        assert!((1..=3).contains(&before), "{before} questions: {asked:?}");
    }
}

/// The stages of the stream of the cluster.
async fn shared_stream(fleet: &Fleet) -> String {
    let every = doc! { "$currentOp": { "allUsers": true, "idleCursors": true } };
    let stage = "cursor.originatingCommand.pipeline.0.$changeStream.allChangesForCluster";
    let admin = fleet.first().client.database("admin");
    let found = admin.aggregate([every, doc! { "$match": { stage: true } }]).await;
    let found = found.expect("the operations of the server").try_collect().await;
    let found: Vec<Document> = found.expect("the operations of the server");
    let of_ours = found.iter().map(ToString::to_string);
    of_ours.filter(|of| of.contains(&fleet.first().name)).collect()
}

/// A user with the relay's role in each outbox's database, and these rights beside it. Returns its URI.
async fn user(fleet: &Fleet, rights: Value) -> String {
    let first = fleet.first();
    let name = format!("fleet-{}", first.name);
    let admin = first.client.database("admin");
    let rights = bson::serialize_to_bson(&rights).expect("privileges");
    let role = doc! { "createRole": &name, "privileges": rights, "roles": [] };
    admin.run_command(role).await.expect("the role is made");

    let of = |scene: &Scene| doc! { "role": "outbox-relay", "db": &scene.name };
    let mut roles: Vec<_> = fleet.scenes.iter().map(of).collect();
    roles.push(doc! { "role": &name, "db": "admin" });
    let user = doc! { "createUser": &name, "pwd": PASSWORD, "roles": roles, "mechanisms": ["SCRAM-SHA-256"] };
    admin.run_command(user).await.expect("the user is made");
    first.mongodb_uri.replace("root:root@", &format!("{name}:{PASSWORD}@"))
}

#[tokio::test]
async fn rights_on_a_database_are_enough_for_a_stream_of_it_and_others_have_their_own() {
    let fleet = Fleet::migrated(2).await;
    let [watched, other] = &fleet.scenes[..] else { panic!("two outboxes") };
    let rights = serde_json::json!([
        { "resource": { "db": watched.name, "collection": "" }, "actions": ["find", "changeStream"] },
    ]);
    let uri = user(&fleet, rights).await;
    let relay = run_as(&fleet, &uri, "");
    commit(&fleet, 0..20).await;
    arrived(&fleet, 20).await;

    let wanted = [
        format!("{}.$cmd", watched.name),
        format!("{}.outbox", other.name),
        format!("{}.outbox_scheduled", other.name),
    ];
    until("the outboxes are followed", async || {
        let streams = streams(&fleet).await;
        streams.iter().eq(&wanted).then_some(())
    })
    .await;
    assert_eq!(relay.log().matches("may not watch the cluster").count(), 1, "{}", relay.log());
    assert_eq!(relay.log().matches("may not watch this database").count(), 1, "{}", relay.log());
}

#[tokio::test]
async fn the_role_that_privileges_prints_for_a_fleet_is_enough_for_one_stream() {
    let fleet = Fleet::migrated(2).await;
    let (code, said) = fleet.outboxd("privileges", &["--role", "relay", "--output", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let printed: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let of_cluster =
        printed.as_array().unwrap().iter().find(|of| of["mongodb"]["database"] == "admin");
    let rights = of_cluster.expect("a role of the cluster")["mongodb"]["privileges"].clone();

    let uri = user(&fleet, rights).await;
    let relay = run_as(&fleet, &uri, "");
    commit(&fleet, 0..20).await;
    arrived(&fleet, 20).await;
    until("there is one stream", async || (streams(&fleet).await.len() == 1).then_some(())).await;
    assert!(!relay.log().contains("may not watch"), "{}", relay.log());
}

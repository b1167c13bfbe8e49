//! Consumer, relay and writer are processes here, and each is killed again and again while the
//! writer is at work. The consumer and the writer are this test program, started again with a role.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, ClientSession, Collection, Database};
use outboxd_client::{
    Apply, Event, HandleError, Inbox, Listener, Message, Outbox, Replica, Verdict,
};
use serde_json::Value;

use super::GROUP;
use crate::support::{ALONE, NatsServer, Relay, ReplicaSet, Scene, until};

/// Records that the writer changes.
const RECORDS: i64 = 20;
/// Kills of each, in turn.
const ROUNDS: usize = 3;
/// What the writer adds between two kills, at least.
const CHANGES: u64 = 60;
/// Between two changes, so that the consumers, which are killed more often, stay close behind.
const PAUSE: Duration = Duration::from_millis(20);
/// Names the role of a process.
const ROLE: &str = "OUTBOXD_CONSUMERS_ROLE";

#[tokio::test]
async fn copies_are_equal_after_kill_9_of_consumer_relay_and_writer() {
    equal_after_kills(1).await;
}

#[tokio::test]
async fn copies_are_equal_after_kills_when_instances_work_side_by_side() {
    equal_after_kills(64).await;
}

async fn equal_after_kills(max_ack_pending: u32) {
    let _alone = ALONE.lock().await;
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    // Whoever is killed in a transaction leaves its records locked for this time.
    let soon = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 2 };
    set.direct(0).await.run_command(soon).await.unwrap();
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    scene.inbox().await;
    for name in ["records", "copies", "totals"] {
        scene.database.create_collection(name).await.unwrap();
    }
    let start = |role: &str| Process::start(role, &scene, max_ack_pending);

    let mut relay = Relay::leading(&scene, &[]).await;
    let (mut writer, mut consumers) = (start("writer"), [start("consumer"), start("consumer")]);
    for _ in 0..ROUNDS {
        progress(&scene).await;
        consumers[0] = start("consumer");
        progress(&scene).await;
        writer = start("writer");
        progress(&scene).await;
        relay.kill();
        relay = Relay::leading(&scene, &[]).await;
        consumers.swap(0, 1);
    }
    drop(writer);
    scene.drained().await;
    // The messages of a killed instance come after its ack wait.
    scene.heard_all().await;

    let records = all(&scene, "records").await;
    assert_eq!(all(&scene, "copies").await, records);
    let changes: i64 = records.iter().map(|record| record["version"].as_i64().unwrap() + 1).sum();
    assert!(changes > i64::try_from(CHANGES).unwrap(), "{changes} changes");
    let total = scene.collection("totals").find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(total.get_i64("messages").unwrap(), changes, "each message was counted once");
    assert_eq!(scene.collection("inbox_failed").count_documents(doc! {}).await.unwrap(), 0);
}

/// As JSON: in a message, a number has no type.
async fn all(scene: &Scene, name: &str) -> Vec<Value> {
    let found = scene.collection(name).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    found.into_iter().map(|record| Bson::from(record).into_relaxed_extjson()).collect()
}

/// Waits until the writer and the consumers have come so much further.
async fn progress(scene: &Scene) {
    let (records, totals) = (scene.collection("records"), scene.collection("totals"));
    let sum = doc! { "$group": { "_id": null, "changes": { "$sum": "$version" } } };
    let counts = async || {
        let mut cursor = records.aggregate([sum.clone()]).await.ok()?;
        let written = match cursor.try_next().await.ok()? {
            Some(sum) => u64::try_from(sum.get_i64("changes").ok()?).ok()?,
            None => 0,
        };
        let total = totals.find_one(doc! {}).await.ok()?;
        let heard = total.map_or(0, |total| total.get_i64("messages").unwrap_or(0));
        Some((written, u64::try_from(heard).ok()?))
    };
    let (written, heard) = until("the counts", &counts).await;
    until("writer and consumers come further", async || {
        let (now_written, now_heard) = counts().await?;
        (now_written >= written + CHANGES && now_heard >= heard + CHANGES / 2).then_some(())
    })
    .await;
}

/// This program in a role; killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(role: &str, scene: &Scene, max_ack_pending: u32) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["consumers::kills::in_a_role", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env("SHOP_MONGODB_URI", &scene.mongodb_uri)
            .env("SHOP_NATS_URL", &scene.nats_url)
            .env("SHOP", &scene.name)
            .env("SHOP_PENDING", max_ack_pending.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("the test program starts again");
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The consumer or the writer of the tests above. Without a role it does nothing.
#[tokio::test]
#[ignore = "a process of the other tests"]
async fn in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let given = |name| std::env::var(name).expect("the test sets it");
    let client = Client::with_uri_str(given("SHOP_MONGODB_URI")).await.unwrap();
    let database = client.database(&given("SHOP"));
    if role == "writer" {
        return write(&client, &database).await;
    }

    let inbox = Inbox::new(&database, "inbox");
    let copies = Replica::new(database.collection("copies"));
    let totals = database.collection("totals");
    let consumer = inbox.each(Consumer { copies, totals });
    Listener::new(&given("SHOP_NATS_URL"), given("SHOP"), GROUP, inbox)
        .max_ack_pending(given("SHOP_PENDING").parse().unwrap())
        .ack_wait(Duration::from_secs(3))
        .run(consumer, std::future::pending())
        .await
        .unwrap();
}

/// Changes records for ever.
async fn write(client: &Client, database: &Database) {
    let outbox = Outbox::new(database, "outbox");
    let records = database.collection::<Document>("records");
    let subject = format!("{}.changed", database.name());
    for number in 0_i64.. {
        let id = (number % RECORDS).to_string();
        let mut session = client.start_session().await.unwrap();
        let changed = session.start_transaction().and_run2(async |session| {
            let change = doc! { "$inc": { "version": 1_i64 }, "$set": { "number": number } };
            let stored = records
                .find_one_and_update(doc! { "_id": &id }, change)
                .return_document(mongodb::options::ReturnDocument::After)
                .session(&mut *session)
                .await?;
            let record = match stored {
                Some(record) => record,
                None => {
                    let record = doc! { "_id": &id, "version": 0_i64, "number": number };
                    records.insert_one(&record).session(&mut *session).await?;
                    record
                }
            };
            let event =
                Event::new(subject.as_str(), &record).and_then(|event| event.key(id.as_str()));
            outbox.enqueue(session, event.map_err(mongodb::error::Error::custom)?).await?;
            Ok(())
        });
        // Another writer may be there for a moment; the next try gets past it.
        let _ = changed.await;
        tokio::time::sleep(PAUSE).await;
    }
}

struct Consumer {
    copies: Replica<Document>,
    totals: Collection<Document>,
}

impl Apply for Consumer {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        let copy: Document = message.json()?;
        let verdict = self.copies.apply_in(session, &copy).await?;
        if verdict == Verdict::Done {
            let one_more = doc! { "$inc": { "messages": 1_i64 } };
            let total = self.totals.update_one(doc! { "_id": 1 }, one_more);
            total.upsert(true).session(session).await?;
        }
        Ok(verdict)
    }
}

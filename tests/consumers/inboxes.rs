//! The inbox: the id of a message and the work commit together, or neither does.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::{ClientSession, Collection};
use outboxd_client::{Apply, HandleError, InboxError, Message, Verdict};

use super::{Answers, Effect, once};
use crate::support::Scene;

fn message(id: &str) -> Message {
    Message::new("shop-service", id, "ticket.created", "{}")
}

#[tokio::test]
async fn the_id_and_the_work_commit_together_and_a_repeat_is_skipped() {
    let scene = Scene::new().await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    for _ in 0..3 {
        assert_eq!(once(&inbox, &effects, &message("1")).await.unwrap(), Verdict::Done);
    }
    let mut other = message("1");
    other.group = "mail-service".to_owned();
    once(&inbox, &effects, &other).await.unwrap();
    assert_eq!(scene.effects().await.len(), 2, "each group handles it once");

    let ids = scene.collection("inbox");
    let stored = ids.find_one(doc! { "_id.group": "shop-service" }).await.unwrap().unwrap();
    let id = doc! { "group": "shop-service", "id": "1" };
    assert_eq!(stored.get_document("_id").unwrap(), &id);
    assert!(stored.get_datetime("at").is_ok(), "{stored}");
}

#[tokio::test]
async fn work_that_is_later_or_fails_leaves_neither_an_id_nor_an_effect() {
    let scene = Scene::new().await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let later = Answers(Effect(effects.clone()), || Ok(Verdict::Later));
    assert_eq!(inbox.run(&message("1"), &later).await.unwrap(), Verdict::Later);

    let fails = Answers(Effect(effects.clone()), || Err(HandleError::failed("no luck")));
    let error = inbox.run(&message("1"), &fails).await.unwrap_err();
    assert!(matches!(error, HandleError::Failed(_)), "{error:?}");
    assert_eq!(error.reason(), "no luck");

    let error = inbox.run(&message("1"), &Twice(effects.clone())).await.unwrap_err();
    assert!(matches!(error, HandleError::Mongodb(_)) && !error.is_outage(), "{error:?}");

    assert_eq!(scene.collection("inbox").count_documents(doc! {}).await.unwrap(), 0);
    assert_eq!(effects.count_documents(doc! {}).await.unwrap(), 0);
    once(&inbox, &effects, &message("1")).await.unwrap();
    assert_eq!(scene.effects().await, ["1"]);
}

#[tokio::test]
async fn of_two_that_handle_one_message_at_once_one_does() {
    let scene = Scene::new().await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let inbox = inbox.patience(Duration::from_secs(60));
    let both = (0..8).map(|_| {
        let (inbox, effects) = (inbox.clone(), effects.clone());
        tokio::spawn(async move { once(&inbox, &effects, &message("1")).await })
    });
    for one in both.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap().unwrap(), Verdict::Done);
    }
    assert_eq!(scene.effects().await, ["1"]);
}

#[tokio::test]
async fn a_record_that_another_transaction_holds_makes_the_message_later() {
    let scene = Scene::new().await;
    let inbox = scene.inbox().await.patience(Duration::from_millis(50));
    let records = scene.collection("records");
    records.insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut holder = scene.transaction().await;
    let change = doc! { "$set": { "by": "holder" } };
    records.update_one(doc! {}, change).session(&mut holder).await.unwrap();

    let verdict = inbox.run(&message("1"), &Change(records)).await.unwrap();
    assert_eq!(verdict, Verdict::Later);
    assert_eq!(scene.collection("inbox").count_documents(doc! {}).await.unwrap(), 0);
    holder.abort_transaction().await.unwrap();
}

#[tokio::test]
async fn once_is_refused_outside_a_transaction_and_without_an_id() {
    let scene = Scene::new().await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    scene.database.create_collection("effects").await.unwrap();
    let mut session = scene.client.start_session().await.unwrap();
    let work = Effect(effects.clone());
    let error = inbox.once(&mut session, &message("1"), &work).await.unwrap_err();
    assert!(error.to_string().contains("outside a transaction; start one"), "{error}");

    let mut nameless = message("1");
    nameless.id = None;
    let error = inbox.run(&nameless, &work).await.unwrap_err();
    assert!(matches!(&error, HandleError::Unprocessable(_)), "{error:?}");
    assert!(error.to_string().contains("Nats-Msg-Id"), "{error}");
    assert_eq!(effects.count_documents(doc! {}).await.unwrap(), 0);

    // In a transaction of the caller's, which it ends as it likes.
    for (commits, expected) in [(false, 0), (true, 1), (true, 1)] {
        session.start_transaction().await.unwrap();
        for _ in 0..2 {
            let verdict = inbox.once(&mut session, &message("2"), &work).await.unwrap();
            assert_eq!(verdict, Verdict::Done);
        }
        match commits {
            true => session.commit_transaction().await.unwrap(),
            false => session.abort_transaction().await.unwrap(),
        }
        assert_eq!(effects.count_documents(doc! {}).await.unwrap(), expected);
    }
}

/// Work that MongoDB refuses.
struct Twice(Collection<Document>);

impl Apply for Twice {
    async fn apply(
        &self,
        session: &mut ClientSession,
        _: &Message,
    ) -> Result<Verdict, HandleError> {
        for _ in 0..2 {
            self.0.insert_one(doc! { "_id": 1 }).session(&mut *session).await?;
        }
        Ok(Verdict::Done)
    }
}

/// Work on a record that another transaction holds.
struct Change(Collection<Document>);

impl Apply for Change {
    async fn apply(
        &self,
        session: &mut ClientSession,
        _: &Message,
    ) -> Result<Verdict, HandleError> {
        let change = doc! { "$set": { "by": "message" } };
        self.0.update_one(doc! {}, change).session(session).await?;
        Ok(Verdict::Done)
    }
}

#[tokio::test]
async fn ids_expire_after_the_time_that_was_set_last() {
    let scene = Scene::new().await;
    let expiry = async || {
        let answer = scene.database.run_command(doc! { "listIndexes": "inbox" }).await.unwrap();
        let indexes = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        let indexes = indexes.iter().filter_map(bson::Bson::as_document);
        let mut expiries = indexes.filter_map(|index: &Document| index.get("expireAfterSeconds"));
        expiries.next().map(|seconds| seconds.to_string())
    };
    let inbox = scene.inbox().await;
    assert_eq!(expiry().await.as_deref(), Some("2592000"));
    inbox.create().await.unwrap();
    inbox.clone().ttl(Duration::from_secs(7200)).create().await.unwrap();
    assert_eq!(expiry().await.as_deref(), Some("7200"));

    let error = inbox.ttl(Duration::from_secs(60)).create().await.unwrap_err();
    assert!(matches!(error, InboxError::Ttl(_)), "{error:?}");
    assert_eq!(error.to_string(), "message ids are kept for 60 s; set a time of at least 3600 s");
}

//! The library: an event is written in the caller's transaction and only there.

use bson::{Timestamp, doc};
use outboxd_client::event::DEFAULT_MAX_PAYLOAD_BYTES;
use outboxd_client::{EnqueueError, Event, EventError, EventId, Outbox};

use crate::support::Scene;

#[tokio::test]
async fn an_event_commits_with_its_record() {
    let scene = Scene::new().await;
    let records = scene.database.collection::<bson::Document>("records");
    let mut session = scene.transaction().await;
    records.insert_one(doc! { "_id": 1 }).session(&mut session).await.unwrap();
    let event = scene.event("k", 1).header("traceparent", "00-1").unwrap();
    let id = scene.outbox.enqueue(&mut session, event).await.unwrap();
    assert!(scene.one(doc! {}).await.is_none(), "nothing is seen before the commit");
    session.commit_transaction().await.unwrap();

    let written = scene.one(doc! { "_id": id }).await.unwrap();
    assert_eq!(written.get_str("subject").unwrap(), scene.subject("made"));
    assert_eq!(written.get_str("key").unwrap(), "k");
    assert_eq!(written.get_document("payload").unwrap(), &doc! { "key": "k", "number": 1 });
    assert_eq!(written.get_document("headers").unwrap(), &doc! { "traceparent": "00-1" });
    assert!(written.get_bool("isLocked").unwrap());
    assert!(written.get_array("failures").unwrap().is_empty());
    assert_ne!(written.get_timestamp("ts").unwrap(), Timestamp { time: 0, increment: 0 });
    assert!(records.find_one(doc! { "_id": 1 }).await.unwrap().is_some());
}

#[tokio::test]
async fn a_rolled_back_event_is_gone() {
    let scene = Scene::new().await;
    let mut session = scene.transaction().await;
    scene.outbox.enqueue(&mut session, scene.event("k", 1)).await.unwrap();
    session.abort_transaction().await.unwrap();
    assert!(scene.one(doc! {}).await.is_none());
}

#[tokio::test]
async fn outside_a_transaction_nothing_is_written() {
    let scene = Scene::new().await;
    let mut session = scene.client.start_session().await.unwrap();
    for _ in 0..2 {
        let error = scene.outbox.enqueue(&mut session, scene.event("k", 1)).await.unwrap_err();
        assert!(matches!(error, EnqueueError::NotInTransaction), "{error:?}");
        assert!(error.to_string().contains("start one on the session"), "{error}");
    }
    let error = scene.outbox.enqueue_many(&mut session, []).await.unwrap_err();
    assert!(matches!(error, EnqueueError::NotInTransaction), "{error:?}");
    assert!(scene.one(doc! {}).await.is_none());

    // The session is as good as before, and after a commit it is outside again.
    session.start_transaction().await.unwrap();
    scene.outbox.enqueue(&mut session, scene.event("k", 1)).await.unwrap();
    session.commit_transaction().await.unwrap();
    let error = scene.outbox.enqueue(&mut session, scene.event("k", 2)).await.unwrap_err();
    assert!(matches!(error, EnqueueError::NotInTransaction), "{error:?}");
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn many_events_are_written_in_their_order() {
    let scene = Scene::new().await;
    let mut session = scene.transaction().await;
    let ids = scene
        .outbox
        .enqueue_many(&mut session, (0..100).map(|n| scene.event("k", n)))
        .await
        .unwrap();
    session.commit_transaction().await.unwrap();
    let mut cursor = scene.events.find(doc! {}).sort(doc! { "ts": 1 }).await.unwrap();
    let mut by_ts = Vec::new();
    while cursor.advance().await.unwrap() {
        by_ts.push(cursor.deserialize_current().unwrap().get_object_id("_id").unwrap());
    }
    assert_eq!(by_ts.into_iter().map(EventId::ObjectId).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn an_over_long_payload_is_refused_and_nothing_of_its_batch_is_written() {
    let scene = Scene::new().await;
    let mut session = scene.transaction().await;
    let long = Event::new("a", &"x".repeat(DEFAULT_MAX_PAYLOAD_BYTES + 1)).unwrap();
    let error =
        scene.outbox.enqueue_many(&mut session, [scene.event("k", 1), long]).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Event(EventError::PayloadTooLong { .. })), "{error:?}");
    session.commit_transaction().await.unwrap();
    assert!(scene.one(doc! {}).await.is_none());

    let small = Outbox::new(&scene.database, "outbox").max_payload_bytes(4);
    let mut session = scene.transaction().await;
    small.enqueue(&mut session, Event::new("a", "1234").unwrap()).await.unwrap();
    let error = small.enqueue(&mut session, Event::new("a", "12345").unwrap()).await.unwrap_err();
    assert_eq!(
        error.to_string().split(';').next(),
        Some("payload of 5 bytes is over the limit of 4")
    );
    session.abort_transaction().await.unwrap();
}

#[tokio::test]
async fn an_id_taken_twice_is_a_mongodb_error_with_the_drivers_labels() {
    let scene = Scene::new().await;
    let id = EventId::string("order-1-created").unwrap();
    scene.commit([scene.event("k", 1).with_id(id.clone()).unwrap()]).await;
    let mut session = scene.transaction().await;
    let error = scene
        .outbox
        .enqueue(&mut session, scene.event("k", 2).with_id(id).unwrap())
        .await
        .unwrap_err();
    let EnqueueError::Mongodb(error) = error else { panic!("{error:?}") };
    assert!(error.to_string().contains("E11000"), "{error}");
    session.abort_transaction().await.unwrap();
}

/// Writers in other languages meet the same contract in the database itself.
#[tokio::test]
async fn the_validator_refuses_what_breaks_the_contract() {
    let scene = Scene::new().await;
    let good = doc! {
        "ts": Timestamp { time: 0, increment: 0 }, "subject": "a", "payload": {}, "isLocked": true, "failures": [],
    };
    scene.events.insert_one(good.clone()).await.unwrap();
    let optional = [
        doc! { "key": bson::Bson::Null },
        doc! { "headers": bson::Bson::Null },
        doc! { "headers": { "a": bson::Bson::Null } },
        doc! { "subject": "a,b" },
        doc! { "key": "é".repeat(127) },
    ];
    for fields in optional {
        let mut event = good.clone();
        event.extend(fields.clone());
        let taken = scene.events.insert_one(event).await;
        assert!(taken.is_ok(), "{fields}: {taken:?}");
    }
    let spoilt = [
        doc! { "ts": 1 },
        doc! { "subject": "a b" },
        doc! { "subject": "a.*" },
        doc! { "subject": "$JS.API" },
        doc! { "subject": "_INBOX.x" },
        doc! { "subject": "a..b" },
        doc! { "subject": "" },
        doc! { "subject": "x".repeat(256) },
        doc! { "key": "" },
        doc! { "payload": 1 },
        doc! { "headers": { "a": 1 } },
        doc! { "headers": { "Nats-Msg-Id": "1" } },
        doc! { "isLocked": 1 },
        doc! { "isLocked": bson::Bson::Null },
        doc! { "failures": {} },
        doc! { "_id": 1 },
        doc! { "_id": "a b" },
        doc! { "_id": "a\n" },
        doc! { "_id": "x".repeat(256) },
        doc! { "subject": "a\n" },
        doc! { "key": "é".repeat(128) },
        doc! { "headers": { "a b": "1" } },
        doc! { "headers": { "a": "1", "A": "2" } },
        doc! { "headers": { "a": "1\n" } },
        doc! { "headers": { "a": "x".repeat(32 * 1024) } },
        doc! { "ts": bson::Bson::Null },
    ];
    for fields in spoilt {
        let mut event = good.clone();
        event.extend(fields.clone());
        let error = scene.events.insert_one(event).await.expect_err(&fields.to_string());
        assert!(error.to_string().contains("Document failed validation"), "{fields}: {error}");
    }
    for name in good.keys() {
        let mut event = good.clone();
        event.remove(name);
        assert!(scene.events.insert_one(event).await.is_err(), "without {name}");
    }
}

/// The refusal tells the writer what to do.
#[tokio::test]
async fn a_legacy_uuid_and_an_upsert_that_leaves_the_time_open_are_refused_with_a_reason() {
    let scene = Scene::new().await;
    let legacy = bson::Binary { subtype: bson::spec::BinarySubtype::UuidOld, bytes: vec![7; 16] };
    let event = doc! {
        "ts": Timestamp { time: 0, increment: 0 }, "subject": "a", "payload": {}, "isLocked": true, "failures": [],
    };

    let mut with_legacy = doc! { "_id": legacy };
    with_legacy.extend(event.clone());
    let error = scene.events.insert_one(with_legacy).await.unwrap_err();
    let said = format!("{error:?}");
    assert!(said.contains("subtype 3") && said.contains("uuidRepresentation=standard"), "{said}");

    let upsert =
        scene.events.update_one(doc! { "_id": "u" }, doc! { "$setOnInsert": event.clone() });
    let said = format!("{:?}", upsert.upsert(true).await.unwrap_err());
    assert!(said.contains("ts is still Timestamp(0, 0)"), "{said}");

    // An upsert that replaces is filled by the server.
    scene.events.replace_one(doc! { "_id": "r" }, event).upsert(true).await.unwrap();
    let stored = scene.one(doc! { "_id": "r" }).await.unwrap();
    assert!(stored.get_timestamp("ts").unwrap() > scene.began, "{stored}");
}

//! What a service does to scheduled events: it writes, cancels and reschedules them in its own
//! transaction and only there.

use bson::{Bson, DateTime, Document, doc};
use mongodb::error::{Error, TRANSIENT_TRANSACTION_ERROR};
use outboxd_client::{EnqueueError, Event, EventError, EventId};

use super::{HOUR, in_an_hour, one, schedule, scheduled};
use crate::support::Scene;

#[path = "../../clients/rust/examples/schedule.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod example;

#[tokio::test]
async fn an_event_for_later_commits_with_its_record() {
    let scene = Scene::new().await;
    let at = DateTime::from_system_time(in_an_hour());
    let mut session = scene.transaction().await;
    let records = scene.database.collection::<Document>("records");
    records.insert_one(doc! { "_id": 1 }).session(&mut session).await.unwrap();
    let event = scene.event("k", 1).header("traceparent", "00-1").unwrap();
    let id = scene.outbox.schedule(&mut session, event, at).await.unwrap();
    assert!(one(&scene, &id).await.is_none(), "nothing is seen before the commit");
    session.commit_transaction().await.unwrap();

    let written = one(&scene, &id).await.unwrap();
    assert_eq!(written.get_datetime("deliverAt").unwrap(), &at);
    assert_eq!(written.get_str("subject").unwrap(), scene.subject("made"));
    assert_eq!(written.get_str("key").unwrap(), "k");
    assert_eq!(written.get_document("payload").unwrap(), &doc! { "key": "k", "number": 1 });
    assert_eq!(written.get_document("headers").unwrap(), &doc! { "traceparent": "00-1" });
    assert!(written.get_bool("isLocked").unwrap());
    assert!(written.get_array("failures").unwrap().is_empty());
    assert!(scene.one(doc! {}).await.is_none(), "it is not in the outbox");
}

#[tokio::test]
async fn what_is_rolled_back_never_happened() {
    let scene = Scene::new().await;
    let mut session = scene.transaction().await;
    let id = scene.outbox.schedule(&mut session, scene.event("k", 1), in_an_hour()).await.unwrap();
    session.abort_transaction().await.unwrap();
    assert!(one(&scene, &id).await.is_none());

    let at = DateTime::from_system_time(in_an_hour());
    let id = schedule(&scene, scene.event("k", 1), at).await;
    let mut session = scene.transaction().await;
    let later = in_an_hour() + HOUR;
    assert!(scene.outbox.reschedule(&mut session, &id, later).await.unwrap());
    assert!(scene.outbox.cancel(&mut session, &id).await.unwrap());
    session.abort_transaction().await.unwrap();
    assert_eq!(one(&scene, &id).await.unwrap().get_datetime("deliverAt").unwrap(), &at);
}

#[tokio::test]
async fn outside_a_transaction_nothing_is_scheduled_cancelled_or_rescheduled() {
    let scene = Scene::new().await;
    let id = schedule(&scene, scene.event("k", 1), in_an_hour()).await;
    let before = one(&scene, &id).await.unwrap();
    let mut session = scene.client.start_session().await.unwrap();

    let event = scene.event("k", 2);
    let (outbox, later) = (&scene.outbox, in_an_hour() + HOUR);
    for error in [
        outbox.schedule(&mut session, event, later).await.map(|_| false).unwrap_err(),
        outbox.cancel(&mut session, &id).await.unwrap_err(),
        outbox.reschedule(&mut session, &id, later).await.unwrap_err(),
    ] {
        assert!(matches!(error, EnqueueError::NotInTransaction), "{error:?}");
        assert!(error.to_string().contains("start one on the session"), "{error}");
    }
    assert_eq!(one(&scene, &id).await.unwrap(), before);
    assert_eq!(scheduled(&scene).count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn each_answer_is_of_what_the_transaction_found() {
    let scene = Scene::new().await;
    let ids = [
        EventId::ObjectId(bson::oid::ObjectId::new()),
        EventId::Uuid(bson::Uuid::new()),
        EventId::string("order-1-expired").unwrap(),
    ];

    for id in ids {
        let mut session = scene.transaction().await;
        assert!(!scene.outbox.cancel(&mut session, &id).await.unwrap(), "never scheduled");
        assert!(!scene.outbox.reschedule(&mut session, &id, in_an_hour()).await.unwrap());
        let event = scene.event("k", 1).with_id(id.clone()).unwrap();
        let given = scene.outbox.schedule(&mut session, event, in_an_hour()).await.unwrap();
        assert_eq!(given, id);
        session.commit_transaction().await.unwrap();

        let later = DateTime::from_system_time(in_an_hour() + HOUR);
        let mut session = scene.transaction().await;
        assert!(scene.outbox.reschedule(&mut session, &id, later).await.unwrap());
        assert!(scene.outbox.reschedule(&mut session, &id, later).await.unwrap(), "the same time");
        session.commit_transaction().await.unwrap();
        assert_eq!(one(&scene, &id).await.unwrap().get_datetime("deliverAt").unwrap(), &later);

        let mut session = scene.transaction().await;
        assert!(scene.outbox.cancel(&mut session, &id).await.unwrap());
        assert!(!scene.outbox.cancel(&mut session, &id).await.unwrap(), "cancelled already");
        session.commit_transaction().await.unwrap();
        assert!(one(&scene, &id).await.is_none());
    }
}

/// A dead one has no time any more; what it waits for is an operator.
#[tokio::test]
async fn a_dead_event_is_cancelled_and_not_rescheduled() {
    let scene = Scene::new().await;
    let id = schedule(&scene, scene.event("k", 1), in_an_hour()).await;
    let dead = vec![doc! { "$set": { "isLocked": false, "deadAt": "$$NOW" } }];
    let event = doc! { "_id": Bson::from(id.clone()) };
    scheduled(&scene).update_one(event, dead).await.unwrap();

    let mut session = scene.transaction().await;
    assert!(!scene.outbox.reschedule(&mut session, &id, in_an_hour()).await.unwrap());
    assert!(scene.outbox.cancel(&mut session, &id).await.unwrap());
    session.commit_transaction().await.unwrap();
    assert!(one(&scene, &id).await.is_none());
}

#[tokio::test]
async fn what_the_contract_refuses_is_refused_before_the_database_is_asked() {
    let scene = Scene::new().await;
    let id = schedule(&scene, scene.event("k", 1), in_an_hour()).await;
    let microseconds = DateTime::from_millis(1_764_000_000_000_000);
    let mut session = scene.transaction().await;

    for at in [DateTime::from_millis(-1), DateTime::MIN, DateTime::MAX, microseconds] {
        let event = scene.event("k", 2);
        let error = scene.outbox.schedule(&mut session, event, at).await.unwrap_err();
        assert!(matches!(error, EnqueueError::Event(EventError::DeliverAt(_))), "{error:?}");
        let error = scene.outbox.reschedule(&mut session, &id, at).await.unwrap_err();
        assert!(matches!(error, EnqueueError::Event(EventError::DeliverAt(_))), "{error:?}");
    }
    let long = Event::new("a", &"x".repeat(2 << 20)).unwrap();
    let error = scene.outbox.schedule(&mut session, long, in_an_hour()).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Event(EventError::PayloadTooLong { .. })), "{error:?}");

    // The transaction is as good as before.
    session.commit_transaction().await.unwrap();
    assert_eq!(scheduled(&scene).count_documents(doc! {}).await.unwrap(), 1);
}

/// A team's own rule, added to the collection's: its words reach the service.
#[tokio::test]
async fn a_refusal_of_the_validator_is_told_in_its_words() {
    let scene = Scene::new().await;
    schedule(&scene, scene.event("k", 0), in_an_hour()).await;
    let rules = doc! { "$jsonSchema": { "required": ["tenant"], "properties": {
        "key": { "maxLength": 3, "description": "a key of at most 3 characters" },
    } } };
    for collection in ["outbox", "outbox_scheduled"] {
        let change = doc! { "collMod": collection, "validator": rules.clone() };
        scene.database.run_command(change).await.unwrap();
    }

    for is_for_later in [true, false] {
        let mut session = scene.transaction().await;
        let event = scene.event("long key", 1);
        let refused = match is_for_later {
            true => scene.outbox.schedule(&mut session, event, in_an_hour()).await.map(drop),
            false => scene.outbox.enqueue_many(&mut session, [event]).await.map(drop),
        };
        let error = refused.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, EnqueueError::Refused { .. }), "{error:?}");
        assert!(said.contains("key: a key of at most 3 characters"), "{said}");
        assert!(said.contains("tenant is missing"), "{said}");
        // For `and_run`, it is the driver's error.
        assert!(Error::from(error).to_string().contains("failed validation"));
    }
}

/// What the relay does to an event while a service cancels it, played by a second transaction.
#[tokio::test]
async fn of_a_move_and_a_cancel_one_fails_with_the_label_to_run_it_again() {
    let scene = Scene::new().await;
    for is_committed in [true, false] {
        let id = schedule(&scene, scene.event("k", 1), in_an_hour()).await;
        let event = doc! { "_id": Bson::from(id.clone()) };

        let mut service = scene.transaction().await;
        // The transaction's picture of the database begins with its first command.
        let records = scene.database.collection::<Document>("records");
        records.find_one(doc! {}).session(&mut service).await.unwrap();
        let mut relay = scene.transaction().await;
        let moved = scheduled(&scene).delete_one(event).session(&mut relay).await.unwrap();
        assert_eq!(moved.deleted_count, 1);
        if is_committed {
            relay.commit_transaction().await.unwrap();
        }

        let error = scene.outbox.cancel(&mut service, &id).await.unwrap_err();
        let error = Error::from(error);
        assert!(error.contains_label(TRANSIENT_TRANSACTION_ERROR), "{error:?}");
        service.abort_transaction().await.unwrap();
        if !is_committed {
            relay.commit_transaction().await.unwrap();
        }

        let mut service = scene.transaction().await;
        assert!(!scene.outbox.cancel(&mut service, &id).await.unwrap());
        service.commit_transaction().await.unwrap();
    }
}

#[tokio::test]
async fn the_example_of_the_readme_runs() {
    let example = include_str!("../../clients/rust/examples/schedule.rs");
    let (_, shown) = example.split_once("// readme\n").unwrap();
    let (shown, _) = shown.split_once("// end").unwrap();
    assert!(
        include_str!("../../clients/rust/README.md").contains(shown),
        "README and example differ"
    );

    let scene = Scene::new().await;
    for order in ["order-7", "order-8"] {
        example::place(&scene.database, order).await.unwrap();
    }
    assert!(example::pay(&scene.database, "order-7").await.unwrap());
    assert!(!example::pay(&scene.database, "order-7").await.unwrap(), "it was paid");

    let left = scheduled(&scene).distinct("_id", doc! {}).await.unwrap();
    assert_eq!(left, [Bson::from("order-8-expired")]);
}

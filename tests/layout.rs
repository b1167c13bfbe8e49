//! An outbox that was there before: its documents, as they are, on real servers.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::support::{Relay, Scene, outboxd_with, until};

/// What a collection of Debezium's outbox event router may insist on: nothing of it is outboxd's.
fn validator() -> Document {
    doc! { "$jsonSchema": { "required": ["aggregatetype", "aggregateid", "type", "payload"] } }
}

fn event(kind: &str, key: impl Into<Bson>, number: i32) -> Document {
    doc! { "aggregatetype": kind, "aggregateid": key.into(), "type": format!("{kind}Changed"), "payload": { "number": number } }
}

/// A collection as it was, and what `outboxd migrate` adds to it.
async fn debezium() -> (Scene, [(&'static str, String); 2]) {
    let scene = Scene::bare().await;
    scene.database.create_collection("outbox").validator(validator()).await.expect("a collection");
    let prefix = scene.subject("");
    let settings = [
        ("OUTBOXD_EVENT__LAYOUT", "debezium".to_owned()),
        ("OUTBOXD_EVENT__SUBJECT_PREFIX", prefix),
    ];
    let (code, said) = outboxd_with(&scene, &["migrate"], &texts(&settings));
    assert_eq!(code, Some(0), "{said}");
    (scene, settings)
}

fn texts<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(name, text)| (*name, text.as_str())).collect()
}

#[tokio::test]
async fn debeziums_layout_works_as_it_is() {
    let (scene, settings) = debezium().await;
    let record = ObjectId::new();
    // Three kinds of keys; half of the events are there before the relay is.
    let keys = [Bson::from("1042"), Bson::from(record), Bson::from(7)];
    let events = |numbers: std::ops::Range<i32>| {
        numbers
            .flat_map(|number| keys.iter().map(move |key| event("Order", key.clone(), number)))
            .collect::<Vec<_>>()
    };
    scene.events.insert_many(events(0..10)).await.unwrap();
    let relay = Relay::leading(&scene, &texts(&settings)).await;
    scene.events.insert_many(events(10..20)).await.unwrap();
    scene.drained().await;

    let messages = scene.messages().await;
    assert_eq!(messages.len(), 60);
    for message in &messages {
        assert_eq!(message.subject, scene.subject("outbox.event.Order"));
        assert_eq!(message.headers["eventType"], "OrderChanged");
        let id = &message.headers["id"];
        assert_eq!(message.headers["Nats-Msg-Id"], format!("{}.outbox.{id}", scene.name));
    }
    let (code, said) = outboxd_with(&scene, &["check"], &texts(&settings));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(relay.stop(), Some(0));

    let listed = scene.database.list_collections().filter(doc! { "name": "outbox" }).await.unwrap();
    let specs: Vec<_> = futures_util::TryStreamExt::try_collect(listed).await.unwrap();
    assert_eq!(
        specs[0].options.validator,
        Some(validator()),
        "the collection's own validator stays"
    );
}

#[tokio::test]
async fn operators_see_and_retry_events_of_another_layout() {
    let (scene, settings) = debezium().await;
    let settings = texts(&settings);
    let _relay = Relay::leading(&scene, &settings).await;
    scene.cover(&["outbox.event.Order"]).await;
    let record = ObjectId::new();
    scene.events.insert_many((0..3).map(|number| event("Parcel", record, number))).await.unwrap();
    scene.events.insert_one(event("Order", record, 3)).await.unwrap();
    let stuck = until("all of the key is stuck", async || {
        let stuck = doc! { "isLocked": false };
        (scene.events.count_documents(stuck).await.unwrap() == 4).then_some(())
    });
    stuck.await;

    let parcel = scene.subject("outbox.event.Parcel");
    let list = |args: &[&str]| {
        let args: Vec<_> = [&["list", "--output", "json"], args].concat();
        let (code, said) = outboxd_with(&scene, &args, &settings);
        assert_eq!(code, Some(0), "{said}");
        let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
        listed["events"].as_array().expect("events").clone()
    };
    let failed = &list(&["--failed"])[0];
    assert_eq!(failed["subject"], parcel);
    assert_eq!(failed["key"], record.to_hex());
    assert_eq!(list(&["--subject", "t*.Parcel"]).len(), 3);
    assert_eq!(list(&["--subject", "t*.Order", "--parked"]).len(), 1);
    assert_eq!(list(&["--key", &record.to_hex()]).len(), 4);
    assert_eq!(list(&["--older-than", "1h"]).len(), 0);
    let (_, said) = outboxd_with(&scene, &["stats"], &settings);
    assert!(said.contains(&parcel), "{said}");
    let behind = scene
        .one(doc! { "aggregatetype": "Order" })
        .await
        .unwrap()
        .get_object_id("_id")
        .unwrap()
        .to_hex();
    let (code, said) = outboxd_with(&scene, &["show", &behind], &settings);
    assert!(code == Some(0) && said.contains("held by") && said.contains("hidden"), "{said}");

    scene.cover(&["outbox.event.>"]).await;
    let (code, said) =
        outboxd_with(&scene, &["retry-now", "--all", "--failed", "--yes"], &settings);
    assert_eq!(code, Some(0), "{said}");
    scene.drained().await;
    let payloads: Vec<_> =
        scene.messages().await.into_iter().map(|message| message.payload).collect();
    assert_eq!(
        payloads,
        (0..4).map(|number| format!("{{\"number\":{number}}}")).collect::<Vec<_>>()
    );
}

/// Writers in JavaScript have no integers but doubles, and write null for what they lack.
#[tokio::test]
async fn nulls_are_fields_left_out_and_whole_doubles_are_keys() {
    let (scene, settings) = debezium().await;
    let settings = texts(&settings);
    let relay = Relay::leading(&scene, &settings).await;

    let all = [
        ("plain", doc! {}),
        ("headers", doc! { "headers": Bson::Null }),
        ("one header", doc! { "headers": { "a": Bson::Null, "b": "x" } }),
        ("key", doc! { "aggregateid": Bson::Null }),
        ("locked", doc! { "isLocked": Bson::Null }),
        ("time", doc! { "ts": Bson::Null }),
        (
            "bookkeeping",
            doc! { "nextAttemptAt": Bson::Null, "deadAt": Bson::Null, "failures": Bson::Null },
        ),
        ("type", doc! { "type": Bson::Null }),
        ("number", doc! { "aggregateid": 5_000_000_000.0 }),
        ("minus zero", doc! { "aggregateid": -0.0 }),
        ("large", doc! { "aggregateid": 1e21 }),
    ];
    for (name, fields) in &all {
        let mut event = event("Order", *name, 1);
        event.extend(fields.clone());
        scene.events.insert_one(event).await.unwrap();
    }
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), all.len());

    // Its own type and another's are one key: they stall together, and leave in order.
    scene.cover(&["outbox.event.Order"]).await;
    for (number, key) in
        [5e9.into(), Bson::from(5_000_000_000_i64), 1e21.into(), Bson::Null].into_iter().enumerate()
    {
        let number = i32::try_from(number).unwrap();
        scene.events.insert_one(event("Parcel", key.clone(), number)).await.unwrap();
        scene.events.insert_one(event("Order", key, number)).await.unwrap();
    }
    until("all but the event without a key wait", async || {
        let stuck = doc! { "isLocked": false };
        (scene.events.count_documents(stuck).await.unwrap() == 7).then_some(())
    })
    .await;
    for (key, events) in [("5000000000", 4), ("1e+21", 2)] {
        let (code, said) =
            outboxd_with(&scene, &["list", "--key", key, "--output", "json"], &settings);
        let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &listed["total"]), (Some(0), &events.into()), "{key}: {said}");
    }
    scene.cover(&["outbox.event.>"]).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_value_without_a_json_form_is_named_by_the_layouts_own_field() {
    let scene = Scene::bare().await;
    let template = scene.subject("made");
    let settings =
        [("OUTBOXD_EVENT__SUBJECT", template.as_str()), ("OUTBOXD_EVENT__PAYLOAD", "body")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");
    let _relay = Relay::leading(&scene, &settings).await;

    let legacy = bson::Binary { subtype: bson::spec::BinarySubtype::UuidOld, bytes: vec![7; 16] };
    for (fields, reason) in [
        (
            doc! { "body": { "items": [1, { "price": f64::NAN }] } },
            "invalid payload: body.items[1].price is NaN; it has no plain form in JSON",
        ),
        (
            doc! { "body": {}, "key": legacy.clone() },
            "`key` is a UUID of binary subtype 3, whose byte order depends on the driver; write \
             subtype 4, as drivers do with uuidRepresentation=standard",
        ),
    ] {
        scene.events.insert_one(fields.clone()).await.unwrap();
        let dead = until("it is dead", async || {
            let event = scene.one(doc! {}).await.unwrap();
            event.get("deadAt").is_some().then_some(event)
        })
        .await;
        let failure = dead.get_array("failures").unwrap()[0].as_document().unwrap();
        assert_eq!(failure.get_str("error").unwrap(), reason);
        scene.events.delete_many(doc! {}).await.unwrap();
    }
}

#[tokio::test]
async fn a_template_makes_the_subject_and_what_it_lacks_is_said() {
    let scene = Scene::bare().await;
    let template = scene.subject("{tenant}.{kind}");
    let settings = [("OUTBOXD_EVENT__SUBJECT", template.as_str()), ("OUTBOXD_EVENT__KEY", "of")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");
    let _relay = Relay::leading(&scene, &settings).await;
    scene
        .events
        .insert_one(doc! { "_id": "good", "tenant": 12, "kind": "made", "of": "a", "payload": "x" })
        .await
        .unwrap();
    scene
        .events
        .insert_one(doc! { "_id": "bad", "kind": "made", "of": "b", "payload": "x" })
        .await
        .unwrap();
    let dead =
        until("the other is dead", async || scene.one(doc! { "deadAt": { "$ne": null } }).await)
            .await;
    let failures = dead.get_array("failures").unwrap();
    assert_eq!(failures[0].as_document().unwrap().get_str("error").unwrap(), "`tenant` is missing");
    until("the good one is out", async || {
        scene.one(doc! { "_id": "good" }).await.is_none().then_some(())
    })
    .await;
    assert_eq!(scene.messages().await[0].subject, scene.subject("12.made"));
}

#[tokio::test]
async fn every_subject_can_have_a_prefix() {
    let scene = Scene::new().await;
    let prefix = scene.subject("eu.");
    let _relay = Relay::leading(&scene, &[("OUTBOXD_EVENT__SUBJECT_PREFIX", &prefix)]).await;
    let event = outboxd_client::Event::new("made", &doc! { "key": "a", "number": 1 }).unwrap();
    scene.commit([event]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await[0].subject, scene.subject("eu.made"));
}

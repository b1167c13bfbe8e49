//! What can't be moved is dead where it is, with its reason, and holds up nothing else.

use bson::raw::cstr;
use bson::{Bson, DateTime, Document, RawDocumentBuf, Regex, Timestamp, doc, rawdoc};
use mongodb::Collection;

use super::plan::{delivered, from_now};
use super::scheduled;
use crate::support::{Relay, Scene, until};

/// Inserts past the validator.
async fn smuggle(scene: &Scene, document: Document) {
    scheduled(scene)
        .insert_one(document)
        .bypass_document_validation(true)
        .await
        .expect("the document is inserted");
}

fn event(scene: &Scene, id: &str, number: u32, deliver_at: impl Into<Bson>) -> Document {
    doc! {
        "_id": id, "subject": scene.subject("made"), "key": "k", "isLocked": true, "failures": [],
        "payload": { "key": "k", "number": number }, "deliverAt": deliver_at.into(),
    }
}

fn without(mut event: Document, name: &str) -> Document {
    event.remove(name);
    event
}

fn with(mut event: Document, name: &str, value: impl Into<Bson>) -> Document {
    event.insert(name, value);
    event
}

/// Its code and its reason, once it is dead.
async fn dead(scene: &Scene, id: &str) -> (String, String) {
    until(&format!("{id} is dead"), async || {
        let dead = doc! { "_id": id, "isLocked": false, "deadAt": { "$type": "date" } };
        let dead = scheduled(scene).find_one(dead).await.ok()??;
        let failures = dead.get_array("failures").ok()?;
        assert_eq!(failures.len(), 1, "{dead}");
        let failure = failures[0].as_document()?;
        assert_eq!(failure.get_str("class").ok(), Some("poison"), "{dead}");
        Some((failure.get_str("code").ok()?.to_owned(), failure.get_str("error").ok()?.to_owned()))
    })
    .await
}

#[tokio::test]
async fn what_is_no_scheduled_event_is_dead_with_its_reason_and_its_key_goes_on() {
    let scene = Scene::new().await;
    let now = from_now(&scene, 0).await;
    let of = |id: &str, at: Bson| event(&scene, id, 0, at);
    let regex = Regex { pattern: cstr!("a").into(), options: cstr!("").into() };

    // Before dates in an index, and after them.
    let misfits = [
        ("none", without(of("none", now.into()), "deliverAt"), "`deliverAt` is missing"),
        ("null", of("null", Bson::Null), "of type null"),
        ("text", of("text", "2026-11-26".into()), "of type string"),
        ("number", of("number", 1_800_000_000_000_i64.into()), "of type"),
        ("array", of("array", Bson::Array(vec![now.into()])), "of type array"),
        ("stamp", of("stamp", Timestamp { time: 5, increment: 5 }.into()), "of type timestamp"),
        ("regex", of("regex", Bson::RegularExpression(regex)), "of type"),
        ("max", of("max", Bson::MaxKey), "of type"),
        ("death", with(of("death", now.into()), "deadAt", "yes"), "`deadAt`"),
        ("subject", without(of("subject", now.into()), "subject"), "`subject` is missing"),
        ("nan", with(of("nan", now.into()), "payload", doc! { "a": f64::NAN }), "NaN"),
        ("locked", with(of("locked", now.into()), "isLocked", "yes"), "`isLocked`"),
    ];
    for (_, document, _) in &misfits {
        smuggle(&scene, document.clone()).await;
    }
    for number in 1..=3 {
        let at = DateTime::from_millis(now.timestamp_millis() + i64::from(number));
        scheduled(&scene)
            .insert_one(event(&scene, &format!("e{number}"), number, at))
            .await
            .unwrap();
    }

    let relay = Relay::leading(&scene, &[]).await;
    for (id, _, reason) in &misfits {
        let (code, error) = dead(&scene, id).await;
        assert_eq!(code, "malformed", "{id}");
        assert!(error.contains(reason), "{id}: {error}");
    }
    delivered(&scene).await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3]);
    let alerts = std::fs::read_to_string(scene.alerts_file()).unwrap();
    assert_eq!(alerts.matches("\"dead\"").count(), misfits.len(), "{alerts}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn an_id_that_is_in_the_outbox_already_is_that_events_failure_alone() {
    let scene = Scene::new().await;
    // The stream doesn't take it, so it stays.
    let stuck = with(event(&scene, "twice", 9, Bson::Null), "subject", "elsewhere.made");
    let stuck = with(without(stuck, "deliverAt"), "ts", Timestamp { time: 0, increment: 0 });
    let other: Collection<Document> = scene.database.collection("outbox");
    other.insert_one(with(stuck, "key", "other")).await.unwrap();

    let now = from_now(&scene, 0).await.timestamp_millis();
    for number in 1..=40 {
        let id = if number == 20 { "twice".to_owned() } else { format!("e{number}") };
        let at = DateTime::from_millis(now + i64::from(number));
        scheduled(&scene).insert_one(event(&scene, &id, number, at)).await.unwrap();
    }

    let relay = Relay::leading(&scene, &[]).await;
    let (code, error) = dead(&scene, "twice").await;
    assert_eq!(code, "not-moved");
    assert!(error.contains("E11000"), "{error}");
    until("all others are moved", async || {
        let waiting = scheduled(&scene).count_documents(doc! { "deadAt": null }).await.ok()?;
        let left = scene.events.count_documents(doc! { "key": "k" }).await.ok()?;
        (waiting + left == 0).then_some(())
    })
    .await;
    let expected: Vec<_> = (1..=40).filter(|number| *number != 20).collect();
    assert_eq!(scene.numbers().await["k"], expected);
    assert_eq!(relay.stop(), Some(0));
}

/// A document that no mark can name: huge, or not UTF-8. It stays, and the others go.
#[tokio::test]
async fn an_id_that_cannot_be_named_holds_up_nothing() {
    let scene = Scene::new().await;
    let now = from_now(&scene, 0).await;
    let huge = with(event(&scene, "", 0, now), "_id", "x".repeat(100_000));
    smuggle(&scene, huge).await;

    // Its id ends in a byte that no text has.
    let raw = rawdoc! { "_id": "bad?", "subject": "made", "payload": "", "deliverAt": now };
    let mut bytes = raw.as_bytes().to_vec();
    let at = bytes.windows(4).position(|four| four == b"bad?").unwrap() + 3;
    bytes[at] = 0xff;
    let raw = RawDocumentBuf::from_bytes(bytes).unwrap();
    let insert = rawdoc! {
        "insert": "outbox_scheduled", "documents": [raw], "bypassDocumentValidation": true,
    };
    scene.database.run_raw_command(insert).await.unwrap();

    let relay = Relay::leading(&scene, &[]).await;
    for number in 1..=3 {
        let at = from_now(&scene, 0).await;
        scheduled(&scene)
            .insert_one(event(&scene, &format!("e{number}"), number, at))
            .await
            .unwrap();
        until("it is moved", async || {
            let left = scheduled(&scene).count_documents(doc! {}).await.ok()?;
            (left == 2).then_some(())
        })
        .await;
    }
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3]);
    relay.says("huge or unreadable _id").await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_dead_one_that_an_operator_has_delivered_goes_with_its_history() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    smuggle(&scene, event(&scene, "late", 1, "tomorrow")).await;
    dead(&scene, "late").await;

    let now = vec![
        doc! { "$set": { "deliverAt": "$$NOW", "isLocked": true } },
        doc! { "$unset": ["deadAt"] },
    ];
    scheduled(&scene).update_one(doc! { "_id": "late" }, now).await.unwrap();
    delivered(&scene).await;
    assert_eq!(scene.numbers().await["k"], [1]);
    assert_eq!(relay.stop(), Some(0));
}

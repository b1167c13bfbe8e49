//! Whatever valid documents are in the outbox, the relay's memory is bounded: by what it needs
//! without them, its buffer, and the driver's copies of a reply.
//!
//! The kernel holds the bound: a relay that wants more memory doesn't get it, and ends. The limit is
//! on all memory that isn't the program's file, and includes what was never touched, so it is the
//! same for every build.

use bson::{Bson, Decimal128, Document, Timestamp, doc};

use crate::support::{Relay, Scene, until};

/// What the relay gets: enough for its buffer of 8 MiB, a list of ids, two copies of a reply of 16
/// MB, and what the allocator keeps. 51 MB were the most that a release build had in a cgroup.
const LIMIT: u64 = 64 << 20;
/// Large, with some room for the mark.
const LARGE: usize = 15 << 20;

fn event(scene: &Scene, name: &str) -> Document {
    doc! {
        "_id": name, "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject("made"),
        "payload": {}, "isLocked": true, "failures": [],
    }
}

fn with_payload(scene: &Scene, name: &str, payload: impl Into<Bson>) -> Document {
    let mut event = event(scene, name);
    event.insert("payload", payload.into());
    event
}

fn many(value: impl Into<Bson>, bytes: usize) -> Bson {
    let value = value.into();
    // An element has its type, its place as text, and a zero.
    let size = bson::serialize_to_vec(&doc! { "": &value }).expect("BSON").len() - 5 + 7;
    Bson::Array(vec![value; bytes / size])
}

/// Each is as large as a document may be, and larger as JSON or in memory.
fn large(scene: &Scene) -> Vec<Document> {
    let nested = (0..90).fold(Bson::Array(Vec::new()), |inner, _| Bson::Array(vec![inner]));
    let tiny: Decimal128 = "-1.234567890123456789012345678901234E-6000".parse().expect("a decimal");
    let mut documents = vec![
        with_payload(scene, "control-characters", doc! { "a": "\u{1}".repeat(LARGE) }),
        with_payload(scene, "quotes", doc! { "a": "\"".repeat(LARGE) }),
        with_payload(scene, "a-name", doc! { "\u{1}".repeat(LARGE): 1 }),
        with_payload(scene, "a-text", "x".repeat(LARGE)),
        with_payload(scene, "doubles", many(-2.225_073_858_507_201_4e-308, LARGE)),
        with_payload(scene, "decimals", many(tiny, LARGE)),
        with_payload(scene, "dates", many(bson::DateTime::from_millis(1), LARGE)),
        with_payload(scene, "empty-documents", many(doc! {}, LARGE)),
        with_payload(scene, "nulls", many(Bson::Null, LARGE)),
        with_payload(scene, "nested", many(nested, LARGE)),
        with_payload(scene, "no-JSON", doc! { "x".repeat(LARGE): f64::NAN }),
    ];

    let mut malformed = event(scene, "a-subject");
    malformed.insert("subject", "x".repeat(LARGE));
    documents.push(malformed);

    let mut malformed = event(scene, "an-id");
    malformed.insert("_id", doc! { "many": many(Bson::Null, LARGE / 3) });
    documents.push(malformed);

    let mut malformed = event(scene, "failures");
    malformed.insert("failures", many(doc! { "error": "e" }, LARGE));
    malformed.insert("subject", "a b");
    documents.push(malformed);
    documents
}

/// Many, each small, and larger in memory.
fn small(scene: &Scene) -> Vec<Document> {
    let headers: Document = (0..64).map(|n| (format!("h{n}"), Bson::from(""))).collect();
    let long_headers: Document =
        (0..64).map(|n| (format!("h{n}"), Bson::from("x".repeat(500)))).collect();

    let mut documents = Vec::new();
    for number in 0..5000 {
        let name = format!("{number}-{}", "i".repeat(245));
        let mut texts = event(scene, &name);
        texts.insert("key", format!("{number}-{}", "k".repeat(245)));
        texts.insert("headers", headers.clone());
        documents.push(texts);
    }
    for number in 0..300 {
        let mut long = event(scene, &format!("headers-{number}"));
        long.insert("headers", long_headers.clone());
        documents.push(long);

        let name = format!("control-{number}");
        documents.push(with_payload(scene, &name, doc! { "a": "\u{1}".repeat(60_000) }));

        let mut id = event(scene, "");
        id.insert("_id", doc! { "n": number, "many": many(Bson::Null, 7000) });
        documents.push(id);
    }
    documents
}

/// Ids as long as they may be: a list has only some of them, and what was handed over is remembered.
fn long_ids(scene: &Scene) -> Vec<Document> {
    (0..40_000).map(|number| event(scene, &format!("l-{number}-{}", "i".repeat(240)))).collect()
}

fn name(id: &Option<Bson>) -> &str {
    id.as_ref().and_then(Bson::as_str).unwrap_or("an id of another type")
}

async fn limited(scene: &Scene) -> Relay {
    // A debug build on a busy machine takes seconds for a document.
    let relay = Relay::start(scene, &[("OUTBOXD_LEASE__TTL", "2m")]);
    relay.limit_memory(LIMIT);
    relay.says("holding the lease").await;
    relay
}

#[tokio::test]
async fn no_set_of_valid_documents_takes_more_memory_than_buffer_and_replies() {
    let scene = Scene::new().await;
    let relay = limited(&scene).await;
    let idle = relay.peak_rss();

    for document in large(&scene) {
        let id = document.get("_id").cloned();
        let insert = scene.events.insert_one(document).bypass_document_validation(true);
        insert.await.unwrap_or_else(|error| panic!("{}: {error}", name(&id)));
    }
    let locked = async |most| {
        let count = scene.events.count_documents(doc! { "isLocked": true }).await.unwrap();
        (count <= most).then_some(())
    };
    // What has an id of megabytes can't be marked.
    until("the large ones are dead", async || locked(1).await).await;
    println!("{idle} kB idle, at most {} kB with large documents", relay.peak_rss());

    for chunk in small(&scene).chunks(500) {
        let insert = scene.events.insert_many(chunk).bypass_document_validation(true);
        insert.await.expect("the documents are written");
    }
    until("the small ones are out or dead", async || locked(1).await).await;
    println!("at most {} kB with small documents from the tail", relay.peak_rss());
    assert_eq!(relay.stop(), Some(0));

    // Once more, from the sweep.
    scene.events.delete_many(doc! {}).await.unwrap();
    for chunk in long_ids(&scene).chunks(500).chain(small(&scene).chunks(500)) {
        let insert = scene.events.insert_many(chunk).bypass_document_validation(true);
        insert.await.expect("the documents are written");
    }
    for document in large(&scene) {
        scene.events.insert_one(document).bypass_document_validation(true).await.unwrap();
    }
    let after = limited(&scene).await;
    until("all are out or dead", async || locked(1).await).await;
    let dead = doc! { "_id": "control-characters", "failures.0.code": "max-payload" };
    assert!(scene.one(dead).await.is_some());
    println!("at most {} kB from the sweep", after.peak_rss());
    assert_eq!(after.stop(), Some(0));
}

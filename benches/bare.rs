//! The practical limit: loops that read, publish and delete, and do nothing else. No order within a
//! key, no lease, no retry, no bound on memory; an error ends them.

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{HeaderMap, header};
use bson::{Bson, RawDocument, RawDocumentBuf, doc};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use mongodb::{Client, Collection};
use tokio::sync::mpsc;

use super::stage::env;

/// Publishes under way at once.
const IN_FLIGHT: usize = 1024;
/// Ids in one delete.
const DELETE: usize = 1000;
/// Documents in one reply.
const BATCH: u32 = 1000;

/// A loop.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Loop {
    /// Reads with `find`, which sees what was there.
    Find,
    /// Reads with `find`, and publishes one at a time.
    One,
    /// Reads the change stream from the beginning of the oplog.
    Stream,
}

/// Runs until it is killed, or has nothing more to read.
pub(crate) async fn run(which: Loop) {
    let client = Client::with_uri_str(env("MONGODB_URI")).await.expect("a mongod");
    let outbox: Collection<RawDocumentBuf> =
        client.default_database().expect("a database").collection("outbox");
    match which {
        Loop::Find | Loop::One => {
            let found = outbox.find(doc! {}).batch_size(BATCH).await.expect("the outbox is read");
            let in_flight = if matches!(which, Loop::One) { 1 } else { IN_FLIGHT };
            publish(&outbox, found.map_err(|error| error.to_string()), in_flight).await;
        }
        Loop::Stream => {
            let inserts = [doc! { "$match": { "operationType": "insert" } }];
            // Everything that this process may have missed is younger than this.
            let begin =
                bson::Timestamp { time: env("BENCH_SINCE").parse().expect("a time"), increment: 1 };
            let stream = outbox
                .watch()
                .pipeline(inserts)
                .start_at_operation_time(begin)
                .batch_size(BATCH)
                .await;
            let events =
                stream.expect("a change stream").with_type::<RawDocumentBuf>().map(|change| {
                    let change = change.map_err(|error| error.to_string())?;
                    let event =
                        change.get_document("fullDocument").map_err(|error| error.to_string())?;
                    Ok(event.to_owned())
                });
            publish(&outbox, events, IN_FLIGHT).await;
        }
    }
    std::future::pending().await
}

async fn publish(
    outbox: &Collection<RawDocumentBuf>,
    events: impl Stream<Item = Result<RawDocumentBuf, String>>,
    most: usize,
) {
    let nats = async_nats::connect(env("NATS_URL")).await.expect("a nats-server");
    let context = ContextBuilder::new().build(nats);
    let (acked, mut to_delete) = mpsc::unbounded_channel();
    let deletes = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            let mut ids: Vec<Bson> = Vec::with_capacity(DELETE);
            while to_delete.recv_many(&mut ids, DELETE).await > 0 {
                let ids = std::mem::take(&mut ids);
                outbox.delete_many(doc! { "_id": { "$in": ids } }).await.expect("they are deleted");
            }
        }
    });
    let one = move |event: RawDocumentBuf| {
        let (context, acked) = (context.clone(), acked.clone());
        async move {
            let (id, subject, payload) = message(&event);
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_MESSAGE_ID, id.to_string());
            let ack = context
                .publish_with_headers(subject, headers, payload)
                .await
                .expect("it is published");
            ack.await.expect("it is acked");
            acked.send(id).expect("it is deleted");
        }
    };
    events
        .map(move |event| one(event.expect("an event")))
        .buffer_unordered(most)
        .for_each(async |()| {})
        .await;
    deletes.await.expect("the deletes end");
}

fn message(event: &RawDocument) -> (Bson, String, Bytes) {
    let id = Bson::ObjectId(event.get_object_id("_id").expect("an id"));
    let payload: Bson = event
        .get_document("payload")
        .expect("a payload")
        .try_into()
        .map(Bson::Document)
        .expect("BSON");
    let payload = serde_json::to_vec(&payload.into_relaxed_extjson()).expect("JSON");
    (id, event.get_str("subject").expect("a subject").to_owned(), payload.into())
}

//! The practical limit: loops that read, publish and delete, and do nothing else. They keep no
//! order within a key, hold no lease, retry nothing and bound no memory; the first error ends them.

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{HeaderMap, header};
use bson::{Bson, RawDocument, RawDocumentBuf, doc};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use mongodb::{Client, Collection};
use tokio::sync::mpsc;

use super::stage::env;

/// Publishes in flight.
const IN_FLIGHT: usize = 1024;

/// Ids per delete.
const DELETE: usize = 1000;

/// Documents per reply of MongoDB.
const BATCH: u32 = 1000;

/// Which loop to run.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Loop {
    /// Reads with `find`: only the events that exist at its start.
    Find,
    /// Reads with `find`, and publishes one event at a time.
    One,
    /// Reads the change stream from the time in BENCH_SINCE.
    Stream,
}

/// Runs the loop, and then waits until the benchmark kills the process.
pub(crate) async fn run(which: Loop) {
    let client = Client::with_uri_str(env("MONGODB_URI")).await.expect("a connection to MongoDB");
    let outbox: Collection<RawDocumentBuf> =
        client.default_database().expect("a database in the URI").collection("outbox");

    match which {
        Loop::Find => publish(&outbox, found(&outbox).await, IN_FLIGHT).await,
        Loop::One => publish(&outbox, found(&outbox).await, 1).await,
        Loop::Stream => publish(&outbox, inserted(&outbox).await, IN_FLIGHT).await,
    }

    std::future::pending().await
}

/// The events that are in the outbox now.
async fn found(
    outbox: &Collection<RawDocumentBuf>,
) -> impl Stream<Item = Result<RawDocumentBuf, String>> + use<> {
    let cursor = outbox.find(doc! {}).batch_size(BATCH).await.expect("the outbox is read");
    cursor.map_err(|error| error.to_string())
}

/// The events that were inserted since the time in BENCH_SINCE, and those still to come.
async fn inserted(
    outbox: &Collection<RawDocumentBuf>,
) -> impl Stream<Item = Result<RawDocumentBuf, String>> + use<> {
    let time = env("BENCH_SINCE").parse().expect("BENCH_SINCE is a time in seconds");
    let changes = outbox
        .watch()
        .pipeline([doc! { "$match": { "operationType": "insert" } }])
        .start_at_operation_time(bson::Timestamp { time, increment: 1 })
        .batch_size(BATCH)
        .await
        .expect("a change stream");

    changes.with_type::<RawDocumentBuf>().map(|change| {
        let change = change.map_err(|error| error.to_string())?;
        let event = change.get_document("fullDocument").map_err(|error| error.to_string())?;
        Ok(event.to_owned())
    })
}

/// Publishes the events, with at most `in_flight` at once, and deletes each one that is acked.
async fn publish(
    outbox: &Collection<RawDocumentBuf>,
    events: impl Stream<Item = Result<RawDocumentBuf, String>>,
    in_flight: usize,
) {
    let nats = async_nats::connect(env("NATS_URL")).await.expect("a connection to NATS");
    let context = ContextBuilder::new().build(nats);

    let (acked, to_delete) = mpsc::unbounded_channel();
    let deletes = tokio::spawn(delete(outbox.clone(), to_delete));

    events
        .map(move |event| {
            let event = event.expect("an event");
            publish_one(context.clone(), event, acked.clone())
        })
        .buffer_unordered(in_flight)
        .for_each(async |()| {})
        .await;

    deletes.await.expect("the deletes end");
}

async fn publish_one(context: Context, event: RawDocumentBuf, acked: mpsc::UnboundedSender<Bson>) {
    let (id, subject, payload) = message(&event);
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, id.to_string());

    let ack = context
        .publish_with_headers(subject, headers, payload)
        .await
        .expect("the event is published");
    ack.await.expect("the event is acked");

    acked.send(id).expect("the deletes still run");
}

/// Deletes in batches of whatever has been acked since the last delete.
async fn delete(outbox: Collection<RawDocumentBuf>, mut to_delete: mpsc::UnboundedReceiver<Bson>) {
    let mut ids: Vec<Bson> = Vec::with_capacity(DELETE);
    while to_delete.recv_many(&mut ids, DELETE).await > 0 {
        let ids = std::mem::take(&mut ids);
        outbox.delete_many(doc! { "_id": { "$in": ids } }).await.expect("the events are deleted");
    }
}

/// The id, the subject and the JSON payload of an event.
fn message(event: &RawDocument) -> (Bson, String, Bytes) {
    let id = Bson::ObjectId(event.get_object_id("_id").expect("an id"));
    let subject = event.get_str("subject").expect("a subject").to_owned();

    let payload: Bson = event
        .get_document("payload")
        .expect("a payload")
        .try_into()
        .map(Bson::Document)
        .expect("valid BSON");
    let payload = serde_json::to_vec(&payload.into_relaxed_extjson()).expect("valid JSON");

    (id, subject, payload.into())
}

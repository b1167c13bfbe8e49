//! Facts about MongoDB that the design stands on. If one of these fails, the promises don't hold on
//! that server.

use std::collections::HashSet;
use std::sync::Arc;

use bson::{Document, RawDocumentBuf, Timestamp, doc};

use crate::support::{Scene, until};

/// The order within a key is the server's own: it fills an empty top-level timestamp, per document,
/// in transactions too.
#[tokio::test]
async fn the_server_fills_an_empty_timestamp_inside_a_transaction() {
    let scene = Scene::bare().await;
    let things = scene.database.collection::<Document>("things");
    scene.database.create_collection("things").await.unwrap();
    let empty = Timestamp { time: 0, increment: 0 };
    let mut session = scene.transaction().await;
    things
        .insert_one(doc! { "_id": 0, "ts": empty, "in": { "ts": empty } })
        .session(&mut session)
        .await
        .unwrap();
    let many = (1..50).map(|n| doc! { "_id": n, "ts": empty });
    things.insert_many(many).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    let mut cursor = things.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    let mut last = empty;
    while cursor.advance().await.unwrap() {
        let thing = cursor.deserialize_current().unwrap();
        let ts = thing.get_timestamp("ts").unwrap();
        assert!(ts > last, "{thing}: not after {last}");
        last = ts;
    }
    let first = things.find_one(doc! { "_id": 0 }).await.unwrap().unwrap();
    assert_eq!(
        first.get_document("in").unwrap().get_timestamp("ts").unwrap(),
        empty,
        "only at the top level"
    );
}

/// A snapshot read at T and a change stream from T + 1 together bring each insert exactly once.
#[tokio::test]
async fn a_snapshot_and_the_stream_just_after_it_neither_overlap_nor_leave_a_gap() {
    let scene = Arc::new(Scene::bare().await);
    let things = scene.database.collection::<Document>("things");
    scene.database.create_collection("things").await.unwrap();
    let writing = tokio::spawn({
        let scene = scene.clone();
        async move {
            let things = scene.database.collection::<Document>("things");
            for n in 0..1000 {
                let mut session = scene.transaction().await;
                things
                    .insert_many([doc! { "_id": n * 2 }, doc! { "_id": n * 2 + 1 }])
                    .session(&mut session)
                    .await
                    .unwrap();
                session.commit_transaction().await.unwrap();
            }
        }
    });
    until("some are written", async || {
        (things.estimated_document_count().await.unwrap() > 300).then_some(())
    })
    .await;
    let mut session = scene.client.start_session().snapshot(true).await.unwrap();
    let mut cursor = things.find(doc! {}).session(&mut session).await.unwrap();
    let at = session.snapshot_time().expect("the server picked a time");
    let mut seen = HashSet::new();
    while cursor.advance(&mut session).await.unwrap() {
        assert!(seen.insert(cursor.current().get_i32("_id").unwrap()));
    }
    let in_snapshot = seen.len();
    assert!(
        (1..2000).contains(&in_snapshot),
        "the snapshot has {in_snapshot}: it must fall among the writes"
    );
    let after = Timestamp { time: at.time, increment: at.increment + 1 };
    let mut stream =
        things.watch().start_at_operation_time(after).await.unwrap().with_type::<RawDocumentBuf>();
    while seen.len() < 2000 {
        let Some(change) = stream.next_if_any().await.unwrap() else { continue };
        let id = change.get_document("fullDocument").unwrap().get_i32("_id").unwrap();
        assert!(seen.insert(id), "{id} is in the snapshot at {at} and in the stream after it");
    }
    writing.await.unwrap();
}

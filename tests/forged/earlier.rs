//! A neighbour that names what an earlier try has stored.

use std::collections::HashMap;

use bson::doc;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::{all_stored_once, commit, neighbour, responding};
use crate::support::{Message, Relay, Scene, until};

/// When the lease ends.
async fn expiry(scene: &Scene) -> bson::DateTime {
    let leases = scene.database.collection::<bson::Document>("outboxd_lease");
    let lease = leases.find_one(doc! { "_id": "outbox" }).await.expect("the lease is read");
    *lease.expect("a lease").get_datetime("expiresAt").expect("an end")
}

/// Somebody who knows what the stream has answers with the sequence that the first try was given.
#[tokio::test]
async fn who_names_what_an_earlier_try_has_stored_shows_no_stream_that_has_gone_back() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    commit(&scene).await;
    let outbox = scene.events.find(doc! {}).await.expect("the outbox is read");
    let again: Vec<_> = outbox.try_collect().await.expect("its events");
    let relay = Relay::leading(&scene, &[]).await;
    all_stored_once(&scene).await;

    let stored = scene.messages().await.into_iter().zip(1..);
    let sequence = |(mut message, sequence): (Message, u64)| {
        (message.headers.remove("Nats-Msg-Id").expect("an id"), sequence)
    };
    let sequences: HashMap<_, _> = stored.map(sequence).collect();
    let client = neighbour(&nats).await;
    let mut publishes = client.subscribe(scene.subjects.clone()).await.expect("a subscription");
    client.flush().await.expect("the neighbour listens");
    let name = scene.stream.clone();
    tokio::spawn(async move {
        while let Some(publish) = publishes.next().await {
            let headers = publish.headers.expect("headers");
            let id = headers.get("Nats-Msg-Id").expect("an id").as_str();
            let ack = json!({ "stream": name, "seq": sequences[id] }).to_string();
            let inbox = publish.reply.expect("an inbox");
            client.publish(inbox, ack.into()).await.expect("an answer is sent");
            client.flush().await.expect("the answer is sent");
        }
    });

    // Nobody else answers any more.
    scene.cover(&["elsewhere"]).await;
    scene.events.insert_many(again).await.expect("as if they had never been deleted");
    all_stored_once(&scene).await;

    // What the acks show is reported each second, and a lease is renewed less often.
    for _ in 0..2 {
        let before = expiry(&scene).await;
        until("the lease is renewed", async || (expiry(&scene).await > before).then_some(())).await;
    }
    assert!(!relay.log().contains("has gone back"), "{}", relay.log());
}

//! Any number of relays may run on one outbox: one publishes.

use bson::doc;

use crate::support::{Relay, Scene, until};

#[tokio::test]
async fn of_two_relays_one_publishes_and_the_other_takes_over() {
    let scene = Scene::new().await;
    let mut first = Relay::leading(&scene, &[("NATS_CLIENT_ID", "first")]).await;
    let second = Relay::start(&scene, &[("NATS_CLIENT_ID", "second")]);
    second.says("standing by").await;
    scene.commit((0..200).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    scene.drained().await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let held = lease.find_one(doc! { "_id": "outbox" }).await.unwrap().unwrap();
    assert!(held.get_str("holder").unwrap().starts_with("first "), "{held}");

    first.kill();
    scene.commit((200..400).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    scene.drained().await;
    let held = lease.find_one(doc! { "_id": "outbox" }).await.unwrap().unwrap();
    assert!(held.get_str("holder").unwrap().starts_with("second "), "{held}");
    let numbers = scene.numbers().await;
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), 400);
    assert!(numbers.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "{numbers:?}");
}

#[tokio::test]
async fn a_relay_that_stops_hands_over_at_once() {
    let scene = Scene::new().await;
    // A lease so long that only a resignation can explain the hand-over.
    let settings = [("OUTBOXD_LEASE__TTL", "300s")];
    let first = Relay::leading(&scene, &settings).await;
    let second = Relay::start(&scene, &settings);
    second.says("standing by").await;
    assert_eq!(first.stop(), Some(0));
    second.says("holding the lease").await;
}

#[tokio::test]
async fn a_relay_whose_lease_was_taken_stops_publishing() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let far = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3_600_000);
    // Someone with a long lease, which does not count as let go by.
    let lease_of = doc! { "holder": "someone else", "expiresAt": far, "ttlMs": 300_000_i64 };
    let other = doc! { "$set": lease_of, "$inc": { "term": 1 } };
    lease.update_one(doc! { "_id": "outbox" }, other).await.unwrap();
    relay.says("lost the lease").await;
    scene.commit([scene.event("k", 1)]).await;
    relay.says("standing by").await;
    assert!(scene.messages().await.is_empty());

    let free = doc! { "$set": { "expiresAt": bson::DateTime::from_millis(0) } };
    lease.update_one(doc! { "_id": "outbox" }, free).await.unwrap();
    until("it leads again", async || (scene.messages().await.len() == 1).then_some(())).await;
}

/// As after a reboot of a host whose clock was an hour ahead.
#[tokio::test]
async fn a_lease_that_nobody_renews_is_free_after_its_ttl_whatever_the_servers_clock_shows() {
    let scene = Scene::new().await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let ahead = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3_600_000);
    let gone = doc! {
        "_id": "outbox", "holder": "gone 1", "term": 7, "expiresAt": ahead, "ttlMs": 2000_i64,
    };
    lease.insert_one(gone).await.unwrap();

    let relay = Relay::start(&scene, &[]);
    relay.says("standing by").await;
    relay.says("holding the lease; relaying term=8").await;
    scene.commit([scene.event("k", 1)]).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

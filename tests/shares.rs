//! A key with a large backlog has its share of the buffer, and no more: other keys leave beside it.
//!
//! NATS is 4 ms away and nothing leaves in bursts, so a key leaves at 250 events a second whatever
//! the relay does. The tests
//! compare facts, not times: the others have left while most of the backlog is still there. A read of
//! the whole stream must stay below what a server keeps for one client, 64 MB.
//! `OUTBOXD_TEST_PILE` events, 20,000 unless set.

use std::collections::HashMap;

use bson::{Document, Timestamp, doc};

use crate::support::{NatsServer, Proxy, Relay, Scene, Toxic, checker, until};

const ONE_BY_ONE: (&str, &str) = ("OUTBOXD_NATS__BURSTS", "off");

fn pile() -> u32 {
    std::env::var("OUTBOXD_TEST_PILE").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// A scene whose relays reach NATS through the proxy.
async fn far_away() -> (NatsServer, Proxy, Scene, String) {
    let nats = NatsServer::start().await;
    let address = nats.url.trim_start_matches("nats://").trim_end_matches('/').to_owned();
    let proxy = Proxy::start(&address).await;
    proxy.set(Toxic::Far);
    let scene = Scene::alone(&nats).await;
    let url = format!("nats://{}", proxy.address);
    (nats, proxy, scene, url)
}

fn event(scene: &Scene, subject: &str, key: &str, number: u32, bytes: usize) -> Document {
    doc! {
        "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject(subject), "key": key,
        "payload": { "key": key, "number": number, "more": "x".repeat(bytes) },
        "isLocked": true, "failures": [],
    }
}

async fn insert(scene: &Scene, events: impl Iterator<Item = Document>) {
    let events: Vec<_> = events.collect();
    for some in events.chunks(1000) {
        scene.events.insert_many(some).await.expect("the events are written");
    }
}

async fn count(scene: &Scene, which: Document) -> u64 {
    scene.events.count_documents(which).await.expect("a count")
}

fn others() -> Document {
    doc! { "key": { "$regex": "^other" } }
}

fn hot() -> Document {
    doc! { "key": { "$regex": "^hot" } }
}

/// Some events of other keys leave. Returns how many of the hot ones are left by then.
async fn others_leave(scene: &Scene, round: u32) -> u64 {
    let event = |n: u32| event(scene, "made", &format!("other{}", n % 20), round * 100 + n / 20, 0);
    insert(scene, (0..100).map(event)).await;
    until("the others have left", async || (count(scene, others()).await == 0).then_some(())).await;
    count(scene, hot()).await
}

/// Waits, however long, as long as there is progress. Then every key has left in its order.
async fn drained(scene: &Scene, expected: usize) {
    let mut left = count(scene, doc! {}).await;
    while left > 0 {
        until("fewer events are left", async || (count(scene, doc! {}).await < left).then_some(()))
            .await;
        left = count(scene, doc! {}).await;
    }

    let mut stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let stored = stream.info().await.expect("its state").state.messages;
    assert_eq!(stored, expected as u64, "none lost, none twice");

    let mut published = HashMap::<_, Vec<_>>::new();
    for message in checker::stream(scene).await {
        published.entry(message.key).or_default().push(message.number);
    }
    assert_eq!(published.values().map(Vec::len).sum::<usize>(), expected, "none lost, none twice");
    for (key, numbers) in &published {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
}

#[tokio::test]
async fn other_keys_leave_beside_a_hot_backlog() {
    let (_nats, proxy, scene, url) = far_away().await;
    let pile = pile();
    insert(&scene, (0..pile).map(|n| event(&scene, "made", "hot", n, 300))).await;
    insert(&scene, (0..100).map(|n| event(&scene, "made", &format!("other{}", n % 20), n / 20, 0)))
        .await;

    let relay = Relay::leading(&scene, &[("NATS_URL", url.as_str()), ONE_BY_ONE]).await;
    until("the others have left", async || (count(&scene, others()).await == 0).then_some(()))
        .await;
    let swept = count(&scene, hot()).await;
    assert!(swept > u64::from(pile) / 2, "{swept} of the hot ones are left");

    // By the tail too, while the hot key goes on.
    for round in 1..4 {
        let more = pile + (round - 1) * 100;
        insert(&scene, (more..more + 100).map(|n| event(&scene, "made", "hot", n, 300))).await;
        let left = others_leave(&scene, round).await;
        assert!(left > u64::from(pile) / 2, "{left} of the hot ones are left");
    }

    proxy.set(Toxic::None);
    drained(&scene, pile as usize + 100 + 3 * 200).await;
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0);
    println!("{pile} events of a hot key: at most {} kB", relay.peak_rss());
}

#[tokio::test]
async fn other_keys_leave_beside_many_hot_keys() {
    let (_nats, proxy, scene, url) = far_away().await;
    let (pile, keys) = (pile(), 20);
    let hot_event = |n: u32| event(&scene, "made", &format!("hot{}", n % keys), n / keys, 300);
    insert(&scene, (0..pile * 2).map(hot_event)).await;

    let _relay = Relay::leading(&scene, &[("NATS_URL", url.as_str()), ONE_BY_ONE]).await;
    let left = others_leave(&scene, 0).await;
    assert!(left > u64::from(pile), "{left} of the hot ones are left");

    proxy.set(Toxic::None);
    drained(&scene, 2 * pile as usize + 100).await;
}

#[tokio::test]
async fn other_keys_leave_beside_large_events_of_one_key() {
    let (_nats, proxy, scene, url) = far_away().await;
    let large = 2000;
    insert(&scene, (0..large).map(|n| event(&scene, "made", "hot", n, 20_000))).await;

    // The hot ones are eighty times that.
    let settings = [
        ("NATS_URL", url.as_str()),
        ONE_BY_ONE,
        ("OUTBOXD_DISPATCH__MAX_BUFFERED_BYTES", "524288"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    let left = others_leave(&scene, 0).await;
    assert!(left > u64::from(large) / 4, "{left} of the hot ones are left");

    proxy.set(Toxic::None);
    drained(&scene, large as usize + 100).await;
    println!("{large} large events of a hot key: at most {} kB", relay.peak_rss());
}

/// What stays in the database is not parked.
#[tokio::test]
async fn the_rest_of_a_hot_key_waits_untouched_behind_a_failed_event() {
    let (_nats, proxy, scene, url) = far_away().await;
    scene.cover(&["made"]).await;
    let pile = pile();
    let subject = |n: u32| if n == 200 { "uncovered" } else { "made" };
    insert(&scene, (0..pile).map(|n| event(&scene, subject(n), "hot", n, 300))).await;

    let made = scene.subject("made");
    let settings = [
        ("NATS_URL", url.as_str()),
        ONE_BY_ONE,
        ("OUTBOXD_STREAM__SUBJECTS", made.as_str()),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000"),
    ];
    let _relay = Relay::leading(&scene, &settings).await;
    until("an event has failed", async || {
        scene.one(doc! { "failures.0": { "$exists": true } }).await
    })
    .await;
    others_leave(&scene, 0).await;
    let locked = count(&scene, doc! { "key": "hot", "isLocked": true }).await;
    assert!(locked > u64::from(pile) / 2, "{locked} of the hot ones are locked");

    scene.cover(&[">"]).await;
    proxy.set(Toxic::None);
    drained(&scene, pile as usize + 100).await;
}

//! Several events of one key leave together, and the stream never has one without those before it.

use std::time::Duration;

use async_nats::jetstream::stream;
use bson::doc;
use outboxd_client::Event;

use crate::support::{
    ALONE, Message, NatsCluster, NatsServer, Proxy, Relay, Scene, checker, mongodb_uri, until,
};

/// The header in which a message names the one before it.
const BEHIND: &str = "Nats-Expected-Last-Msg-Id";
const EVENTS: u32 = 600;
const AUTO: (&str, &str) = ("OUTBOXD_NATS__BURSTS", "auto");

/// Commits a backlog of one key, a transaction for each hundred.
async fn backlog(scene: &Scene, key: &str, events: u32) {
    for begin in (0..events).step_by(100) {
        scene.commit((begin..events.min(begin + 100)).map(|number| scene.event(key, number))).await;
    }
}

/// How many messages were stored behind one that they name. Each is directly behind it.
fn stored_behind(messages: &[Message]) -> usize {
    let named = |pair: &[Message]| {
        pair[1].headers.get(BEHIND).map(|named| named.as_str() == pair[0].headers["Nats-Msg-Id"])
    };
    let behind: Vec<bool> = messages.windows(2).filter_map(named).collect();
    assert!(behind.iter().all(|right| *right), "a message is behind another than it names");
    behind.len()
}

async fn in_order(scene: &Scene, key: &str, events: u32) {
    let numbers = scene.numbers().await;
    assert!(numbers[key].iter().copied().eq(0..events), "{:?}", numbers[key]);
}

#[tokio::test]
async fn the_backlog_of_a_key_leaves_in_bursts_and_a_lone_event_does_not() {
    let scene = Scene::new().await;
    backlog(&scene, "hot", EVENTS).await;
    scene.commit((0..20).map(|number| scene.event(&format!("lone{number}"), 0))).await;
    let relay = Relay::leading(&scene, &[AUTO]).await;
    scene.drained().await;

    in_order(&scene, "hot", EVENTS).await;
    let messages = scene.messages().await;
    let behind = stored_behind(&messages);
    assert!(behind > EVENTS as usize / 2, "{behind} of {EVENTS} left behind another");
    let lone = messages.iter().filter(|message| message.payload.contains("lone"));
    assert!(
        lone.clone().count() == 20
            && lone.into_iter().all(|lone| !lone.headers.contains_key(BEHIND))
    );
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0);
}

#[tokio::test]
async fn by_default_the_events_of_a_key_wait_for_each_other() {
    let scene = Scene::new().await;
    backlog(&scene, "hot", 100).await;
    let _relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    in_order(&scene, "hot", 100).await;
    assert_eq!(stored_behind(&scene.messages().await), 0);
}

#[tokio::test]
async fn what_is_in_flight_behind_a_refused_event_is_not_stored_and_waits_for_it() {
    let scene = Scene::new().await;
    backlog(&scene, "hot", 150).await;
    let large = doc! { "key": "hot", "number": 150, "more": "x".repeat(4000) };
    let large = Event::new(scene.subject("made"), &large).and_then(|event| event.key("hot"));
    scene.commit([large.expect("a good event")]).await;
    scene.commit((151..300).map(|number| scene.event("hot", number))).await;

    let limit = async |max_message_size| {
        let stream = scene.context.get_stream(&scene.stream).await.expect("the scene's stream");
        let config = stream.cached_info().config.clone();
        let config = stream::Config { max_message_size, ..config };
        scene.context.update_stream(config).await.expect("the stream takes other sizes");
    };
    // The relay creates the stream.
    let relay = Relay::leading(&scene, &[("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "1")]).await;
    drop(relay);
    limit(2000).await;

    let _relay = Relay::leading(&scene, &[AUTO]).await;
    let parked = doc! { "isLocked": false, "deadAt": null };
    until("the rest is parked", async || {
        (scene.events.count_documents(parked.clone()).await.expect("a count") == 149).then_some(())
    })
    .await;
    in_order(&scene, "hot", 150).await;

    limit(-1).await;
    let (code, said) = crate::support::outboxd(&scene, &["retry-now", "--all", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    scene.drained().await;
    in_order(&scene, "hot", 300).await;
    stored_behind(&scene.messages().await);
}

#[tokio::test]
async fn another_writers_messages_cut_a_burst_short_and_cost_no_order() {
    let scene = Scene::new().await;
    backlog(&scene, "hot", EVENTS).await;
    let (context, subject) = (scene.context.clone(), scene.subject("other"));
    let others = tokio::spawn(async move {
        for number in 0.. {
            let payload = format!(r#"{{"key":"other","number":{number}}}"#);
            let ack = context.publish(subject.clone(), payload.into()).await;
            // It fails until the relay has created the stream. The pause leaves the relay its turn on a
            // busy machine.
            _ = ack.expect("the client is connected").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let _relay = Relay::leading(&scene, &[AUTO]).await;
    scene.drained().await;
    others.abort();

    in_order(&scene, "hot", EVENTS).await;
    assert!(stored_behind(&scene.messages().await) > 0);
    assert!(
        scene.events.count_documents(doc! {}).await.expect("a count") == 0,
        "nothing was marked"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_in_mid_burst_costs_no_order_and_no_copy() {
    let nats = NatsServer::start().await;
    let proxy = Proxy::start(nats.url.trim_start_matches("nats://").trim_end_matches('/')).await;
    let scene = Scene::alone(&nats).await;
    backlog(&scene, "hot", 3000).await;
    let cutting = tokio::spawn({
        let proxy = proxy.clone();
        async move {
            loop {
                proxy.reset();
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
    });
    let url = format!("nats://{}", proxy.address);
    let settings = [("NATS_URL", url.as_str()), ("OUTBOXD_NATS__ACK_TIMEOUT", "500ms"), AUTO];
    let _relay = Relay::start(&scene, &settings);
    until("the half has left", async || {
        (scene.events.count_documents(doc! {}).await.expect("a count") < 1500).then_some(())
    })
    .await;
    cutting.abort();
    scene.drained().await;

    let numbers: Vec<u32> = checker::stream(&scene).await.iter().map(|one| one.number).collect();
    assert!(numbers.iter().copied().eq(0..3000), "{numbers:?}");
}

/// How many messages came in batches. Of each batch, all are there, directly behind each other.
fn stored_in_batches(messages: &[Message]) -> usize {
    let place = |message: &Message| {
        let batch = message.headers.get("Nats-Batch-Id")?.as_str().to_owned();
        let place: usize = message.headers.get("Nats-Batch-Sequence")?.as_str().parse().ok()?;
        Some((batch, place, message.headers.contains_key("Nats-Batch-Commit")))
    };
    let mut open: Option<(String, usize)> = None;
    let mut stored = 0;
    for found in messages.iter().map(place) {
        let before = open.take();
        match (found, before) {
            (None, before) => assert_eq!(before, None, "a batch is cut short"),
            (Some((batch, place, is_last)), before) => {
                let expected = before.map_or(1, |(before, place)| {
                    assert_eq!(before, batch, "a batch is within another");
                    place + 1
                });
                assert_eq!(place, expected, "a message of a batch is missing");
                open = (!is_last).then_some((batch, place));
                stored += 1;
            }
        }
    }
    assert_eq!(open, None, "a batch is cut short");
    stored
}

/// A chain would stop this stream for good when the server refuses a part of it.
#[tokio::test]
async fn a_stream_with_three_copies_takes_the_backlog_of_a_key_in_batches() {
    let _alone = ALONE.lock().await;
    let mut cluster = NatsCluster::start().await;
    let scene = Scene::among(mongodb_uri(), cluster.url(), Some(cluster.users.clone()), "3").await;
    let settings = [("OUTBOXD_STREAM__REPLICAS", "3"), AUTO];
    backlog(&scene, "hot", EVENTS).await;
    scene.commit((0..20).map(|number| scene.event(&format!("lone{number}"), 0))).await;
    let relay = Relay::leading(&scene, &settings).await;
    scene.drained().await;

    in_order(&scene, "hot", EVENTS).await;
    let messages = scene.messages().await;
    assert_eq!(stored_behind(&messages), 0);
    let batched = stored_in_batches(&messages);
    assert!(batched > EVENTS as usize / 2, "{batched} of {EVENTS} came in batches");
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0);

    // Its leader is killed while a backlog leaves.
    for begin in (EVENTS..3 * EVENTS).step_by(100) {
        scene.commit((begin..begin + 100).map(|number| scene.event("hot", number))).await;
    }
    let leader = until("there is a leader", async || cluster.leader(&scene).await).await;
    cluster.kill(leader);
    scene.drained().await;
    in_order(&scene, "hot", 3 * EVENTS).await;
    cluster.start_again(leader);
    until("all copies are there", async || cluster.is_whole(&scene).await.then_some(())).await;

    // Without the flag nothing leaves in batches.
    let stream = scene.context.get_stream(&scene.stream).await.expect("the scene's stream");
    let config = stream.cached_info().config.clone();
    let before = scene.messages().await.len();
    scene
        .context
        .update_stream(stream::Config { allow_atomic_publish: false, ..config })
        .await
        .expect("the stream takes no batches");
    scene.commit((0..200).map(|number| scene.event("cold", number))).await;
    scene.drained().await;
    in_order(&scene, "cold", 200).await;
    assert_eq!(stored_in_batches(&scene.messages().await[before..]), 0);
    drop(relay);
}

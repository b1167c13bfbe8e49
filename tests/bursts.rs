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
            // The stream isn't there until the relay has created it.
            if ack.expect("the client is connected").await.is_err() {
                tokio::task::yield_now().await;
            }
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

/// The server stops a stream of several copies that refuses a message of a burst.
#[tokio::test]
async fn a_stream_with_three_copies_gets_no_bursts() {
    let _alone = ALONE.lock().await;
    let cluster = NatsCluster::start().await;
    let scene = Scene::among(mongodb_uri(), cluster.url(), Some(cluster.users.clone()), "3").await;
    backlog(&scene, "hot", 300).await;
    let _relay = Relay::start(&scene, &[("OUTBOXD_STREAM__REPLICAS", "3"), AUTO]);
    scene.drained().await;
    in_order(&scene, "hot", 300).await;
    assert_eq!(stored_behind(&scene.messages().await), 0);
}

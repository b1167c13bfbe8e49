//! The relay is killed at each point of the move and of the repair: an event is never in neither
//! collection, and in both only until the next relay leads.

use std::sync::Arc;

use bson::doc;

use super::{KEEP, KEYS, PER_SECOND, all_there, grows, is_back, kept, recreate};
use crate::support::{ALONE, NatsServer, Relay, Scene, Writers, until};

const SIGKILL: i32 = 9;

async fn killed_while_moving(point: &str) {
    let _alone = ALONE.lock().await;
    let scene = Arc::new(Scene::new().await);
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    for crash in [1, 3, 8] {
        let at = format!("{point}:{crash}");
        let settings = [KEEP[0], KEEP[1], ("OUTBOXD_CRASH_AT", &at)];
        let mut relay = Relay::start(&scene, &settings);
        assert_eq!(relay.ended_by().await, Some(SIGKILL));
    }
    let _relay = Relay::start(&scene, &KEEP);
    let report = all_there(&scene, writers, "killed while moving").await;
    assert!(report.reordered.is_empty(), "{report}");
}

#[tokio::test]
async fn killed_while_an_event_is_copied() {
    killed_while_moving("keeping").await;
}

#[tokio::test]
async fn killed_between_the_copy_and_the_delete() {
    killed_while_moving("kept").await;
}

#[tokio::test]
async fn an_event_that_was_left_in_both_is_in_one_once_a_relay_leads() {
    let scene = Scene::new().await;
    scene.commit((0..20).map(|n| scene.event("k", n))).await;
    let settings = [KEEP[0], KEEP[1], ("OUTBOXD_CRASH_AT", "kept:1")];
    let mut relay = Relay::start(&scene, &settings);
    assert_eq!(relay.ended_by().await, Some(SIGKILL));
    let both = kept(&scene).count_documents(doc! {}).await.expect("a count");
    assert!(both > 0);
    assert_eq!(scene.events.count_documents(doc! {}).await.expect("a count"), 20);

    let relay = Relay::start(&scene, &KEEP);
    scene.drained().await;
    assert_eq!(kept(&scene).count_documents(doc! {}).await.expect("a count"), 20);
    assert_eq!(scene.messages().await.len(), 20);
    assert_eq!(relay.stop(), Some(0));
}

async fn killed_while_repairing(point: &str) {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 100).await;
    nats.kill();
    let copy = nats.copy();
    nats.start_again();
    is_back(&scene).await;
    grows(&scene, 1300).await;
    assert_eq!(relay.stop(), Some(0));
    nats.kill();
    nats.restore(&copy);
    nats.start_again();
    is_back(&scene).await;
    for crash in [1, 2] {
        let at = format!("{point}:{crash}");
        let settings = [KEEP[0], KEEP[1], ("OUTBOXD_CRASH_AT", &at)];
        let mut relay = Relay::start(&scene, &settings);
        assert_eq!(relay.ended_by().await, Some(SIGKILL));
    }
    let _relay = Relay::start(&scene, &KEEP);
    let report = all_there(&scene, writers, "killed while repairing").await;
    assert!(report.reordered.is_empty(), "{report}");
}

#[tokio::test]
async fn killed_before_a_page_is_published_again() {
    killed_while_repairing("repairing").await;
}

#[tokio::test]
async fn killed_after_a_page_was_published_again() {
    killed_while_repairing("repaired").await;
}

/// What the first repair had published comes behind what it had not.
#[tokio::test]
async fn a_stream_lost_again_while_it_is_repaired_is_repaired_from_the_start() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Arc::new(Scene::alone(&nats).await);
    let relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 1300).await;
    assert_eq!(relay.stop(), Some(0));
    recreate(&scene).await;
    let settings = [KEEP[0], KEEP[1], ("OUTBOXD_CRASH_AT", "repaired:2")];
    let mut relay = Relay::start(&scene, &settings);
    assert_eq!(relay.ended_by().await, Some(SIGKILL));
    recreate(&scene).await;
    let _relay = Relay::start(&scene, &KEEP);
    let drained = async || (scene.events.count_documents(doc! {}).await.ok()? < 100).then_some(());
    until("the repair is over", drained).await;
    all_there(&scene, writers, "lost twice").await;
}

//! The relay is killed at each named point of an event's way, again and again, under load: nothing
//! is lost or reordered, and a second publish of an event is acked as a duplicate.
//!
//! As often as `OUTBOXD_TEST_CRASHES` says, 3 times unless set; `make proofs` takes 20.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Relay, Scene, Writers, checker};

const SIGKILL: i32 = 9;
const KEYS: u32 = 20;
const PER_SECOND: u32 = 60;
/// How long the stream covers the events' subject, and how long it doesn't.
const SPELL: Duration = Duration::from_millis(1500);

#[derive(PartialEq, Eq)]
enum Stream {
    Well,
    /// Refuses everything now and then, so that events are marked, parked and unparked.
    Moody,
}

async fn crash_at(point: &str, mood: Stream) {
    let crashes: u32 =
        std::env::var("OUTBOXD_TEST_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let scene = Arc::new(Scene::new().await);
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    let over = Arc::new(AtomicBool::new(false));
    let moods = tokio::spawn(moods(scene.clone(), over.clone(), mood));
    let settings = [
        ("OUTBOXD_LEASE__TTL", "1s"),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000"),
        ("OUTBOXD_RETRY__MAX_DELAY", "1s"),
        ("OUTBOXD_STREAM__SUBJECTS", &scene.subject("never")),
    ];
    let mut happened = 0;
    for crash in 0..crashes {
        // Sometimes the first event, sometimes one in the middle.
        let at = format!("{point}:{}", 1 + crash * 7 % 30);
        let mut relay =
            Relay::start(&scene, &[&settings[..], &[("OUTBOXD_CRASH_AT", &at)]].concat());
        happened += u64::from(relay.ended_by().await == Some(SIGKILL));
    }
    let ledger = writers.stop().await;
    over.store(true, Ordering::Relaxed);
    moods.await.expect("the stream is well again");
    let _relay = Relay::start(&scene, &settings);
    scene.drained().await;
    let report =
        checker::check(&scene, &ledger, &[(&format!("killed at {point}"), happened)]).await;
    println!("\nkilled at {point}\n{report}");
    assert_eq!(happened, u64::from(crashes));
    report.assert_all_delivered();
}

async fn moods(scene: Arc<Scene>, over: Arc<AtomicBool>, mood: Stream) {
    while mood == Stream::Moody && !over.load(Ordering::Relaxed) {
        scene.cover(&["never", "elsewhere"]).await;
        tokio::time::sleep(SPELL).await;
        scene.cover(&["never", "made"]).await;
        tokio::time::sleep(SPELL).await;
    }
    scene.cover(&["never", "made"]).await;
}

#[tokio::test]
async fn killed_with_an_event_claimed() {
    crash_at("claimed", Stream::Well).await;
}

#[tokio::test]
async fn killed_with_an_event_submitted() {
    crash_at("submitted", Stream::Well).await;
}

#[tokio::test]
async fn killed_with_an_event_acked() {
    crash_at("acked", Stream::Well).await;
}

#[tokio::test]
async fn killed_with_a_delete_sent() {
    crash_at("delete_sent", Stream::Well).await;
}

#[tokio::test]
async fn killed_before_a_mark() {
    crash_at("marking", Stream::Moody).await;
}

#[tokio::test]
async fn killed_between_mark_and_park() {
    crash_at("parking", Stream::Moody).await;
}

#[tokio::test]
async fn killed_while_parked_events_follow() {
    crash_at("unparking", Stream::Moody).await;
}

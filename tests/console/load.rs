//! Many events: pages still answer, and the relay does not notice who looks.
//!
//! `make console` runs it with a million events, of which 100,000 are stuck.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::future::join_all;

use super::{Console, OPERATOR, Person, dead, hidden};
use crate::support::{ALONE, Relay, Scene};

/// Longest wait until the relay has delivered the events of a run.
const DRAINED: Duration = Duration::from_secs(600);
/// Events of one insert.
const BATCH: usize = 10_000;

/// How many events there are, and whether that is the full size.
fn size() -> (usize, bool) {
    let given = std::env::var("OUTBOXD_TEST_CONSOLE").ok();
    match given.and_then(|size| size.parse().ok()) {
        Some(size) => (size, size >= 1_000_000),
        None => (20_000, false),
    }
}

async fn insert(scene: &Scene, count: usize, make: impl Fn(usize) -> Document) {
    for from in (0..count).step_by(BATCH) {
        let events: Vec<_> = (from..count.min(from + BATCH)).map(&make).collect();
        scene.events.insert_many(events).ordered(false).await.unwrap();
    }
}

/// Seconds until the relay has delivered so many events.
async fn drain(scene: &Scene, relay: &Relay, count: usize, run: usize) -> f64 {
    let made = |number: usize| {
        doc! {
            "_id": format!("{run}-{number}"), "ts": bson::Timestamp { time: 0, increment: 0 },
            "subject": scene.subject("a"), "payload": { "number": number as i64 },
            "isLocked": true, "failures": [],
        }
    };

    relay.pause();
    insert(scene, count, made).await;
    let before = Instant::now();
    relay.resume();
    let locked = doc! { "isLocked": true };
    // Minutes, with a million of them.
    while scene.events.find_one(locked.clone()).await.unwrap().is_some() {
        assert!(before.elapsed() < DRAINED, "the relay has not delivered {count} events");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    before.elapsed().as_secs_f64()
}

/// Opens a page every few seconds, as somebody does who reads them, until told to stop; returns the
/// slowest answer of each.
async fn look(
    person: &Person,
    pages: &[String],
    stop: &tokio::sync::watch::Receiver<bool>,
) -> Vec<Duration> {
    let mut slowest = vec![Duration::ZERO; pages.len()];
    let mut opened = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(3));
    while opened < pages.len() || !*stop.borrow() {
        ticks.tick().await;
        let at = opened % pages.len();
        let began = Instant::now();
        person.page(&pages[at]).await;
        slowest[at] = began.elapsed().max(slowest[at]);
        opened += 1;
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_answer_and_the_relay_keeps_its_rate() {
    let _alone = ALONE.lock().await;
    let (size, is_full) = size();
    let (stuck, moving) = (size / 10, size * 9 / 10);
    let scene = Scene::new().await;
    insert(&scene, stuck, |number| {
        let (id, key) = (format!("s{number}"), format!("k{}", number % 1000));
        let code = ["10054", "not-covered", "max-payload"][number % 3];
        dead(&scene, &id, &key, code, &format!("refused {number}"))
    })
    .await;

    let relay = Relay::leading(&scene, &[]).await;
    let admin = relay.admin().await;
    let console = Console::start(&scene, &[("OUTBOXD_ADMIN__LISTEN", &admin)]).await;
    let alice = console.person(OPERATOR).await;

    let outbox = format!("/o/{}.outbox", scene.name);
    let pages: Vec<_> = ["/".to_owned()]
        .into_iter()
        .chain(
            [
                "groups",
                "events",
                "events?state=dead&page=3",
                "event?id=s5",
                "key?key=k7",
                "audit",
                "act?action=retry-now&code=not-covered",
            ]
            .map(|page| format!("{outbox}/{page}")),
        )
        .collect();

    // Twice each, in turn: a busy machine changes while it is measured.
    let (mut without, mut with, mut slowest) = (0.0, 0.0, Vec::<Vec<Duration>>::new());
    for run in 0..2 {
        without += drain(&scene, &relay, moving / 4, 2 * run).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let streams = join_all((0..20).map(|_| alice.get("/live"))).await;
        let (took, slow) = tokio::join!(
            async {
                let took = drain(&scene, &relay, moving / 4, 2 * run + 1).await;
                stop.send_replace(true);
                took
            },
            look(&alice, &pages, &stopped)
        );
        drop(streams);
        with += took;
        slowest.push(slow);
    }

    let ratio = without / with;
    println!("{size} events, {stuck} stuck: rate with the console {ratio:.2} of that without");
    let slowest: Vec<_> = (0..pages.len())
        .map(|at| slowest.iter().map(|run| run[at]).max().expect("a run"))
        .collect();
    for (page, slowest) in pages.iter().zip(&slowest) {
        println!("  {page}: at most {slowest:?}");
    }

    let (longest, least) = if is_full { (2.0, 0.95) } else { (10.0, 0.2) };
    assert!(slowest.iter().all(|page| page.as_secs_f64() < longest), "{slowest:?}");
    assert!(ratio >= least, "{ratio}");
}

#[tokio::test]
async fn an_action_with_too_many_events_is_refused_and_takes_no_memory() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    let key = |number: usize| format!("k{}", number % 100);
    insert(&scene, 100_001, |number| {
        dead(&scene, &format!("s{number}"), &key(number), "10054", "too large")
    })
    .await;
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;

    let act = format!("/o/{}.outbox/act?action=retry-now", scene.name);
    let page = alice.page(&format!("{act}&state=dead")).await;
    assert!(page.contains("More than 100,000 events match") && page.contains("disabled"), "{page}");
    assert_eq!(hidden(&page, "preview"), None);
    let page = alice.page(&format!("{act}&state=dead&key=k7")).await;
    assert!(page.contains("Retry now 1,000 events"), "{page}");
}

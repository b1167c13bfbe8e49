//! Memory and ticks stay bounded, whatever piles up.
//!
//! `OUTBOXD_TEST_PILE` events, 20,000 unless set; `make proofs` takes 100,000.

use std::time::Duration;

use bson::{DateTime, Document, Timestamp, doc};
use mongodb::Collection;
use tokio::time::{Instant, sleep_until};

use crate::support::{Relay, Scene, checker, outboxd, until};

/// What the relay may need at most, in kB, besides the pages of the program, which are 43,000 without
/// optimization: about 7,000 in itself, and its bounds of 8 MiB and 8,192 events.
const PEAK: u64 = 45_000;

fn pile() -> u32 {
    std::env::var("OUTBOXD_TEST_PILE").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

fn event(scene: &Scene, subject: &str, key: &str, number: u32) -> Document {
    doc! {
        "ts": Timestamp { time: 0, increment: 0 }, "subject": scene.subject(subject), "key": key,
        "payload": { "key": key, "number": number, "more": "x".repeat(300) }, "isLocked": true, "failures": [],
    }
}

/// Many in one go; the server fills `ts` in the order of the documents.
async fn insert(events: &Collection<Document>, documents: impl Iterator<Item = Document>) {
    let documents: Vec<_> = documents.collect();
    for chunk in documents.chunks(1000) {
        events.insert_many(chunk).await.expect("the events are written");
    }
}

/// Waits, however long, as long as there is progress.
async fn drained(scene: &Scene) {
    let count = async || scene.events.count_documents(doc! {}).await.expect("a count");
    let mut left = count().await;
    while left > 0 {
        until("fewer events are left", async || (count().await < left).then_some(())).await;
        left = count().await;
    }
}

#[tokio::test]
async fn a_stalled_key_with_many_events_behind_it_costs_no_memory() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings =
        [("OUTBOXD_STREAM__SUBJECTS", covered.as_str()), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000")];
    let relay = Relay::leading(&scene, &settings).await;
    let pile = pile();
    insert(&scene.events, [event(&scene, "uncovered", "held", 1)].into_iter()).await;
    until("the head has failed", async || {
        scene.one(doc! { "failures.0": { "$exists": true } }).await
    })
    .await;
    insert(&scene.events, (2..=pile).map(|n| event(&scene, "covered", "held", n))).await;
    let parked =
        async || scene.events.count_documents(doc! { "isLocked": true }).await.unwrap() == 0;
    until("all are parked", async || parked().await.then_some(())).await;
    // Another key flows past them.
    scene.events.insert_one(event(&scene, "covered", "other", 1)).await.unwrap();
    until("the other key is out", async || {
        (!checker::stream(&scene).await.is_empty()).then_some(())
    })
    .await;
    println!("{pile} events behind a stalled key: at most {} kB", relay.peak_memory());
    assert!(relay.peak_memory() < PEAK, "{} kB", relay.peak_memory());

    scene.cover(&[">"]).await;
    drained(&scene).await;
    let stream = checker::stream(&scene).await;
    let held: Vec<_> = stream
        .iter()
        .filter(|message| message.key == "held")
        .map(|message| message.number)
        .collect();
    assert_eq!(held, (1..=pile).collect::<Vec<_>>());
    println!("and at most {} kB when they followed", relay.peak_memory());
    assert!(relay.peak_memory() < PEAK, "{} kB", relay.peak_memory());
}

/// Ten times the pile in the outbox, one in ten of them stuck; the relay drains the rest at its
/// full speed, now left alone, now looked at the way an operator does. Prints what that costs.
#[tokio::test]
async fn an_operator_who_looks_at_a_full_outbox_gets_answers_and_the_relay_goes_on() {
    let scene = Scene::new().await;
    let pile = pile();
    let failure = doc! { "at": DateTime::now(), "attempt": 1_i64, "class": "config", "code": "not-covered", "error": "e", "relay": "r" };
    let stuck = (0..pile).map(|n| {
        let mut event = event(&scene, "made", &format!("stuck{n}"), 1);
        event.extend(
            doc! { "isLocked": false, "failures": [failure.clone()], "deadAt": DateTime::now() },
        );
        event
    });
    insert(&scene.events, stuck).await;
    for number in 1..=9 * pile.div_ceil(1000) {
        insert(
            &scene.events,
            (0..1000).map(|key| event(&scene, "made", &format!("k{key}"), number)),
        )
        .await;
    }
    let waiting = async || scene.events.estimated_document_count().await.unwrap() - u64::from(pile);
    let before = waiting().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "256")]).await;
    until("it drains", async || (waiting().await < before).then_some(())).await;
    let (mut alone, mut looked_at) = (Vec::new(), Vec::new());
    let mut took = Duration::ZERO;
    loop {
        for (rates, looks) in [(&mut alone, false), (&mut looked_at, true)] {
            let (began, from) = (Instant::now(), waiting().await);
            if looks {
                for verb in ["stats", "groups", "list"] {
                    let asked = Instant::now();
                    let (code, said) = outboxd(&scene, &[verb]);
                    assert_eq!(code, Some(0), "{said}");
                    assert!(
                        said.contains(&pile.to_string()),
                        "{verb} tells of all that are stuck: {said}"
                    );
                    took = took.max(asked.elapsed());
                }
            }
            sleep_until(began + Duration::from_secs(2)).await;
            let to = waiting().await;
            if to > 0 {
                rates.push((from - to) as f64 / began.elapsed().as_secs_f64());
            }
        }
        if waiting().await == 0 || looked_at.len() == 5 {
            break;
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (alone, looked_at) = (median(&mut alone), median(&mut looked_at));
    println!(
        "{} events, {pile} of them stuck: stats, groups and list took {took:?} at most; the relay drained {alone:.0} events/s \
         alone and {looked_at:.0} looked at every 2 s (ratio {:.2})",
        before + u64::from(pile),
        looked_at / alone
    );
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn many_failed_keys_keep_a_tick_bounded() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", covered.as_str()),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000"),
        ("OUTBOXD_ALERTS__AFTER_FAILURES", "10000"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    let pile = pile();
    insert(&scene.events, (0..pile).map(|n| event(&scene, "uncovered", &format!("k{n}"), 1))).await;
    let failed = async || {
        scene.events.count_documents(doc! { "attempts": { "$gte": 1 } }).await.unwrap()
            == u64::from(pile)
    };
    until("all have failed", async || failed().await.then_some(())).await;
    // Ticks go on finding them due; another key flows all the same.
    scene.events.insert_one(event(&scene, "covered", "other", 1)).await.unwrap();
    until("the other key is out", async || {
        (!checker::stream(&scene).await.is_empty()).then_some(())
    })
    .await;
    println!("{pile} failed keys: at most {} kB", relay.peak_memory());
    assert!(relay.peak_memory() < PEAK, "{} kB", relay.peak_memory());

    scene.cover(&[">"]).await;
    drained(&scene).await;
    assert_eq!(checker::stream(&scene).await.len(), pile as usize + 1);
    println!("and at most {} kB when they followed", relay.peak_memory());
}

/// Keys of 200 bytes, each with a dead event.
#[tokio::test]
async fn keys_that_wait_behind_dead_events_cost_no_memory_beyond_a_bound() {
    let scene = Scene::new().await;
    let pile = pile();
    let failure = doc! { "at": DateTime::now(), "attempt": 1_i64, "class": "config", "code": "not-covered", "error": "e", "relay": "r" };
    let key = |n: u32| format!("{n}-{}", "k".repeat(200));
    let dead = |n: u32| {
        doc! {
            "ts": Timestamp { time: 1, increment: 1 }, "subject": scene.subject("made"), "key": key(n),
            "payload": {}, "isLocked": false, "failures": [failure.clone()], "deadAt": DateTime::now(),
        }
    };
    for from in (0..pile).step_by(10_000) {
        insert(&scene.events, (from..pile.min(from + 10_000)).map(dead)).await;
    }

    let relay = Relay::leading(&scene, &[]).await;
    let idle = relay.peak_memory();
    // Behind dead events, of keys that are remembered and of keys that aren't, and between them.
    let step = (pile / 50) as usize;
    for (number, behind) in (0..pile).step_by(step).enumerate() {
        let number = number as u32 + 1;
        insert(&scene.events, [event(&scene, "made", &key(behind), 1)].into_iter()).await;
        insert(&scene.events, [event(&scene, "made", "free", number)].into_iter()).await;
    }

    let free = async || scene.events.count_documents(doc! { "key": "free" }).await.unwrap();
    until("the other key is out", async || (free().await == 0).then_some(())).await;
    let parked = doc! { "isLocked": false, "deadAt": null };
    let parked = async || scene.events.count_documents(parked.clone()).await.unwrap();
    until("what is behind is parked", async || (parked().await == 50).then_some(())).await;

    let stream = checker::stream(&scene).await;
    assert!(stream.iter().all(|message| message.key == "free"), "an event passed a dead one");
    let remembered = relay.metric("outboxd_remembered_keys").await;
    println!(
        "{pile} stalled keys, {remembered} remembered: {idle} kB at first, at most {} kB",
        relay.peak_memory()
    );
    assert!(remembered < 10_000, "{remembered} keys are remembered");
    assert!(relay.peak_memory() < PEAK, "{} kB", relay.peak_memory());

    // Once the dead ones are gone, what was behind them leaves.
    scene.events.delete_many(doc! { "deadAt": { "$type": "date" } }).await.unwrap();
    drained(&scene).await;
    assert_eq!(checker::stream(&scene).await.len(), 100);
}

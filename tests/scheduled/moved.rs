//! What is due is delivered once, in the order of the due times and never early, by the server's
//! clock.

use std::time::Duration;

use bson::{DateTime, Timestamp, doc};

use super::plan::{delivered, from_now, lateness, schedule};
use super::scheduled;
use crate::support::{Ledger, Outcome, Relay, Scene, WallClock, checker, outboxd_with, until};

const HOUR: i64 = 3600;

#[tokio::test]
async fn each_event_is_delivered_once_when_it_is_due_and_in_the_order_of_its_key() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();

    // In the past, at once, soon; and two of a key at the same time go by their ids.
    let mut times = Vec::new();
    for millis in [-60_000, -60_000, 0, 300, 600, 900, 900, 1500, 2500] {
        for key in 0..4 {
            times.push(from_now(&scene, millis + key).await);
        }
    }
    schedule(&scene, &mut ledger, 4, times).await;
    delivered(&scene).await;

    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let late = lateness(&scene, &ledger).await;
    println!("late: {late:?}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn what_is_scheduled_for_soon_is_delivered_soon() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    relay.says("holding the lease").await;
    let mut ledger = Ledger::default();

    for number in 1..=20 {
        let at = from_now(&scene, 400).await;
        let key = format!("s{number}");
        let event = scene.event(&key, 1);
        let mut session = scene.transaction().await;
        let id = scene.outbox.schedule(&mut session, event, at).await.unwrap();
        session.commit_transaction().await.unwrap();
        ledger.scheduled(id, &key, 1, Outcome::Committed, at.timestamp_millis());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    delivered(&scene).await;

    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let late = lateness(&scene, &ledger).await;
    println!("late: {late:?}");
    // Without the change stream, the poll of 5 s would find most of them seconds late.
    assert!(late[late.len() / 2] < Duration::from_secs(2), "{late:?}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn one_that_is_rescheduled_goes_at_its_new_time_and_a_cancelled_one_never() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();
    let far = from_now(&scene, 24 * HOUR * 1000).await;

    let mut session = scene.transaction().await;
    let sooner = scene.outbox.schedule(&mut session, scene.event("a", 1), far).await.unwrap();
    let never = scene.outbox.schedule(&mut session, scene.event("b", 1), far).await.unwrap();
    session.commit_transaction().await.unwrap();

    let soon = from_now(&scene, 500).await;
    let mut session = scene.transaction().await;
    assert!(scene.outbox.reschedule(&mut session, &sooner, soon).await.unwrap());
    assert!(scene.outbox.cancel(&mut session, &never).await.unwrap());
    session.commit_transaction().await.unwrap();
    ledger.scheduled(&sooner, "a", 1, Outcome::Committed, soon.timestamp_millis());
    ledger.scheduled(&never, "b", 1, Outcome::Cancelled, far.timestamp_millis());

    delivered(&scene).await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let mut session = scene.transaction().await;
    assert!(!scene.outbox.cancel(&mut session, &sooner).await.unwrap(), "it was delivered");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn ten_thousand_of_one_second_are_all_delivered_once_and_in_order() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let mut ledger = Ledger::default();
    let begin = from_now(&scene, 8000).await.timestamp_millis();
    let times = (0..10_000).map(|n| DateTime::from_millis(begin + n / 10));
    schedule(&scene, &mut ledger, 1000, times).await;
    delivered(&scene).await;

    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let late = lateness(&scene, &ledger).await;
    println!("half {:?}, the last {:?}", late[5000], late[9999]);
    assert_eq!(relay.stop(), Some(0));
}

/// A relay that was away for an hour: fresh events needn't wait for what is overdue.
#[tokio::test]
async fn what_is_overdue_leaves_room_for_fresh_events() {
    let scene = Scene::new().await;
    let mut ledger = Ledger::default();
    let hour_ago = from_now(&scene, -HOUR * 1000).await.timestamp_millis();
    let times = (0..6000).map(|n| DateTime::from_millis(hour_ago + n * 500));
    schedule(&scene, &mut ledger, 100, times).await;

    let settings = [("OUTBOXD_DISPATCH__MAX_BUFFERED_EVENTS", "200")];
    let relay = Relay::leading(&scene, &settings).await;
    let mut most = 0;
    for number in 1..=20 {
        let event = scene.event("fresh", number);
        ledger.record(event.id(), "fresh", number, Outcome::Committed);
        scene.commit([event]).await;
        until("the fresh event is out", async || {
            let fresh = doc! { "key": "fresh" };
            (scene.events.count_documents(fresh).await.unwrap() == 0).then_some(())
        })
        .await;
        most = scene.events.count_documents(doc! {}).await.unwrap().max(most);
    }
    // A move has 500 at most, and the next ones wait for room.
    assert!(most <= 4000, "{most} of 6000 in the outbox at once");
    delivered(&scene).await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_relay_whose_wall_clock_jumps_delivers_neither_early_nor_late() {
    let scene = Scene::new().await;
    let wall = WallClock::new();
    let relay = Relay::leading(&scene, &wall.env()).await;
    let mut ledger = Ledger::default();

    for (round, hours) in [0, 5, -5].into_iter().enumerate() {
        wall.set(hours * HOUR);
        let mut times = Vec::new();
        for millis in [0, 700, 1400] {
            times.push(from_now(&scene, millis).await);
        }
        let mut one = Ledger::default();
        let far = from_now(&scene, HOUR * 1000).await;
        let key = format!("far{round}");
        let mut session = scene.transaction().await;
        let id = scene.outbox.schedule(&mut session, scene.event(&key, 1), far).await.unwrap();
        session.commit_transaction().await.unwrap();
        for (n, at) in times.iter().enumerate() {
            let key = format!("r{round}n{n}");
            let mut session = scene.transaction().await;
            let event = scene.event(&key, 1);
            let id = scene.outbox.schedule(&mut session, event, *at).await.unwrap();
            session.commit_transaction().await.unwrap();
            one.scheduled(id, &key, 1, Outcome::Committed, at.timestamp_millis());
        }

        until("what is due is moved", async || {
            let left = scheduled(&scene).count_documents(doc! {}).await.unwrap();
            (left == 1).then_some(())
        })
        .await;
        let mut session = scene.transaction().await;
        assert!(scene.outbox.cancel(&mut session, &id).await.unwrap(), "an hour too early");
        session.commit_transaction().await.unwrap();
        ledger.scheduled(id, &key, 1, Outcome::Cancelled, far.timestamp_millis());
        ledger.add(one);
    }

    delivered(&scene).await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let late = lateness(&scene, &ledger).await;
    println!("late: {late:?}");
    assert!(late.iter().all(|late| *late < Duration::from_secs(60)), "{late:?}");
    assert_eq!(relay.stop(), Some(0));
}

/// What the mover writes is what the writer of a layout would have, with a time of its own.
#[tokio::test]
async fn a_layout_of_its_own_keeps_its_documents_and_the_order_of_their_due_times() {
    let scene = Scene::bare().await;
    let settings = [
        ("OUTBOXD_EVENT__LAYOUT", "debezium"),
        ("OUTBOXD_EVENT__SUBJECT", &scene.subject("{aggregatetype}")),
    ];
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");

    let now = from_now(&scene, 0).await.timestamp_millis();
    // The ids fall while the due times rise, and `ts` is the writer's own field in one.
    for (number, id) in [(1, "e3"), (2, "e2"), (3, "e1")] {
        let mut event = doc! {
            "_id": id, "aggregatetype": "order", "aggregateid": "o1", "type": "expired",
            "payload": { "key": "o1", "number": number },
            "deliverAt": DateTime::from_millis(now + 500 + i64::from(number)),
        };
        if number == 2 {
            event.insert("ts", Timestamp { time: 0, increment: 0 });
        }
        scheduled(&scene).insert_one(event).await.unwrap();
    }
    let refused = scheduled(&scene).insert_one(doc! { "_id": "e4", "deliverAt": 5 }).await;
    assert!(refused.is_err(), "a layout of its own demands the date too");

    // Swept, not tailed: the order is that of `ts`.
    let relay = Relay::leading(&scene, &settings).await;
    delivered(&scene).await;
    assert_eq!(scene.numbers().await["o1"], [1, 2, 3]);
    let messages = scene.messages().await;
    assert_eq!(messages[0].subject, scene.subject("order"));
    assert_eq!(messages[0].headers["eventType"], "expired");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_relay_that_is_told_to_leaves_scheduled_events_alone() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_SCHEDULED__ENABLED", "false")]).await;
    let mut ledger = Ledger::default();
    let now = from_now(&scene, 0).await;
    schedule(&scene, &mut ledger, 1, [now]).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    assert_eq!(scheduled(&scene).count_documents(doc! {}).await.unwrap(), 1);
    assert_eq!(relay.stop(), Some(0));
}

/// An upgrade comes before `outboxd migrate`, and before the new privileges.
#[tokio::test]
async fn an_outbox_that_is_not_migrated_again_is_relayed_as_ever() {
    let scene = Scene::new().await;
    scheduled(&scene).drop().await.unwrap();
    let record = doc! { "_id": "outbox/0009_scheduled_collection" };
    let records = scene.database.collection::<bson::Document>("outboxd_migrations");
    records.delete_one(record).await.unwrap();

    let relay = Relay::leading(&scene, &[]).await;
    relay.says("0009_scheduled_collection creates it: $ outboxd migrate").await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;

    let (code, said) = crate::support::outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    let mut ledger = Ledger::default();
    let now = from_now(&scene, 0).await;
    schedule(&scene, &mut ledger, 1, [now]).await;
    delivered(&scene).await;
    assert_eq!(relay.stop(), Some(0));
}

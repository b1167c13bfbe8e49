//! A failed publish is marked, retried later, and no event of its key passes it.

use async_nats::ConnectOptions;
use bson::{Document, Timestamp, doc};
use outboxd_client::Event;

use crate::support::{NatsServer, Relay, Scene, mongodb_uri, outboxd, until};

fn event(scene: &Scene, subject: &str, number: u32) -> Event {
    Event::new(scene.subject(subject), &doc! { "key": "k", "number": number })
        .unwrap()
        .key("k")
        .unwrap()
}

async fn failed(scene: &Scene) -> Document {
    until("an event is marked", async || {
        scene.one(doc! { "failures.0": { "$exists": true } }).await
    })
    .await
}

#[tokio::test]
async fn an_uncovered_subject_is_marked_then_retried_when_the_stream_covers_it() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let relay = Relay::start(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &scene.subject("covered"))]);
    relay.says("holding the lease").await;
    scene.commit([event(&scene, "uncovered", 1)]).await;

    let marked = failed(&scene).await;
    assert!(!marked.get_bool("isLocked").unwrap());
    assert!(marked.get_datetime("nextAttemptAt").is_ok(), "{marked}");
    let failure = marked.get_array("failures").unwrap()[0].as_document().unwrap();
    assert_eq!(failure.get_str("class").unwrap(), "config");
    assert_eq!(failure.get_str("code").unwrap(), "not-covered");
    assert_eq!(
        failure.get_str("error").unwrap(),
        format!("no subject of stream {} covers {}", scene.name, scene.subject("uncovered"))
    );
    until("it is tried again", async || scene.one(doc! { "attempts": { "$gte": 2 } }).await).await;

    scene.cover(&[">"]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1]);
}

#[tokio::test]
async fn what_comes_behind_a_failure_waits_and_follows_in_order() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([event(&scene, "covered", 1), event(&scene, "uncovered", 2)]).await;
    failed(&scene).await;
    for number in 3..40 {
        scene.commit([event(&scene, "covered", number)]).await;
    }
    until("all wait unlocked", async || {
        (scene.events.count_documents(doc! { "isLocked": false }).await.unwrap() == 38)
            .then_some(())
    })
    .await;
    let parked = scene.one(doc! { "payload.number": 39 }).await.unwrap();
    assert!(
        parked.get_array("failures").unwrap().is_empty(),
        "a parked event has not failed: {parked}"
    );
    assert_eq!(scene.numbers().await["k"], [1], "nothing passes the failed event");

    // Another key is not held up.
    let other =
        Event::new(&*covered, &doc! { "key": "other", "number": 1 }).unwrap().key("other").unwrap();
    scene.commit([other]).await;
    until("the other key flows", async || {
        scene.numbers().await.contains_key("other").then_some(())
    })
    .await;

    // A restart doesn't forget what waits.
    assert_eq!(relay.stop(), Some(0));
    let _relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([event(&scene, "covered", 40)]).await;
    scene.cover(&[">"]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_malformed_event_is_dead_with_a_reason_and_harms_no_other() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let bad = doc! { "_id": "bad", "subject": "a b", "payload": { "x": 1 }, "isLocked": true, "failures": "none" };
    let unchecked = scene.events.clone_with_type::<Document>();
    unchecked.insert_one(bad).bypass_document_validation(true).await.unwrap();
    scene.commit([scene.event("k", 1)]).await;
    let dead =
        until("it is dead", async || scene.one(doc! { "deadAt": { "$exists": true } }).await).await;
    let failure = dead.get_array("failures").unwrap()[0].as_document().unwrap();
    assert_eq!(failure.get_str("class").unwrap(), "poison");
    let reason = "invalid subject: only printable ASCII without spaces is allowed";
    assert_eq!(failure.get_str("error").unwrap(), reason);
    until("the other is out", async || (scene.messages().await.len() == 1).then_some(())).await;
    relay.says("event is dead").await;

    // It isn't marked again, by a sweep or by a tick.
    assert_eq!(relay.stop(), Some(0));
    let _relay = Relay::leading(&scene, &[]).await;
    scene.commit([scene.event("k", 2)]).await;
    until("the next is out", async || (scene.messages().await.len() == 2).then_some(())).await;
    let dead = scene.one(doc! { "_id": "bad" }).await.unwrap();
    assert_eq!(dead.get_array("failures").unwrap().len(), 1);
}

#[tokio::test]
async fn an_event_that_is_refused_too_often_is_dead_and_stays() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings =
        [("OUTBOXD_STREAM__SUBJECTS", covered.as_str()), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "3")];
    let _relay = Relay::leading(&scene, &settings).await;
    scene.commit([event(&scene, "uncovered", 1)]).await;
    let dead =
        until("it is dead", async || scene.one(doc! { "deadAt": { "$exists": true } }).await).await;
    assert_eq!(dead.get_i64("attempts").unwrap(), 3);
    assert_eq!(dead.get_array("failures").unwrap().len(), 3);
}

#[tokio::test]
async fn an_outage_burns_no_attempt_and_reorders_nothing() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    scene.commit((0..100).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    nats.kill();
    relay.says("disconnected").await;
    scene.commit((100..2000).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    scene.commit((0..50).map(|n| scene.event("quiet", n))).await;
    nats.start_again();
    scene.drained().await;
    let numbers = scene.numbers().await;
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), 2050);
    assert!(numbers.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "{numbers:?}");
    assert!(!relay.log().contains("event is dead"), "{}", relay.log());
}

#[tokio::test]
async fn a_long_outage_marks_what_was_on_its_way_and_nothing_else() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    // No stream takes part in an outage of JetStream alone: the connection stands, nobody answers.
    let config = scene.context.get_stream(&scene.name).await.unwrap().cached_info().config.clone();
    scene.context.delete_stream(&scene.name).await.unwrap();
    scene.commit((0..500).map(|n| scene.event(&format!("k{}", n % 50), n))).await;
    let marked = failed(&scene).await;
    assert_eq!(
        marked.get_i64("attempts").unwrap(),
        0,
        "an outage isn't the event's fault: {marked}"
    );
    let untouched = scene.events.count_documents(doc! { "isLocked": true }).await.unwrap();
    assert!(
        untouched > 400,
        "only what was on its way is marked; {untouched} of 500 are as they were"
    );
    nats.kill();
    relay.says("disconnected").await;
    nats.start_again();
    until("nats-server is back", async || scene.context.create_stream(&config).await.ok()).await;
    scene.drained().await;
    let numbers = scene.numbers().await;
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), 500);
    assert!(numbers.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "{numbers:?}");
}

#[tokio::test]
async fn an_event_locked_by_hand_is_picked_up() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[("OUTBOXD_SWEEP__INTERVAL", "1s")]).await;
    let bad = doc! {
        "_id": "bad", "subject": "a b", "key": "k", "payload": { "key": "k", "number": 1 }, "isLocked": true, "failures": [],
    };
    scene.events.insert_one(bad).bypass_document_validation(true).await.unwrap();
    until("it is dead", async || scene.one(doc! { "deadAt": { "$exists": true } }).await).await;
    let mended = doc! {
        "$set": { "subject": scene.subject("made"), "isLocked": true, "ts": Timestamp { time: 1, increment: 1 } },
        "$unset": { "deadAt": "" },
    };
    scene.events.update_one(doc! { "_id": "bad" }, mended).await.unwrap();
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1]);
}

#[tokio::test]
async fn a_denied_publish_is_a_matter_of_configuration_and_goes_out_once_allowed() {
    let allow = |denied: &str| {
        let user = format!(
            r#"{{ user: svc, password: pw, permissions: {{ publish: {{ deny: [{denied}] }} }} }}"#
        );
        format!("accounts {{ APP {{ jetstream: enabled, users: [{user}] }} }}")
    };
    let nats = NatsServer::with_config(&allow("")).await;
    let url = nats.url.replace("nats://", "nats://svc:pw@");
    let options = ConnectOptions::with_user_and_password("svc".to_owned(), "pw".to_owned());
    let scene = Scene::reached(mongodb_uri(), url, options).await;
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    let subject = scene.subject("denied");
    nats.reload(&allow(&subject));
    let _relay = Relay::leading(&scene, &[]).await;
    scene.commit([event(&scene, "denied", 1)]).await;
    let marked = failed(&scene).await;
    let failure = marked.get_array("failures").unwrap()[0].as_document().unwrap();
    assert_eq!(failure.get_str("class").unwrap(), "config", "{failure}");
    assert_eq!(failure.get_str("code").unwrap(), "no-permission", "{failure}");
    let (code, said) = outboxd(&scene, &["check"]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("NATS denied the last publishes to {subject}")), "{said}");
    assert!(said.contains("$ outboxd privileges --role relay"), "{said}");
    scene.commit([event(&scene, "denied", 2)]).await;
    nats.reload(&allow(""));
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [1, 2]);
}

/// It breaks the change stream (its change is over 16 MB), can't be published, and has no room for
/// a mark.
#[tokio::test]
async fn an_event_too_big_to_be_marked_holds_up_no_other() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let payload = "x".repeat(16 * 1024 * 1024 - 200);
    let huge = doc! { "_id": "huge", "subject": "a b", "payload": payload, "isLocked": true, "failures": [] };
    scene.events.insert_one(huge).bypass_document_validation(true).await.unwrap();
    relay.says("MongoDB can't mark events").await;
    scene.commit((0..20).map(|n| scene.event(&format!("k{n}"), n))).await;
    until("only it is left", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(scene.messages().await.len(), 20);
    assert!(scene.one(doc! { "_id": "huge", "isLocked": true }).await.is_some());
}

/// The events behind it are to be parked in the same batch as its mark.
#[tokio::test]
async fn events_behind_one_that_cannot_be_marked_hold_up_no_other_key() {
    let scene = Scene::new().await;
    let payload = "x".repeat(16 * 1024 * 1024 - 200);
    let huge = doc! { "_id": "huge", "subject": "a b", "key": "held", "payload": payload, "isLocked": true };
    scene.events.insert_one(huge).bypass_document_validation(true).await.unwrap();
    scene.commit((0..3).map(|n| scene.event("held", n))).await;

    let relay = Relay::leading(&scene, &[]).await;
    relay.says("MongoDB can't mark events").await;
    scene.commit((0..20).map(|n| scene.event(&format!("k{n}"), n))).await;

    until("only the held key is left", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 4).then_some(())
    })
    .await;
    assert_eq!(scene.messages().await.len(), 20);
    assert!(!relay.log().contains("could not park"), "{}", relay.log());
}

#[tokio::test]
async fn a_dead_event_is_skipped_when_the_configuration_says_so() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", covered.as_str()),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "2"),
        ("OUTBOXD_DISPATCH__ON_DEAD", "skip"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    let numbers = |uncovered: u32, numbers: std::ops::Range<u32>| {
        numbers.map(move |n| (if n == uncovered { "uncovered" } else { "covered" }, n))
    };
    scene.commit(numbers(3, 1..20).map(|(subject, n)| event(&scene, subject, n))).await;
    let malformed = doc! { "_id": "bad", "ts": Timestamp { time: 0, increment: 0 }, "subject": "a b", "key": "k" };
    scene.events.insert_one(malformed).bypass_document_validation(true).await.unwrap();
    scene.commit(numbers(22, 20..40).map(|(subject, n)| event(&scene, subject, n))).await;
    let dead = doc! { "deadAt": { "$exists": true } };
    until("only the dead are left", async || {
        let left = scene.events.count_documents(doc! {}).await.unwrap();
        (left == 3 && scene.events.count_documents(dead.clone()).await.unwrap() == 3).then_some(())
    })
    .await;
    let others = (1..40).filter(|n| ![3, 22].contains(n)).collect::<Vec<_>>();
    assert_eq!(scene.numbers().await["k"], others);

    // They stay skipped after a restart.
    assert_eq!(relay.stop(), Some(0));
    let _relay = Relay::leading(&scene, &settings).await;
    scene.commit([event(&scene, "covered", 40)]).await;
    until("the next is out", async || {
        (scene.numbers().await["k"].last() == Some(&40)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_ordering_no_event_waits_for_another() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let settings =
        [("OUTBOXD_STREAM__SUBJECTS", covered.as_str()), ("OUTBOXD_DISPATCH__ORDERING", "none")];
    let _relay = Relay::leading(&scene, &settings).await;
    scene.commit([event(&scene, "uncovered", 1), event(&scene, "covered", 2)]).await;
    failed(&scene).await;
    scene.commit([event(&scene, "covered", 3)]).await;
    until("the others are out", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 1).then_some(())
    })
    .await;
    scene.cover(&[">"]).await;
    scene.drained().await;
    let mut numbers = scene.numbers().await["k"].clone();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
}

/// Two arrays in one index: the server refuses to unlock such a document.
#[tokio::test]
async fn an_event_that_cannot_be_unlocked_holds_only_its_own_key() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([event(&scene, "uncovered", 1)]).await;
    failed(&scene).await;
    let now = Timestamp { time: 0, increment: 0 };
    let parallel = doc! {
        "_id": "parallel", "ts": now, "subject": &*covered, "key": "k", "payload": {}, "isLocked": true, "failures": [],
        "nextAttemptAt": [1, 2], "deadAt": [1, 2],
    };
    scene.events.insert_one(&parallel).await.expect_err("the validator refuses it");
    scene.events.insert_one(parallel).bypass_document_validation(true).await.unwrap();
    relay.says("event is dead").await;
    let other =
        Event::new(&*covered, &doc! { "key": "other", "number": 1 }).unwrap().key("other").unwrap();
    scene.commit([other]).await;
    until("the other key flows", async || {
        scene.numbers().await.contains_key("other").then_some(())
    })
    .await;
    let dead = until("it is dead", async || {
        scene.one(doc! { "_id": "parallel", "isLocked": false }).await
    })
    .await;
    assert!(dead.get_datetime("deadAt").is_ok(), "{dead}");
}

#[tokio::test]
async fn many_failed_events_are_out_soon_after_the_cause_is_mended() {
    let scene = Scene::new().await;
    // One tick takes a thousand: at one in ten seconds this would be minutes, if none followed the
    // one before.
    let _relay = Relay::leading(&scene, &[("OUTBOXD_RETRY__CRON", "*/10 * * * * *")]).await;
    let keyed = |n: u32| (!n.is_multiple_of(2)).then(|| format!("k{}", n % 9_000));
    let failed = (0..20_000).map(|n| {
        let key = keyed(n).unwrap_or_default();
        let mut failed = doc! {
            "ts": Timestamp { time: 1, increment: n + 1 }, "subject": scene.subject("made"),
            "payload": { "key": &key, "number": i64::from(n) },
            "isLocked": false, "failures": [], "attempts": 1, "nextAttemptAt": bson::DateTime::from_millis(0),
        };
        if keyed(n).is_some() {
            failed.insert("key", key);
        }
        failed
    });
    scene.events.insert_many(failed).await.unwrap();
    scene.drained().await;
    let numbers = scene.numbers().await;
    let in_order =
        |(key, numbers): (&String, &Vec<u32>)| key.is_empty() || numbers.is_sorted_by(|a, b| a < b);
    assert!(numbers.iter().all(in_order));
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), 20_000);
}

#[tokio::test]
async fn a_client_that_was_disconnected_for_long_is_replaced() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    scene.commit((0..10).map(|n| scene.event("k", n))).await;
    nats.kill();
    scene.commit((10..200).map(|n| scene.event("k", n))).await;
    relay.says("starting a new one").await;
    nats.start_again();
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_whose_events_keep_coming_gets_out_all_the_same() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let covered = scene.subject("covered");
    let _relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([event(&scene, "uncovered", 1)]).await;
    failed(&scene).await;
    let out =
        async || scene.context.get_stream(&scene.name).await.unwrap().cached_info().state.messages;
    let mut number = 1;
    while number < 3_000 {
        // Several at once, one behind the other: there is always one on its way to be parked.
        let next: Vec<_> = (number + 1..=number + 4).map(|n| event(&scene, "covered", n)).collect();
        scene.commit(next).await;
        number += 4;
        if number == 401 {
            scene.cover(&[">"]).await;
        }
        if number > 401 && out().await > 400 {
            break;
        }
    }
    assert!(number < 3_000, "nothing got out while events kept coming");
    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], (1..=number).collect::<Vec<_>>());
}

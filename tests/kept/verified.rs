//! `outboxd verify` names what the stream lacks and fills it up; `outboxd published` shows what is
//! kept.

use bson::{Document, doc};
use serde_json::Value;

use super::{KEEP, kept, recreate};
use crate::support::{NatsServer, Relay, Scene, outboxd_with, until};

fn verify(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    outboxd_with(scene, &[&["verify"], args].concat(), &KEEP)
}

/// Thirty events of three keys that a relay has published.
async fn published(scene: &Scene) {
    let relay = Relay::leading(scene, &KEEP).await;
    scene.commit((0..30).map(|n| scene.event(&format!("k{}", n % 3), n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

async fn id_at(scene: &Scene, sequence: i64) -> String {
    let event = kept(scene).find_one(doc! { "seq": sequence }).await.expect("a read");
    event.expect("it is kept").get_object_id("_id").expect("an id").to_hex()
}

/// The payloads' numbers in the stream, sorted.
async fn numbers(scene: &Scene) -> Vec<u64> {
    let mut stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let state = stream.info().await.expect("its state").state.clone();
    let mut numbers = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let payload: Value = serde_json::from_slice(&message.payload).expect("JSON");
        numbers.push(payload["number"].as_u64().expect("a number"));
    }
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn holes_in_the_middle_are_named_and_filled() {
    let scene = Scene::new().await;
    published(&scene).await;
    let (code, said) = verify(&scene, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("30 there, 0 missing"), "{said}");

    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let (seventh, twentieth) = (id_at(&scene, 7).await, id_at(&scene, 20).await);
    for sequence in [7, 20] {
        stream.delete_message(sequence).await.expect("it is deleted");
    }

    for args in [&[][..], &["--since", "1h"]] {
        let (code, said) = verify(&scene, args);
        assert_eq!(code, Some(1), "{said}");
        for (id, sequence) in [(&seventh, 7), (&twentieth, 20)] {
            let line = format!("missing: {id} ({}, seq {sequence})", scene.subject("made"));
            assert!(said.contains(&line), "{said}");
        }
        assert!(said.contains("28 there, 2 missing"), "{said}");
    }
    let (code, said) = verify(&scene, &["--output", "json"]);
    assert_eq!(code, Some(1), "{said}");
    let said: Value = serde_json::from_str(said.split("\noutboxd:").next().expect("a document"))
        .unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&said["missing"], &said["events"][1]["id"]), (&2.into(), &twentieth.into()));

    let (code, said) = verify(&scene, &["--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("published again: {seventh}")), "{said}");
    assert_eq!(numbers(&scene).await, (0..30).collect::<Vec<_>>());
    let (code, said) = verify(&scene, &[]);
    assert_eq!((code, said.contains("30 there, 0 missing")), (Some(0), true), "{said}");

    let audit = scene.database.collection::<Document>("outboxd_audit");
    let entry = audit.find_one(doc! { "action": "repair" }).await.expect("a read");
    assert_eq!(entry.expect("an entry").get_i64("events").expect("a count"), 2);

    // The next relay has nothing to repair.
    let relay = Relay::leading(&scene, &KEEP).await;
    scene.commit([scene.event("k0", 30)]).await;
    scene.drained().await;
    assert_eq!(relay.metric("outboxd_events_repaired_total").await, 0);
    assert_eq!(numbers(&scene).await, (0..31).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_purged_is_not_missing() {
    let scene = Scene::new().await;
    published(&scene).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    stream.purge().sequence(11).await.expect("it is purged");
    let (code, said) = verify(&scene, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("20 there, 0 missing, 10 removed by a purge or a limit"), "{said}");
}

/// Its order is the relay's to restore.
#[tokio::test]
async fn a_loss_that_no_relay_has_seen_is_named_and_left_to_the_relay() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    published(&scene).await;
    recreate(&scene).await;
    let (code, said) = verify(&scene, &[]);
    assert_eq!((code, said.matches("missing: ").count()), (Some(1), 30), "{said}");
    let (code, said) = verify(&scene, &["--repair"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no relay has seen that: start or restart the relay"), "{said}");

    let relay = Relay::leading(&scene, &KEEP).await;
    until("the relay repairs it", async || (numbers(&scene).await.len() == 30).then_some(())).await;
    assert_eq!(relay.stop(), Some(0));
    let (code, said) = verify(&scene, &[]);
    assert_eq!(code, Some(0), "{said}");
}

/// With repair = "alert" it is one command.
#[tokio::test]
async fn a_loss_that_a_relay_reported_is_repaired_in_one_command() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    published(&scene).await;
    recreate(&scene).await;
    let settings = [KEEP[0], KEEP[1], ("OUTBOXD_KEEP__REPAIR", "alert")];
    let relay = Relay::leading(&scene, &settings).await;
    until("it is reported", async || super::alerts(&scene).pop()).await;
    scene.commit((30..35).map(|n| scene.event("k0", n))).await;
    scene.drained().await;

    let (code, said) = verify(&scene, &["--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("30 missing, 30 of those published again"), "{said}");
    assert_eq!(numbers(&scene).await, (0..35).collect::<Vec<_>>());
    scene.commit((35..40).map(|n| scene.event("k1", n))).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));

    // What was repaired is repaired again, if it is lost again.
    recreate(&scene).await;
    let relay = Relay::leading(&scene, &KEEP).await;
    until("all of it is back", async || (numbers(&scene).await.len() == 40).then_some(())).await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(numbers(&scene).await, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn kept_events_are_listed_and_shown() {
    let scene = Scene::new().await;
    published(&scene).await;
    let of = |args: &[&str]| outboxd_with(&scene, &[&["published"], args].concat(), &KEEP);
    let (code, said) = of(&["list", "--limit", "4"]);
    assert_eq!(
        (code, said.contains("1 to 4 of 30; --page 2 shows more")),
        (Some(0), true),
        "{said}"
    );
    let last = id_at(&scene, 30).await;
    assert!(said.lines().nth(1).is_some_and(|line| line.starts_with(&last)), "{said}");

    let (code, said) = of(&["list", "--key", "k1", "--since", "1h", "--output", "json"]);
    let listed: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, &listed["total"]), (Some(0), &10.into()));
    assert_eq!(listed["events"][0]["stream"], scene.stream.as_str());
    let (code, said) = of(&["list", "--until", "1h"]);
    assert!(code == Some(0) && said.contains("no kept event matches"), "{said}");

    let (code, said) = of(&["show", &last]);
    assert!(code == Some(0) && said.contains("(hidden, about"), "{said}");
    let (_, said) = of(&["show", &last, "--payload"]);
    assert!(said.contains("29") && said.contains("seq"), "{said}");
    let (code, said) = of(&["show", "nothing"]);
    assert_eq!((code, said.contains("there is no kept event nothing")), (Some(1), true), "{said}");
}

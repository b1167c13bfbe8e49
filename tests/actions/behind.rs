//! What waits behind failed events: how many a group holds, and how many a discard lets go.

use bson::doc;

use super::{dead, failed, insert, json, on_terminal, parked, says, with, without_colours};
use crate::support::{Relay, Scene, outboxd, until};

/// Two groups: `a` with two keys that hold four events, `b` with one that holds one; and a key with
/// two dead events in front of what waits.
async fn held() -> Scene {
    let scene = Scene::new().await;
    let of = |id: &str, key: &str, error: &str| {
        with(failed(&scene, id, "malformed", error), doc! { "key": key })
    };
    let mut events = vec![
        dead(of("a1", "k1", "bad number 1")),
        dead(of("a2", "k2", "bad number 2")),
        dead(of("b1", "k3", "no payload")),
        dead(failed(&scene, "alone", "malformed", "no payload")),
        dead(of("c1", "k4", "twice dead")),
        with(
            dead(of("c2", "k4", "twice dead")),
            doc! { "ts": bson::Timestamp { time: 1, increment: 2 } },
        ),
    ];
    for (id, key) in [("1", "k1"), ("2", "k1"), ("3", "k1"), ("4", "k2"), ("5", "k3"), ("6", "k4")]
    {
        events.push(parked(&scene, id, key));
    }
    insert(&scene, events).await;
    scene
}

#[tokio::test]
async fn a_group_shows_how_many_events_wait_behind_it() {
    let scene = held().await;
    let groups = json(&scene, &["groups"]);
    let held = |error: &str| {
        let groups = groups.as_array().unwrap().iter();
        let mut found = groups.filter(|group| group["error"] == error);
        (found.next().unwrap()["held"].as_u64(), found.count())
    };
    assert_eq!(held("bad number #"), (Some(4), 0), "{groups:#}");
    assert_eq!(held("no payload"), (Some(1), 0), "{groups:#}");
    assert_eq!(held("twice dead"), (Some(1), 0), "{groups:#}");

    says(&scene, &["groups"], 0, &["GROUP     FAILED  DEAD  HELD  CODE"]);
    let id = groups.as_array().unwrap().iter().find(|group| group["held"] == 4).unwrap()["id"]
        .as_str()
        .unwrap();
    says(&scene, &["groups", id], 0, &["holds         4 events of their keys that came later"]);
    let of_key = json(&scene, &["groups", "--key", "k2"]);
    assert_eq!(of_key[0]["held"], 1, "{of_key:#}");

    let empty = Scene::new().await;
    insert(&empty, [dead(failed(&empty, "alone", "malformed", "e"))]).await;
    let said = says(&empty, &["groups"], 0, &["GROUP     FAILED  DEAD  CODE"]);
    assert!(!said.contains("HELD"), "{said}");
}

#[tokio::test]
async fn a_discard_says_how_many_events_it_lets_go() {
    let scene = held().await;
    let lets_go = "lets go   4 events of their keys that waited behind them";
    says(&scene, &["discard", "a1", "a2", "--dry-run"], 0, &[lets_go]);
    let said = says(&scene, &["discard", "alone"], 0, &["1 event discarded"]);
    assert!(!said.contains("behind"), "{said}");
    // Another dead event of the key still holds it.
    let said = says(&scene, &["discard", "c1"], 0, &["1 event discarded"]);
    assert!(!said.contains("behind"), "{said}");

    let _relay = Relay::leading(&scene, &[]).await;
    let group = json(&scene, &["groups"])
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["held"] == 4)
        .unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let leave = "4 events of their keys that waited behind them leave now";
    says(&scene, &["discard", "--all", "--group", &group, "--yes"], 0, &[lets_go, leave]);
    let left = doc! { "key": { "$in": ["k1", "k2"] } };
    until("they have left", async || {
        (scene.events.count_documents(left.clone()).await.unwrap() == 0).then_some(())
    })
    .await;
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 4, "b1, 5, c2 and 6");
}

#[tokio::test]
async fn without_a_relay_nothing_is_on_its_way() {
    let scene = held().await;
    scene.commit([scene.event("k", 1)]).await;
    let (_, said) = outboxd(&scene, &["stats"]);
    assert!(said.contains("NO RELAY") && !said.contains("on their way"), "{said}");
    assert!(said.contains("wait until a relay leads"), "{said}");

    let _relay = Relay::leading(&scene, &[]).await;
    let (_, said) = outboxd(&scene, &["stats"]);
    assert!(said.contains("relayed by") && said.contains("on their way"), "{said}");
    assert!(!said.contains("wait until"), "{said}");
}

#[tokio::test]
async fn edit_takes_yes_as_the_other_verbs_do() {
    let scene = held().await;
    let subject = scene.subject("made");
    let set = format!("subject={subject}");
    says(&scene, &["edit", "alone", "--yes", "--set", &set], 0, &["nothing changes"]);
    says(
        &scene,
        &["edit", "alone", "-y", "--set", "payload={\"a\":1}"],
        0,
        &["edited and due now"],
    );
    let (code, said) =
        on_terminal(&scene, &["edit", "b1", "--yes", "--no-wait", "--set", "key=k9"], 80, "");
    assert_eq!(code, Some(0), "{}", without_colours(&said));
}

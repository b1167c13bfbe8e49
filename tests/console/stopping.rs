//! Actions that somebody stops, and a console that is stopped.

use bson::doc;

use super::{Console, OPERATOR, Person, VIEWER, dead, hidden, location, number};
use crate::support::{Scene, json, until};

/// A scene with so many dead events.
async fn stuck(events: usize) -> Scene {
    let scene = Scene::new().await;
    let dead = (0..events).map(|n| dead(&scene, &format!("e{n}"), &format!("k{n}"), "10054", "no"));
    scene.events.insert_many(dead.collect::<Vec<_>>()).await.unwrap();
    scene
}

/// Confirms a retry of all dead events: the page of the action.
async fn retry(person: &Person, scene: &Scene, rate: &str) -> String {
    let act = format!("/o/{}.outbox/act", scene.name);
    let page = person.page(&format!("{act}?action=retry-now&state=dead")).await;
    let [csrf, preview] = ["csrf", "preview"].map(|name| hidden(&page, name).expect("a form"));
    let form = [("csrf", csrf), ("preview", preview), ("rate", rate)];
    let answer = person.post(&act, &form).await;
    assert_eq!(answer.status(), 303);
    location(&answer).to_owned()
}

#[tokio::test]
async fn an_action_under_way_is_listed_and_an_operator_stops_it() {
    let scene = stuck(100).await;
    let console = Console::start(&scene, &[]).await;
    let (alice, bob) = (console.person(OPERATOR).await, console.person(VIEWER).await);
    let job = retry(&alice, &scene, "1").await;

    // Whoever has lost the page finds it again; nobody guesses it.
    let audit = format!("/o/{}.outbox/audit", scene.name);
    let page = bob.page(&audit).await;
    assert!(page.contains(&job) && page.contains("under way"), "{page}");
    let id = job.rsplit('/').next().unwrap();
    assert!(id.len() >= 40, "{id}");
    assert_eq!(bob.get(&format!("/o/{}.outbox/jobs/1", scene.name)).await.status(), 404);
    assert_eq!(bob.get("/live?job=1").await.status(), 404);

    let stop = format!("{job}/stop");
    let page = bob.page(&job).await;
    assert!(page.contains("Stop</button>") && page.contains("signed in as a viewer"), "{page}");
    assert_eq!(bob.post(&stop, &[("csrf", &bob.csrf().await)]).await.status(), 403);
    assert_eq!(alice.post(&stop, &[("csrf", "guessed")]).await.status(), 403);
    assert_eq!(alice.post(&stop, &[("csrf", &alice.csrf().await)]).await.status(), 303);

    let page = alice.ended(&job).await;
    let done: u64 = number(&page, "done").expect("a number").parse().unwrap();
    assert!((1..100).contains(&done), "{page}");
    let left = format!("stopped by alice@console; {} events left as they were", 100 - done);
    assert!(page.contains(&left) && !page.contains("Stop</button>"), "{left}: {page}");
    let due = doc! { "deadAt": { "$exists": false } };
    assert_eq!(scene.events.count_documents(due).await.unwrap(), done);
    assert!(bob.page(&audit).await.contains("ended early"));
}

#[tokio::test]
async fn the_audit_is_read_page_by_page_action_and_person() {
    let scene = stuck(1).await;
    let console = Console::start(&scene, &[]).await;
    let bob = console.person(VIEWER).await;
    let audit = scene.database.collection::<bson::Document>("outboxd_audit");
    let record = |n: i64, action: &str, who: &str| {
        let at = bson::DateTime::from_millis(1_700_000_000_000 + n * 1000);
        doc! {
            "outbox": "outbox", "at": at, "who": who, "action": action, "selection": format!("s-{n}-s"), "events": 1_i64,
        }
    };
    let mut records: Vec<_> = (0..60).map(|n| record(n, "retry-now", "alice@console")).collect();
    records.push(record(60, "discard", "carol@ops"));
    records.push(record(61, "discard", "al@console"));
    // A name that begins like another's, with a letter of two bytes.
    records.push(record(-1, "edit", "al\u{df}@console"));
    audit.insert_many(records).await.unwrap();

    let path = format!("/o/{}.outbox/audit", scene.name);
    let page = bob.page(&path).await;
    assert!(
        page.contains("s-61-s") && page.contains("s-12-s") && !page.contains("s-11-s"),
        "{page}"
    );
    assert!(page.contains(">Next<") && !page.contains(">Previous<"), "{page}");
    let page = bob.page(&format!("{path}?page=2")).await;
    assert!(
        page.contains("s-11-s") && page.contains("s--1-s") && !page.contains("s-12-s"),
        "{page}"
    );
    assert!(!page.contains(">Next<") && page.contains(">Previous<"), "{page}");

    for (query, shown) in [
        ("action=discard", &["s-61-s", "s-60-s"][..]),
        ("who=carol", &["s-60-s"]),
        ("who=carol%40ops", &["s-60-s"]),
        ("action=discard&who=al", &["s-61-s"]),
        ("who=a.", &[]),
    ] {
        let page = bob.page(&format!("{path}?{query}")).await;
        let found: Vec<_> =
            ["s-61-s", "s-60-s", "s-59-s"].into_iter().filter(|id| page.contains(id)).collect();
        assert_eq!(found, shown, "{query}: {page}");
    }
}

#[tokio::test]
async fn a_console_that_is_stopped_ends_what_it_has_begun() {
    let scene = stuck(3000).await;
    let mut console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let audit = scene.database.collection::<bson::Document>("outboxd_audit");
    retry(&alice, &scene, "100000").await;
    until("a batch has begun", async || audit.find_one(doc! {}).await.unwrap()).await;

    let mut child = console.child.take().expect("a process");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap();
    assert!(ended.unwrap().success());

    // What it did is known to the event.
    let records = json(&scene, &["audit"]);
    let records = records.as_array().expect("records");
    let events: Option<u64> = records.iter().map(|record| record["events"].as_u64()).sum();
    let due = doc! { "deadAt": { "$exists": false } };
    assert_eq!(events, Some(scene.events.count_documents(due).await.unwrap()), "{records:?}");
}

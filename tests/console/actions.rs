//! An action touches exactly what was shown, in the person's name, and nobody else can start one.

use bson::doc;
use outboxd_client::EventId;
use serde_json::Value;

use super::{Console, OPERATOR, VIEWER, dead, hidden, location, number};
use crate::support::{Relay, Scene, json};

#[tokio::test]
async fn a_retry_touches_what_was_shown_and_reports_what_came() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let mut events: Vec<_> = (0..7)
        .map(|n| dead(&scene, &format!("e{n}"), &format!("k{n}"), "10054", "too large"))
        .collect();
    // Still wrong: the relay refuses it again.
    events[6].insert("subject", "not a subject");
    scene.events.insert_many(&events).bypass_document_validation(true).await.unwrap();

    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let csrf = alice.csrf().await;
    let act = format!("/o/{}.outbox/act", scene.name);
    let page = alice.page(&format!("{act}?action=retry-now&code=10054")).await;
    assert!(page.contains("Retry now 7 events") && page.contains("<b>7</b> dead"), "{page}");

    // What comes later was not shown.
    scene.events.insert_one(dead(&scene, "later", "l", "10054", "too large")).await.unwrap();
    let preview = hidden(&page, "preview").expect("a form");
    let form = [("csrf", &*csrf), ("preview", preview), ("rate", "100"), ("reason", "fixed")];
    let answer = alice.post(&act, &form).await;
    assert_eq!(answer.status(), 303);
    let page = alice.ended(location(&answer)).await;
    assert_eq!(number(&page, "done").as_deref(), Some("7"), "{page}");
    assert_eq!(number(&page, "delivered").as_deref(), Some("6"), "{page}");
    assert_eq!(number(&page, "refused").as_deref(), Some("1"), "{page}");
    assert_eq!(number(&page, "still held").as_deref(), Some("0"), "{page}");
    assert!(scene.one(doc! { "_id": "later", "deadAt": { "$exists": true } }).await.is_some());

    // It can be confirmed once.
    assert_eq!(alice.post(&act, &form).await.status(), 409);
    let audit = json(&scene, &["audit"]);
    let record = &audit[0];
    assert_eq!((&record["who"], &record["action"]), (&"alice@console".into(), &"retry-now".into()));
    assert_eq!((&record["events"], &record["reason"]), (&7.into(), &"fixed".into()));
    let page = alice.page(&format!("/o/{}.outbox/audit", scene.name)).await;
    assert!(page.contains("alice@console") && page.contains("--code 10054"), "{page}");
}

#[tokio::test]
async fn a_discard_wants_the_number_typed() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let events: Vec<_> = (0..3)
        .map(|n| dead(&scene, &format!("e{n}"), &format!("k{n}"), "10054", "too large"))
        .collect();
    scene.events.insert_many(&events).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let csrf = alice.csrf().await;
    let act = format!("/o/{}.outbox/act", scene.name);
    let page = alice.page(&format!("{act}?action=discard&state=dead")).await;
    let preview = hidden(&page, "preview").expect("a form");

    // A slip of the pen does nothing, and takes nothing away.
    for typed in ["", "2", "all"] {
        let form =
            [("csrf", &*csrf), ("preview", preview), ("typed", typed), ("reason", "too <old>")];
        let answer = alice.post(&act, &form).await;
        assert_eq!(answer.status(), 400, "{typed}");
        let again = answer.text().await.unwrap();
        assert_eq!(hidden(&again, "preview"), Some(preview), "{again}");
        assert!(again.contains("To discard 3 events, type 3."), "{again}");
        assert!(again.contains("value=\"too &lt;old&gt;\""), "{again}");
    }

    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 3);

    let form = [("csrf", &*csrf), ("preview", preview), ("typed", "3")];
    let answer = alice.post(&act, &form).await;
    assert_eq!(answer.status(), 303);
    let page = alice.ended(location(&answer)).await;
    assert_eq!(number(&page, "done").as_deref(), Some("3"), "{page}");
    let again = alice.post(&act, &form).await.text().await.unwrap();
    assert!(again.contains("<h1>Nothing done</h1>"), "{again}");
    assert_eq!(scene.events.count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_scheduled_event_is_delivered_now_or_cancelled() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let act = format!("/o/{}.outbox/act", scene.name);

    let mut session = scene.transaction().await;
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let mut ids = Vec::new();
    for number in 0..2 {
        ids.push(scene.outbox.schedule(&mut session, scene.event("k", number), at).await.unwrap());
    }

    session.commit_transaction().await.unwrap();

    for (action, id, typed, title) in
        [("retry-now", &ids[0], "", "Deliver now"), ("discard", &ids[1], "1", "Cancel")]
    {
        let page = alice.page(&format!("{act}?action={action}&id={id}&scheduled=true")).await;
        assert!(page.contains(&format!("<h1>{title} 1 event")), "{page}");
        let page = alice.confirm(&act, &page, &[("typed", typed)]).await;
        assert_eq!(number(&page, "done").as_deref(), Some("1"), "{page}");
    }

    scene.drained().await;
    assert_eq!(scene.numbers().await["k"], [0]);
}

#[tokio::test]
async fn an_event_that_another_removed_meanwhile_is_not_delivered() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let events = ["gone", "there"].map(|id| dead(&scene, id, id, "10054", "too large"));
    scene.events.insert_many(&events).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let act = format!("/o/{}.outbox/act", scene.name);

    let page = alice.page(&format!("{act}?action=retry-now&state=dead")).await;
    scene.events.delete_one(doc! { "_id": "gone" }).await.unwrap();
    let page = alice.confirm(&act, &page, &[]).await;
    for (name, wanted) in
        [("selected", "2"), ("done", "1"), ("delivered", "1"), ("left before", "1")]
    {
        assert_eq!(number(&page, name).as_deref(), Some(wanted), "{name}: {page}");
    }
    assert!(page.contains("1 were published or changed") && !page.contains("Finished."), "{page}");

    // Nothing is left to discard.
    scene.events.insert_one(dead(&scene, "late", "late", "10054", "too large")).await.unwrap();
    let page = alice.page(&format!("{act}?action=discard&state=dead")).await;
    scene.events.delete_one(doc! { "_id": "late" }).await.unwrap();
    let page = alice.confirm(&act, &page, &[("typed", "1")]).await;
    assert_eq!(number(&page, "done").as_deref(), Some("0"), "{page}");
    assert!(page.contains("1 were published or changed") && !page.contains("Finished."), "{page}");
}

/// A scheduled event and one of the outbox may have the same id: each has its own buttons.
#[tokio::test]
async fn a_button_of_a_scheduled_event_acts_on_no_other() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let outbox = format!("/o/{}.outbox", scene.name);

    let mut session = scene.transaction().await;
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let twin = scene.event("k", 0).with_id(EventId::string("twin").unwrap()).unwrap();
    scene.outbox.schedule(&mut session, twin, at).await.unwrap();
    session.commit_transaction().await.unwrap();
    scene.events.insert_one(dead(&scene, "twin", "k", "10054", "too large")).await.unwrap();

    let page = alice.page(&format!("{outbox}/event?id=twin&scheduled=true")).await;
    let cancel =
        page.split("href=\"").find(|link| link.contains("action=discard")).expect("a link");
    let cancel = cancel.split('"').next().expect("an end").replace("&amp;", "&");
    let page = alice.page(&cancel).await;
    assert!(page.contains("<h1>Cancel 1 event"), "{page}");
    alice.confirm(&format!("{outbox}/act"), &page, &[("typed", "1")]).await;
    assert!(scene.one(doc! { "_id": "twin" }).await.is_some(), "that of the outbox is still there");

    // It is gone, and the other is not taken in its place.
    let answer = alice.get(&cancel).await;
    assert_eq!(answer.status(), 404);
    assert!(answer.text().await.unwrap().contains("No event twin is scheduled any more"));
}

#[tokio::test]
async fn a_viewer_changes_nothing_by_page_or_by_hand() {
    let scene = Scene::new().await;
    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "too large")).await.unwrap();
    let before = scene.one(doc! {}).await;
    let console = Console::start(&scene, &[]).await;
    let (alice, bob) = (console.person(OPERATOR).await, console.person(VIEWER).await);
    let (alices, bobs) = (alice.csrf().await, bob.csrf().await);
    let act = format!("/o/{}.outbox/act", scene.name);

    for action in ["retry-now", "discard"] {
        for what in ["id=e1", "state=dead"] {
            let address = format!("{act}?action={action}&{what}");
            let page = bob.page(&address).await;
            assert!(page.contains("signed in as a viewer") && page.contains("disabled"), "{page}");
            assert_eq!(hidden(&page, "preview"), None, "{page}");

            // By hand: with another's preview, another's token, and neither.
            let page = alice.page(&address).await;
            let preview = hidden(&page, "preview").expect("a form");
            for csrf in [&*bobs, &*alices, ""] {
                for preview in [preview, "", "guessed"] {
                    let form = [("csrf", csrf), ("preview", preview), ("typed", "1")];
                    assert_eq!(bob.post(&act, &form).await.status(), 403, "{action} {what}");
                }
            }
            // Nor does anybody else act through a session that is not theirs.
            let stranger = console.stranger();
            let form = [("csrf", &*alices), ("preview", preview), ("typed", "1")];
            assert_eq!(stranger.post(&act, &form).await.status(), 401);
            let form = [("csrf", "guessed"), ("preview", preview), ("typed", "1")];
            assert_eq!(alice.post(&act, &form).await.status(), 403);
        }
    }

    // No page offers what a viewer can't do.
    let outbox = format!("/o/{}.outbox", scene.name);
    for page in ["groups", "events", "event?id=e1", "key?key=k"] {
        let page = bob.page(&format!("{outbox}/{page}")).await;
        assert!(!page.contains("/act?") && page.contains("signed in as a viewer"), "{page}");
        assert!(page.contains("<button disabled aria-describedby"), "{page}");
    }

    // What acts on kept events, and a preview that is not there.
    for endpoint in ["act", "replay", "verify"] {
        let path = format!("/o/{}.outbox/{endpoint}", scene.name);
        for csrf in [&*bobs, &*alices, ""] {
            let form = [("csrf", csrf), ("preview", "x"), ("typed", "1"), ("subject", "a")];
            assert_eq!(bob.post(&path, &form).await.status(), 403, "{endpoint}");
        }
    }

    assert_eq!(scene.one(doc! {}).await, before);
    assert_eq!(json(&scene, &["audit"]), Value::Array(Vec::new()));
}

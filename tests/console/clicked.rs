//! Five problems, each found and fixed by clicks alone, in a real browser against a real relay.

use bson::doc;

use super::browser::Browser;
use super::hostile::{CORPUS, attack};
use super::{Console, OPERATOR, VIEWER, dead};
use crate::support::{Relay, Scene, until};

/// What somebody does, one line a step. `OUTBOXD_WRITE_DOCS` writes it.
struct Transcript(String);

impl Transcript {
    fn problem(&mut self, text: &str) {
        self.0 += &format!("\n## {text}\n\n");
    }

    fn step(&mut self, text: &str) {
        self.0 += &format!("1. {text}\n");
    }
}

#[tokio::test]
async fn five_problems_are_found_and_fixed_by_clicks_alone() {
    let scene = Scene::new().await;
    scene.cover(&["made", "other"]).await;
    // It retries nothing by itself while somebody clicks.
    let relay = Relay::leading(&scene, &[("OUTBOXD_RETRY__CRON", "0 0 0 1 1 *")]).await;
    let admin = relay.admin().await;
    let console = Console::start(&scene, &[("OUTBOXD_ADMIN__LISTEN", &admin)]).await;
    let browser = Browser::start(&console).await;
    let mut told = Transcript(TITLE.to_owned());
    browser.sign_in(OPERATOR).await;

    uncovered(&scene, &browser, &mut told).await;
    poison(&scene, &browser, &mut told).await;
    halted(&scene, &browser, &mut told).await;
    scheduled_too_late(&scene, &browser, &mut told).await;
    unwanted(&scene, &browser, &mut told).await;

    browser.click("Audit").await;
    let audit = browser.sees("alice@console").await;
    assert!(audit.matches("alice@console").count() >= 5, "{audit}");
    println!("{}", told.0);
    let page = "docs/console-transcript.md";
    if std::env::var_os("OUTBOXD_WRITE_DOCS").is_some() {
        std::fs::write(page, &told.0).expect("the page is written");
    }

    assert_eq!(std::fs::read_to_string(page).expect("the page"), told.0, "{WRITE}");
}

const TITLE: &str = "# Five problems in the console\n\nA browser plays these steps in the tests, against a real relay.\n";
const WRITE: &str = "OUTBOXD_WRITE_DOCS=1 writes it";

/// A subject that the stream doesn't take; somebody has fixed the stream meanwhile.
async fn uncovered(scene: &Scene, browser: &Browser, told: &mut Transcript) {
    told.problem("Events to a subject that the stream does not take");
    let event =
        outboxd_client::Event::new(scene.subject("moved"), &doc! { "key": "a", "number": 1 });
    scene.commit([event.and_then(|event| event.key("a")).expect("an event")]).await;
    browser.click("Groups").await;
    browser.sees("not-covered").await;
    told.step("*Groups* shows `not-covered` and what to do: add the subject to the stream.");
    scene.cover(&["made", "other", "moved"]).await;
    told.step("After somebody has added it: *Retry them*, and again *Retry them* on the page that counts them.");
    retry(browser).await;
    told.step("The page reports *delivered 1, refused 0, still held 0*.");
}

/// An event that can never be sent.
async fn poison(scene: &Scene, browser: &Browser, told: &mut Transcript) {
    told.problem("An event that breaks the contract");
    let mut event = dead(scene, "broken", "b", "", "");
    let _ = ["deadAt", "attempts"].map(|field| event.remove(field));
    event.insert("failures", bson::Bson::Array(Vec::new()));
    event.insert("isLocked", true);
    event.insert("subject", "not a subject");
    scene.events.insert_one(event).bypass_document_validation(true).await.unwrap();
    browser.click("Groups").await;
    browser.sees("malformed").await;
    told.step(
        "*Groups* shows `malformed`. *Show one* shows the event, its failure and its headers.",
    );

    browser.click("Show one").await;
    browser.sees("broken").await;
    browser.click("Show the payload").await;
    browser.sees("4111").await;
    told.step("*Show the payload* shows what it holds, and the audit has who looked.");
    browser.click("Discard").await;
    discard(browser, "1").await;
    told.step("*Discard*, type 1, *Discard them*: it is gone.");
    until("it is gone", async || scene.one(doc! { "_id": "broken" }).await.is_none().then_some(()))
        .await;
}

/// A dead event that holds its key.
async fn halted(scene: &Scene, browser: &Browser, told: &mut Transcript) {
    told.problem("A key that one event halts");
    scene
        .events
        .insert_one(dead(scene, "head", "k", "10054", "message size exceeds maximum"))
        .await
        .unwrap();
    scene.commit([scene.event("k", 1), scene.event("k", 2)]).await;
    let parked = doc! { "key": "k", "isLocked": false, "deadAt": null };
    until("both wait", async || {
        (scene.events.count_documents(parked.clone()).await.unwrap() == 2).then_some(())
    })
    .await;

    browser.goto("/").await;
    browser.click("Groups").await;
    browser.sees("10054").await;
    browser.click("Show one").await;
    browser.sees("2 events of its key that came later").await;
    browser.click("k").await;
    browser.sees("If you discard it, 2 events of this key would be tried without it").await;
    told.step("*Groups*, *Show one*, then the key: two events wait behind it, and would be tried without it.");
    browser.click("Discard it").await;
    browser.sees("2 events of their keys that waited behind them would be tried").await;
    discard(browser, "1").await;
    told.step("*Discard it*, type 1, *Discard them*: the two leave in their order.");
    until("both have left", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;

    assert_eq!(scene.numbers().await["k"], [1, 2]);
}

/// An event scheduled for a time that is too late.
async fn scheduled_too_late(scene: &Scene, browser: &Browser, told: &mut Transcript) {
    told.problem("An event that is scheduled too late");
    let mut session = scene.transaction().await;
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    scene.outbox.schedule(&mut session, scene.event("s", 7), at).await.unwrap();
    session.commit_transaction().await.unwrap();
    browser.click("Scheduled").await;
    browser.sees("due in").await;
    told.step("*Scheduled* shows the event and when it is due.");
    browser.click("Deliver all 1 now").await;
    browser.click("Deliver them").await;
    browser.sees("Finished.").await;
    told.step("*Deliver all 1 now*, *Deliver them*: it is delivered.");
    until("it is delivered", async || scene.numbers().await.get("s").cloned()).await;
}

/// Many events that nobody wants any more.
async fn unwanted(scene: &Scene, browser: &Browser, told: &mut Transcript) {
    told.problem("Forty events that nobody wants any more");
    let events: Vec<_> =
        (0..40).map(|n| dead(scene, &format!("u{n}"), &format!("u{n}"), "10071", "gone")).collect();
    scene.events.insert_many(events).await.unwrap();
    browser.click("Events").await;
    browser.fill("code", "10071").await;
    browser.click("Filter").await;
    browser.sees("1 to 40 of 40").await;
    told.step("*Events*, code `10071`, *Filter*: 40 events. The address can be sent to somebody.");
    browser.click("Discard all 40").await;
    browser.sees("Discard 40 events").await;
    browser.fill("typed", "39").await;
    browser.click("Discard them").await;
    browser.sees("nothing is done").await;
    told.step("*Discard all 40* with 39 typed does nothing, and asks again.");
    discard(browser, "40").await;
    told.step("With 40 typed, all are gone.");
}

async fn retry(browser: &Browser) {
    browser.click("Retry them").await;
    browser.sees("Most events a second").await;
    browser.click("Retry them").await;
    let page = browser.sees("Finished.").await;
    assert!(page.contains("delivered\n1") && page.contains("still held\n0"), "{page}");
}

async fn discard(browser: &Browser, count: &str) {
    browser.sees(&format!("Type {count} to confirm")).await;
    browser.fill("typed", count).await;
    browser.fill("reason", "nobody needs it").await;
    browser.click("Discard them").await;
    browser.sees("Finished.").await;
}

#[tokio::test]
async fn no_document_runs_a_script_in_a_browser() {
    let scene = Scene::new().await;
    let texts = CORPUS.iter().map(|text| text.replace('\0', ""));
    let events: Vec<_> = texts.enumerate().map(|(at, text)| attack(&scene, at, &text)).collect();
    scene.events.insert_many(&events).bypass_document_validation(true).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(VIEWER).await;

    browser.goto(&format!("/o/{}.outbox/events", scene.name)).await;
    let links = browser
        .run("return [...document.querySelectorAll('td a')].map((a) => a.getAttribute('href'))")
        .await;
    let mut pages = vec!["/".to_owned(), format!("/o/{}.outbox/groups", scene.name)];
    pages.extend(links.as_array().unwrap().iter().map(|link| link.as_str().unwrap().to_owned()));
    assert!(pages.len() > CORPUS.len(), "{pages:?}");
    for page in pages {
        browser.goto(&page).await;
        assert_eq!(browser.run("return window.attacked === undefined").await, true, "{page}");
        let scripts =
            "return [...document.scripts].every((s) => s.getAttribute('src') === '/script.js')";
        assert_eq!(browser.run(scripts).await, true, "{page}");
    }

    // Parts that come later pass through innerHTML.
    browser.goto(&format!("/o/{}.outbox/groups", scene.name)).await;
    scene
        .events
        .insert_one(dead(&scene, "new", "n", "10054", "<img src=x onerror=window.attacked=1>"))
        .await
        .unwrap();
    browser.sees("<img src=x onerror=window.attacked=#>").await;
    assert_eq!(browser.run("return window.attacked === undefined").await, true);
}

#[tokio::test]
async fn a_page_that_hears_nothing_says_so() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(VIEWER).await;
    browser.sees("backlog").await;
    assert!(!browser.text().await.contains("Reconnecting"));
    drop(console);
    browser.sees("Reconnecting. These numbers may be old.").await;
}

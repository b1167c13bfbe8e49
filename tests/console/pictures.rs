//! Pictures of the pages for the handbook, and what a screen reader finds.
//! `OUTBOXD_WRITE_DOCS=1` writes the pictures.

use bson::doc;
use serde_json::Value;

use super::browser::Browser;
use super::{Console, OPERATOR, dead};
use crate::support::{Relay, Scene, until};

/// What is wrong with a page for somebody who doesn't see it: controls without a name, a second or
/// no main heading, no landmark, text with too little contrast, or a page wider than its window.
const FAULTS: &str = r#"
    const faults = [];
    const name = (e) => (e.innerText || e.getAttribute('aria-label') || '').trim()
        || [...(e.labels || [])].map((l) => l.innerText).join(' ').trim();
    for (const e of document.querySelectorAll('a, button, input:not([type=hidden]), select')) {
        if (!name(e)) faults.push('no name: ' + e.outerHTML.slice(0, 80));
    }

    if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
    for (const mark of ['main', 'header', 'nav[aria-label]']) {
        if (!document.querySelector(mark)) faults.push('no ' + mark);
    }

    if (!document.documentElement.lang) faults.push('no language');
    if (document.documentElement.scrollWidth > innerWidth) {
        faults.push('wider than the window: ' + document.documentElement.scrollWidth);
    }

    const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const colour = rgb(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };

    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        const [a, b] = [light(rgb(style.color)), light(behind(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(1)}: ` + e.outerHTML.slice(0, 80));
    }

    return faults;
"#;

/// An outbox with something of everything.
async fn plant(scene: &Scene) {
    let dead = |id: &str, key: &str, code: &str, error: &str| {
        let mut event = dead(scene, "", key, code, error);
        event.insert("_id", bson::oid::ObjectId::parse_str(id).expect("an id"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let time = u32::try_from(now.expect("a time").as_secs() - 1500).expect("a time");
        event.insert("ts", bson::Timestamp { time, increment: 1 });
        event
    };

    for number in 0..23 {
        let (id, key) = (format!("6745f0a1b2c3d4e5f6a7{number:04}"), format!("order-{number}"));
        let error = format!("message size {number} exceeds maximum allowed");
        scene.events.insert_one(dead(&id, &key, "10054", &error)).await.unwrap();
    }

    let error = format!("no subject of stream {} covers {}", scene.stream, scene.subject("moved"));
    let mut moved = dead("6745f0a1b2c3d4e5f6a7b8c9", "ticket-7", "not-covered", &error);
    moved.insert(
        "headers",
        doc! { "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" },
    );

    scene.events.insert_one(moved).await.unwrap();
    scene.commit([scene.event("ticket-7", 1), scene.event("ticket-7", 2)]).await;

    let mut session = scene.transaction().await;
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    scene.outbox.schedule(&mut session, scene.event("later", 7), at).await.unwrap();
    session.commit_transaction().await.unwrap();
}

/// A minute of events, so that the charts have something to show.
async fn traffic(scene: &Scene) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    for tick in 0..300 {
        ticks.tick().await;
        let events = 12.0 + 8.0 * (f64::from(tick) / 30.0).sin();
        let events = 0..events.round() as u32;
        scene.commit(events.map(|n| scene.event(&format!("order-1{tick}{n}"), n))).await;
    }
}

/// Every page, by the name of its picture.
fn pages(scene: &Scene) -> [(&'static str, String); 10] {
    let outbox = format!("/o/{}.outbox", scene.name);
    [
        ("overview", "/".to_owned()),
        ("groups", format!("{outbox}/groups")),
        ("events", format!("{outbox}/events")),
        ("event", format!("{outbox}/event?id=6745f0a1b2c3d4e5f6a7b8c9")),
        ("key", format!("{outbox}/key?key=ticket-7")),
        ("discard", format!("{outbox}/act?action=discard&code=10054")),
        ("scheduled", format!("{outbox}/events?state=scheduled")),
        ("published", format!("{outbox}/published")),
        ("check", format!("{outbox}/check")),
        ("audit", format!("{outbox}/audit")),
    ]
}

#[tokio::test]
async fn every_page_is_readable_by_everybody_at_every_width() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_KEEP__FOR", "1h")]).await;
    plant(&scene).await;
    let parked = doc! { "key": "ticket-7", "isLocked": false, "deadAt": null };
    until("both wait", async || {
        (scene.events.count_documents(parked.clone()).await.unwrap() == 2).then_some(())
    })
    .await;

    let admin = relay.admin().await;
    let settings = [
        ("OUTBOXD_ADMIN__LISTEN", &*admin),
        ("OUTBOXD_KEEP__FOR", "1h"),
        ("OUTBOXD_CONSOLE__TRACE_URL", "https://jaeger.example/trace/{trace_id}"),
    ];
    let console = Console::start(&scene, &settings).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(OPERATOR).await;
    browser.sees("Check ").await;

    let shown = [
        ("overview", 360),
        ("overview", 1440),
        ("groups", 360),
        ("groups", 1440),
        ("event", 360),
        ("discard", 1440),
    ];
    let is_written = std::env::var_os("OUTBOXD_WRITE_DOCS").is_some();
    if is_written {
        traffic(&scene).await;
    }

    for (name, address) in pages(&scene) {
        for (width, height, colours) in
            [(360, 800, "light"), (360, 800, "dark"), (1440, 900, "light"), (1440, 900, "dark")]
        {
            browser.window(width, height, colours).await;
            browser.goto(&address).await;
            let faults = browser.run(FAULTS).await;
            assert_eq!(faults, Value::Array(Vec::new()), "{name}, {width}, {colours}");
            if is_written && shown.contains(&(name, width)) {
                let shop = format!(
                    "document.body.innerHTML = document.body.innerHTML.replaceAll('{}', 'shop')",
                    scene.name
                );
                browser.run(&shop).await;
                let picture = browser.screenshot().await;
                let file = format!("docs/console/{name}-{width}-{colours}.png");
                std::fs::create_dir_all("docs/console").expect("a folder");
                std::fs::write(file, picture).expect("the picture is written");
            }
        }
    }
}

//! Documents are written by anybody, and shown to an operator.

use bson::{Bson, doc};

use super::{Console, OPERATOR, dead};
use crate::support::Scene;

/// What an attacker would write.
pub(super) const CORPUS: &[&str] = &[
    "<script>window.attacked=1</script>",
    "\"><img src=x onerror=window.attacked=1>",
    "'><svg/onload=window.attacked=1>",
    "</title></style></textarea><script>window.attacked=1</script>",
    "javascript:window.attacked=1",
    "{{7*7}}${7*7}<%=7*7%>",
    "&lt;script&gt;window.attacked=1&lt;/script&gt;",
    "<a href=javascript:window.attacked=1>x</a>",
    "\" autofocus onfocus=window.attacked=1 x=\"",
    "<base href=//evil.example><link rel=stylesheet href=//evil.example>",
    "\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}",
    "line\r\ndata: <script>window.attacked=1</script>\n\nevent: part",
    "a\u{0}b\u{1b}[2J",
    "-->]]><!--",
];

/// A dead event with this text everywhere.
pub(super) fn attack(scene: &Scene, number: usize, text: &str) -> bson::Document {
    let mut event = dead(scene, &format!("{number}{text}"), text, text, text);
    event.insert("subject", text);
    event.insert("headers", doc! { text: text, "traceparent": text });
    event.insert("payload", doc! { text: text });
    event.insert(text.replace(['\0', '.', '$'], "_"), text);
    let failure = event.get_array_mut("failures").unwrap()[0].as_document_mut().unwrap();
    failure.insert("class", text);
    failure.insert("relay", text);
    event
}

#[tokio::test]
async fn no_document_adds_markup_to_a_page_or_hides_in_it() {
    let scene = Scene::new().await;
    let texts = CORPUS.iter().map(|text| text.replace('\0', ""));
    let events: Vec<_> = texts.enumerate().map(|(at, text)| attack(&scene, at, &text)).collect();
    scene.events.insert_many(&events).bypass_document_validation(true).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let csrf = alice.csrf().await;
    let outbox = format!("/o/{}.outbox", scene.name);

    let harmless = |what: &str, page: &str| {
        for attack in [
            "<script>w",
            "<img src=x",
            "<svg/",
            "<a href=javascript",
            "<base",
            " onfocus=window.attacked=1 x=\"",
        ] {
            assert!(!page.contains(attack), "{attack} in {what}: {page}");
        }
        assert!(!page.contains("href=\"javascript"), "{what}: {page}");
        let hidden = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\0', '\u{1b}', '\r'];
        assert!(!page.contains(hidden), "{what}: {page:?}");
    };

    for page in ["/", &format!("{outbox}/groups"), &format!("{outbox}/events")] {
        harmless(page, &alice.page(page).await);
    }

    // Each page that the list links to.
    let list = alice.page(&format!("{outbox}/events")).await;
    let links = list.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let links: Vec<_> =
        links.filter(|href| href.contains("event?") || href.contains("key?")).collect();
    assert!(links.len() >= CORPUS.len(), "{links:?}");
    for link in links {
        let link = link.replace("&amp;", "&").replace("&#39;", "'");
        harmless(&link, &alice.page(&link).await);
    }

    // With the payload, and with filters that are no filters.
    for event in &events {
        let Some(Bson::String(id)) = event.get("_id") else { panic!("an id") };
        let answer = alice.post(&format!("{outbox}/event"), &[("id", id), ("csrf", &csrf)]).await;
        assert_eq!(answer.status(), 200, "{id:?}");
        harmless(id, &answer.text().await.unwrap());
    }

    for list in ["events", "published"] {
        let last = format!("{outbox}/{list}?page={}", u64::MAX);
        harmless(&last, &alice.page(&last).await);
    }

    // An address that can't be read gets a page that says so, and never an error of MongoDB.
    for (address, status) in [
        ("act", 400),
        ("events?page=x", 400),
        ("published?page=-1", 400),
        ("published?subject=%00", 400),
        ("audit?who=%00%22", 400),
        ("audit?who=%24%5B%28.%2A", 200),
        ("event?id=%7B%22%24gt%22%3A%22%22%7D", 404),
        (
            "event?id=%7B%22%24regularExpression%22%3A%7B%22pattern%22%3A%22.%22%2C%22options%22%3A%22%22%7D%7D",
            404,
        ),
        ("event?id=%5B1%5D", 404),
        ("jobs/none", 404),
        ("verify", 405),
    ] {
        let answer = alice.get(&format!("{outbox}/{address}")).await;
        assert_eq!(answer.status(), status, "{address}");
        let page = answer.text().await.unwrap();
        assert!(page.starts_with("<!doctype html>"), "{address}: {page}");
        harmless(address, &page);
    }

    for text in CORPUS {
        for name in ["subject", "key", "code", "class", "group", "state", "older_than"] {
            let text = reqwest::Url::parse_with_params("http://x/", [(name, text)]).unwrap();
            let query = text.query().unwrap();
            let answer = alice.get(&format!("{outbox}/events?{query}")).await;
            assert!([200, 400].contains(&answer.status().as_u16()), "{query}");
            harmless(query, &answer.text().await.unwrap());
        }
    }
}

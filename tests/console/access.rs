//! Who sees what, and who may do what.

use std::process::{Command, Stdio};
use std::time::Duration;

use bson::doc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Console, OPERATOR, Person, VIEWER, dead, location, people};
use crate::support::{Scene, command, free_ports, outboxd_with, until};

#[tokio::test]
async fn nobody_sees_anything_without_signing_in() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let stranger = console.stranger();
    let outbox = format!("/o/{}.outbox", scene.name);

    for page in ["/", &format!("{outbox}/groups"), &format!("{outbox}/events"), "/nothing"] {
        let answer = stranger.get(page).await;
        assert_eq!(answer.status(), 303, "{page}");
        assert!(location(&answer).starts_with("/sign-in"), "{page}");
    }

    assert_eq!(stranger.get("/live").await.status(), 401);
    assert_eq!(stranger.post(&format!("{outbox}/event"), &[("id", "x")]).await.status(), 401);
    assert_eq!(stranger.post("/sign-in", &[("token", "guessed")]).await.status(), 401);

    // Somebody who was sent a link sees that page next, and no other site's.
    let answer = stranger.get(&format!("{outbox}/events?state=dead")).await;
    let next = location(&answer).split("next=").nth(1).expect("the way back");
    assert!(next.ends_with("events%3Fstate%3Ddead"), "{next}");
    let sent = [("token", VIEWER), ("next", "//evil.example/")];
    assert_eq!(location(&stranger.post("/sign-in", &sent).await), "/");
}

#[tokio::test]
async fn every_answer_forbids_scripts_frames_and_other_sites() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let viewer = console.person(VIEWER).await;

    for page in ["/", "/sign-in", "/style.css", "/script.js", "/nothing"] {
        let answer = viewer.get(page).await;
        let header = |name: &str| answer.headers()[name].to_str().expect("a text").to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(
            !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "same-origin");
    }

    // All that a page loads is the console's own.
    let page = viewer.page("/").await;
    for attribute in ["src=\"", "href=\"", "action=\""] {
        for rest in page.split(attribute).skip(1) {
            assert!(rest.starts_with('/') || rest.starts_with('#'), "{attribute}{rest:.40}");
        }
    }

    assert!(!page.contains("style=") && !page.contains("onclick"), "{page}");
}

#[tokio::test]
async fn a_payload_is_hidden_until_asked_for_and_that_is_audited() {
    let scene = Scene::new().await;
    let mut event = dead(&scene, "e1", "k", "no-ack", "refused");
    event
        .insert("headers", doc! { "card": "4111", "Tenant": "acme", "traceparent": "00-ab-cd-01" });
    event.insert("customer", vec![doc! { "card": "4111", "city": "Ulm" }]);
    scene.events.insert_one(event).await.unwrap();
    let redact = [("OUTBOXD_CONSOLE__REDACT", "card,customer.card")];
    let console = Console::start(&scene, &redact).await;
    let bob = console.person(VIEWER).await;
    let path = format!("/o/{}.outbox/event", scene.name);

    let page = bob.page(&format!("{path}?id=e1")).await;
    assert!(page.contains("Hidden, about") && !page.contains("4111"), "{page}");
    assert!(page.contains("<dt>Tenant</dt><dd>hidden<") && !page.contains("acme"), "{page}");
    assert!(page.contains("00-ab-cd-01") && page.contains("Ulm"), "{page}");

    // Another site's form doesn't know the session's token.
    let csrf = bob.csrf().await;
    for wrong in ["", "guessed", &console.person(OPERATOR).await.csrf().await] {
        let answer = bob.post(&path, &[("id", "e1"), ("csrf", wrong)]).await;
        assert_eq!(answer.status(), 403, "{wrong:?}");
    }

    let audit = scene.database.collection::<bson::Document>("outboxd_audit");
    assert_eq!(audit.count_documents(doc! {}).await.unwrap(), 0);

    let answer = bob.post(&path, &[("id", "e1"), ("csrf", &csrf)]).await;
    assert_eq!(answer.status(), 200);
    let page = answer.text().await.unwrap();
    assert_eq!((page.matches("(redacted)").count(), page.contains("4111")), (3, false), "{page}");
    assert!(page.contains("<dt>Tenant</dt><dd>acme<"), "{page}");
    assert!(page.contains("&quot;name&quot;: &quot;A&quot;"), "{page}");

    let record = audit.find_one(doc! { "action": "show-payload" }).await.unwrap();
    let record = record.expect("a record");
    assert_eq!(record.get_str("who").unwrap(), "bob@console");
    assert_eq!(record.get_str("selection").unwrap(), "e1");
}

#[tokio::test]
async fn a_session_ends_when_somebody_signs_out() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    assert_eq!(alice.post("/sign-out", &[("csrf", "guessed")]).await.status(), 403);

    let csrf = alice.csrf().await;
    assert_eq!(alice.post("/sign-out", &[("csrf", &csrf)]).await.status(), 303);
    assert_eq!(alice.get("/").await.status(), 303);
}

#[tokio::test]
async fn a_token_that_is_taken_out_ends_though_another_line_is_wrong() {
    let scene = Scene::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, people()).unwrap();
    let path = file.path().to_str().unwrap();
    let settings = [("OUTBOXD_CONSOLE__TOKENS", ""), ("OUTBOXD_CONSOLE__TOKENS_FILE", path)];
    let console = Console::start(&scene, &settings).await;
    let (alice, bob) = (console.person(OPERATOR).await, console.person(VIEWER).await);
    let is_out = async |person: &Person| (person.get("/").await.status() == 303).then_some(());

    std::fs::write(&file, format!("operator alice {OPERATOR}\nviewer carol\n")).unwrap();
    until("bob is out", async || is_out(&bob).await).await;
    assert_eq!(alice.get("/").await.status(), 200);

    std::fs::write(&file, "").unwrap();
    until("alice is out", async || is_out(&alice).await).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_holds_no_connection() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let listen = console.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(listen).await.unwrap();
    let head =
        format!("POST /sign-in HTTP/1.1\r\nHost: {listen}\r\nContent-Length: 60000\r\n\r\ntoken=");
    stream.write_all(head.as_bytes()).await.unwrap();

    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("it ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("did not come"), "{answer}");
}

#[tokio::test]
async fn settings_that_let_anybody_in_are_mistakes() {
    let scene = Scene::new().await;
    for (settings, why) in [
        (&[("OUTBOXD_CONSOLE__LISTEN", "127.0.0.1:0")][..], "nobody may sign in"),
        (
            &[
                ("OUTBOXD_CONSOLE__LISTEN", "0.0.0.0:0"),
                ("OUTBOXD_CONSOLE__TOKENS", "viewer bob a-viewers-token-of-32-characters"),
            ],
            "is not on loopback",
        ),
        (&[("OUTBOXD_CONSOLE__TOKENS", "viewer bob short")], "line 1 has a token of fewer than 20"),
        (
            &[("OUTBOXD_CONSOLE__TOKENS", "root bob a-viewers-token-of-32-characters")],
            "another role",
        ),
        (&[("OUTBOXD_CONSOLE__TOKENS", "viewer bob")], "is not `ROLE NAME TOKEN`"),
        (&[("OUTBOXD_CONSOLE__PROXY_HEADER", "x-user")], "go together"),
        (
            &[
                ("OUTBOXD_CONSOLE__PROXY_HEADER", "x-user"),
                ("OUTBOXD_CONSOLE__PROXY_ADDRESSES", "10.0.0.0/33"),
            ],
            "is not an address such as",
        ),
        (&[("OUTBOXD_CONSOLE__REDACT", "a..b")], "is not a path such as"),
        (&[("OUTBOXD_CONSOLE__TRACE_URL", "javascript:{trace_id}")], "is not a URL such as"),
        (&[("OUTBOXD_CONSOLE__TLS_CERT", "/none")], "go together"),
    ] {
        let (code, said) = outboxd_with(&scene, &["console"], settings);
        assert_eq!(code, Some(78), "{why}: {said}");
        assert!(said.contains(why), "no {why:?} in {said}");
        assert!(!said.contains("a-viewers-token"), "{said}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_people_and_nobody_else_does() {
    let scene = Scene::new().await;
    let settings = [
        ("OUTBOXD_CONSOLE__PROXY_HEADER", "X-User"),
        ("OUTBOXD_CONSOLE__PROXY_ADDRESSES", "127.0.0.1"),
        ("OUTBOXD_CONSOLE__PROXY_OPERATORS", "alice"),
    ];
    let console = Console::start(&scene, &settings).await;
    let ask = async |name: &str| {
        let stranger = console.stranger();
        let request = stranger.client.get(stranger.at("/")).header("x-user", name);
        let answer = request.header("x-forwarded-proto", "https").send().await.expect("an answer");
        let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie").to_owned();
        assert!(cookie.contains("; Secure"), "{cookie}");
        answer.text().await.expect("a page")
    };

    assert!(ask("alice").await.contains("alice <small>operator</small>"));
    assert!(ask("mallory").await.contains("mallory <small>viewer</small>"));

    let elsewhere = [settings[0], ("OUTBOXD_CONSOLE__PROXY_ADDRESSES", "10.0.0.1")];
    let console = Console::start(&scene, &elsewhere).await;
    let stranger = console.stranger();
    let request = stranger.client.get(stranger.at("/")).header("x-user", "alice");
    assert_eq!(request.send().await.expect("an answer").status(), 303);
}

#[tokio::test]
async fn whoever_guesses_tokens_waits() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let stranger = console.stranger();
    for _ in 0..5 {
        assert_eq!(stranger.post("/sign-in", &[("token", "guessed")]).await.status(), 401);
    }

    // Nobody learns meanwhile whether a token is right.
    for token in ["guessed", OPERATOR] {
        let answer = stranger.post("/sign-in", &[("token", token)]).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        assert!(answer.text().await.unwrap().contains("wrong tokens came from 127.0.0.1"));
    }

    until("a right token counts again", async || {
        let answer = stranger.post("/sign-in", &[("token", OPERATOR)]).await;
        (answer.status() == 303).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_opens_many_connections_shuts_nobody_out() {
    let scene = Scene::new().await;
    let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
    let plain = command(&scene, "console");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 400 && exec \"$0\" console"]).arg(plain.get_program());
    let set = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    limited.envs(set).env("OUTBOXD_CONSOLE__LISTEN", &listen);
    limited.env("OUTBOXD_CONSOLE__TOKENS", people()).stdout(Stdio::null());
    let child = Some(limited.spawn().expect("outboxd starts"));
    let console = Console { child, url: format!("http://{listen}"), authority: None };
    console.answers().await;
    let bob = console.person(VIEWER).await;

    // A quarter of the descriptors are its connections.
    let head = format!("POST /sign-in HTTP/1.1\r\nHost: {listen}\r\nContent-Length: 60000\r\n\r\n");
    let mut flood = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(&listen).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        flood.push(stream);
    }

    let page = tokio::time::timeout(Duration::from_secs(8), bob.page("/")).await;
    assert!(page.expect("an answer in time").contains("bob"));
    // The oldest were cut off.
    let mut answer = Vec::new();
    let read = flood[0].read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(2), read).await.expect("it has ended");
    assert!(read.is_err() || answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let csrf = alice.csrf().await;
    let own = console.url.clone();

    for (name, value, wanted) in [
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", &*own, 303),
    ] {
        for path in ["/sign-in", "/sign-out"] {
            let form = format!("token={OPERATOR}&csrf={csrf}");
            let request = alice.client.post(alice.at(path)).header(name, value).body(form);
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let request = request.header("cookie", alice.cookie.as_deref().unwrap());
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), wanted, "{path} {name}: {value}");
        }
    }
}

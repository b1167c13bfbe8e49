//! A relay that no reply reaches sends nothing, says why, and goes on once replies arrive: the
//! server may end or refuse its subscriptions and keep the connection.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::stream;
use bson::doc;
use nkeys::KeyPair;
use outboxd_client::Event;
use serde_json::{Value, json};

use crate::support::pki::Operator;
use crate::support::{NatsServer, Relay, Scene, mongodb_uri, outboxd_with, until};

/// Who may do everything, and the relay's user with these subscriptions.
fn users(subscribe: &Value) -> String {
    let relay = json!({ "user": "relay", "password": "pw", "permissions": {
        "publish": [">"], "subscribe": subscribe,
    }});
    let root = json!({ "user": "root", "password": "pw" });
    format!("no_auth_user: root\nauthorization: {}\n", json!({ "users": [root, relay] }))
}

fn hearing() -> String {
    users(&json!(["_INBOX.outboxd.>"]))
}

fn deaf() -> String {
    users(&json!(["nothing"]))
}

const USER: [(&str, &str); 2] = [("NATS_USER", "relay"), ("NATS_PASSWORD", "pw")];

/// A scene on this server, with a stream that forgets message ids after a second.
async fn forgetful(nats: &NatsServer) -> Scene {
    let scene = Scene::alone(nats).await;
    let of = scene.context.get_stream(&scene.stream).await.unwrap();
    let config = of.cached_info().config.clone();
    let duplicate_window = Duration::from_secs(1);
    scene.context.update_stream(stream::Config { duplicate_window, ..config }).await.unwrap();
    scene
}

/// Whether the relay is ready, and the detail about NATS.
async fn ready(relay: &Relay) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/readyz", relay.admin().await);
    let answer = reqwest::get(url).await.unwrap();
    let status = answer.status().as_u16();
    let parts: Value = answer.json().await.unwrap();
    (status, parts["nats"]["detail"].as_str().unwrap_or_default().to_owned())
}

async fn is_not_ready_because(relay: &Relay, why: &str) {
    until(&format!("the relay is not ready: {why}"), async || {
        let (status, detail) = ready(relay).await;
        (status == 503 && detail.contains(why)).then_some(())
    })
    .await;
}

async fn is_ready(relay: &Relay) {
    until("the relay is ready", async || (ready(relay).await.0 == 200).then_some(())).await;
}

/// The events 1 to 5 of `k` wait while the relay is deaf, and follow once it may hear.
async fn nothing_leaves_until_it_hears(nats: &NatsServer, scene: &Scene, relay: &Relay) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.messages().await.len(), 0, "nothing is sent whose ack can't arrive");

    nats.reload(&hearing());
    scene.drained().await;
    is_ready(relay).await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3, 4, 5]);
}

/// What `outboxd check` says, in one line.
fn check(scene: &Scene, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let (code, said) = outboxd_with(scene, &["check"], settings);
    (code, said.split_whitespace().collect::<Vec<_>>().join(" "))
}

const MISSING: &str = "user relay may not subscribe to _INBOX.outboxd.";

#[tokio::test]
async fn a_right_that_a_reload_takes_and_gives_back_costs_no_copy_and_no_event() {
    let nats = NatsServer::with_config(&hearing()).await;
    let scene = forgetful(&nats).await;
    let relay = Relay::leading(&scene, &USER).await;
    scene.commit([scene.event("before", 0)]).await;
    scene.drained().await;
    is_ready(&relay).await;

    nats.reload(&deaf());
    is_not_ready_because(&relay, MISSING).await;
    scene.commit((1..=5).map(|number| scene.event("after", number))).await;
    // For longer than the dedupe window, and than several tries.
    let lines = relay.log().lines().count();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let said = relay.log().lines().skip(lines).map(|line| format!("{line}\n")).collect::<String>();
    assert!(!said.contains("nats connection"), "nothing has changed:\n{said}");
    assert_eq!(scene.messages().await.len(), 1, "nothing is sent whose ack can't arrive");
    is_not_ready_because(&relay, MISSING).await;

    let (code, said) = check(&scene, &USER);
    assert_eq!((code, said.contains(MISSING)), (Some(1), true), "{said}");

    nats.reload(&hearing());
    scene.drained().await;
    is_ready(&relay).await;
    let numbers = scene.numbers().await;
    assert_eq!(numbers["after"], [1, 2, 3, 4, 5], "each once, in order");
    let (code, said) = check(&scene, &USER);
    assert!(!said.contains("no reply reaches the relay"), "{code:?} {said}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_failure_while_deaf_names_the_right_and_the_user() {
    let nats = NatsServer::with_config(&hearing()).await;
    let scene = Scene::alone(&nats).await;
    let of = scene.context.get_stream(&scene.stream).await.unwrap();
    let (config, discard) = (of.cached_info().config.clone(), stream::DiscardPolicy::New);
    let full = stream::Config { max_messages: 1, discard, ..config };
    scene.context.update_stream(full).await.unwrap();
    let settings = [USER[0], USER[1], ("OUTBOXD_RETRY__OUTAGE_GRACE", "5s")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit([scene.event("first", 1)]).await;
    scene.drained().await;

    // It is tried again in place when the right goes.
    scene.commit([scene.event("k", 1)]).await;
    until("the relay is in trouble", async || {
        (relay.metric("outboxd_breaker_open").await == 1).then_some(())
    })
    .await;
    nats.reload(&deaf());

    let failed = until("the event is marked", async || {
        scene.one(doc! { "failures.0": { "$exists": true } }).await
    })
    .await;
    let failure = failed.get_array("failures").unwrap()[0].as_document().unwrap();
    assert_eq!(failure.get_str("code").unwrap(), "no-replies", "{failure}");
    assert!(failure.get_str("error").unwrap().contains(MISSING), "{failure}");
    assert!(relay.log().contains("subscribe permissions"), "{}", relay.log());
}

#[tokio::test]
async fn a_relay_that_starts_deaf_sends_nothing_until_it_hears() {
    let nats = NatsServer::with_config(&hearing()).await;
    let scene = forgetful(&nats).await;
    nats.reload(&deaf());
    scene.commit((1..=5).map(|number| scene.event("k", number))).await;

    let relay = Relay::start(&scene, &USER);
    relay.says("delivers no replies").await;
    is_not_ready_because(&relay, MISSING).await;
    nothing_leaves_until_it_hears(&nats, &scene, &relay).await;
}

#[tokio::test]
async fn a_right_that_is_gone_when_the_relay_reconnects_is_noticed() {
    let mut nats = NatsServer::with_config(&hearing()).await;
    let scene = forgetful(&nats).await;
    let relay = Relay::leading(&scene, &USER).await;
    nats.kill();
    nats.configure(&deaf());
    nats.start_again();

    is_not_ready_because(&relay, MISSING).await;
    scene.commit((1..=5).map(|number| scene.event("k", number))).await;
    nothing_leaves_until_it_hears(&nats, &scene, &relay).await;
}

#[tokio::test]
async fn a_limit_of_subscriptions_is_named_and_costs_no_copy() {
    let mut nats = NatsServer::with_config("").await;
    let scene = forgetful(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    nats.kill();
    nats.configure("max_subscriptions: 1");
    nats.start_again();

    is_not_ready_because(&relay, "raise that limit").await;
    scene.commit((1..=5).map(|number| scene.event("k", number))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.messages().await.len(), 0, "nothing is sent whose ack can't arrive");
    let (code, said) = check(&scene, &[]);
    assert_eq!((code, said.contains("raise that limit")), (Some(1), true), "{said}");

    nats.kill();
    nats.configure("");
    nats.start_again();
    scene.drained().await;
    is_ready(&relay).await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn an_account_whose_new_jwt_takes_the_right_is_noticed_and_one_that_gives_it_back_too() {
    let (operator, user) = (Operator::new(), KeyPair::new_user());
    let mut nats = NatsServer::with_config(&operator.nats(&[])).await;
    let folder = tempfile::tempdir().unwrap();
    let creds = folder.path().join("creds");
    std::fs::write(&creds, operator.creds(&user)).unwrap();
    let options = ConnectOptions::with_credentials_file(&creds).await.unwrap();
    let settings = [("NATS_CREDS", creds.to_str().unwrap())];
    let scene = Scene::reached(mongodb_uri(), nats.url.clone(), options).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");
    let relay = Relay::leading(&scene, &settings).await;

    nats.kill();
    nats.configure(&operator.nats_denying(&[], &["_INBOX.outboxd.>"]));
    nats.start_again();
    is_not_ready_because(&relay, "its user may not subscribe to _INBOX.outboxd.").await;
    scene.commit((1..=5).map(|number| scene.event("k", number))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.messages().await.len(), 0, "nothing is sent whose ack can't arrive");

    nats.kill();
    nats.configure(&operator.nats(&[]));
    nats.start_again();
    scene.drained().await;
    is_ready(&relay).await;
    assert_eq!(scene.numbers().await["k"], [1, 2, 3, 4, 5]);
}

/// Whoever writes events chooses their subjects, and the server repeats them in its errors.
#[tokio::test]
async fn a_denied_subject_that_reads_like_a_subscription_makes_nobody_deaf() {
    let relay = json!({ "user": "relay", "password": "pw", "permissions": {
        "publish": { "deny": ["*.subscription"] }, "subscribe": ["_INBOX.outboxd.>"],
    }});
    let root = json!({ "user": "root", "password": "pw" });
    let users = json!({ "users": [root, relay] });
    let nats =
        NatsServer::with_config(&format!("no_auth_user: root\nauthorization: {users}\n")).await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &USER).await;

    let denied = Event::new(scene.subject("subscription"), &doc! {}).unwrap();
    scene.commit([denied.key("denied").unwrap()]).await;
    let failed = until("the event is marked", async || {
        scene.one(doc! { "failures.0": { "$exists": true } }).await
    })
    .await;
    let failure = failed.get_array("failures").unwrap()[0].as_document().unwrap();
    assert_eq!(failure.get_str("code").unwrap(), "no-permission", "{failure}");

    assert!(!relay.log().contains("no reply of nats arrives"), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

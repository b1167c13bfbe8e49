//! A neighbour on NATS sees publishes and answers them. No event is deleted that the stream doesn't
//! have, and none is marked for good that it would take.

mod earlier;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::{Client, ConnectOptions};
use bson::doc;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::{NatsServer, Relay, Scene, outboxd_with, until};

const EVENTS: u32 = 20;
const PASSWORD: &str = "hunter2";

/// A nats-server on which `neighbour` has these permissions, and everybody else has all.
async fn server(permissions: &Value) -> NatsServer {
    let neighbour =
        json!({ "user": "neighbour", "password": PASSWORD, "permissions": permissions });
    let root = json!({ "user": "root", "password": PASSWORD });
    let users = json!({ "users": [root, neighbour] });
    NatsServer::with_config(&format!("no_auth_user: root\nauthorization: {users}\n")).await
}

/// A neighbour that may answer what it sees, and nothing else.
async fn responding() -> NatsServer {
    server(&json!({ "subscribe": ">", "allow_responses": { "max": 1000 } })).await
}

async fn neighbour(nats: &NatsServer) -> Client {
    let options = ConnectOptions::with_user_and_password("neighbour".into(), PASSWORD.into());
    options.connect(&nats.url).await.expect("the neighbour connects")
}

/// Answers each publish of the scene with what `forge` makes of its number.
async fn forger<F>(scene: &Scene, nats: &NatsServer, forge: F)
where
    F: Fn(u64) -> Vec<String> + Send + 'static,
{
    let client = neighbour(nats).await;
    let mut publishes = client.subscribe(scene.subjects.clone()).await.expect("a subscription");
    client.flush().await.expect("the neighbour listens");
    tokio::spawn(async move {
        let mut number = 0;
        while let Some(publish) = publishes.next().await {
            number += 1;
            let Some(inbox) = publish.reply else { continue };
            for answer in forge(number) {
                client.publish(inbox.clone(), answer.into()).await.expect("an answer is sent");
            }
            client.flush().await.expect("the answers are sent");
        }
    });
}

fn ack(scene: &Scene, sequence: u64) -> String {
    json!({ "stream": scene.stream, "seq": sequence }).to_string()
}

fn refusal(scene: &Scene, code: u64) -> String {
    let error = json!({ "code": 400, "err_code": code, "description": "forged" });
    json!({ "stream": scene.stream, "seq": 0, "error": error }).to_string()
}

async fn commit(scene: &Scene) {
    for number in 0..EVENTS {
        scene.commit([scene.event(&format!("k{number}"), number)]).await;
    }
}

async fn left(scene: &Scene) -> u64 {
    scene.events.count_documents(doc! {}).await.expect("a count")
}

/// Each event is stored, once, and none is dead.
async fn all_stored_once(scene: &Scene) {
    scene.drained().await;
    let messages = scene.messages().await;
    let ids: BTreeSet<_> = messages.iter().map(|message| &message.headers["Nats-Msg-Id"]).collect();
    assert_eq!((messages.len(), ids.len()), (EVENTS as usize, EVENTS as usize));
}

async fn alerts(scene: &Scene) -> Vec<String> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    let kind = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        line["kind"].as_str().expect("a kind").to_owned()
    };
    text.lines().map(kind).collect()
}

/// The forger was found out and told of once, and nobody says that the stream has gone back.
async fn found_out(scene: &Scene, relay: &Relay) {
    let told = async || {
        let alerts = alerts(scene).await;
        alerts.contains(&"forged-ack".to_owned()).then_some(alerts)
    };
    let alerts = until("an alert tells of the forger", told).await;
    assert_eq!(alerts.iter().filter(|kind| *kind == "forged-ack").count(), 1, "{alerts:?}");
    assert!(!alerts.contains(&"rewound".to_owned()), "{alerts:?}");
    assert!(relay.metric("outboxd_forged_acks_total").await > 0);
}

/// Events on a subject that the stream doesn't take stay, and leave when it takes it.
async fn uncovered_events_stay(nats: &NatsServer, first: u64) {
    let scene = Scene::alone(nats).await;
    scene.cover(&["covered"]).await;
    let base = ack(&scene, 0);
    forger(&scene, nats, move |number| vec![base.replace(":0", &format!(":{}", first + number))])
        .await;

    let covered = scene.subject("covered");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    commit(&scene).await;
    until("each is marked as not covered", async || {
        let marked = doc! { "failures.code": "not-covered" };
        let marked = scene.events.count_documents(marked).await.expect("a count");
        (marked == u64::from(EVENTS)).then_some(())
    })
    .await;
    assert_eq!(scene.messages().await.len(), 0);
    found_out(&scene, &relay).await;

    scene.cover(&[">"]).await;
    all_stored_once(&scene).await;
}

#[tokio::test]
async fn who_may_answer_deletes_nothing_on_a_subject_that_the_stream_does_not_take() {
    uncovered_events_stay(&responding().await, 4711).await;
}

#[tokio::test]
async fn who_may_publish_to_the_inbox_deletes_nothing_either() {
    let permissions = json!({ "subscribe": ">", "publish": ["_INBOX.>"] });
    uncovered_events_stay(&server(&permissions).await, 0).await;
}

/// A forger of these sequences, while the stream is full.
async fn full_stream_loses_nothing(first: u64, step: u64) {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();
    let full = Config { max_messages: 1, discard: DiscardPolicy::New, ..config.clone() };
    scene.context.update_stream(full).await.expect("the stream has a limit");
    let before = scene.context.publish(scene.subject("before"), "{}".into()).await.expect("sent");
    before.await.expect("it fills the stream");

    let base = ack(&scene, 0);
    forger(&scene, &nats, move |number| {
        vec![base.replace(":0", &format!(":{}", first + step * number))]
    })
    .await;
    let relay = Relay::leading(&scene, &[]).await;
    commit(&scene).await;
    found_out(&scene, &relay).await;
    until("the relay knows that the stream is full", async || {
        scene.one(doc! { "failures.code": "10077" }).await
    })
    .await;
    assert_eq!(left(&scene).await, u64::from(EVENTS));

    scene.context.update_stream(config).await.expect("the stream has room");
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), EVENTS as usize + 1);
}

#[tokio::test]
async fn a_full_stream_loses_nothing_to_a_forger_of_any_sequence() {
    full_stream_loses_nothing(4711, 0).await;
}

#[tokio::test]
async fn a_full_stream_loses_nothing_to_a_forger_of_the_next_sequences() {
    full_stream_loses_nothing(1, 1).await;
}

#[tokio::test]
async fn nothing_is_deleted_while_only_a_forger_answers() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();

    scene.commit([scene.event("before", 0)]).await;
    scene.drained().await;

    let base = ack(&scene, 0);
    let next = move |number| vec![base.replace(":0", &format!(":{}", number + 1))];
    forger(&scene, &nats, next).await;
    scene.context.delete_stream(&scene.stream).await.expect("the stream is deleted");
    commit(&scene).await;
    relay.says("stay in the outbox until it does").await;
    assert_eq!(left(&scene).await, u64::from(EVENTS));

    scene.context.create_stream(config).await.expect("the stream is back");
    all_stored_once(&scene).await;
}

#[tokio::test]
async fn a_forged_refusal_neither_kills_nor_marks_what_the_stream_takes() {
    let nats = responding().await;
    for code in [10054, 10060, 10109, 10999] {
        let scene = Scene::alone(&nats).await;
        let refusal = refusal(&scene, code);
        forger(&scene, &nats, move |_| vec![refusal.clone()]).await;
        let relay = Relay::leading(&scene, &[]).await;
        commit(&scene).await;
        all_stored_once(&scene).await;
        assert!(!relay.log().contains("event is dead"), "{code}: {}", relay.log());
    }
}

#[tokio::test]
async fn a_forged_refusal_kills_nothing_while_the_stream_is_away() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();
    scene.context.delete_stream(&scene.stream).await.expect("the stream is deleted");

    let refusal = refusal(&scene, 10054);
    forger(&scene, &nats, move |_| vec![refusal.clone()]).await;
    commit(&scene).await;
    let marked = until("one is marked", async || scene.one(doc! { "isLocked": false }).await).await;
    assert_eq!(marked.get_i64("attempts").expect("attempts"), 0, "{marked}");

    scene.context.create_stream(config).await.expect("the stream is back");
    all_stored_once(&scene).await;
    assert!(!relay.log().contains("event is dead"), "{}", relay.log());
}

#[tokio::test]
async fn a_forged_duplicate_is_no_duplicate() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    for sequence in [1, 4711] {
        let forged = json!({ "stream": scene.stream, "seq": sequence, "duplicate": true });
        let forged = forged.to_string();
        forger(&scene, &nats, move |_| vec![forged.clone()]).await;
    }
    let relay = Relay::leading(&scene, &[]).await;
    commit(&scene).await;
    all_stored_once(&scene).await;
    assert_eq!(relay.metric("outboxd_false_duplicates_total").await, 0);
}

#[tokio::test]
async fn a_flood_of_answers_costs_tries_and_no_event() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let mut answers: Vec<_> = (1..100).map(|sequence| ack(&scene, sequence)).collect();
    answers.extend((0..100).map(|_| "+OK".to_owned()));
    answers.push(refusal(&scene, 10054));
    forger(&scene, &nats, move |_| answers.clone()).await;

    let relay = Relay::leading(&scene, &[]).await;
    commit(&scene).await;
    all_stored_once(&scene).await;
    found_out(&scene, &relay).await;
}

/// Answers each publish that there are no responders, which only a client of its own can send.
async fn denier(scene: &Scene, nats: &NatsServer) {
    let address = nats.url.trim_start_matches("nats://").to_owned();
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader);
    let options = json!({
        "user": "neighbour", "pass": PASSWORD, "headers": true, "no_responders": true,
        "verbose": false, "pedantic": false,
    });
    let hello = format!("CONNECT {options}\r\nSUB {} 1\r\nPING\r\n", scene.subjects);
    writer.write_all(hello.as_bytes()).await.expect("hello");

    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut ready = Some(ready);
        let mut line = String::new();
        while lines.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            line.clear();
            match words.first().map(String::as_str) {
                Some("PONG") => drop(ready.take().map(|ready| ready.send(()))),
                Some("PING") => writer.write_all(b"PONG\r\n").await.expect("a pong"),
                Some("HMSG") if words.len() == 6 => {
                    let mut body = vec![0; words[5].parse::<usize>().expect("a length") + 2];
                    lines.read_exact(&mut body).await.expect("a message");
                    let header = "NATS/1.0 503\r\n\r\n";
                    let answer =
                        format!("HPUB {} {2} {2}\r\n{}\r\n", words[3], header, header.len());
                    writer.write_all(answer.as_bytes()).await.expect("an answer");
                }
                _ => {}
            }
        }
    });
    is_ready.await.expect("it listens");
}

#[tokio::test]
async fn forged_no_responders_cost_a_try() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    denier(&scene, &nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    commit(&scene).await;
    all_stored_once(&scene).await;
    assert!(!relay.log().contains("not-covered"), "{}", relay.log());
}

#[tokio::test]
async fn a_subject_that_only_a_silent_subscriber_takes_is_not_covered() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    scene.cover(&["covered"]).await;
    forger(&scene, &nats, |_| Vec::new()).await;
    let covered = scene.subject("covered");
    let _relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([scene.event("k", 1)]).await;
    until("it is marked", async || scene.one(doc! { "failures.code": "not-covered" }).await).await;
}

#[tokio::test]
async fn every_ack_can_be_verified_always() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let sequence = AtomicU64::new(0);
    let base = ack(&scene, 0);
    forger(&scene, &nats, move |_| {
        let next = sequence.fetch_add(1, Ordering::Relaxed) + 1;
        vec![base.replace(":0", &format!(":{next}"))]
    })
    .await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_NATS__VERIFY_ACKS", "always")]).await;
    commit(&scene).await;
    all_stored_once(&scene).await;
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0, "none was sent twice");

    let bad = [("OUTBOXD_NATS__VERIFY_ACKS", "never")];
    assert_eq!(outboxd_with(&scene, &["config", "print"], &bad).0, Some(78));
}

#[tokio::test]
async fn an_account_may_map_subjects_of_the_outbox_to_those_of_the_stream() {
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    scene.cover(&["mapped"]).await;
    let (from, to) = (scene.subject("made"), scene.subject("mapped"));
    nats.reload(&format!("mappings: {{ \"{from}\": \"{to}\" }}\n"));
    until("the mapping is known", async || {
        let ack = scene.context.publish(from.clone(), "{}".into()).await.ok()?;
        ack.await.ok()
    })
    .await;
    let before = scene.messages().await.len();

    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &to)]).await;
    commit(&scene).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len() - before, EVENTS as usize);
    assert_eq!(relay.metric("outboxd_forged_acks_total").await, 0);
}

#[tokio::test]
async fn the_printed_permissions_of_other_users_stop_the_forger() {
    let probe = Scene::new().await;
    let (code, said) =
        outboxd_with(&probe, &["privileges", "--role", "relay", "--output", "json"], &[]);
    assert_eq!(code, Some(0), "{said}");
    let printed: Value = serde_json::from_str(&said).expect("JSON");
    let others = &printed[0]["nats_others"];
    assert_eq!(others["publish"]["deny"], json!([format!("_INBOX.outboxd.{}.>", probe.stream)]));

    // The same for the stream of another scene, whose neighbour may answer what it sees.
    let nats = responding().await;
    let scene = Scene::alone(&nats).await;
    let text = others.to_string().replace(&probe.stream, &scene.stream);
    let mut permissions: Value = serde_json::from_str(&text).expect("JSON");
    permissions["allow_responses"] = json!(true);
    let user = json!({ "user": "neighbour", "password": PASSWORD, "permissions": permissions });
    let users = json!({ "users": [{ "user": "root", "password": PASSWORD }, user] });
    nats.reload(&format!("no_auth_user: root\nauthorization: {users}\n"));

    let client = neighbour(&nats).await;
    let mut seen = client.subscribe(">").await.expect("a subscription to what is allowed");
    client.flush().await.expect("the neighbour listens");
    let relay = Relay::leading(&scene, &[]).await;
    commit(&scene).await;
    all_stored_once(&scene).await;
    assert_eq!(relay.metric("outboxd_forged_acks_total").await, 0);

    scene.context.client().publish("elsewhere", "the end".into()).await.expect("sent");
    loop {
        let message = seen.next().await.expect("a message");
        assert!(!message.subject.starts_with(&scene.name), "{message:?}");
        if message.subject.as_str() == "elsewhere" {
            return;
        }
    }
}

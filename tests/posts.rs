//! Posts of alerts: gathered by group, in the form of each service, over HTTP as it is found.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bson::doc;
use futures_util::StreamExt;
use outboxd_client::Event;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::{Relay, Scene, outboxd_with, until};

/// An answer: status, header, and its value.
type Answer = (u16, header::HeaderName, String);

/// A request that reached the hook: when, where, and its body.
#[derive(Debug)]
struct Post {
    at: Instant,
    path: String,
    method: String,
    referer: bool,
    body: Value,
}

#[derive(Clone)]
struct Hook {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    posts: mpsc::UnboundedSender<Post>,
}

/// A webhook that gives these answers, one after the other, and takes what comes then.
async fn hook(
    answers: &[(u16, header::HeaderName, &str)],
) -> (String, mpsc::UnboundedReceiver<Post>) {
    let answers =
        answers.iter().map(|(status, name, value)| (*status, name.clone(), (*value).to_owned()));
    let (posts, inbox) = mpsc::unbounded_channel();
    let hook = Hook { answers: Arc::new(Mutex::new(answers.collect())), posts };
    let app = Router::new().fallback(take).with_state(hook);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, inbox)
}

async fn take(
    State(hook): State<Hook>,
    method: axum::http::Method,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let body = serde_json::from_str(&body).unwrap_or(Value::Null);
    let (at, path, method) = (Instant::now(), uri.path().to_owned(), method.to_string());
    let referer = headers.contains_key(header::REFERER);
    hook.posts.send(Post { at, path, method, referer, body }).unwrap();
    match hook.answers.lock().unwrap().pop_front() {
        Some((status, name, value)) => {
            (StatusCode::from_u16(status).unwrap(), [(name, value)]).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Inserts events that are dead at once, of one cause.
async fn kill_events(scene: &Scene, from: u64, to: u64, missing: &str) {
    let events = (from..to).map(|number| {
        let mut event = doc! {
            "_id": format!("{missing}-{number:04}"), "subject": scene.subject("made"), "payload": {},
            "isLocked": true, "failures": [],
        };
        event.insert(missing, if missing == "subject" { "two words" } else { "" });
        event
    });
    let events: Vec<_> = events.collect();
    scene.events.insert_many(events).bypass_document_validation(true).await.unwrap();
}

fn uncovered(scene: &Scene, number: i32) -> Event {
    Event::new(scene.subject(&format!("elsewhere.{number}")), &doc! { "number": number }).unwrap()
}

async fn stopped(relay: Relay) {
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_hundred_and_fifty_dead_events_of_one_cause_are_one_post_with_their_number() {
    let scene = Scene::new().await;
    let (url, mut posts) = hook(&[]).await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__WEBHOOK", &url)]).await;
    kill_events(&scene, 0, 150, "subject").await;

    let mut events = 0;
    let mut groups = std::collections::HashSet::new();
    let mut requests = 0;
    while events < 150 {
        let post = posts.recv().await.unwrap();
        assert_eq!(post.body["kind"], "dead");
        events += post.body["events"].as_u64().unwrap();
        groups.insert(post.body["group"].as_str().unwrap().to_owned());
        requests += 1;
    }
    assert_eq!((events, groups.len()), (150, 1));
    assert!(requests <= 2, "{requests} posts");
    let file = std::fs::read_to_string(scene.alerts_file()).unwrap();
    assert_eq!(file.lines().count(), 150, "the alert log has each");
    let lines = relay.log().matches("event is dead").count();
    assert!(lines <= 3, "{lines} lines");
    let group = groups.iter().next().unwrap();
    assert!(relay.log().contains(group.as_str()), "{}", relay.log());
    stopped(relay).await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_wait_gets_it_and_then_the_alert() {
    let scene = Scene::new().await;
    let (url, mut posts) = hook(&[(429, header::RETRY_AFTER, "4")]).await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__WEBHOOK", &url)]).await;
    kill_events(&scene, 0, 1, "subject").await;
    let (first, second) = (posts.recv().await.unwrap(), posts.recv().await.unwrap());
    assert!((second.at - first.at).as_millis() >= 3900, "it waited as it was asked to");
    assert_eq!(first.body, second.body);
    stopped(relay).await;
}

#[tokio::test]
async fn what_the_webhook_refuses_is_not_repeated_but_counted_and_named_in_the_next_post() {
    let scene = Scene::new().await;
    let (url, mut posts) = hook(&[(404, header::SERVER, "x")]).await;
    let relay = Relay::leading(
        &scene,
        &[("OUTBOXD_ALERTS__WEBHOOK", &url), ("OUTBOXD_ALERTS__INTERVAL", "1s")],
    )
    .await;
    kill_events(&scene, 0, 1, "subject").await;
    relay.says("the webhook answers 404").await;
    relay.says("the webhook did not accept these alerts").await;
    assert_eq!(posts.recv().await.unwrap().body["events"], 1);

    kill_events(&scene, 1, 2, "subject").await;
    let next = posts.recv().await.unwrap();
    assert_eq!((&next.body["dropped"], &next.body["events"]), (&1.into(), &1.into()));
    assert!(next.body["event"]["id"].as_str().unwrap().ends_with("1"), "{next:?}");
    assert!(!relay.log().contains("/secret"), "the URL is a secret");
    let counted = crate::alerts::metrics(&relay).await;
    let labels = format!("outbox=\"{}.outbox\",to=\"webhook\"", scene.name);
    let counter = format!("outboxd_alerts_dropped_total{{{labels}}} 1");
    assert!(counted.contains(&counter), "{counted}");
    stopped(relay).await;
}

#[tokio::test]
async fn a_redirection_that_keeps_the_body_is_followed_and_another_is_an_error() {
    for (status, is_followed) in
        [(307, true), (308, true), (301, false), (302, false), (303, false)]
    {
        let scene = Scene::new().await;
        let (url, mut posts) = hook(&[(status, header::LOCATION, "/there")]).await;
        let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__WEBHOOK", &url)]).await;
        kill_events(&scene, 0, 1, "subject").await;
        let first = posts.recv().await.unwrap();
        if is_followed {
            let second = posts.recv().await.unwrap();
            assert_eq!((&*second.path, &*second.method), ("/there", "POST"));
            assert_eq!(first.body, second.body);
            assert!(!second.referer, "the URL is a secret");
        } else {
            relay.says("only 307 and 308 are followed").await;
            assert!(posts.try_recv().is_err(), "{status}: no GET");
        }
        stopped(relay).await;
    }
}

#[tokio::test]
async fn each_service_gets_the_form_that_it_takes() {
    for (format, text, wanted) in [
        ("slack", "/text", None),
        ("discord", "/content", Some(("/allowed_mentions/parse", Value::Array(Vec::new())))),
        (
            "teams",
            "/attachments/0/content/body/0/inlines/0/text",
            Some(("/attachments/0/content/type", "AdaptiveCard".into())),
        ),
        ("pagerduty", "/payload/summary", Some(("/routing_key", "key-of-a-service".into()))),
    ] {
        let scene = Scene::new().await;
        let (url, mut posts) = hook(&[]).await;
        let settings = [
            ("OUTBOXD_ALERTS__WEBHOOK", &*url),
            ("OUTBOXD_ALERTS__WEBHOOK_FORMAT", format),
            ("OUTBOXD_ALERTS__WEBHOOK_KEY", "key-of-a-service"),
        ];
        let relay = Relay::leading(&scene, &settings).await;
        kill_events(&scene, 0, 3, "subject").await;
        let body = posts.recv().await.unwrap().body;
        let said = body.pointer(text).and_then(Value::as_str).unwrap_or_default();
        assert!(said.contains("3 alerts of group"), "{format}: {body}");
        if let Some((at, value)) = wanted {
            assert_eq!(body.pointer(at), Some(&value), "{format}: {body}");
        }
        stopped(relay).await;
    }
}

#[tokio::test]
async fn alerts_go_to_a_nats_subject_with_the_rights_that_are_printed() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    // The relay's user of these tests may publish to it.
    let subject = scene.subject("alerts");
    let mut heard = scene.context.client().subscribe(subject.clone()).await.unwrap();
    let made = scene.subject("made");
    let settings = [("OUTBOXD_ALERTS__SUBJECT", &*subject), ("OUTBOXD_STREAM__SUBJECTS", &*made)];
    let relay = Relay::leading(&scene, &settings).await;
    kill_events(&scene, 0, 5, "subject").await;
    let message = heard.next().await.unwrap();
    let post: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&post["kind"], &post["events"]), (&"dead".into(), &5.into()));
    stopped(relay).await;
}

#[tokio::test]
async fn a_nats_subject_that_is_denied_is_said_and_its_alerts_are_counted() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__SUBJECT", "other.alerts")]).await;
    kill_events(&scene, 0, 3, "subject").await;
    relay.says("NATS denies publishing to alerts.subject").await;
    let counted = crate::alerts::metrics(&relay).await;
    let labels = format!("outbox=\"{}.outbox\",to=\"subject\"", scene.name);
    let counter = format!("outboxd_alerts_dropped_total{{{labels}}} 3");
    assert!(counted.contains(&counter), "{counted}");
    stopped(relay).await;
}

#[tokio::test]
async fn refusals_that_differ_only_in_their_subject_are_one_line_and_others_another() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let made = scene.subject("made");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &made)]).await;
    scene.commit((0..20).map(|number| uncovered(&scene, number)).collect::<Vec<_>>()).await;
    kill_events(&scene, 0, 3, "subject").await;
    kill_events(&scene, 0, 3, "key").await;
    until("all have failed", async || {
        let failed = doc! { "failures.0": { "$exists": true } };
        (scene.events.count_documents(failed).await.unwrap() >= 26).then_some(())
    })
    .await;
    until("each cause is a line", async || {
        (relay.log().contains("subject-0000") && relay.log().contains("key-0000")).then_some(())
    })
    .await;
    stopped(relay).await;
}

#[tokio::test]
async fn a_subject_of_the_stream_is_no_subject_for_alerts() {
    let scene = Scene::new().await;
    let (taken, all) = (scene.subject("alerts"), scene.subject(">"));
    let settings = [("OUTBOXD_ALERTS__SUBJECT", &*taken), ("OUTBOXD_STREAM__SUBJECTS", &*all)];
    for args in [&["config", "print"][..], &["check"], &["run"], &["migrate"]] {
        let (code, said) = outboxd_with(&scene, args, &settings);
        assert_eq!(code, Some(78), "{args:?}: {said}");
        assert!(
            said.contains("alerts.subject") && said.contains("one of stream.subjects"),
            "{said}"
        );
    }

    // The settings don't name the stream's subjects, and the stream takes it all the same.
    let other = scene.subject("made");
    let settings = [("OUTBOXD_ALERTS__SUBJECT", &*taken), ("OUTBOXD_STREAM__SUBJECTS", &*other)];
    let (code, said) = outboxd_with(&scene, &["check"], &settings);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("takes alerts.subject {taken}")), "{said}");
    assert!(said.contains("OUTBOXD_ALERTS__SUBJECT=<subject>"), "{said}");
}

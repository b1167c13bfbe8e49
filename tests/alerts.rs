//! Alerts: one per event and state, in the file, at the webhook and in the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use bson::doc;
use outboxd_client::Event;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::support::{NatsServer, Relay, Scene, outboxd_with, until};

fn lines(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(scene.alerts_file()).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

async fn line(scene: &Scene, kind: &str) -> Value {
    until(&format!("an alert says {kind}"), async || {
        lines(scene).into_iter().find(|line| line["kind"] == kind)
    })
    .await
}

fn kinds(scene: &Scene) -> Vec<String> {
    lines(scene).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

fn uncovered(scene: &Scene) -> Event {
    Event::new(scene.subject("elsewhere"), &doc! { "key": "k", "number": 1 })
        .unwrap()
        .key(&*scene.name)
        .unwrap()
}

pub(crate) async fn metrics(relay: &Relay) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/metrics", relay.admin().await);
    reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// A webhook that refuses the first attempt of each post.
async fn webhook() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (posts, inbox) = mpsc::unbounded_channel();
    let tries = Arc::new(AtomicU32::new(0));
    let take =
        async |State((tries, posts)): State<(Arc<AtomicU32>, mpsc::UnboundedSender<Value>)>,
               body: String| {
            if tries.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            posts.send(serde_json::from_str(&body).unwrap()).unwrap();
            StatusCode::OK
        };
    let app =
        axum::Router::new().route("/hook", axum::routing::post(take)).with_state((tries, posts));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, inbox)
}

#[tokio::test]
async fn an_event_that_keeps_failing_and_dies_raises_two_alerts() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let made = scene.subject("made");
    let (url, mut posts) = webhook().await;
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", made.as_str()),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "4"),
        ("OUTBOXD_ALERTS__AFTER_FAILURES", "2"),
        ("OUTBOXD_ALERTS__WEBHOOK", &url),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    let event = uncovered(&scene);
    let id = event.id().to_string();
    scene.commit([event]).await;
    let dead = line(&scene, "dead").await;
    assert_eq!(kinds(&scene), ["failing", "dead"]);
    assert_eq!(dead["outbox"], format!("{}.outbox", scene.name));
    assert_eq!((&dead["event"]["id"], &dead["event"]["attempts"]), (&id.into(), &4.into()));
    assert_eq!(
        (&dead["event"]["subject"], &dead["event"]["code"]),
        (&scene.subject("elsewhere").into(), &"not-covered".into())
    );
    assert!(dead["text"].as_str().unwrap().contains("add the subject to the stream"), "{dead}");

    // Counted, for Prometheus.
    let counts = metrics(&relay).await;
    for kind in ["failing", "dead"] {
        let labels = format!("outbox=\"{}.outbox\",kind=\"{kind}\"", scene.name);
        assert!(counts.contains(&format!("outboxd_alerts_total{{{labels}}} 1")), "{counts}");
    }

    // Each was posted in its second attempt, with its group and its count.
    assert_eq!(posts.recv().await.unwrap()["kind"], "failing");
    let mut post = posts.recv().await.unwrap();
    let fields = post.as_object_mut().unwrap();
    assert_eq!(fields.remove("events"), Some(1.into()));
    assert_eq!(fields.remove("group").unwrap().as_str().unwrap().len(), 8);
    assert_eq!(post, dead);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn events_that_wait_for_too_long_raise_one_alert_and_their_end_another() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let made = scene.subject("made");
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", made.as_str()),
        ("OUTBOXD_ALERTS__STUCK_AFTER", "1s"),
        ("OUTBOXD_RETRY__BASE_DELAY", "1s"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit([uncovered(&scene), scene.event("other", 1)]).await;
    let stuck = line(&scene, "stuck").await;
    assert!(stuck["oldest_seconds"].as_u64().unwrap() >= 1, "{stuck}");
    assert_eq!(stuck["event"]["subject"], scene.subject("elsewhere"));

    // A restarted relay does not repeat the alert.
    assert_eq!(relay.stop(), Some(0));
    let _relay = Relay::leading(&scene, &settings).await;
    until("it was tried again", async || scene.one(doc! { "attempts": { "$gte": 3 } }).await).await;
    scene.cover(&["made", "elsewhere"]).await;
    line(&scene, "recovered").await;
    assert_eq!(kinds(&scene), ["stuck", "recovered"]);
}

/// It has neither a `ts` nor a time in its id, as in an outbox that was there before.
#[tokio::test]
async fn an_event_of_unknown_age_that_waits_is_stuck_and_not_for_decades() {
    let scene = Scene::new().await;
    scene.cover(&["made"]).await;
    let made = scene.subject("made");
    let settings = [
        ("OUTBOXD_STREAM__SUBJECTS", made.as_str()),
        ("OUTBOXD_ALERTS__STUCK_AFTER", "1s"),
        ("OUTBOXD_RETRY__BASE_DELAY", "1s"),
    ];
    let event = doc! {
        "_id": "timeless", "subject": scene.subject("elsewhere"), "payload": {}, "isLocked": true, "failures": [],
    };
    scene.events.insert_one(event).bypass_document_validation(true).await.unwrap();
    let _relay = Relay::leading(&scene, &settings).await;

    let stuck = line(&scene, "stuck").await;
    assert_eq!(stuck["event"]["id"], "timeless");
    let age = stuck["oldest_seconds"].as_u64().unwrap();
    assert!((1..10_000).contains(&age), "{stuck}");
}

#[tokio::test]
async fn a_broker_that_was_away_from_the_start_raises_an_alert() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    nats.kill();
    scene.commit([scene.event("k", 1)]).await;
    let _relay = Relay::start(&scene, &[("OUTBOXD_ALERTS__STUCK_AFTER", "1s")]);
    line(&scene, "stuck").await;
    nats.start_again();
    scene.drained().await;
    line(&scene, "recovered").await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_stops_the_relay_only_if_it_was_asked_for() {
    let scene = Scene::new().await;
    let file = scene.folder.path().join("missing/alerts.jsonl");
    let relay = Relay::start(&scene, &[("OUTBOXD_ALERTS__FILE", file.to_str().unwrap())]);
    relay.says("set a path that can").await;
    assert_ne!(relay.stop(), Some(0));
}

#[tokio::test]
async fn the_admin_endpoint_wants_its_token_and_is_not_shown_to_others_without_one() {
    let scene = Scene::new().await;
    let (code, said) =
        outboxd_with(&scene, &["config", "print"], &[("OUTBOXD_ADMIN__LISTEN", "0.0.0.0:0")]);
    assert_eq!(
        (code, said.contains("set admin.token or admin.token_file too")),
        (Some(78), true),
        "{said}"
    );
    let settings =
        [("OUTBOXD_ADMIN__LISTEN", "0.0.0.0:0"), ("OUTBOXD_ADMIN__TOKEN", "open-sesame")];
    let relay = Relay::start(&scene, &settings);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/metrics", relay.admin().await.replace("0.0.0.0", "127.0.0.1"));
    let http = reqwest::Client::new();
    for (token, status) in [(None, 401), (Some("open"), 401), (Some("open-sesame"), 200)] {
        let request =
            token.iter().fold(http.get(&url), |request, token| request.bearer_auth(token));
        assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{token:?}");
    }
    assert!(!relay.log().contains("open-sesame"));
}

//! The admin endpoint of a relay.

use bson::doc;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{NatsServer, Relay, Scene, outboxd, outboxd_with, until};

async fn get(relay: &Relay, path: &str) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer =
        reqwest::get(format!("http://{}{path}", relay.admin().await)).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("its text"))
}

/// The value of a metric; its name with its labels, as Prometheus writes them.
fn metric(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{metrics}")).parse().expect("a number")
}

#[tokio::test]
async fn the_metrics_count_what_happened() {
    let scene = Scene::new().await;
    let settings = [("OUTBOXD_ALERTS__STUCK_AFTER", "1s"), ("OUTBOXD_LOG__LEVEL", "debug")];
    let relay = Relay::leading(&scene, &settings).await;
    // Events that the sweep finds have no commit time, so no latency.
    relay.says("swept; tailing").await;
    scene.commit((0..20).map(|n| scene.event(&format!("k{n}"), n))).await;
    let bad = doc! { "_id": "bad", "subject": "a b", "payload": "secret", "isLocked": true };
    scene.events.insert_one(bad).bypass_document_validation(true).await.unwrap();
    until("it is dead", async || scene.one(doc! { "deadAt": { "$ne": null } }).await).await;
    until("all are out", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 1).then_some(())
    })
    .await;
    let outbox = format!("{}.outbox", scene.name);
    let label = format!("{{outbox=\"{outbox}\"}}");
    let metrics = until("the gauges are up to date", async || {
        let (code, metrics) = get(&relay, "/metrics").await;
        assert_eq!(code, 200);
        let late = [
            format!("outboxd_backlog_events{label} 1"),
            format!("outboxd_unsettled_events{label} 0"),
        ];
        late.iter().all(|late| metrics.contains(late)).then_some(metrics)
    })
    .await;
    for (name, value) in [
        ("outboxd_events_published_total", 20.0),
        ("outboxd_events_dead_total", 1.0),
        ("outboxd_leader", 1.0),
        ("outboxd_delivery_latency_seconds_count", 20.0),
        ("outboxd_publish_duration_seconds_count", 20.0),
        ("outboxd_in_flight_events", 0.0),
    ] {
        assert_eq!(metric(&metrics, &format!("{name}{label}")), value, "{name}");
    }
    for (kind, count) in [("dead", 1.0), ("rewound", 0.0)] {
        let name = format!("outboxd_alerts_total{{outbox=\"{outbox}\",kind=\"{kind}\"}}");
        assert_eq!(metric(&metrics, &name), count, "{kind}");
    }

    let samples: Vec<_> = metrics.lines().filter(|line| line.starts_with("outboxd_")).collect();
    assert!(samples.len() > 60, "{samples:#?}");
    for sample in samples {
        let label = format!("{{outbox=\"{outbox}\"");
        let of_the_process = ["outboxd_build_info{", "outboxd_log_lines_dropped_total "];
        let is_about_the_outbox = !of_the_process.iter().any(|name| sample.starts_with(name));
        assert_eq!(sample.contains(&label), is_about_the_outbox, "{sample}");
        let rest = sample.replace(&outbox, "");
        assert!(
            !rest.contains(&scene.name) && !rest.contains("bad"),
            "an id or a subject in {sample}"
        );
    }

    let (code, status) = get(&relay, "/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (code, &status["dead"], &status["backlog"]),
        (200, &1.into(), &1.into()),
        "{status}"
    );
}

#[tokio::test]
async fn stats_status_and_the_metric_show_one_oldest_event_which_is_not_dead() {
    let scene = Scene::new().await;
    let dead = doc! {
        "_id": "dead", "ts": bson::Timestamp { time: 1, increment: 1 }, "subject": scene.subject("a"), "key": "k",
        "payload": {}, "isLocked": false, "failures": [{ "code": "no-ack" }], "deadAt": bson::DateTime::now(),
    };
    scene.events.insert_one(dead).await.unwrap();
    let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__STUCK_AFTER", "1s")]).await;
    scene.commit([scene.event("k", 1)]).await;
    let parked = doc! { "_id": { "$ne": "dead" }, "isLocked": false };
    until("the next event of its key is parked", async || scene.one(parked.clone()).await).await;

    let gauge = format!("outboxd_oldest_event_age_seconds{{outbox=\"{}.outbox\"}}", scene.name);
    let look = async || {
        let (_, metrics) = get(&relay, "/metrics").await;
        let (_, status) = get(&relay, "/status").await;
        let (_, stats) = outboxd(&scene, &["stats", "--output", "json"]);
        let oldest = |said: &str| {
            let said: Value = serde_json::from_str(said).expect("JSON");
            said["oldest_seconds"].as_f64()
        };
        (metric(&metrics, &gauge), oldest(&status), oldest(&stats))
    };
    let (seconds, status, stats) = until("the parked event is old", async || {
        let seen = look().await;
        (seen.0 >= 3.0).then_some(seen)
    })
    .await;
    // They are asked one after the other; the dead event would be decades old.
    for later in [status, stats] {
        let later = later.expect("an age");
        assert!((later - seconds).abs() < 30.0, "{seconds}, {status:?}, {stats:?}");
    }

    scene.events.delete_one(parked).await.unwrap();
    let seen = until("only the dead event is left", async || {
        let seen = look().await;
        (seen.0 == 0.0).then_some(seen)
    })
    .await;
    assert_eq!(seen, (0.0, None, None));
}

#[tokio::test]
async fn a_relay_is_ready_while_it_can_deliver_or_stands_by() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    let ready = async |relay: &Relay| {
        let (code, parts) = get(relay, "/readyz").await;
        (code, serde_json::from_str::<Value>(&parts).unwrap())
    };
    until("it is ready", async || (ready(&relay).await.0 == 200).then_some(())).await;
    let standby = Relay::start(&scene, &[]);
    standby.says("standing by").await;
    let (code, parts) = ready(&standby).await;
    assert_eq!((code, &parts["lease"]["ready"]), (200, &true.into()), "{parts}");

    nats.kill();
    let parts = until("it is not ready", async || {
        let (code, parts) = ready(&relay).await;
        (code == 503).then_some(parts)
    })
    .await;
    assert_eq!(
        (&parts["nats"]["ready"], &parts["mongodb"]["ready"]),
        (&false.into(), &true.into()),
        "{parts}"
    );
    assert_eq!(get(&relay, "/livez").await.0, 200, "a restart would not help");
    nats.start_again();
    until("it is ready again", async || (ready(&relay).await.0 == 200).then_some(())).await;
    assert_eq!(get(&relay, "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_container_asks_whether_its_relay_lives() {
    let scene = Scene::new().await;
    let mut relay = Relay::leading(&scene, &[]).await;
    let listen = relay.admin().await;
    let live = || outboxd_with(&scene, &["check", "--live"], &[("OUTBOXD_ADMIN__LISTEN", &listen)]);
    assert_eq!(live(), (Some(0), String::new()));
    relay.pause();
    let (code, said) = live();
    assert!(code == Some(1) && said.contains(&format!("{listen} does not answer")), "{said}");
    relay.resume();
    assert_eq!(live(), (Some(0), String::new()));
    relay.kill();
    assert_eq!(live().0, Some(1));
}

#[tokio::test]
async fn clients_that_say_nothing_or_too_much_are_cut_off_and_keep_nobody_waiting() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let address = relay.admin().await;
    let mut idle = Vec::new();
    // More than it takes at once.
    for _ in 0..100 {
        idle.push(TcpStream::connect(&address).await.expect("a connection"));
    }
    let (code, _) = get(&relay, "/livez").await;
    assert_eq!(code, 200);
    for mut connection in idle {
        let mut said = Vec::new();
        // The endpoint may answer with an error before it cuts the connection.
        let _ = connection.read_to_end(&mut said).await;
        assert!(!String::from_utf8_lossy(&said).contains("200"));
    }

    let long = format!("GET /livez?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    let body =
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nabc".to_owned();
    for (request, code) in [(long, "431"), (body, "405")] {
        let mut connection = TcpStream::connect(&address).await.expect("a connection");
        // It may be cut off in the middle of this.
        let _ = connection.write_all(request.as_bytes()).await;
        let mut said = Vec::new();
        let _ = connection.read_to_end(&mut said).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.is_empty() || said.starts_with(&format!("HTTP/1.1 {code}")), "{said}");
    }
    assert_eq!(get(&relay, "/livez").await.0, 200);
}

/// How the clients of a flood dawdle.
#[derive(Debug, Clone, Copy)]
enum Dawdle {
    /// Half a request, and the next connection.
    Half,
    /// A byte at a time.
    Drip,
    /// A whole request for everything there is, and the answer is never read.
    Unread,
    /// Nothing.
    Idle,
    /// Gone at once.
    HangUp,
}

/// Opens connections until it is stopped, in blocking threads as an outsider would.
fn dawdle(address: &str, how: Dawdle, stop: &std::sync::atomic::AtomicBool) {
    use std::io::Write;

    let mut open = Vec::new();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let Ok(mut client) = std::net::TcpStream::connect(address) else { continue };
        let sent = match how {
            Dawdle::Half => client.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half: "),
            Dawdle::Unread => client
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"),
            Dawdle::Drip => b"GET /livez HTTP/1.1\r\n".iter().try_for_each(|byte| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                client.write_all(&[*byte])
            }),
            Dawdle::Idle => Ok(()),
            Dawdle::HangUp => continue,
        };
        // The endpoint may have cut it off.
        if sent.is_ok() {
            open.push(client);
        }
        if open.len() >= 8 {
            open.remove(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flood_of_slow_clients_keeps_a_probe_waiting() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let address = relay.admin().await;
    let client = {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()
    };

    for how in [Dawdle::Half, Dawdle::Drip, Dawdle::Unread, Dawdle::Idle, Dawdle::HangUp] {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let threads: Vec<_> = (0..400)
            .map(|_| {
                let (address, stop) = (address.clone(), stop.clone());
                std::thread::spawn(move || dawdle(&address, how, &stop))
            })
            .collect();

        for probe in 0..15 {
            let path = if probe % 2 == 0 { "livez" } else { "readyz" };
            let answer = client.get(format!("http://{address}/{path}"));
            let answer = answer.timeout(std::time::Duration::from_secs(10)).send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{how:?}, {probe}: {error:?}"));
            assert_eq!(answer.status(), 200, "{how:?}, {probe}");
        }

        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    scene.commit([scene.event("k", 1)]).await;
    scene.drained().await;
}

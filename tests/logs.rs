//! Nothing waits for whoever reads the log or the alerts, and secrets are alike from every source.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;

use bson::doc;
use outboxd_client::Event;

use crate::support::{Relay, Scene, free_ports, outboxd_with, until};

/// Each refusal is an alert, and no event dies meanwhile.
const LOUD: [(&str, &str); 2] =
    [("OUTBOXD_ALERTS__AFTER_FAILURES", "1"), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "100")];

/// Commits events that the stream doesn't take.
async fn fail(scene: &Scene, events: u32) {
    scene.cover(&["made"]).await;
    let refused = (0..events).map(|number| {
        let event = Event::new(scene.subject("uncovered"), &doc! {}).unwrap();
        event.key(format!("refused-{number}")).unwrap()
    });
    scene.commit(refused).await;
}

async fn get(address: &str, path: &str) -> Option<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    answer.error_for_status().ok()?.text().await.ok()
}

#[tokio::test]
async fn a_log_that_nobody_reads_hangs_neither_relay_nor_probes_nor_sigterm() {
    let scene = Scene::new().await;
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let settings = [("OUTBOXD_LOG__LEVEL", "trace"), ("OUTBOXD_ADMIN__LISTEN", address.as_str())];
    let (mut reader, writer) = std::io::pipe().unwrap();
    let relay = Relay::start_with(&scene, &settings, |command| {
        command.stderr(writer);
    });

    let dropped = async || {
        let metrics = get(&address, "/metrics").await?;
        let line = metrics.lines().find(|line| line.starts_with("outboxd_log_lines_dropped"))?;
        let lines: u64 = line.rsplit(' ').next()?.parse().ok()?;
        (lines > 0).then_some(())
    };
    until("lines are dropped and counted", async || {
        scene.commit((0..50).map(|number| scene.event("k", number))).await;
        dropped().await
    })
    .await;

    // The relay works on with a full pipe.
    scene.commit([scene.event("late", 1)]).await;
    scene.drained().await;
    assert_eq!(scene.numbers().await["late"], [1]);
    for path in ["/livez", "/readyz", "/status"] {
        assert!(get(&address, path).await.is_some(), "{path}");
    }
    assert_eq!(relay.stop(), Some(0));

    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("holding the lease") || log.contains("TRACE"), "whole lines were kept");
}

#[tokio::test]
async fn alerts_go_to_a_standard_output_that_is_a_pipe() {
    let scene = Scene::new().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let settings = [LOUD[0], LOUD[1], ("OUTBOXD_ALERTS__FILE", "/dev/stdout")];
    let relay = Relay::start_with(&scene, &settings, |command| {
        command.stdout(writer);
    });
    relay.says("holding the lease").await;
    fail(&scene, 1).await;

    let mut line = String::new();
    let line = tokio::task::spawn_blocking(move || {
        BufReader::new(reader).read_line(&mut line).unwrap();
        line
    });
    let alert: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    assert_eq!(alert["kind"], "failing", "{alert}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn alerts_that_nobody_reads_or_that_find_no_room_cost_a_line_and_hold_up_no_event() {
    let scene = Scene::new().await;
    let fifo = scene.folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());

    let taken = scene.subject("made");

    for (file, why) in [(fifo.as_path(), "nobody reads it"), (Path::new("/dev/full"), "No space")] {
        let settings = [
            LOUD[0],
            LOUD[1],
            ("OUTBOXD_STREAM__SUBJECTS", taken.as_str()),
            ("OUTBOXD_ALERTS__FILE", file.to_str().unwrap()),
        ];
        let relay = Relay::leading(&scene, &settings).await;
        fail(&scene, 5).await;
        relay.says("cannot write alerts to alerts.file").await;
        relay.says(why).await;

        scene.commit([made(&scene)]).await;
        until("another event leaves", async || {
            let waits = doc! { "key": "made" };
            scene.one(waits).await.is_none().then_some(())
        })
        .await;
        assert_eq!(relay.stop(), Some(0));
        scene.events.delete_many(doc! {}).await.unwrap();
    }
}

fn made(scene: &Scene) -> Event {
    Event::new(scene.subject("made"), &doc! {}).unwrap().key("made").unwrap()
}

#[tokio::test]
async fn an_alert_log_that_cannot_be_one_is_refused_with_the_reason() {
    let scene = Scene::new().await;
    let socket = scene.folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, why) in [(scene.folder.path(), "a directory"), (&socket, "a socket")] {
        let mut relay = Relay::start(&scene, &[("OUTBOXD_ALERTS__FILE", path.to_str().unwrap())]);
        relay.says("set a path that can").await;
        relay.says(why).await;
        assert_eq!(relay.ended_by().await, None, "it ended by itself");
    }
}

#[tokio::test]
async fn a_webhook_that_hangs_costs_a_line_now_and_then_and_not_one_for_each_alert() {
    let scene = Scene::new().await;
    // It takes connections and never answers.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", hanging.local_addr().unwrap());
    let settings = [LOUD[0], LOUD[1], ("OUTBOXD_ALERTS__WEBHOOK", url.as_str())];
    let mut relay = Relay::leading(&scene, &settings).await;

    fail(&scene, 1500).await;
    until("every alert is in the file", async || {
        let text = std::fs::read_to_string(scene.alerts_file()).ok()?;
        (text.lines().count() >= 1500).then_some(())
    })
    .await;
    relay.says("could not post an alert").await;
    let lines = relay.log().matches("could not post an alert").count();
    assert!(lines < 5, "{lines} lines");
    relay.kill();
}

#[tokio::test]
async fn a_token_is_the_same_from_the_environment_and_from_a_file_and_never_blank() {
    let scene = Scene::new().await;
    let print = |settings: &[(&str, &str)]| outboxd_with(&scene, &["config", "print"], settings);
    let file = scene.folder.path().join("token");
    let path = file.to_str().unwrap();
    for blank in [" ", "\t \n", "\n", "\r\n"] {
        std::fs::write(&file, blank).unwrap();
        for from in [("OUTBOXD_ADMIN__TOKEN", blank), ("OUTBOXD_ADMIN__TOKEN_FILE", path)] {
            let (code, said) = print(&[from]);
            let is_named = said.contains("admin.token") && said.contains("is blank");
            assert_eq!((code, is_named), (Some(78), true), "{from:?}: {said}");
        }
    }
    for wrong in [" sesame", "sesame ", "ses\u{e4}me", "ses\u{7f}ame", "ses\name"] {
        let (code, said) = print(&[("OUTBOXD_ADMIN__TOKEN", wrong)]);
        assert_eq!((code, said.contains("printable ASCII")), (Some(78), true), "{wrong:?}: {said}");
    }

    std::fs::write(&file, "open-sesame\n").unwrap();
    let sources = [("OUTBOXD_ADMIN__TOKEN", "open-sesame\n"), ("OUTBOXD_ADMIN__TOKEN_FILE", path)];
    for from in sources {
        let relay = Relay::start(&scene, &[from]);
        let url = format!("http://{}/livez", relay.admin().await);
        let metrics = url.replace("/livez", "/metrics");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let asked = reqwest::Client::new().get(&metrics).bearer_auth("open-sesame");
        assert_eq!(asked.send().await.unwrap().status().as_u16(), 200, "{from:?}");
        let refused = reqwest::get(&metrics).await.unwrap();
        assert_eq!(refused.status().as_u16(), 401, "{from:?}");
        assert_eq!(relay.stop(), Some(0));
    }
}

//! What listens where outboxd connects to NATS: servers that want TLS first, a load balancer that
//! terminates TLS, and ports that are not those of clients or say nothing. Each is told from the
//! others, with its own remedy.

use std::io::Write as _;
use std::net::TcpListener;

use async_nats::ConnectOptions;
use serde_json::Value;

use crate::support::pki::Authority;
use crate::support::{NatsServer, Relay, Scene, TlsProxy, free_ports, mongodb_uri, outboxd_with};

type Settings<'a> = [(&'a str, &'a str)];

/// Check and relay find this.
#[track_caller]
fn finds(scene: &Scene, settings: &Settings<'_>, (check, found, remedy): (&str, &str, &str)) {
    let args = ["check", "--output", "json", "--timeout", "2s"];
    let (code, said) = outboxd_with(scene, &args, settings);
    assert_eq!(code, Some(1), "{said}");
    let findings: Vec<Value> = serde_json::from_str(&said).unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check} in {said}"));
    let has = |name: &str, words: &str| finding[name].as_str().unwrap().contains(words);
    assert!(has("found", found) && has("remedy", remedy), "{finding}");
}

#[tokio::test]
async fn a_server_that_wants_tls_first_is_found_and_can_be_used() {
    let authority = Authority::new();
    let (ca, server) = (authority.file(), authority.server(&["127.0.0.1"]));
    let nats = NatsServer::with_config(&server.nats("handshake_first: true")).await;
    let options = ConnectOptions::new().add_root_certificates(ca.clone().into()).tls_first();
    let scene = Scene::reached(mongodb_uri(), nats.url.clone(), options).await;

    let first = [("NATS_CA", ca.as_str()), ("OUTBOXD_NATS__TLS_FIRST", "true")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &first);
    assert_eq!(code, Some(0), "{said}");

    let found = "it sends nothing before the TLS handshake";
    let finding = ("nats.tls", found, "OUTBOXD_NATS__TLS_FIRST=true");
    finds(&scene, &[], finding);
    finds(&scene, &first[..1], finding);
    let waiting = Relay::start(&scene, &first[..1]);
    waiting.says(found).await;
    assert_eq!(waiting.stop(), Some(0));

    let relay = Relay::leading(&scene, &first).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    assert_eq!(outboxd_with(&scene, &["check"], &first).0, Some(0));
    assert_eq!(relay.stop(), Some(0));

    // A server that takes both is reached both ways; one that speaks first is told apart.
    let auto = NatsServer::with_config(&server.nats("handshake_first: auto")).await;
    let plain = NatsServer::with_config(&server.nats("")).await;
    for settings in [&first[..], &first[..1]] {
        let settings = [settings, &[("NATS_URL", auto.url.as_str())]].concat();
        let (_, said) = outboxd_with(&scene, &["check"], &settings);
        assert!(said.contains("nats.reachable") && !said.contains("nats.tls"), "{said}");
    }
    let settings = [&first[..], &[("NATS_URL", plain.url.as_str())]].concat();
    let finding = ("nats.tls", "it sends data before the TLS handshake", "TLS_FIRST=false");
    finds(&scene, &settings, finding);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_that_terminates_tls_is_found_and_can_be_used() {
    let authority = Authority::new();
    let (ca, server) = (authority.file(), authority.server(&["127.0.0.1"]));
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let balancer = TlsProxy::start(nats.url.trim_start_matches("nats://"), &server).await;

    let url = format!("tls://{}", balancer.address);
    let settings =
        [("NATS_URL", url.as_str()), ("NATS_CA", ca.as_str()), ("OUTBOXD_NATS__TLS_FIRST", "true")];
    let finding = ("nats.tls", "a load balancer that terminates TLS", "TLS_FIRST=true");
    finds(&scene, &settings[..2], finding);

    let relay = Relay::leading(&scene, &settings).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    assert_eq!(outboxd_with(&scene, &["check"], &settings).0, Some(0));
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn ports_that_are_not_those_of_clients_are_told_apart() {
    let ports = free_ports(2);
    let (http, leaf) = (ports[0], ports[1]);
    let _nats = NatsServer::with_config(&format!(
        "http: \"127.0.0.1:{http}\"\nleafnodes {{ listen: \"127.0.0.1:{leaf}\" }}\n"
    ))
    .await;
    let scene = Scene::new().await;

    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, closing, other) = (listener(), listener(), listener());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let [silent_at, closing_at, other_at] = [port(&silent), port(&closing), port(&other)];
    std::thread::spawn(move || closing.incoming().for_each(drop));
    std::thread::spawn(move || {
        for stream in other.incoming().flatten() {
            let _ = (&stream).write_all(b"SSH-2.0-OpenSSH_9.6\r\n");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });

    for (port, found, remedy) in [
        (http, "it answers as a web server", "NATS_URL: correct"),
        (leaf, "nats-server's port for leaf nodes", "NATS_URL: correct"),
        (silent_at, "accepts the connection and sends nothing", "behind 127.0.0.1"),
        (closing_at, "closes the connection at once", "behind 127.0.0.1"),
        (other_at, "it sent \"SSH-2.0-OpenSSH_9.6\"", "NATS_URL: correct"),
        (1, "Connection refused", "$ systemctl start nats-server"),
    ] {
        let url = format!("nats://127.0.0.1:{port}");
        finds(&scene, &[("NATS_URL", &url)], ("nats.reachable", found, remedy));
    }
    let nowhere =
        ("nats.reachable", "nats.invalid can't be resolved", "$ getent hosts nats.invalid");
    finds(&scene, &[("NATS_URL", "nats://nats.invalid")], nowhere);

    let silent_url = format!("nats://127.0.0.1:{silent_at}");
    let relay = Relay::start(&scene, &[("NATS_URL", &silent_url)]);
    relay.says("accepts the connection and sends nothing").await;
    assert_eq!(relay.stop(), Some(0));
}

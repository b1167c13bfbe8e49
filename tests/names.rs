//! What a relay can't reach, use or resolve, at its start and when secrets are rotated: it waits, or
//! goes on with what it has. What only a person can correct is refused by every verb.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::support::pki::replace;
use crate::support::{PASSWORD, Relay, Scene, outboxd_with, until};

/// A name that no resolver knows.
const SRV: &str = "mongodb+srv://u:p@cluster0.example.invalid";

/// The relay's own variables in a scene.
fn env(scene: &Scene) -> HashMap<String, String> {
    scene.env_of("run").into_iter().collect()
}

async fn commit(scene: &Scene, from: u32) {
    scene.commit((from..from + 10).map(|number| scene.event("a", number))).await;
}

async fn all(scene: &Scene, to: u32) {
    scene.drained().await;
    assert_eq!(scene.numbers().await["a"], (0..to).collect::<Vec<_>>());
}

/// The code of an answer of its admin endpoint.
async fn answers(relay: &Relay, path: &str) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}{path}", relay.admin().await);
    reqwest::get(url).await.unwrap().status().as_u16()
}

/// A file with what a variable of the relay holds, to be rotated.
fn in_file(scene: &Scene, name: &str) -> (PathBuf, String) {
    let text = env(scene)[name].clone();
    let file = scene.folder.path().join(name);
    std::fs::write(&file, &text).unwrap();
    (file, text)
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_relay_waits_for_names_that_nobody_resolves_yet_and_lives() {
    let scene = Scene::new().await;
    let srv = format!("{SRV}/{}", scene.name);
    let host = format!("mongodb://nowhere.invalid/{}?replicaSet=rs0", scene.name);
    let soon = "serverSelectionTimeoutMS=500";
    for (name, value, waits_for) in [
        ("MONGODB_URI", srv, "the SRV name cluster0.example.invalid can't be resolved"),
        ("MONGODB_URI", format!("{host}&{soon}"), "nowhere.invalid:27017: "),
        ("NATS_URL", "nats://nowhere.invalid:4222".to_owned(), "NATS at nowhere.invalid:4222"),
    ] {
        let mut relay = Relay::start(&scene, &[(name, &value)]);
        relay.says("trying again").await;
        assert!(relay.log().contains(waits_for), "{waits_for}: {}", relay.log());
        assert_eq!(answers(&relay, "/livez").await, 200);
        assert_eq!(answers(&relay, "/readyz").await, 503);
        let of_mongodb = if name == "MONGODB_URI" { 503 } else { 200 };
        assert_eq!(answers(&relay, "/status").await, of_mongodb);
        assert!(relay.is_running(), "{}", relay.log());
        assert_eq!(relay.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_relay_that_waits_for_a_name_takes_the_secret_that_replaces_it() {
    let scene = Scene::new().await;
    let (file, uri) = in_file(&scene, "MONGODB_URI");
    std::fs::write(&file, format!("{SRV}/{}", scene.name)).unwrap();
    let relay = Relay::start(&scene, &[("MONGODB_URI", ""), ("MONGODB_URI_FILE", shown(&file))]);
    relay.says("trying again").await;
    commit(&scene, 0).await;
    replace(&file, &uri);
    all(&scene, 10).await;
    relay.says("secrets changed: reconnecting").await;
    assert_eq!(answers(&relay, "/status").await, 200);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn what_a_rotation_brings_and_cannot_be_used_leaves_the_old_connections_in_place() {
    let scene = Scene::new().await;
    let (uri_file, uri) = in_file(&scene, "MONGODB_URI");
    let (url_file, url) = in_file(&scene, "NATS_URL");
    let settings = [
        ("MONGODB_URI", ""),
        ("MONGODB_URI_FILE", shown(&uri_file)),
        ("NATS_URL", ""),
        ("NATS_URL_FILE", shown(&url_file)),
    ];
    let mut relay = Relay::leading(&scene, &settings).await;
    let leads = relay.log().matches("holding the lease").count();

    let gone = uri.replace(&format!("/{}?", scene.name), "/other?");
    assert_ne!(gone, uri);
    let unusable = [
        (&uri_file, format!("{SRV}/{}", scene.name), "can't be resolved"),
        (&uri_file, format!("{uri}&maxPoolSize=0"), "maxPoolSize"),
        (&uri_file, uri.replace(PASSWORD, "wrong"), "uthentication failed"),
        (&uri_file, gone, "restart outboxd to leave"),
        (&url_file, "nats://nowhere.invalid:4222".to_owned(), "nowhere.invalid:4222"),
        (&url_file, "nats://127.0.0.1:1".to_owned(), "127.0.0.1:1"),
    ];
    let mut committed = 0;
    for (file, content, why) in unusable {
        replace(file, &content);
        until(&format!("{why:?} is warned of"), async || {
            let log = relay.log();
            // A configuration's mistakes are lines of their own.
            let warnings = log.split("cannot be used: keeping the old ones").skip(1);
            warnings
                .filter_map(|said| said.split(" files=").next())
                .any(|said| said.contains(why))
                .then_some(())
        })
        .await;
        commit(&scene, committed).await;
        committed += 10;
        all(&scene, committed).await;
        // Each is forgotten again.
        replace(&uri_file, &uri);
        replace(&url_file, &url);
    }

    assert!(relay.is_running());
    assert_eq!(answers(&relay, "/readyz").await, 200);
    assert_eq!(relay.log().matches("holding the lease").count(), leads, "{}", relay.log());
    assert!(!relay.log().contains(": reconnecting"), "{}", relay.log());

    replace(&uri_file, &format!("{uri}&retryWrites=true"));
    relay.says("secrets changed: reconnecting").await;
    commit(&scene, committed).await;
    all(&scene, committed + 10).await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn every_verb_refuses_a_configuration_that_only_a_person_can_correct() {
    let scene = Scene::new().await;
    let uri = env(&scene)["MONGODB_URI"].clone();
    let verbs: [&[&str]; 12] = [
        &["run"],
        &["check"],
        &["migrate"],
        &["stats"],
        &["groups"],
        &["list"],
        &["show", "e1"],
        &["retry-now", "e1", "--yes"],
        &["discard", "e1", "--yes"],
        &["audit"],
        &["privileges"],
        &["config", "print"],
    ];
    for (name, value, named) in [
        (
            "MONGODB_URI",
            format!("{uri}&maxPoolSize=0"),
            "mongodb.uri: the driver refuses the option maxPoolSize",
        ),
        (
            "MONGODB_URI",
            format!("{uri}&socketTimeoutMS=30000"),
            "mongodb.uri: the driver refuses the option socketTimeoutMS",
        ),
        (
            "MONGODB_URI",
            format!("{uri}&replicaSte=rs0"),
            "the driver refuses the option replicaSte",
        ),
        ("MONGODB_URI", format!("{uri}&timeoutMS=1"), "refuses the option timeoutMS: a timeout"),
        ("MONGODB_URI", format!("{uri}&proxyHost=p"), "refuses the option proxyHost"),
        (
            "MONGODB_URI",
            format!("{uri}&tls=true&tlsAllowInvalidHostnames=true"),
            "refuses the option tlsAllowInvalidHostnames",
        ),
        ("MONGODB_URI", format!("{uri}&connect=direct"), "directConnection=true"),
        ("MONGODB_URI", format!("{uri}&tls"), "the option tls has no value"),
        ("MONGODB_URI", uri.replace(PASSWORD, "p@ss/word"), "write @ as %40, / as %2F"),
        ("MONGODB_URI", uri.replace(PASSWORD, "1?p@ss=1"), "write ? as %3F, @ as %40"),
        ("MONGODB_URI", uri.replace(PASSWORD, "p@ss#:[]%"), "# as %23, : as %3A, [ as %5B, ] as"),
        ("MONGODB_URI", uri.replace(PASSWORD, "<password>"), "that nothing has replaced"),
        ("MONGODB_URI", format!("{SRV}:27017/shop"), "a port cannot be specified"),
        ("NATS_NKEY", "SUAHUNTER2".to_owned(), "nats.nkey: is not the seed of a user's nkey"),
    ] {
        for verb in verbs {
            let (code, said) = outboxd_with(&scene, verb, &[(name, &value)]);
            assert_eq!(code, Some(78), "{verb:?} with {name}: {said}");
            assert!(said.contains(named), "{verb:?}: {named:?} in {said}");
            assert!(!said.contains("p@ss") && !said.contains("HUNTER2"), "{said}");
        }
    }

    let file = scene.folder.path().join("outboxd.toml");
    std::fs::write(&file, format!("[mongodb]\nuri = {:?}\n", format!("{uri}&maxPoolSize=0")))
        .unwrap();
    let (code, said) = outboxd_with(&scene, &["config", "check", shown(&file)], &[]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("maxPoolSize"), "{said}");
}

#[tokio::test]
async fn options_of_other_drivers_cost_one_warning_that_names_them() {
    let scene = Scene::new().await;
    let others = "uuidRepresentation=standard&compressors=zstd,snappy&waitQueueTimeoutMS=9&\
                  useUnifiedTopology=true&useNewUrlParser=true";
    let uri = format!("{}&{others}", env(&scene)["MONGODB_URI"]);
    let named = "outboxd ignores these options of other drivers: uuidRepresentation, \
                 compressors, waitQueueTimeoutMS, useUnifiedTopology, useNewUrlParser";
    let settings = [("MONGODB_URI", uri.as_str())];
    for verb in [&["config", "print"][..], &["stats"], &["migrate"], &["check"]] {
        let (code, said) = outboxd_with(&scene, verb, &settings);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.matches(named).count(), 1, "{said}");
    }
    let relay = Relay::leading(&scene, &settings).await;
    assert_eq!(relay.log().matches(named).count(), 1, "{}", relay.log());
    commit(&scene, 0).await;
    all(&scene, 10).await;
    assert_eq!(relay.stop(), Some(0));
}

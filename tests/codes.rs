//! JetStream's refusals, provoked on a real server: each has the code that outboxd's tables have, and
//! an operator sees what helps.
//!
//! Two codes of the tables can't be provoked from outside: 10009 is the answer of a server that stops
//! being the leader while it answers, and 10035 that of a server that forgets an account whose user is
//! connected. 10076 is what a server without JetStream answers: the servers from 2.10 on let such a
//! request have no responders, which outboxd reports as JetStream that is off.

use std::time::Duration;

use bson::doc;
use outboxd_client::Event;

use crate::support::pki::Operator;
use crate::support::{
    ALONE, NatsCluster, NatsServer, Relay, Scene, mongodb_uri, outboxd, outboxd_with, until,
};

fn in_one_line(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Publishes more than the limit allows. The event that is refused says why, and stays.
async fn a_publish_is_refused(config: &str, code: &str) {
    let nats = NatsServer::with_config(config).await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_RETRY__OUTAGE_GRACE", "1s")]).await;
    let text = "x".repeat(100_000);
    for number in 0..10 {
        let event =
            Event::new(scene.subject("made"), &doc! { "n": number, "text": &text }).unwrap();
        scene.commit([event.key("k").unwrap()]).await;
    }

    let marked = until("one is marked", async || scene.one(doc! { "failures.code": code }).await);
    let marked = marked.await;
    assert!(marked.get("deadAt").is_none_or(|at| at.as_null().is_some()), "{marked}");
    let failure = marked.get_array("failures").unwrap()[0].as_document().unwrap().clone();
    assert_eq!(failure.get_str("class").unwrap(), "transient", "{failure}");

    let (exit, said) = outboxd(&scene, &["groups"]);
    assert!(exit == Some(0) && said.contains(code), "{said}");
    let (exit, said) = outboxd(&scene, &["explain", code]);
    assert!(exit == Some(0) && said.contains("transient"), "{said}");
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_server_and_an_account_that_are_full_are_two_codes() {
    a_publish_is_refused("jetstream { max_file_store: 512K }", "10023").await;
    let account = "accounts { A { jetstream { max_file: 512K }, users: [{ user: a, password: a }] } }\n\
                   no_auth_user: a\n";
    a_publish_is_refused(account, "10002").await;
}

#[tokio::test]
async fn a_store_that_can_not_be_made_names_the_disk() {
    let nats = NatsServer::with_config("").await;
    let scene = Scene::on(&nats).await;
    nats.block_stream(&scene.stream);
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10049") && said.contains("$ df -h"), "{said}");
}

#[tokio::test]
async fn an_account_without_jetstream_is_named() {
    let accounts = "accounts {\n\
                    A { users: [{ user: a, password: a }] }\n\
                    B { jetstream: enabled, users: [{ user: b, password: b }] } }\n\
                    no_auth_user: a\n";
    let nats = NatsServer::with_config(accounts).await;
    let scene = Scene::on(&nats).await;
    let (code, said) = outboxd(&scene, &["check"]);
    let said = in_one_line(&said);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("JetStream is off for account A"), "{said}");
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10039") && said.contains("JetStream is off"), "{said}");
    // What the server answers is the code of the table.
    let info = scene.context.client().request("$JS.API.INFO", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&info.payload).contains("10039"), "{info:?}");
}

#[tokio::test]
async fn an_account_without_limits_for_so_many_copies_gets_the_line_with_the_right_number() {
    let (operator, user) = (Operator::new(), nkeys::KeyPair::new_user());
    let tiers = serde_json::json!({ "R3": { "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1 } });
    let nats = NatsServer::with_config(&operator.nats_with_tiers(&tiers)).await;
    let folder = tempfile::tempdir().unwrap();
    let creds = folder.path().join("creds");
    std::fs::write(&creds, operator.creds(&user)).unwrap();
    let options = async_nats::ConnectOptions::with_credentials_file(&creds).await.unwrap();
    let settings = [("NATS_CREDS", creds.to_str().unwrap())];
    let scene = Scene::reached(mongodb_uri(), nats.url.clone(), options).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10120") && said.contains("OUTBOXD_STREAM__REPLICAS=3"), "{said}");
}

#[tokio::test]
async fn a_cluster_without_a_majority_is_unavailable() {
    let _alone = ALONE.lock().await;
    let mut cluster = NatsCluster::start().await;
    let options = async_nats::ConnectOptions::new();
    let scene = Scene::reached(mongodb_uri(), cluster.url_of(0), options).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &[("OUTBOXD_STREAM__REPLICAS", "1")]);
    assert_eq!(code, Some(0), "{said}");
    cluster.kill(1);
    cluster.kill(2);
    let client = scene.context.client();
    until("the server answers that there is no leader", async || {
        let ask = client.request("$JS.API.INFO", "".into());
        let answer = tokio::time::timeout(Duration::from_secs(2), ask).await.ok()?.ok()?;
        String::from_utf8_lossy(&answer.payload).contains("10008").then_some(())
    })
    .await;
    // The stream of one copy takes events all the same. None can be looked for or created.
    let (code, said) = outboxd(&scene, &["check"]);
    assert_eq!(code, Some(0), "{said}");
    for verb in ["check", "migrate"] {
        let (code, said) = outboxd_with(&scene, &[verb], &[("NATS_CLUSTER_ID", "OTHER")]);
        let said = in_one_line(&said);
        assert_eq!(code, Some(1), "{verb}: {said}");
        assert!(said.contains("temporarily unavailable"), "{verb}: {said}");
    }
}

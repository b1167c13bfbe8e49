//! Networks that half work: replies that are lost, connections that are cut or go silent, on either
//! side.

use std::time::Duration;

use tokio::time::sleep;

use super::{Trial, again_and_again, length};
use crate::support::{ALONE, NatsServer, Proxy, Scene, Toxic, mongodb_uri, until};

/// The host and port in a URI of one server.
/// Without the user.
fn host(uri: &str) -> &str {
    let rest = uri.split("://").nth(1).expect("a URI").split(['/', '?']).next().expect("a host");
    rest.rsplit('@').next().expect("a host")
}

/// What was asked is done, and nobody hears of it.
async fn lose_replies(proxy: &Proxy) {
    proxy.set(Toxic::NoReplies);
    sleep(Duration::from_millis(50)).await;
    proxy.reset();
    proxy.set(Toxic::None);
}

/// Between the relay and MongoDB, with the relay's URI. Writers go directly.
async fn before_mongodb(scene: &Scene) -> (Proxy, String) {
    let proxy = Proxy::start(host(&mongodb_uri())).await;
    let env: std::collections::HashMap<_, _> = scene.env_of("run").into_iter().collect();
    let uri = env["MONGODB_URI"].replace(host(&mongodb_uri()), &proxy.address.to_string());
    // Directly, or the driver would learn the server's own address and go there.
    let uri = uri.replace("replicaSet=rs0&directConnection=false", "directConnection=true");
    (proxy, uri)
}

async fn mongodb_trial(relays: usize) -> (Proxy, Trial) {
    let scene = Scene::new().await;
    let (proxy, uri) = before_mongodb(&scene).await;
    (proxy, Trial::begin(scene, relays, &[("MONGODB_URI", &uri)]).await)
}

async fn nats_trial() -> (Proxy, NatsServer, Trial) {
    let nats = NatsServer::start().await;
    let proxy = Proxy::start(host(&nats.url)).await;
    let scene = Scene::alone(&nats).await;
    let url = format!("nats://{}", proxy.address);
    let trial = Trial::begin(scene, 1, &[("NATS_URL", &url)]).await;
    (proxy, nats, trial)
}

#[tokio::test]
async fn replies_of_mongodb_that_are_lost_cost_no_event() {
    let _alone = ALONE.lock().await;
    let (proxy, trial) = mongodb_trial(2).await;
    again_and_again(Duration::from_millis(700), async || {
        lose_replies(&proxy).await;
        true
    })
    .await;
    trial.end(&[("replies lost", proxy.harmed())]).await;
}

#[tokio::test]
async fn acks_that_are_lost_are_asked_for_again_and_acked_as_duplicates() {
    let _alone = ALONE.lock().await;
    let (proxy, _nats, trial) = nats_trial().await;
    again_and_again(Duration::from_millis(700), async || {
        lose_replies(&proxy).await;
        true
    })
    .await;
    // Time enough to ask again before the next are lost; on a busy machine the replies lost may be
    // no acks.
    let duplicates = until("an event was asked for again", async || {
        lose_replies(&proxy).await;
        sleep(Duration::from_millis(1500)).await;
        let duplicates = trial.relays[0].metric("outboxd_duplicate_acks_total").await;
        (duplicates > 0).then_some(duplicates)
    })
    .await;
    let faults = [("acks lost", proxy.harmed()), ("acked as a duplicate", duplicates)];
    let report = trial.end(&faults).await;
    assert_eq!(report.burned, 0, "{report}");
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_connection_to_nats_that_goes_silent_is_noticed_and_made_again() {
    let _alone = ALONE.lock().await;
    let (proxy, _nats, trial) = nats_trial().await;
    proxy.set(Toxic::BlackHole);
    sleep(length()).await;
    proxy.set(Toxic::None);
    let report = trial.end(&[("silent", proxy.harmed())]).await;
    assert_eq!(report.burned, 0, "{report}");
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_relay_cut_off_from_mongodb_is_replaced_and_harms_nothing_when_it_is_back() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    let (proxy, uri) = before_mongodb(&scene).await;
    // The first one alone is behind the proxy.
    let mut trial = Trial::begin(scene, 1, &[("MONGODB_URI", &uri)]).await;
    trial.settings.retain(|(name, _)| name != "MONGODB_URI");
    let other = trial.relay(1);
    other.says("standing by").await;
    trial.relays.push(other);
    proxy.set(Toxic::BlackHole);
    until("the other has taken over", async || (trial.holder().await == Some(1)).then_some(()))
        .await;
    sleep(length()).await;
    proxy.set(Toxic::None);
    trial.end(&[("silent", proxy.harmed())]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn slow_networks_cost_no_event() {
    let _alone = ALONE.lock().await;
    let (proxy, trial) = mongodb_trial(1).await;
    proxy.set(Toxic::Slow);
    sleep(length()).await;
    proxy.set(Toxic::None);
    trial.end(&[("slow", proxy.harmed())]).await;
}

//! NATS, one of its servers and MongoDB go away while a listener is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::doc;
use mongodb::Client;
use outboxd_client::{Inbox, Listener};

use super::{GROUP, listen, once};
use crate::support::{
    ALONE, NatsCluster, NatsServer, Proxy, ReplicaSet, Scene, free_ports, mongodb_uri, until,
};

#[tokio::test]
async fn a_listener_waits_for_nats_and_for_its_stream_and_goes_on_after_a_restart() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::on(&nats).await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    nats.kill();
    // A server that is killed may forget an ack: the message comes again after this time.
    let listener = scene.listener().await.ack_wait(Duration::from_secs(2));
    let listening = listen(listener, move |message| {
        let (inbox, effects) = (inbox.clone(), effects.clone());
        async move { once(&inbox, &effects, &message).await }
    });
    nats.start_again();
    // There is no stream yet.
    until("the scene is migrated", async || {
        let (code, _) = crate::support::outboxd(&scene, &["migrate"]);
        (code == Some(0)).then_some(())
    })
    .await;
    scene.published(["1"]).await;
    scene.heard_all().await;

    nats.kill();
    nats.start_again();
    until("the test is connected again", async || {
        scene.context.get_stream(&scene.stream).await.ok().map(|_| ())
    })
    .await;
    scene.published(["2"]).await;
    scene.heard_all().await;

    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    stream.delete_consumer(GROUP).await.unwrap();
    scene.published(["3"]).await;
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["1", "2", "3"], "a consumer made anew repeats nothing");
}

#[tokio::test]
async fn a_connection_that_is_cut_loses_no_message_and_applies_none_twice() {
    const MESSAGES: u64 = 150;
    let scene = Scene::new().await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    scene.published(0..MESSAGES).await;
    let address = scene.nats_url.rsplit(['/', '@']).next().unwrap();
    let proxy = Proxy::start(address).await;

    // A message whose ack is lost comes again after this time.
    let listener = Listener::new(&proxy.address, &scene.stream, GROUP, inbox.clone());
    let applied = effects.clone();
    let listening = listen(listener.ack_wait(Duration::from_secs(2)), move |message| {
        let (inbox, effects) = (inbox.clone(), applied.clone());
        async move { once(&inbox, &effects, &message).await }
    });
    for cut in 1..=4 {
        until("it comes further", async || {
            let count = effects.count_documents(doc! {}).await.ok()?;
            (count >= cut * MESSAGES / 5).then_some(())
        })
        .await;
        proxy.reset();
    }
    scene.heard_all().await;
    listening.stop().await.unwrap();
    let expected: Vec<_> = (0..MESSAGES).map(|id| id.to_string()).collect();
    assert_eq!(scene.effects().await, expected);
}

#[tokio::test]
async fn a_listener_waits_until_there_is_a_primary_again() {
    let _alone = ALONE.lock().await;
    let mut set = ReplicaSet::start(2).await;
    let nats = NatsServer::start().await;
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let inbox = scene.inbox().await;
    let soon = format!("{}&serverSelectionTimeoutMS=500", set.uri());
    let database = Client::with_uri_str(&soon).await.unwrap().database(&scene.name);
    let work = (Inbox::new(&database, "inbox"), database.collection("effects"));
    let tries = Arc::new(AtomicU32::new(0));

    let tried = tries.clone();
    let listener = Listener::new(&scene.nats_url, &scene.stream, GROUP, inbox).max_deliveries(1);
    let listening = listen(listener, move |message| {
        let ((inbox, effects), tried) = (work.clone(), tried.clone());
        async move {
            tried.fetch_add(1, Ordering::SeqCst);
            once(&inbox, &effects, &message).await
        }
    });
    scene.published(["1"]).await;
    scene.heard_all().await;

    // One of two is no majority.
    let primary = set.primary().await.unwrap();
    set.kill(1 - primary);
    until("no primary", async || set.primary().await.is_none().then_some(())).await;
    scene.published(["2"]).await;
    until("it is tried again", async || (tries.load(Ordering::SeqCst) > 3).then_some(())).await;
    set.start_again(1 - primary);
    scene.heard_all().await;
    listening.stop().await.unwrap();
    until("the effects", async || (scene.effects().await == ["1", "2"]).then_some(())).await;
    assert_eq!(scene.collection("inbox_failed").count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn an_outage_of_mongodb_costs_no_delivery_and_puts_nothing_aside() {
    let scene = Scene::new().await;
    let inbox = scene.inbox().await;
    let uri = mongodb_uri();
    let (before, rest) = uri.split_once('@').expect("a URI with a user");
    let (address, _) = rest.split_once('/').expect("a URI with options");
    let proxy = Proxy::start(address).await;
    let through = format!(
        "{before}@{}/?directConnection=true&authSource=admin&serverSelectionTimeoutMS=500&connectTimeoutMS=500",
        proxy.address
    );
    let client = Client::with_uri_str(&through).await.unwrap();
    let database = client.database(&scene.name);
    let work = (Inbox::new(&database, "inbox"), database.collection("effects"));
    let (tries, deliveries) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (tried, delivered) = (tries.clone(), deliveries.clone());

    proxy.close().await;
    let listener = Listener::new(&scene.nats_url, &scene.stream, GROUP, inbox).max_deliveries(1);
    let listening = listen(listener, move |message| {
        let ((inbox, effects), tried, delivered) = (work.clone(), tried.clone(), delivered.clone());
        async move {
            tried.fetch_add(1, Ordering::SeqCst);
            delivered.store(message.deliveries, Ordering::SeqCst);
            once(&inbox, &effects, &message).await
        }
    });
    scene.published(["1"]).await;
    until("it is tried again", async || (tries.load(Ordering::SeqCst) > 2).then_some(())).await;
    let _open = Proxy::at(&proxy.address, address).await;
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["1"]);
    assert_eq!(deliveries.load(Ordering::SeqCst), 1);
    let aside = scene.collection("inbox_failed").count_documents(doc! {}).await.unwrap();
    assert_eq!(aside, 0);
}

#[tokio::test]
async fn a_listener_leaves_a_server_in_lame_duck_mode_before_it_stops() {
    let _alone = ALONE.lock().await;
    let monitors = free_ports(3);
    // By itself the server would close its connections in ten minutes.
    let slow = "lame_duck_duration: \"20m\"\nlame_duck_grace_period: \"10m\"\n";
    let besides = [0, 1, 2].map(|i| format!("http: \"127.0.0.1:{}\"\n{slow}", monitors[i]));
    let cluster = NatsCluster::start_with(besides).await;
    let scene = Scene::among(mongodb_uri(), cluster.url(), Some(cluster.users.clone()), "3").await;
    until("the cluster is whole", async || cluster.is_whole(&scene).await.then_some(())).await;

    let listener = Listener::new(&cluster.url_of(0), &scene.stream, GROUP, scene.inbox().await);
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let listening = listen(listener, move |message| {
        let (inbox, effects) = (inbox.clone(), effects.clone());
        async move { once(&inbox, &effects, &message).await }
    });
    scene.published(["1"]).await;
    scene.heard_all().await;
    assert!(has_client(monitors[0]).await);

    cluster.lame_duck(0);
    until("the listener is at another server", async || {
        (has_client(monitors[1]).await || has_client(monitors[2]).await).then_some(())
    })
    .await;
    until("the test is too", async || scene.context.get_stream(&scene.stream).await.ok()).await;
    scene.published(["2"]).await;
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["1", "2"]);
}

/// Whether the listener is connected to the server with this monitoring port.
async fn has_client(monitor: u16) -> bool {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/connz")).await.unwrap();
    let connections: serde_json::Value =
        serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let connections = connections["connections"].as_array().unwrap();
    connections.iter().any(|connection| connection["name"] == GROUP)
}

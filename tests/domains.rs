//! Two streams on one subject: in the hub and in a leaf node, or beside a subscriber that is no
//! stream. Only the ack of the expected stream in its domain counts, and nobody else's refusal.

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use bson::doc;
use futures_util::StreamExt as _;
use outboxd_client::Event;

use crate::support::{NatsServer, Relay, Scene, free_ports, outboxd_with, until};

const EVENTS: u32 = 200;

/// A hub and a leaf node, each with JetStream in a domain of its name.
struct Pair {
    hub: NatsServer,
    leaf: NatsServer,
    _data: [tempfile::TempDir; 2],
}

impl Pair {
    async fn start() -> Self {
        let port = free_ports(1)[0];
        let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let config = |name: &str, data: &tempfile::TempDir, leafnodes: &str| {
            format!(
                "server_name: {name}\njetstream {{ store_dir: \"{}\", domain: {name} }}\n\
                 leafnodes {{ {leafnodes} }}",
                data.path().display()
            )
        };

        let listen = format!("listen: \"127.0.0.1:{port}\"");
        let remotes = format!("remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}]");
        let hub = NatsServer::with_config(&config("hub", &data[0], &listen)).await;
        let leaf = NatsServer::with_config(&config("leaf", &data[1], &remotes)).await;
        let pair = Self { hub, leaf, _data: data };

        let client = async_nats::connect(&pair.leaf.url).await.unwrap();
        let api = ContextBuilder::new().domain("hub").build(client);
        until("the leaf node reaches the hub", async || api.query_account().await.ok()).await;
        pair
    }

    /// JetStream of the leaf node.
    async fn leaf(&self) -> Context {
        jetstream::new(async_nats::connect(&self.leaf.url).await.unwrap())
    }

    /// The settings of a relay that connects to the leaf node and publishes to the hub.
    fn through_leaf(&self) -> [(&str, &str); 2] {
        [("NATS_URL", &self.leaf.url), ("OUTBOXD_NATS__DOMAIN", "hub")]
    }
}

/// A stream of all that the scene's stream takes.
fn stream(scene: &Scene, name: &str) -> Config {
    let subjects = vec![scene.subjects.clone()];
    Config { name: name.to_owned(), subjects, ..Config::default() }
}

/// Commits events, each of a key of its own, and expects every one in the stream and none marked.
async fn deliver(scene: &Scene) {
    for number in 0..EVENTS {
        scene.commit([scene.event(&format!("k{number}"), number)]).await;
        let marked = scene.one(doc! { "isLocked": false }).await;
        assert_eq!(marked, None, "no event is marked");
    }
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), EVENTS as usize);
}

#[tokio::test]
async fn another_streams_refusal_is_no_answer() {
    let pair = Pair::start().await;
    let scene = Scene::alone(&pair.hub).await;
    pair.leaf().await.create_stream(stream(&scene, "EDGE")).await.unwrap();

    // From here EDGE is near, and refuses first.
    let relay = Relay::leading(&scene, &pair.through_leaf()).await;
    deliver(&scene).await;
    assert_eq!(relay.stop(), Some(0));

    let relay = Relay::leading(&scene, &[]).await;
    scene.commit([scene.event("k", 1)]).await;
    scene.drained().await;
    assert!(!relay.log().contains("event failed"), "{}", relay.log());
}

#[tokio::test]
async fn a_refusal_by_a_stream_of_the_same_name_in_another_domain_is_no_answer() {
    let pair = Pair::start().await;
    let scene = Scene::alone(&pair.hub).await;
    let tiny = Config { max_message_size: 1, ..stream(&scene, &scene.stream) };
    pair.leaf().await.create_stream(tiny).await.unwrap();

    let _relay = Relay::leading(&scene, &pair.through_leaf()).await;
    deliver(&scene).await;
}

#[tokio::test]
async fn another_domains_ack_deletes_nothing() {
    let pair = Pair::start().await;
    let scene = Scene::alone(&pair.hub).await;
    scene.cover(&["covered"]).await;
    let same = stream(&scene, &scene.stream);
    pair.leaf().await.create_stream(same).await.unwrap();

    let covered = scene.subject("covered");
    let settings = [&pair.through_leaf()[..], &[("OUTBOXD_STREAM__SUBJECTS", &covered)]].concat();
    let relay = Relay::leading(&scene, &settings).await;
    scene.commit([scene.event("k", 1)]).await;
    let marked =
        until("it is marked", async || scene.one(doc! { "failures.code": "other-stream" }).await)
            .await;
    let failure = marked.get_array("failures").unwrap()[0].as_document().unwrap();
    let error = failure.get_str("error").unwrap();
    assert!(error.contains("answered from domain leaf and stored the message"), "{error}");
    assert_eq!(scene.messages().await.len(), 0);
    // Nobody else is held up.
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);

    scene.cover(&[">"]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 1);
}

#[tokio::test]
async fn a_stream_in_another_domain_is_found_and_can_be_used() {
    let pair = Pair::start().await;
    let scene = Scene::alone(&pair.hub).await;

    let at_leaf = [("NATS_URL", pair.leaf.url.as_str())];
    let (code, said) = outboxd_with(&scene, &["check"], &at_leaf);
    assert_eq!(code, Some(1), "{said}");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = "doesn't exist in JetStream domain leaf, in which it was looked for; it exists in \
                 domain hub: set nats.domain = \"hub\"";
    assert!(said.contains(found) && said.contains("OUTBOXD_NATS__DOMAIN=hub"), "{said}");

    let (code, said) = outboxd_with(&scene, &["run"], &at_leaf);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("doesn't exist in the JetStream domain leaf"), "{said}");

    let (code, said) = outboxd_with(&scene, &["check"], &pair.through_leaf());
    assert_eq!(code, Some(0), "{said}");
    let settings = [("OUTBOXD_NATS__DOMAIN", "hub")];
    let (_, said) = outboxd_with(&scene, &["privileges", "--role", "relay"], &settings);
    assert!(said.contains(&format!("$JS.hub.API.STREAM.INFO.{}", scene.stream)), "{said}");

    for bad in ["a.b", "*", "two words"] {
        let (code, said) =
            outboxd_with(&scene, &["config", "print"], &[("OUTBOXD_NATS__DOMAIN", bad)]);
        assert_eq!(code, Some(78), "{said}");
    }
}

#[tokio::test]
async fn a_subscriber_that_is_no_stream_answers_nothing() {
    let scene = Scene::new().await;
    let client = scene.context.client();
    let mut requests = client.subscribe(scene.subjects.clone()).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        for reply in
            ["+OK", "{}", "{\"error\":{\"code\":400,\"description\":\"what?\"}}"].iter().cycle()
        {
            let Some(request) = requests.next().await else { return };
            if let Some(inbox) = request.reply {
                client.publish(inbox, (*reply).into()).await.unwrap();
            }
        }
    });

    let relay = Relay::leading(&scene, &[]).await;
    deliver(&scene).await;
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0, "none was sent twice");
}

#[tokio::test]
async fn a_subject_that_only_another_stream_takes_is_marked_with_that_streams_refusal() {
    let scene = Scene::new().await;
    scene.cover(&["covered"]).await;
    let other = Config { subjects: vec![scene.subject("made")], ..stream(&scene, "OTHER") };
    scene.context.create_stream(other).await.unwrap();

    let covered = scene.subject("covered");
    let relay = Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &covered)]).await;
    scene.commit([scene.event("k", 1)]).await;
    let marked =
        until("it is marked", async || scene.one(doc! { "failures.code": "10060" }).await).await;
    assert_eq!(marked.get_i64("attempts").unwrap(), 1, "it counts: {marked}");
    let error = marked.get_array("failures").unwrap()[0].as_document().unwrap();
    assert!(error.get_str("error").unwrap().contains("stream OTHER answered"), "{marked}");

    let beside = Event::new(&*covered, &doc! { "key": "other", "number": 1 }).unwrap();
    scene.commit([beside.key("other").unwrap()]).await;
    until("the other key flows", async || {
        scene.numbers().await.contains_key("other").then_some(())
    })
    .await;
    assert_eq!(relay.metric("outboxd_breaker_open").await, 0);
}

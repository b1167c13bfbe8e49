//! Two streams on one subject: in the hub and in a leaf node, or beside a subscriber that is no
//! stream. Only the ack of the expected stream in its domain counts, and nobody else's refusal.

use async_nats::connect;
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
    leaf_config: String,
    _data: [tempfile::TempDir; 2],
}

impl Pair {
    async fn start() -> Self {
        let pair = Self::of(Some("hub"), Some("leaf")).await;
        let client = connect(&pair.leaf.url).await.unwrap();
        let api = ContextBuilder::new().domain("hub").build(client);
        until("the leaf node reaches the hub's JetStream", async || api.query_account().await.ok())
            .await;
        pair
    }

    /// With domains of these names, or none.
    async fn of(hub: Option<&str>, leaf: Option<&str>) -> Self {
        let port = free_ports(1)[0];
        let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let config =
            |name: &str, domain: Option<&str>, data: &tempfile::TempDir, leafnodes: &str| {
                let domain = domain.map(|domain| format!(", domain: {domain}")).unwrap_or_default();
                format!(
                    "server_name: {name}\njetstream {{ store_dir: \"{}\"{domain} }}\n\
                 leafnodes {{ {leafnodes} }}",
                    data.path().display()
                )
            };

        let listen = format!("listen: \"127.0.0.1:{port}\"");
        let remotes = format!("remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}]");
        let hub = NatsServer::with_config(&config("hub", hub, &data[0], &listen)).await;
        let leaf_config = config("leaf", leaf, &data[1], &remotes);
        let leaf = NatsServer::with_config(&leaf_config).await;

        let (near, far) = (connect(&leaf.url).await.unwrap(), connect(&hub.url).await.unwrap());
        let mut heard = far.subscribe("across").await.unwrap();
        far.flush().await.unwrap();
        let across = tokio::spawn(async move { heard.next().await });
        until("the leaf node reaches the hub", async || {
            near.publish("across", "".into()).await.unwrap();
            across.is_finished().then_some(())
        })
        .await;
        Self { hub, leaf, leaf_config, _data: data }
    }

    /// JetStream of the leaf node.
    async fn leaf(&self) -> Context {
        jetstream::new(connect(&self.leaf.url).await.unwrap())
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
    let found = "doesn't exist in JetStream domain leaf of server leaf, where it was looked for; it \
                 exists in domain hub: set nats.domain = \"hub\"";
    assert!(said.contains(found) && said.contains("OUTBOXD_NATS__DOMAIN=hub"), "{said}");
    assert!(!said.contains("outboxd migrate"), "{said}");

    let (code, said) = outboxd_with(&scene, &["run"], &at_leaf);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(found) && said.contains("OUTBOXD_NATS__DOMAIN=hub"), "{said}");

    let (code, said) = outboxd_with(&scene, &["migrate"], &at_leaf);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(found) && said.contains("nothing was created"), "{said}");
    let there = pair.leaf().await.get_stream(&scene.stream).await;
    assert!(there.is_err(), "no second stream");

    // Who names a domain is believed.
    let (code, said) =
        outboxd_with(&scene, &["migrate"], &[at_leaf[0], ("OUTBOXD_NATS__DOMAIN", "leaf")]);
    assert_eq!((code, said.contains("in JetStream domain leaf")), (Some(0), true), "{said}");

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

#[tokio::test]
async fn a_domain_that_nobody_has_is_told_from_a_missing_stream() {
    let pair = Pair::start().await;
    let scene = Scene::alone(&pair.hub).await;
    let wrong = [("NATS_URL", pair.leaf.url.as_str()), ("OUTBOXD_NATS__DOMAIN", "hubb")];
    let (code, said) = outboxd_with(&scene, &["check"], &wrong);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("no JetStream answers for JetStream domain hubb at server leaf"),
        "{said}"
    );
    assert!(said.contains("'hub or leaf'") && !said.contains("outboxd migrate"), "{said}");
}

#[tokio::test]
async fn a_stream_in_a_leaf_node_is_found_from_a_hub_without_a_domain() {
    let pair = Pair::of(None, Some("leaf")).await;
    let scene = Scene::on(&pair.leaf).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &[("OUTBOXD_NATS__DOMAIN", "leaf")]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = outboxd_with(&scene, &["check"], &[("NATS_URL", &pair.hub.url)]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(1), "{said}");
    let found = "doesn't exist in the JetStream of server hub, where it was looked for; it exists in \
                 domain leaf";
    assert!(said.contains(found) && !said.contains("outboxd migrate"), "{said}");

    // The reverse: what the hub has can't be asked from the leaf node.
    let scene = Scene::alone(&pair.hub).await;
    for verb in ["check", "migrate"] {
        let (code, said) = outboxd_with(&scene, &[verb], &[("NATS_URL", &pair.leaf.url)]);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, Some(1), "{said}");
        let found = "server hub has JetStream without a domain, which can't be asked from here";
        assert!(said.contains(found), "{said}");
        let line = "$ OUTBOXD_NATS__DOMAIN=leaf outboxd migrate # creates it here";
        assert_eq!(said.contains("outboxd migrate"), verb == "migrate", "{said}");
        assert_eq!(said.contains(line), verb == "migrate", "{said}");
    }
    assert!(pair.leaf().await.get_stream(&scene.stream).await.is_err());
}

#[tokio::test]
async fn a_user_that_may_not_ask_for_domains_creates_nothing_before_one_is_named() {
    let pair = Pair::start().await;
    let scene = Scene::on(&pair.hub).await;
    // What a user for `migrate` was permitted before outboxd asked for more.
    let name = &scene.stream;
    let user = format!(
        "{{ user: m, password: m, permissions: {{ publish: [\"$JS.API.STREAM.INFO.{name}\", \
         \"$JS.*.API.STREAM.INFO.{name}\", \"$JS.API.STREAM.CREATE.{name}\", \
         \"$JS.*.API.STREAM.CREATE.{name}\"], subscribe: [\"_INBOX.>\"] }} }}"
    );
    pair.leaf.reload(&format!("{}\nauthorization {{ users: [{user}] }}\n", pair.leaf_config));

    let at_leaf =
        [("NATS_URL", pair.leaf.url.as_str()), ("NATS_USER", "m"), ("NATS_PASSWORD", "m")];
    let refused = until("the user is known", async || {
        let (code, said) = outboxd_with(&scene, &["migrate"], &at_leaf);
        said.contains("may not ask which other domains").then_some((code, said))
    })
    .await;
    assert_eq!(refused.0, Some(1));
    let create = "$ OUTBOXD_NATS__DOMAIN=leaf outboxd migrate   # creates it here";
    assert!(refused.1.contains(create), "{}", refused.1);

    let (_, said) = outboxd_with(&scene, &["check"], &at_leaf);
    assert!(said.contains("OUTBOXD_NATS__DOMAIN=<domain>") && !said.contains("outboxd migrate\n"));
    let leaf = ContextBuilder::new().domain("leaf").build(scene.context.client());
    assert!(leaf.get_stream(&scene.stream).await.is_err());

    let here = [&at_leaf[..], &[("OUTBOXD_NATS__DOMAIN", "leaf")]].concat();
    let (code, said) = outboxd_with(&scene, &["migrate"], &here);
    assert_eq!((code, said.contains("in JetStream domain leaf")), (Some(0), true), "{said}");
}

/// Account A has the stream, and account B imports A's JetStream as `JS.A.API`.
fn accounts(subjects: &str, of_b: &str) -> String {
    format!(
        "accounts {{\n\
         A: {{ jetstream: enabled, users: [{{ user: a, password: a }}],\n\
         exports: [{{ service: \"$JS.API.>\" }}, {{ service: \"{subjects}\" }}] }}\n\
         B: {{ {of_b} users: [{{ user: b, password: b }}],\n\
         imports: [{{ service: {{ account: A, subject: \"$JS.API.>\" }}, to: \"JS.A.API.>\" }},\n\
         {{ service: {{ account: A, subject: \"{subjects}\" }} }}] }}\n}}\nno_auth_user: a\n"
    )
}

#[tokio::test]
async fn a_stream_of_another_account_is_used_by_the_prefix_of_its_api() {
    let nats = NatsServer::with_config(&accounts("shop.>", "")).await;
    let scene = Scene::alone(&nats).await;
    nats.reload(&accounts(&scene.subjects, ""));
    let as_b = [("NATS_USER", "b"), ("NATS_PASSWORD", "b")];
    let prefixed = [&as_b[..], &[("OUTBOXD_NATS__API_PREFIX", "JS.A.API")]].concat();
    until("the import is known", async || {
        let (code, _) = outboxd_with(&scene, &["check"], &prefixed);
        (code == Some(0)).then_some(())
    })
    .await;

    // Without the prefix, and without a JetStream of its own.
    let (code, said) = outboxd_with(&scene, &["check"], &as_b);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("OUTBOXD_NATS__API_PREFIX") && said.contains("account B"), "{said}");
    assert!(!said.contains("outboxd migrate"), "{said}");

    let relay = Relay::leading(&scene, &prefixed).await;
    deliver(&scene).await;
    assert_eq!(relay.metric("outboxd_duplicate_acks_total").await, 0, "none was sent twice");
    assert_eq!(relay.stop(), Some(0));

    let (_, said) = outboxd_with(&scene, &["privileges", "--role", "relay"], &prefixed);
    assert!(said.contains(&format!("JS.A.API.STREAM.INFO.{}", scene.stream)), "{said}");
    assert!(!said.contains("$JS"), "{said}");

    // With a JetStream of its own.
    nats.reload(&accounts(&scene.subjects, "jetstream: enabled,"));
    let said = until("the account has JetStream", async || {
        let (_, said) = outboxd_with(&scene, &["check"], &as_b);
        said.contains("stream.exists").then_some(said)
    })
    .await;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("account B, where it was looked for"), "{said}");
    assert!(said.contains("OUTBOXD_NATS__API_PREFIX=<prefix>"), "{said}");

    for (name, bad) in [
        ("API_PREFIX", "JS.*"),
        ("API_PREFIX", "a b"),
        ("API_PREFIX", "JS..API"),
        ("DOMAIN", "x.y"),
    ] {
        let name = format!("OUTBOXD_NATS__{name}");
        let settings = [&prefixed[..], &[(name.as_str(), bad)]].concat();
        let (code, said) = outboxd_with(&scene, &["config", "print"], &settings);
        assert_eq!(code, Some(78), "{said}");
    }
}

/// An account with a JetStream of its own may import another's as well, which no user can see. Both
/// ways are named, and what the second stream would cost.
#[tokio::test]
async fn an_account_that_may_import_a_stream_is_told_of_both_ways() {
    let accounts = "accounts {\n\
        HUB { jetstream: enabled, users: [{ user: hub, password: pw }],\n\
              exports: [{ service: \"$JS.API.>\" }, { service: \"shop.>\" }] }\n\
        SHOP { jetstream: enabled, users: [{ user: shop, password: pw }],\n\
              imports: [{ service: { account: HUB, subject: \"$JS.API.>\" }, to: \"JS.hub.API.>\" }] } }\n\
        no_auth_user: shop\n";
    let nats = crate::support::NatsServer::with_config(accounts).await;
    let scene = crate::support::Scene::on(&nats).await;
    let (code, said) = crate::support::outboxd(&scene, &["check"]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let import = "OUTBOXD_NATS__API_PREFIX=<prefix> # if the stream is in another account";
    let own = "outboxd migrate # only if it is in no other account";
    assert_eq!(code, Some(1), "{said}");
    let places =
        [import, own].map(|way| said.find(way).unwrap_or_else(|| panic!("{way} in {said}")));
    assert!(places[0] < places[1], "{said}");

    let (code, said) = crate::support::outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("account SHOP") && said.contains("every event is stored in both"),
        "{said}"
    );
}

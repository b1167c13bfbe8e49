//! What people read when a library fails: words, never a library's own form of an error, and no
//! heading twice.

mod plain;

use bson::{Document, doc};

use crate::support::{
    Mongod, NatsServer, Proxy, Relay, ReplicaSet, Scene, Toxic, outboxd, outboxd_with, until,
};

/// Signs of an error as a library prints it for its own developers.
const FORMS: [&str; 24] = [
    "Kind:",
    "kind:",
    "labels:",
    "source:",
    "server response",
    "Topology:",
    "code_name",
    "Error {",
    "Os {",
    "Custom {",
    "Some(",
    "Ok(",
    "Err(",
    "DnsName(",
    "OtherError(",
    "I/O error:",
    "IO error:",
    "Command failed:",
    "Error code",
    "An invalid argument",
    "invalid reply to",
    "nats: ",
    "(Connect)",
    "{key}",
];

/// Verbs that ask MongoDB.
const VERBS: [&[&str]; 9] = [
    &["stats"],
    &["list"],
    &["groups"],
    &["show", "e1"],
    &["retry-now", "--all", "--yes"],
    &["discard", "--all", "--yes"],
    &["audit"],
    &["watch", "--count", "1"],
    &["migrate"],
];

#[track_caller]
fn reads_well(what: &str, said: &str) {
    for form in FORMS {
        assert!(!said.contains(form), "{what}: {form:?} in {said}");
    }
    for sign in [" {", "(\""] {
        for (at, _) in said.match_indices(sign) {
            let word = said[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            let is_type = word.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(!is_type, "{what}: {word}{sign} in {said}");
        }
    }
    for line in said.lines() {
        let parts: Vec<_> = line.split(": ").map(str::trim).collect();
        let is_twice = parts.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!is_twice, "{what}: twice in {line}");
    }
}

/// Runs these verbs and `check`; each fails, names `named`, and reads well.
fn all_say(verbs: &[&[&str]], scene: &Scene, settings: &[(&str, &str)], named: &str) {
    for verb in verbs {
        let (code, said) = outboxd_with(scene, verb, settings);
        reads_well(&format!("{verb:?}"), &said);
        assert_eq!(code, Some(1), "{verb:?}: {said}");
        assert!(said.contains(named), "{verb:?}: {named:?} in {said}");
    }
    for output in ["table", "json"] {
        let (code, said) = outboxd_with(scene, &["check", "--output", output], settings);
        reads_well("check", &said);
        assert_eq!(code, Some(1), "{said}");
    }
}

/// Starts a relay, waits until its log has `named`, and reads the log.
async fn relay_says(scene: &Scene, settings: &[(&str, &str)], named: &str) {
    let relay = Relay::start(scene, settings);
    relay.says(named).await;
    reads_well("run", &relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_reached_is_put_in_words() {
    let scene = Scene::new().await;
    let uri = scene.env_of("run").into_iter().find(|(name, _)| name == "MONGODB_URI").unwrap().1;
    let host = uri.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let silent = Proxy::start(&host).await;
    silent.set(Toxic::BlackHole);
    let soon = "serverSelectionTimeoutMS=600&connectTimeoutMS=300";
    let direct = |address: &str| format!("mongodb://{address}/shop?directConnection=true&{soon}");
    for (uri, named) in [
        (direct("127.0.0.1:1"), "127.0.0.1:1: Connection refused"),
        (direct(&silent.address), silent.address.as_str()),
        (
            format!("mongodb://nowhere.invalid/shop?replicaSet=rs0&{soon}"),
            "nowhere.invalid:27017: this machine can't resolve its name",
        ),
        (
            format!("{uri}&{soon}").replace("replicaSet=rs0", "replicaSet=rs9"),
            "none of the hosts of MONGODB_URI is a member of the replica set rs9",
        ),
        (format!("{uri}&{soon}&tls=true"), "it does not speak TLS"),
        ("mongodb+srv://u:p@c0.example.invalid/shop".to_owned(), "c0.example.invalid can't be"),
        (format!("mongodb://%2Fnowhere%2Fmongod.sock/shop?{soon}"), "No such file"),
        (direct(scene.nats_url.trim_start_matches("nats://")), "is no MongoDB"),
    ] {
        let settings = [("MONGODB_URI", uri.as_str())];
        all_say(&[&["stats"], &["migrate"]], &scene, &settings, named);
        relay_says(&scene, &settings, "trying again").await;
    }
}

#[tokio::test]
async fn a_user_who_is_refused_is_put_in_words() {
    let (scene, mongod) = (Scene::bare().await, Mongod::with_users().await);
    for (uri, named) in [
        (mongod.uri("admin", "wrong", "shop"), "Authentication failed"),
        (format!("mongodb://{}/shop?replicaSet=rs0", mongod.address), "requires authentication"),
    ] {
        let settings = [("MONGODB_URI", uri.as_str())];
        all_say(&VERBS, &scene, &settings, named);
    }
}

#[tokio::test]
async fn what_mongodb_answers_and_breaks_off_is_put_in_words() {
    let (set, nats) = (ReplicaSet::start(1).await, NatsServer::start().await);
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let reads = ["find", "aggregate", "listCollections", "count"];
    for (data, named) in [
        (doc! { "errorCode": 13 }, "(code 13 Unauthorized)"),
        (doc! { "errorCode": 8000 }, "(code 8000"),
        (doc! { "errorCode": 292 }, "(code 292"),
        (doc! { "closeConnection": true }, "MongoDB: "),
    ] {
        let mut failing: Document = doc! { "failCommands": reads.to_vec() };
        failing.extend(data);
        set.fail("alwaysOn", failing.clone()).await;
        for verb in VERBS {
            let (code, said) = outboxd(&scene, verb);
            reads_well(&format!("{verb:?} {failing}"), &said);
            assert_eq!(code, Some(1), "{verb:?} {failing}: {said}");
            // A picture has no room for all of it.
            assert!(said.contains(named) || verb[0] == "watch", "{verb:?}: {named:?} in {said}");
        }
        let (_, said) = outboxd(&scene, &["check"]);
        reads_well(&format!("check {failing}"), &said);
        set.fail("off", failing).await;
    }

    // While a relay runs, of what it reads, follows, renews and writes.
    let relay = Relay::leading(&scene, &[]).await;
    let failures = [
        doc! { "failCommands": ["aggregate", "getMore"], "errorCode": 286 },
        doc! { "failCommands": ["aggregate", "getMore", "find"], "closeConnection": true },
        doc! { "failCommands": ["update", "delete", "findAndModify"], "errorCode": 11601 },
        doc! { "failCommands": ["update", "delete", "findAndModify"], "closeConnection": true },
        doc! {
            "failCommands": ["update", "delete"],
            "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
        },
    ];
    for (number, failing) in (0..).zip(failures) {
        let warned = || relay.log().matches("WARN").count();
        let before = warned();
        set.fail("alwaysOn", failing.clone()).await;
        scene.commit([scene.event("a", number)]).await;
        until("it is warned of", async || (warned() > before).then_some(())).await;
        set.fail("off", failing).await;
        scene.drained().await;
    }
    reads_well("run", &relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_nats_that_refuses_is_put_in_words() {
    let scene = Scene::new().await;
    let env = scene.env_of("run");
    let mongod = env.iter().find(|(name, _)| name == "MONGODB_URI").unwrap().1.clone();
    let mongod = mongod.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let off = NatsServer::with_config("jetstream: disabled\n").await;
    for settings in [
        vec![("NATS_URL", "nats://127.0.0.1:1".to_owned())],
        vec![("NATS_URL", "nats://nowhere.invalid:4222".to_owned())],
        vec![("NATS_URL", "tls://127.0.0.1:1".to_owned())],
        vec![("NATS_URL", format!("nats://{mongod}"))],
        vec![("NATS_URL", off.url.clone())],
        vec![("NATS_USER", "nobody".to_owned()), ("NATS_PASSWORD", "wrong".to_owned())],
    ] {
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for verb in [&["migrate"][..], &["check"]] {
            let (code, said) = outboxd_with(&scene, verb, &settings);
            reads_well(&format!("{verb:?} {settings:?}"), &said);
            assert_eq!(code, Some(1), "{verb:?} {settings:?}: {said}");
        }
    }
}

#[tokio::test]
async fn what_the_machine_refuses_is_put_in_words() {
    let scene = Scene::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (name, value) in [
        ("OUTBOXD_ADMIN__LISTEN", taken.as_str()),
        ("OUTBOXD_ALERTS__FILE", "/proc/nowhere/alerts"),
        ("OUTBOXD_CONFIG", "/proc/nowhere/outboxd.toml"),
        ("OUTBOXD_RETRY__CRON", "every now and then"),
        ("OUTBOXD_RETRY__TIME_ZONE", "Atlantis"),
        ("OUTBOXD_ALERTS__WEBHOOK", "http://"),
        ("OUTBOXD_ADMIN__LISTEN", "somewhere"),
        ("NATS_CREDS", "/proc/nowhere/creds"),
        ("NATS_CA", "/proc/nowhere/ca"),
        ("MONGODB_URI", "mongodb://host/shop?tls=true&tlsCAFile=/proc/nowhere/ca"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere"),
    ] {
        let (code, said) = outboxd_with(&scene, &["run"], &[(name, value)]);
        reads_well(&format!("{name}={value}"), &said);
        assert!(code != Some(0), "{name}={value}: {said}");
    }
}

#[tokio::test]
async fn a_webhook_and_a_collector_of_traces_that_are_not_reached_say_why() {
    let scene = Scene::new().await;
    let settings = [
        ("OUTBOXD_ALERTS__WEBHOOK", "http://127.0.0.1:1/hook"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OUTBOXD_RETRY__MAX_ATTEMPTS", "1"),
    ];
    let relay = Relay::leading(&scene, &settings).await;
    scene.cover(&["other"]).await;
    scene.commit([scene.event("a", 1)]).await;
    relay.says("could not post an alert").await;
    let why = "error sending request: Connection refused";
    assert!(relay.log().contains(why), "{}", relay.log());
    relay.signal("-TERM");
    relay.says("outboxd stops").await;
    reads_well("run", &relay.log());
}

#[tokio::test]
async fn a_nats_that_goes_away_under_way_is_put_in_words() {
    let mut nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let relay = Relay::leading(&scene, &[]).await;
    nats.kill();
    scene.commit([scene.event("a", 1)]).await;
    relay.says("client error").await;
    for verb in [&["list"][..], &["groups"], &["stats"], &["watch", "--count", "1"], &["check"]] {
        let (_, said) = outboxd(&scene, verb);
        reads_well(&format!("{verb:?}"), &said);
    }

    nats.start_again();
    scene.drained().await;
    reads_well("run", &relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_database_without_an_outbox_is_no_good_news() {
    let scene = Scene::new().await;
    let uri = scene.env().into_iter().find(|(name, _)| name == "MONGODB_URI").unwrap().1;
    let elsewhere = uri.replace(&format!("/{}?", scene.name), "/elsewhere?");
    assert_ne!(uri, elsewhere);
    for (setting, outbox) in [
        (("MONGODB_URI", elsewhere.as_str()), "elsewhere.outbox".to_owned()),
        (("OUTBOXD_MONGODB__COLLECTION", "Outbox"), format!("{}.Outbox", scene.name)),
    ] {
        for verb in VERBS.into_iter().filter(|verb| verb[0] != "migrate") {
            let (code, said) = outboxd_with(&scene, verb, &[("MONGODB_URI", &uri), setting]);
            assert_eq!(code, Some(1), "{verb:?}: {said}");
            for part in [&format!("there is no outbox {outbox}"), "`outboxd migrate`"] {
                assert!(said.contains(part), "{verb:?}: {part:?} in {said}");
            }
            assert!(!said.contains("outboxd run"), "{said}");
        }
        let (code, said) = outboxd_with(&scene, &["check"], &[("MONGODB_URI", &uri), setting]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no outbox yet"), "{said}");
    }

    // One without an event is one.
    for verb in [&["stats"][..], &["list"], &["groups"], &["audit"]] {
        let (code, said) = outboxd(&scene, verb);
        assert_eq!(code, Some(0), "{verb:?}: {said}");
    }
}

#[tokio::test]
async fn an_id_that_a_command_cannot_act_on_is_named_with_why() {
    let scene = Scene::new().await;
    scene.commit([scene.event("a", 1)]).await;
    let locked = scene.one(doc! {}).await.unwrap();
    let locked = locked.get_object_id("_id").unwrap().to_hex();
    for verb in ["retry-now", "discard"] {
        let (code, said) = outboxd(&scene, &[verb, &locked, "e7", "--yes"]);
        assert_eq!(code, Some(1), "{said}");
        for named in [
            format!("{locked} is locked: the relay owns it"),
            "e7 is not in the outbox: published, discarded, or never written".to_owned(),
        ] {
            assert!(said.contains(&named), "{named:?} in {said}");
        }
    }

    // Given twice, one event is one.
    scene.cover(&["other"]).await;
    let change = doc! { "$set": { "isLocked": false, "attempts": 1 } };
    scene.events.update_one(doc! {}, change).await.unwrap();
    let (code, said) = outboxd(&scene, &["retry-now", &locked, &locked, "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = outboxd(&scene, &["retry-now", &locked, "--code", "none", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is parked, so the filters exclude it"), "{said}");
}

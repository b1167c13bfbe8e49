//! `outboxd check` finds each planted fault under the check's name, prints the lines that fix it,
//! and prints no secret.

mod judged; // a stream of one row of the table, and what its remedy makes of it
mod limits; // limits and policies that delete or refuse
mod members; // names that this machine can't use, hosted tiers, clocks
mod streams; // streams that accept nothing, forget, or store something else

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use bson::{Document, doc};
use serde_json::Value;

use crate::support::{Mongod, NatsServer, PASSWORD, Relay, Scene, outboxd, outboxd_with, until};

/// The exit code and the output of one run.
struct Checked {
    code: Option<i32>,
    output: String,
}

fn check(scene: &Scene, settings: &[(&str, &str)]) -> Checked {
    let (code, output) = outboxd_with(scene, &["check", "--output", "json"], settings);
    assert!(!output.contains(PASSWORD), "{output}");
    Checked { code, output }
}

impl Checked {
    fn finding(&self, name: &str) -> Option<Value> {
        let all: Vec<Value> = serde_json::from_str(&self.output)
            .unwrap_or_else(|error| panic!("{error}: {}", self.output));
        all.into_iter().find(|finding| finding["check"] == name)
    }

    /// What is wrong, of each finding of this check.
    fn all(&self, name: &str) -> Vec<String> {
        let all: Vec<Value> = serde_json::from_str(&self.output).unwrap();
        let of_it = all.into_iter().filter(|finding| finding["check"] == name);
        of_it.map(|finding| finding["found"].as_str().unwrap().to_owned()).collect()
    }

    /// Asserts the level, and parts of what was found and of the remedy.
    #[track_caller]
    fn has(&self, level: &str, name: &str, found: &str, remedy: &str) {
        let finding = self.finding(name).unwrap_or_else(|| panic!("no {name} in {}", self.output));
        assert_eq!(finding["level"], level, "{finding}");
        assert!(finding["found"].as_str().unwrap().contains(found), "{found:?} in {finding}");
        assert!(
            finding["remedy"].as_str().unwrap_or_default().contains(remedy),
            "{remedy:?} in {finding}"
        );
        assert!(!finding["looked_at"].as_str().unwrap().is_empty(), "{finding}");
    }

    /// Nothing failed.
    #[track_caller]
    fn passed(&self) {
        assert!(!self.output.contains("\"fail\""), "{}", self.output);
        assert_eq!(self.code, Some(0), "{}", self.output);
    }
}

/// A scene whose stream is as `change` makes it.
async fn scene_with(change: impl Fn(&mut Config)) -> Scene {
    let scene = Scene::new().await;
    scene.context.delete_stream(&scene.name).await.unwrap();
    let mut config = Config {
        name: scene.name.clone(),
        subjects: vec![scene.subjects.clone()],
        duplicate_window: Duration::from_secs(1800),
        ..Config::default()
    };
    change(&mut config);
    scene.context.create_stream(&config).await.unwrap();
    scene
}

#[tokio::test]
async fn all_is_well_and_strict_fails_on_warnings() {
    let scene = Scene::new().await;
    scene.commit([scene.event("a", 1)]).await;
    let checked = check(&scene, &[]);
    checked.passed();
    checked.has("ok", "mongodb.topology", "replica set rs0, 1 member", "");
    checked.has("ok", "outbox.validators", "as migrated", "");
    checked.has("ok", "outbox.index", "as migrated", "");
    checked.has("ok", "outbox.subjects", "covers all 1 subject in 1 event", "");
    checked.has("ok", "outbox.biggest_event", "1048576", "");
    checked.has("ok", "clock.mongodb", "agree", "");
    checked.has("ok", "mongodb.auth", "as outbox-relay", "");
    checked.has("ok", "mongodb.privileges", "has the relay's privileges", "");
    checked.has("warn", "nats.auth", "off", "nats-server.conf: authorization");
    let (code, table) = outboxd(&scene, &["check", "--strict"]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains(" 0 fail") && !table.contains('\x1b'), "{table}");
}

#[tokio::test]
async fn before_migrate_the_remedy_is_migrate() {
    let scene = Scene::bare().await;
    let checked = check(&scene, &[]);
    assert_eq!(checked.code, Some(1));
    checked.has("fail", "outbox.migrations", "0001_outbox_collection", "$ outboxd migrate");
    checked.has("fail", "stream.exists", "doesn't exist", "$ outboxd migrate");
    outboxd(&scene, &["migrate"]);
    check(&scene, &[]).passed();
}

#[tokio::test]
async fn a_standalone_has_no_transactions_and_the_remedy_makes_it_a_set() {
    let (scene, mongod) = (Scene::bare().await, Mongod::standalone().await);
    for options in ["", "?replicaSet=rs0"] {
        let uri = format!("mongodb://{}/shop{options}", mongod.address);
        let checked = check(&scene, &[("MONGODB_URI", &uri)]);
        assert_eq!(checked.code, Some(1));
        checked.has(
            "fail",
            "mongodb.topology",
            "a standalone",
            "replication: { replSetName: rs0 }",
        );
        checked.has("fail", "mongodb.topology", "no change streams", "host: \"127.0.0.1:");
        checked.has("ok", "mongodb.version", ".", "");
        checked.has("warn", "mongodb.auth", "off", "mongod.conf: security");
        checked.has("ok", "nats.reachable", "connected", "");
    }
}

/// A migrated scene on a mongod with users, and the administrator's URI.
async fn scene_with_users() -> (Scene, Mongod, String) {
    let (scene, mongod) = (Scene::bare().await, Mongod::with_users().await);
    let admin_uri = mongod.uri("admin", PASSWORD, "shop");
    let (code, output) = outboxd_with(&scene, &["migrate"], &[("MONGODB_URI", &admin_uri)]);
    assert_eq!(code, Some(0), "{output}");

    (scene, mongod, admin_uri)
}

#[tokio::test]
async fn a_user_with_too_many_rights_or_wrong_credentials_is_found() {
    let (scene, mongod, admin_uri) = scene_with_users().await;

    let checked = check(&scene, &[("MONGODB_URI", &admin_uri)]);
    checked.passed();
    checked.has("ok", "mongodb.auth", "as admin", "");
    let separate =
        "db.getSiblingDB(\"shop\").createUser({user: \"outbox-relay\", pwd: passwordPrompt()";
    checked.has("warn", "mongodb.privileges", "has the role root", separate);

    let unscheduled =
        check(&scene, &[("MONGODB_URI", &admin_uri), ("OUTBOXD_SCHEDULED__ENABLED", "false")]);
    let may_insert = "has the role root and may insert into shop.outbox";
    unscheduled.has("warn", "mongodb.privileges", may_insert, separate);

    let wrong = mongod.uri("admin", "wrong-horse", "shop");
    let wrong = check(&scene, &[("MONGODB_URI", &wrong)]);
    assert_eq!(wrong.code, Some(1));
    wrong.has(
        "fail",
        "mongodb.auth",
        "the user admin was refused",
        "changeUserPassword(\"admin\", passwordPrompt())",
    );
    wrong.has("ok", "mongodb.reachable", "answered", "");
    assert!(!wrong.output.contains("wrong-horse"), "{}", wrong.output);

    let nobody = format!("mongodb://{}/shop?replicaSet=rs0", mongod.address);
    let nobody = check(&scene, &[("MONGODB_URI", &nobody)]);
    let remedy = "MONGODB_URI: mongodb://<user>:<password>@";
    nobody.has("fail", "mongodb.auth", "requires a user", remedy);
    assert_eq!(nobody.code, Some(1));
}

#[tokio::test]
async fn a_member_that_is_not_reached_by_the_name_that_the_set_gives_it_is_found() {
    let (scene, _mongod, admin_uri) = scene_with_users().await;
    let admin = mongodb::Client::with_uri_str(&admin_uri).await.unwrap().database("admin");
    let reply = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut config = reply.get_document("config").unwrap().clone();
    let member = doc! { "_id": 1, "host": "127.0.0.1:1", "priority": 0, "votes": 0 };
    config.get_array_mut("members").unwrap().push(member.into());
    config.insert("version", config.get_i32("version").unwrap() + 1);
    admin.run_command(doc! { "replSetReconfig": config, "force": true }).await.unwrap();

    let checked = check(&scene, &[("MONGODB_URI", &admin_uri)]);
    checked.has(
        "warn",
        "mongodb.members",
        "can't reach 127.0.0.1:1: Connection refused",
        "c.members.find(m => m.host == \"127.0.0.1:1\").host",
    );
}

#[tokio::test]
async fn a_name_that_is_not_resolved_is_found_with_the_line_that_looks_it_up() {
    let scene = Scene::new().await;
    let uri = "mongodb+srv://u:p@cluster0.example.invalid/shop";
    let checked = check(&scene, &[("MONGODB_URI", uri)]);
    assert_eq!(checked.code, Some(1));
    checked.has(
        "fail",
        "mongodb.reachable",
        "the SRV name cluster0.example.invalid can't be resolved",
        "$ nslookup -type=SRV _mongodb._tcp.cluster0.example.invalid",
    );
}

#[tokio::test]
async fn the_role_that_the_remedy_grants_is_enough_for_the_relay() {
    let (scene, mongod, admin_uri) = scene_with_users().await;
    let relay_uri = mongod.uri("relay", PASSWORD, "shop");
    let as_relay = [("MONGODB_URI", relay_uri.as_str())];

    let admin = mongodb::Client::with_uri_str(&admin_uri).await.unwrap().database("admin");
    let read = doc! { "role": "read", "db": "shop" };
    let reader = doc! { "createUser": "relay", "pwd": PASSWORD, "roles": [read] };
    admin.run_command(reader).await.unwrap();
    let reading = check(&scene, &as_relay);
    assert_eq!(reading.code, Some(1));
    let grant = "db.getSiblingDB(\"admin\").grantRolesToUser(\"relay\", [{role: \"outbox-relay\", \
                 db: \"shop\"}])";
    reading.has("fail", "mongodb.privileges", "lacks update, remove, insert on shop.outbox", grant);
    reading.has("ok", "mongodb.oplog", "no permission to ask", "");

    // The role as the remedy's first line prints it, granted as its second line does.
    let args = ["privileges", "--role", "relay", "--output", "json"];
    let (code, output) = outboxd_with(&scene, &args, &[("MONGODB_URI", &admin_uri)]);
    assert_eq!(code, Some(0), "{output}");
    let role: Value = serde_json::from_str(&output).unwrap();
    let privileges = bson::serialize_to_bson(&role[0]["mongodb"]["privileges"]).unwrap();
    let role = doc! { "createRole": "outbox-relay", "roles": [], "privileges": privileges };
    let shop = admin.client().database("shop");
    shop.run_command(role).await.unwrap();
    let role = doc! { "role": "outbox-relay", "db": "shop" };
    admin.run_command(doc! { "grantRolesToUser": "relay", "roles": [role] }).await.unwrap();

    let least = check(&scene, &as_relay);
    least.passed();
    least.has("ok", "mongodb.privileges", "has the relay's privileges", "");
    least.has("ok", "outbox.index", "as migrated", "");

    let relay = Relay::leading(&scene, &as_relay).await;
    let events = shop.collection::<Document>("outbox");
    let event = doc! {
        "ts": bson::Timestamp { time: 0, increment: 0 },
        "subject": scene.subject("made"), "key": "a",
        "payload": { "number": 1 }, "isLocked": true, "failures": [],
    };
    events.insert_one(event).await.unwrap();
    until("the relay delivers with this role", async || {
        (events.count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;
    assert_eq!(scene.messages().await.len(), 1);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_missing_index_and_an_edited_validator_are_put_back_by_their_remedies() {
    let scene = Scene::new().await;
    scene.events.drop_index("outboxd_unlocked").await.unwrap();
    scene.database.run_command(doc! { "collMod": "outbox", "validator": {} }).await.unwrap();
    let checked = check(&scene, &[]);
    assert_eq!(checked.code, Some(1));
    checked.has(
        "fail",
        "outbox.validators",
        "the validator of outbox",
        "outbox/0004_outbox_bookkeeping_types",
    );
    checked.has(
        "fail",
        "outbox.index",
        "outboxd_unlocked is missing",
        "runCommand({createIndexes: \"outbox\"",
    );
    let remedy = checked.finding("outbox.index").unwrap()["remedy"].as_str().unwrap().to_owned();
    let spec = remedy.split("indexes: [").nth(1).unwrap().trim_end_matches("]})");
    let spec: Document = serde_json::from_str(spec).unwrap();
    scene
        .database
        .run_command(doc! { "createIndexes": "outbox", "indexes": [spec] })
        .await
        .unwrap();
    let checked = check(&scene, &[]);
    checked.has("ok", "outbox.index", "as migrated", "");
    let remedy =
        checked.finding("outbox.validators").unwrap()["remedy"].as_str().unwrap().to_owned();
    assert!(
        remedy.contains("outboxd_migrations.deleteMany({_id: {$in: [")
            && remedy.ends_with("$ outboxd migrate")
    );
    let records = scene.database.collection::<Document>("outboxd_migrations");
    records.delete_many(doc! { "_id": { "$in": ids(&remedy) } }).await.unwrap();
    outboxd(&scene, &["migrate"]);
    check(&scene, &[]).passed();
}

/// The ids that a remedy names.
fn ids(remedy: &str) -> Vec<String> {
    let list = remedy.split("$in: ").nth(1).unwrap().split('}').next().unwrap();
    serde_json::from_str(list).unwrap()
}

#[tokio::test]
async fn an_event_that_the_stream_would_reject_is_found() {
    let scene = Scene::new().await;
    let other = outboxd_client::Event::new("else;reboot", &doc! { "a": 1 }).unwrap();
    let big =
        outboxd_client::Event::new(scene.subject("big"), &doc! { "text": "x".repeat(1_000_000) })
            .unwrap();
    scene.commit([other, big]).await;
    let checked = check(&scene, &[]);
    let remedy =
        format!("$ nats stream edit {} --subjects '{},else;reboot'", scene.name, scene.subjects);
    // The account may map it.
    checked.has("warn", "outbox.subjects", "does not cover else;reboot", &remedy);
    checked.has("ok", "outbox.biggest_event", "with 1000011 bytes", "");

    let small = scene_with(|config| config.max_message_size = 1000).await;
    small
        .commit([outboxd_client::Event::new(
            small.subject("big"),
            &doc! { "text": "x".repeat(2000) },
        )
        .unwrap()])
        .await;
    let checked = check(&small, &[]);
    assert_eq!(checked.code, Some(1));
    checked.has(
        "fail",
        "outbox.biggest_event",
        "max_msg_size is 1000 bytes",
        "--max-msg-size 4096",
    );
}

#[tokio::test]
async fn a_risky_stream_warns_or_fails_by_what_it_costs() {
    let retention = scene_with(|config| config.retention = RetentionPolicy::Interest).await;
    let checked = check(&retention, &[]);
    checked.has("fail", "stream.retention", "dropped unseen", "--retention limits");
    assert_eq!(checked.code, Some(1));

    let memory = scene_with(|config| config.storage = StorageType::Memory).await;
    let checked = check(&memory, &[]);
    checked.has("warn", "stream.storage", "lost when the server restarts", "nats stream backup");
    checked.passed();

    let seconds =
        |seconds| move |config: &mut Config| config.duplicate_window = Duration::from_secs(seconds);
    for (window, retry, level, found) in [
        (seconds(60), "", "warn", "shorter than retry.max_delay (5m)"),
        (
            seconds(5),
            "",
            "warn",
            "shorter than retry.outage_grace, lease.ttl and nats.ack_timeout together (6s)",
        ),
        (seconds(5), "10s", "fail", "shorter than nats.ack_timeout (10s)"),
    ] {
        let scene = scene_with(window).await;
        let ack = [("OUTBOXD_NATS__ACK_TIMEOUT", retry)];
        let checked = check(&scene, if retry.is_empty() { &[] } else { &ack });
        checked.has(
            level,
            "stream.dedupe",
            found,
            &format!("$ nats stream edit {} --dupe-window 30m", scene.name),
        );
        assert_eq!(checked.code, Some(i32::from(level == "fail")));
    }

    let full = scene_with(|config| config.max_messages = 1000).await;
    let checked = check(&full, &[]);
    checked.has("warn", "stream.limits", "max_msgs 1000, discard old", "--discard new");
    let no_ack = scene_with(|config| config.no_ack = true).await;
    let checked = check(&no_ack, &[]);
    checked.has("fail", "stream.accepts", "no_ack", "--ack");
    assert_eq!(checked.code, Some(1));
}

#[tokio::test]
async fn wrong_nats_credentials_are_found_and_not_printed() {
    let config = "authorization { user: svc, password: pw }";
    let nats = NatsServer::with_config(config).await;
    let scene = Scene::new().await;
    let settings = |password| {
        [("NATS_URL", nats.url.as_str()), ("NATS_USER", "svc"), ("NATS_PASSWORD", password)]
    };
    let checked = check(&scene, &settings("wrong-horse"));
    assert_eq!(checked.code, Some(1));
    checked.has("fail", "nats.auth", "refused", "NATS_PASSWORD");
    checked.has("ok", "nats.reachable", "answered", "");
    checked.has("ok", "outbox.migrations", "applied", "");
    assert!(!checked.output.contains("wrong-horse"), "{}", checked.output);
    check(&scene, &settings("pw")).has("ok", "nats.auth", "accepted", "");
}

#[tokio::test]
async fn the_remedy_of_a_server_without_jetstream_enables_it() {
    let (scene, nats) = (Scene::new().await, NatsServer::with_config("jetstream: false").await);
    let checked = check(&scene, &[("NATS_URL", &nats.url)]);
    assert_eq!(checked.code, Some(1));
    checked.has("warn", "nats.auth", "off", "nats-server.conf: authorization");
    checked.has(
        "fail",
        "nats.jetstream",
        "JetStream is off",
        "nats-server.conf: jetstream { store_dir",
    );
}

#[tokio::test]
async fn a_server_that_is_down_hides_no_finding_of_the_other_one() {
    let scene = Scene::new().await;
    let nobody = format!("mongodb://u:{PASSWORD}@127.0.0.1:1/shop?replicaSet=rs0");
    let checked = check(&scene, &[("MONGODB_URI", &nobody)]);
    assert_eq!(checked.code, Some(1));
    checked.has(
        "fail",
        "mongodb.reachable",
        "127.0.0.1:1: Connection refused",
        "$ systemctl start mongod",
    );
    checked.has("ok", "stream.storage", "file", "");
    let url = format!("nats://u:{PASSWORD}@127.0.0.1:1");
    let checked = check(&scene, &[("NATS_URL", &url)]);
    assert_eq!(checked.code, Some(1));
    checked.has("fail", "nats.reachable", "Connection refused", "$ systemctl start nats-server");
    checked.has("ok", "outbox.index", "as migrated", "");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    nats.pause();
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("mongodb://{}/shop", silent.local_addr().unwrap());
    let args = ["check", "--output", "json", "--timeout", "500ms"];
    let (code, output) = outboxd_with(&scene, &args, &[("MONGODB_URI", &uri)]);
    nats.resume();
    let checked = Checked { code, output };
    assert_eq!(checked.code, Some(1));
    checked.has("fail", "nats.reachable", "", "NATS_URL: correct the host");
    checked.has("fail", "mongodb.reachable", "", "MONGODB_URI: correct the host");
}

//! A replica set under names that this machine can't use, a direct connection, a hosted tier that
//! answers less than a mongod does, and clocks that differ.

use bson::{Bson, Document, doc};
use mongodb::Database;

use super::{check, scene_with_users};
use crate::support::{
    Mongod, NatsServer, Proxy, Relay, ReplicaSet, Scene, Toxic, WallClock, outboxd, outboxd_with,
    until,
};

/// Has the set call its members so, whether they are reached or not.
async fn rename(admin: &Database, hosts: &[&str]) {
    let reply = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut config = reply.get_document("config").unwrap().clone();
    let members = hosts.iter().enumerate().map(|(id, host)| match id {
        0 => doc! { "_id": 0, "host": host },
        id => doc! { "_id": id as i32, "host": host, "priority": 0, "votes": 0 },
    });
    config.insert("members", members.map(Bson::from).collect::<Vec<_>>());
    config.insert("version", config.get_i32("version").unwrap() + 1);
    admin.run_command(doc! { "replSetReconfig": config, "force": true }).await.unwrap();
}

/// A set that calls its only member by a name which leads to it over a proxy.
struct Renamed {
    scene: Scene,
    mongod: Mongod,
    proxy: Proxy,
    /// Of its own address.
    uri: String,
}

impl Renamed {
    async fn new() -> Self {
        let (scene, mongod, uri) = scene_with_users().await;
        let proxy = Proxy::start(&mongod.address).await;
        let admin = mongodb::Client::with_uri_str(format!("{uri}&directConnection=true")).await;
        rename(&admin.unwrap().database("admin"), &[&proxy.address]).await;
        Self { scene, mongod, proxy, uri }
    }

    /// The member is found lost, and why.
    fn is_lost(&self, why: &str) {
        let settings = [("MONGODB_URI", self.uri.as_str())];
        let checked = check(&self.scene, &settings);
        assert_eq!(checked.code, Some(1), "{}", checked.output);
        let name = &self.proxy.address;
        let direct = format!("directConnection=true, with {} alone", self.mongod.address);
        let named = format!(
            "mongosh> c = rs.conf(); c.members.find(m => m.host == \"{name}\").host = \
             \"<host>:<port>\"; rs.reconfig(c)"
        );
        for remedy in [direct, named] {
            checked.has("fail", "mongodb.members", &format!("{name}: {why}"), &remedy);
        }
        assert!(checked.finding("mongodb.auth").is_none(), "{}", checked.output);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_not_reached_by_its_name_is_named_with_how_it_failed() {
    let renamed = Renamed::new().await;
    let settings = [("MONGODB_URI", renamed.uri.as_str())];
    check(&renamed.scene, &settings).has("ok", "mongodb.members", "reaches every member", "");

    renamed.proxy.set(Toxic::BlackHole);
    renamed.is_lost("no answer");

    renamed.proxy.close().await;
    renamed.is_lost("Connection refused");

    // Every verb names the member, and where the lines are.
    let (code, said) = outboxd_with(&renamed.scene, &["stats"], &settings);
    assert_eq!(code, Some(1), "{said}");
    let names = "these are the names that the replica set gives its members; `outboxd check`";
    assert!(said.contains(&renamed.proxy.address) && said.contains(names), "{said}");

    // As when `localhost` is another machine's in a container.
    let other = Mongod::with_users().await;
    let _taken = Proxy::at(&renamed.proxy.address, &other.address).await;
    renamed.is_lost("another server answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_connection_relays_from_a_member_whose_name_nobody_reaches() {
    let renamed = Renamed::new().await;
    renamed.proxy.close().await;
    let uri = format!("{}&directConnection=true", renamed.uri);
    let settings = [("MONGODB_URI", uri.as_str())];
    let checked = check(&renamed.scene, &settings);
    assert!(checked.finding("mongodb.members").is_none(), "{}", checked.output);
    checked.has("ok", "outbox.migrations", "applied", "");

    let (code, said) = outboxd_with(&renamed.scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");
    let relay = Relay::leading(&renamed.scene, &settings).await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn names_that_nobody_resolves_have_a_line_that_looks_them_up() {
    let (scene, mongod, uri) = scene_with_users().await;
    let admin = mongodb::Client::with_uri_str(&uri).await.unwrap().database("admin");
    // The same address in a form that mongod does not take for a local one, as those can't be mixed
    // with others.
    let (_, port) = mongod.address.split_once(':').unwrap();
    rename(&admin, &[&format!("2130706433:{port}"), "db2.invalid:27017"]).await;
    let checked = check(&scene, &[("MONGODB_URI", &uri)]);
    for remedy in [
        "/etc/hosts or DNS: give db2.invalid the member's address",
        "m.host == \"db2.invalid:27017\"",
    ] {
        let found = "db2.invalid:27017: this machine can't resolve its name";
        checked.has("warn", "mongodb.members", found, remedy);
    }

    let direct = format!("{uri}&directConnection=true");
    let found = "outboxd uses only this one";
    let remedy = "without directConnection=true";
    check(&scene, &[("MONGODB_URI", &direct)]).has("warn", "mongodb.members", found, remedy);

    let nowhere = check(&scene, &[("MONGODB_URI", "mongodb://db1.invalid/shop?replicaSet=rs0")]);
    let found = "db1.invalid:27017: this machine can't resolve its name";
    nowhere.has("fail", "mongodb.reachable", found, "$ getent hosts db1.invalid");
}

#[tokio::test]
async fn a_direct_connection_to_a_secondary_is_found() {
    let set = ReplicaSet::start(3).await;
    let primary = set.primary().await.unwrap();
    let secondary = set.direct((primary + 1) % 3).await;
    let hello = until("the secondary knows the user", async || {
        secondary.run_command(doc! { "hello": 1 }).await.ok()
    })
    .await;
    let uri = format!(
        "mongodb://root:root@{}/shop?directConnection=true&authSource=admin",
        hello.get_str("me").unwrap()
    );
    let scene = Scene::bare().await;
    let (_, said) = outboxd_with(&scene, &["migrate"], &[("MONGODB_URI", &uri)]);
    assert!(said.contains("not primary"), "{said}");

    let checked = check(&scene, &[("MONGODB_URI", &uri)]);
    let remedy = format!("MONGODB_URI: {} as the host", hello.get_str("primary").unwrap());
    checked.has("fail", "mongodb.topology", "leads to a member that is not the primary", &remedy);
}

#[tokio::test]
async fn a_relay_with_a_direct_connection_waits_while_another_member_is_primary() {
    let (set, nats) = (ReplicaSet::start(3).await, NatsServer::start().await);
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let primary = set.primary().await.unwrap();
    let hello = set.direct(primary).await.run_command(doc! { "hello": 1 }).await.unwrap();
    let me = hello.get_str("me").unwrap();
    let direct =
        format!("mongodb://root:root@{me}/{}?directConnection=true&authSource=admin", scene.name);
    let mut relay = Relay::leading(&scene, &[("MONGODB_URI", &direct)]).await;

    until("another is primary", async || {
        set.step_down().await;
        set.primary().await.filter(|now| *now != primary)
    })
    .await;
    scene.commit([scene.event("a", 0)]).await;
    relay.says("WARN").await;
    until("it is primary again", async || match set.primary().await {
        Some(now) if now == primary => Some(()),
        _ => {
            set.step_down().await;
            None
        }
    })
    .await;
    scene.drained().await;
    assert!(relay.is_running(), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn what_a_hosted_tier_does_not_answer_is_no_warning() {
    let set = ReplicaSet::start(1).await;
    let nats = NatsServer::start().await;
    let scene = Scene::among(set.uri(), nats.url.clone(), nats.users.clone(), "1").await;
    let warned = || {
        let checked = check(&scene, &[]);
        checked.passed();
        let all: Vec<serde_json::Value> = serde_json::from_str(&checked.output).unwrap();
        let warned = all.iter().filter(|finding| finding["level"] == "warn");
        let names = warned.map(|finding| finding["check"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), checked)
    };

    let before = warned().0;
    let refused = |code: i32, commands: &[&str]| -> Document {
        doc! { "failCommands": commands.to_vec(), "errorCode": code }
    };
    for (code, commands, names) in [
        (8000, &["getDefaultRWConcern", "serverStatus", "buildInfo"][..], "mongodb.writes"),
        (8000, &["connectionStatus", "listCollections"], "mongodb.privileges"),
        (59, &["getDefaultRWConcern", "listIndexes"], "mongodb.writes"),
        (115, &["connectionStatus"], "mongodb.privileges"),
        (303, &["serverStatus"], "mongodb.oplog"),
    ] {
        set.fail("alwaysOn", refused(code, commands)).await;
        let (now, checked) = warned();
        assert!(now.iter().all(|name| before.contains(name)), "{code} {commands:?}: {now:?}");
        checked.has("ok", names, "not checked", "");
        if code == 8000 {
            let (code, said) = outboxd(&scene, &["stats"]);
            assert_eq!(code, Some(0), "{said}");
            let relay = Relay::leading(&scene, &[]).await;
            assert_eq!(relay.stop(), Some(0));
        }
        set.fail("off", refused(code, commands)).await;
    }

    // A user who may not even read is no tier's peculiarity.
    let refused = refused(8000, &["connectionStatus", "find", "aggregate"]);
    set.fail("alwaysOn", refused.clone()).await;
    let checked = check(&scene, &[]);
    assert_eq!(checked.code, Some(1));
    checked.has("fail", "mongodb.privileges", "may not read", "outboxd privileges --role relay");
    set.fail("off", refused).await;
}

#[tokio::test]
async fn a_clock_that_differs_is_named_with_whose_it_is() {
    let scene = Scene::new().await;
    let wall = WallClock::new();
    wall.set(-3660);
    let checked = check(&scene, &wall.env());
    checked.passed();
    let odd = "on this machine: mongod and nats-server agree with each other";
    checked.has("warn", "clock.mongodb", "is 1h", odd);
    checked.has("warn", "clock.nats", "ahead of this machine's", odd);

    // Ages and leases are the server's to tell.
    let relay = Relay::leading(&scene, &wall.env()).await;
    let (_, said) = outboxd_with(&scene, &["stats"], &wall.env());
    assert!(said.contains("relayed by") && !said.contains("NO RELAY"), "{said}");
    assert_eq!(relay.stop(), Some(0));
}

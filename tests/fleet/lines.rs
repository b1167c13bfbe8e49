//! The connections to NATS that the outboxes of a daemon share.

use serde_json::{Value, json};

use super::get_json;
use super::scene::Fleet;
use crate::support::{NatsServer, Relay, free_ports, until};

/// Of the outboxes, by their place.
const USERS: [&str; 5] = ["a", "a", "a", "b", "b"];

/// Two users of relays, and those of the test; user `a` may not hear replies of these streams.
fn config(monitor: u16, deaf: &[&str]) -> String {
    let deny: Vec<_> = deaf.iter().map(|stream| format!("_INBOX.outboxd.{stream}.>")).collect();
    let user = |name: &str, deny: &[String]| {
        json!({ "user": name, "password": "pw", "permissions": {
            "publish": [">"], "subscribe": { "allow": ["_INBOX.>"], "deny": deny },
        } })
    };
    let root = json!({ "user": "root", "password": "pw" });
    let users = json!({ "users": [root, user("a", &deny), user("b", &[])] });
    format!("http: \"127.0.0.1:{monitor}\"\nno_auth_user: root\nauthorization: {users}\n")
}

/// A daemon whose outboxes have these users.
fn run(fleet: &Fleet) -> Relay {
    let tables = USERS.iter().enumerate().map(|(at, user)| {
        let table = fleet.tables("run", at..at + 1);
        format!("{table}nats.user = {user:?}\nnats.password = \"pw\"\n")
    });
    let path = fleet.first().folder.path().join("lines.toml");
    std::fs::write(&path, tables.collect::<String>()).expect("the file is written");
    fleet.run_with(&path.display().to_string())
}

/// The users of the relays' connections that are open.
async fn connections(monitor: u16) -> Vec<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/connz?auth=1")).await;
    let text = answer.expect("an answer").text().await.expect("its text");
    let answer: Value = serde_json::from_str(&text).expect("JSON");

    let open = answer["connections"].as_array().expect("connections").iter();
    let user = |of: &Value| of["authorized_user"].as_str().unwrap_or_default().to_owned();
    let mut users: Vec<_> = open.map(user).filter(|user| USERS.contains(&user.as_str())).collect();
    users.sort();
    users
}

/// Commits the event to each of these outboxes, which all deliver it.
async fn deliver(fleet: &Fleet, number: u32, which: &[usize]) {
    for at in which {
        let scene = &fleet.scenes[*at];
        scene.commit([scene.event("k", number)]).await;
    }
    for at in which {
        fleet.scenes[*at].drained().await;
    }
}

#[tokio::test]
async fn outboxes_of_one_user_share_a_connection_and_each_hears_for_itself() {
    let monitor = free_ports(1)[0];
    let nats = NatsServer::with_config(&config(monitor, &[])).await;
    let fleet = Fleet::on(&nats, USERS.len()).await;
    let relay = run(&fleet);
    deliver(&fleet, 1, &[0, 1, 2, 3, 4]).await;
    assert_eq!(connections(monitor).await, ["a", "b"], "{}", relay.log());

    // One outbox of `a` hears nothing any more. The others go on, over that connection or another.
    let deaf = &fleet.scenes[1];
    nats.reload(&config(monitor, &[&deaf.stream]));
    let is_ready = async || {
        let (_, ready) = get_json(&relay, "/readyz").await;
        ready["outboxes"][&fleet.names()[1]]["nats"]["ready"] == true
    };
    until("it is not ready", async || (!is_ready().await).then_some(())).await;
    deaf.commit([deaf.event("k", 2)]).await;
    for number in 2..5 {
        deliver(&fleet, number, &[0, 2, 3, 4]).await;
    }
    assert_eq!(deaf.messages().await.len(), 1, "nothing is sent whose ack can't arrive");

    nats.reload(&config(monitor, &[]));
    deaf.drained().await;
    until("it is ready", async || is_ready().await.then_some(())).await;

    for (at, scene) in fleet.scenes.iter().enumerate() {
        let wanted: &[u32] = if at == 1 { &[1, 2] } else { &[1, 2, 3, 4] };
        assert_eq!(scene.numbers().await["k"], wanted, "each once, in order");
    }
    until("no connection is left over", async || {
        (connections(monitor).await.len() <= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_is_made_again_once_for_all_of_its_outboxes() {
    let monitor = free_ports(1)[0];
    let mut nats = NatsServer::with_config(&config(monitor, &[])).await;
    let fleet = Fleet::on(&nats, USERS.len()).await;
    let relay = run(&fleet);
    deliver(&fleet, 1, &[0, 1, 2, 3, 4]).await;

    nats.kill();
    for scene in &fleet.scenes {
        scene.commit([scene.event("k", 2)]).await;
    }
    nats.start_again();
    fleet.drained().await;
    assert_eq!(connections(monitor).await, ["a", "b"], "{}", relay.log());
    for scene in &fleet.scenes {
        assert_eq!(scene.numbers().await["k"], [1, 2]);
    }
}

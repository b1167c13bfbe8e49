//! Users on the tests' servers, with what `outboxd privileges` says and no more: each verb runs as
//! the one it is for.

use std::process::Command;

use bson::doc;
use bson::oid::ObjectId;
use mongodb::Database;
use serde_json::{Value, json};

use super::OUTBOXD;

/// In the URI of a mongod that wants a user.
const ROOT: &str = "root:root@";
/// Of every user made here.
const PASSWORD: &str = "hunter2";

/// What `outboxd privileges` prints for an outbox of this database and a stream of the same name.
fn print(name: &str, subjects: &str) -> Vec<Value> {
    let output = Command::new(OUTBOXD)
        .args(["privileges", "--output", "json"])
        .env_clear()
        // Its verbs may be asked for kept events.
        .env("OUTBOXD_KEEP__FOR", "1h")
        .env("MONGODB_URI", format!("mongodb://localhost/{name}?replicaSet=rs0"))
        .envs([("NATS_CLUSTER_ID", name), ("OUTBOXD_STREAM__SUBJECTS", subjects)])
        .output()
        .expect("outboxd runs");
    serde_json::from_slice(&output.stdout).expect("privileges as JSON")
}

/// Which role a verb is for.
pub(super) fn role(verb: &str) -> &'static str {
    match verb {
        "run" | "check" | "verify" | "replay" => "relay",
        "migrate" => "migrate",
        _ => "operator",
    }
}

/// Whether a URI is that of a mongod where users are made.
pub(super) fn has_users(uri: &str) -> bool {
    uri.contains(ROOT)
}

/// The same mongod as the user of this role.
pub(super) fn mongodb_uri(uri: &str, role: &str, database: &str) -> String {
    uri.replace(ROOT, &format!("outbox-{role}:{PASSWORD}@"))
        .replace("authSource=admin", &format!("authSource={database}"))
}

/// Makes the roles and their users in this database.
pub(super) async fn grant(database: &Database) {
    for privileges in print(database.name(), "*") {
        let role = privileges["mongodb"]["role"].as_str().expect("a role");
        let granted =
            bson::serialize_to_bson(&privileges["mongodb"]["privileges"]).expect("privileges");
        let make = doc! { "createRole": role, "privileges": granted, "roles": [] };
        database.run_command(make).await.expect("the role is made");
        let user = doc! { "createUser": role, "pwd": PASSWORD, "roles": [role], "mechanisms": ["SCRAM-SHA-256"] };
        database.run_command(user).await.expect("the user is made");
    }
}

/// Who may do what to a stream, on a nats-server that is there for this stream alone.
#[derive(Clone)]
pub(crate) struct NatsUsers {
    pub(super) stream: String,
    pub(super) subjects: String,
}

impl NatsUsers {
    /// Of a new stream: of all subjects that begin with its name, unless it takes others.
    pub(super) fn new(subjects: Option<&str>) -> Self {
        let stream = format!("t{}", ObjectId::new());
        let subjects = subjects.map_or_else(|| format!("{stream}.>"), str::to_owned);
        Self { stream, subjects }
    }

    /// In a configuration of nats-server: whoever says no name may do everything, as the tests
    /// themselves.
    pub(super) fn config(&self) -> String {
        let mut users = vec![json!({ "user": "root", "password": PASSWORD })];
        for privileges in print(&self.stream, &self.subjects) {
            if let Some(permissions) = privileges.get("nats") {
                users.push(json!({ "user": privileges["role"], "password": PASSWORD, "permissions": permissions }));
            }
        }
        format!("no_auth_user: root\nauthorization: {}\n", json!({ "users": users }))
    }
}

/// The environment of a verb on such a nats-server.
pub(super) fn nats_env(role: &str) -> impl Iterator<Item = (String, String)> {
    // An operator doesn't go there.
    let user = [("NATS_USER", role), ("NATS_PASSWORD", PASSWORD)]
        .into_iter()
        .filter(move |_| role != "operator");
    user.map(|(name, text)| (name.to_owned(), text.to_owned()))
}

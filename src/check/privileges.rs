//! What the relay's user may do in MongoDB: all it needs, and not much more.

use bson::{Bson, Document};

use crate::config::Config;
use crate::finding::Finding;
use crate::privileges::Role;

/// Roles with which a stolen password costs more than the outbox.
const TOO_MUCH: [&str; 10] = [
    "root",
    "__system",
    "dbOwner",
    "dbAdminAnyDatabase",
    "readWriteAnyDatabase",
    "userAdmin",
    "userAdminAnyDatabase",
    "clusterAdmin",
    "restore",
    "hostManager",
];

/// Judges the answer to `connectionStatus`. `denied` says whether a read of the outbox was. False
/// when there is nothing more to ask.
pub(super) fn look(
    config: &Config,
    at: &str,
    status: &Document,
    denied: bool,
) -> (Vec<Finding>, bool) {
    const AUTH: &str = "mongodb.auth";
    const ROLE: &str = "mongodb.privileges";
    let info = status.get_document("authInfo").ok();
    let array = |name: &str| {
        info.and_then(|info| info.get_array(name).ok()).map(Vec::as_slice).unwrap_or_default()
    };
    let Some(user) = array("authenticatedUsers").first().and_then(Bson::as_document) else {
        if denied {
            let remedy =
                "MONGODB_URI: mongodb://<user>:<password>@<host>/<database>?authSource=admin";
            return (
                vec![Finding::fail(
                    AUTH,
                    at,
                    "mongod wants a user, and MONGODB_URI has none",
                    remedy,
                )],
                false,
            );
        }
        let found = "off: whoever reaches mongod may write, and read, everything";
        let remedy = "mongod.conf: security: { authorization: enabled, keyFile: /etc/mongod.key }";
        return (vec![Finding::warn(AUTH, at, found, remedy)], true);
    };
    let text =
        |document: &Document, name: &str| document.get_str(name).unwrap_or_default().to_owned();
    let (name, home) = (text(user, "user"), text(user, "db"));
    let mut findings = vec![Finding::ok(AUTH, at, format!("as {name}, known in {home}"))];
    let database = &config.mongodb.database;
    let outbox = &config.mongodb.collection;
    let granted: Vec<_> =
        array("authenticatedUserPrivileges").iter().filter_map(Bson::as_document).collect();
    let may = |collection: &str, action: &str| {
        granted
            .iter()
            .any(|privilege| applies(privilege, database, collection) && allows(privilege, action))
    };
    let mut missing = Vec::new();
    for (collection, actions) in Role::Relay.actions(outbox) {
        let lacking: Vec<_> =
            actions.iter().filter(|action| !may(collection, action)).copied().collect();
        if !lacking.is_empty() {
            missing.push(format!("{} on {database}.{collection}", lacking.join(", ")));
        }
    }
    let roles = array("authenticatedUserRoles").iter().filter_map(Bson::as_document);
    let grand: Vec<_> = roles
        .map(|role| text(role, "role"))
        .filter(|role| TOO_MUCH.contains(&role.as_str()))
        .collect();
    const MAKE_ROLE: &str =
        "$ outboxd privileges --role relay   # the role, to paste into mongosh\nmongosh> ";
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let role = Role::Relay.mongodb(config).role;
    let grant = || {
        let role = format!("{{role: {}, db: {}}}", json(&role), json(database));
        format!(
            "{MAKE_ROLE}db.getSiblingDB({}).grantRolesToUser({}, [{role}])",
            json(&home),
            json(&name)
        )
    };
    // Never by taking rights from a user who may be an administrator's or the service's.
    let separate = || {
        let user = format!("{{user: {0}, pwd: passwordPrompt(), roles: [{0}]}}", json(&role));
        format!(
            "{MAKE_ROLE}db.getSiblingDB({}).createUser({user})   # and put that user into MONGODB_URI",
            json(database)
        )
    };
    let mut too_much = Vec::new();
    if !grand.is_empty() {
        too_much.push(format!("has the role {}", grand.join(", ")));
    }
    if may(outbox, "insert") {
        too_much.push(format!("may insert into {database}.{outbox}, which only writers do"));
    }
    findings.push(if !missing.is_empty() {
        Finding::fail(ROLE, at, format!("{name} lacks {}", missing.join("; ")), grant())
    } else if !too_much.is_empty() {
        Finding::warn(ROLE, at, format!("{name} {}", too_much.join(" and ")), separate())
    } else {
        Finding::ok(ROLE, at, format!("{name} may do what the relay does, and not write events"))
    });
    (findings, true)
}

/// Whether a privilege is about this collection. An empty name stands for all that aren't the
/// system's.
fn applies(privilege: &Document, database: &str, collection: &str) -> bool {
    let Ok(resource) = privilege.get_document("resource") else { return false };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return true;
    }
    let is = |name: &str, wanted: &str| {
        resource.get_str(name).is_ok_and(|found| found.is_empty() || found == wanted)
    };
    is("db", database) && is("collection", collection)
}

fn allows(privilege: &Document, action: &str) -> bool {
    let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
    actions.iter().any(|allowed| [Some(action), Some("anyAction")].contains(&allowed.as_str()))
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_privilege_applies_to_what_its_resource_names() {
        let outbox = |resource: Document| applies(&doc! { "resource": resource }, "shop", "outbox");
        assert!(outbox(doc! { "db": "shop", "collection": "outbox" }));
        assert!(outbox(doc! { "db": "shop", "collection": "" }));
        assert!(outbox(doc! { "db": "", "collection": "" }));
        assert!(outbox(doc! { "anyResource": true }));
        assert!(!outbox(doc! { "db": "shop", "collection": "tickets" }));
        assert!(!outbox(doc! { "db": "other", "collection": "" }));
        assert!(!outbox(doc! { "cluster": true }));
    }
}

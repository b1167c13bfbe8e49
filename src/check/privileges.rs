//! The privileges of the relay's user in MongoDB: all that the relay needs, and not much more.

use bson::{Bson, Document};
use outboxd_client::scheduled_collection;

use super::ask::{self, NoAnswer};
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

/// Checks the answer to `connectionStatus`. `denied` is whether a read of the outbox was denied.
/// After the finding that is the error, no further question makes sense.
pub(super) fn look(
    config: &Config,
    at: &str,
    status: &Document,
    denied: bool,
) -> Result<Vec<Finding>, Finding> {
    const AUTH: &str = "mongodb.auth";
    const NO_USER: &str = "mongod requires a user, and MONGODB_URI names none";
    const OFF: &str = "off: anyone who reaches mongod can read and write everything";

    let Some(user) = User::read(status) else {
        if denied {
            let remedy =
                "MONGODB_URI: mongodb://<user>:<password>@<host>/<database>?authSource=admin";
            return Err(Finding::fail(AUTH, at, NO_USER, remedy));
        }
        let remedy = "mongod.conf: security: { authorization: enabled, keyFile: /etc/mongod.key }";
        return Ok(vec![Finding::warn(AUTH, at, OFF, remedy)]);
    };

    let found = format!("as {}, defined in database {}", user.name, user.home);
    let auth = Finding::ok(AUTH, at, found);
    if user.is_known {
        return Ok(vec![auth, rights(config, at, &user)]);
    }

    let found = "not checked: this MongoDB does not report what a user may do";
    Ok(vec![auth, Finding::ok("mongodb.privileges", at, found)])
}

/// For a server that does not report the user: the finding that says so, or that the user may not
/// even read.
pub(super) fn unknown(
    config: &Config,
    at: &str,
    no_answer: &NoAnswer,
    denied: Option<&NoAnswer>,
) -> Result<Vec<Finding>, Finding> {
    const CHECK: &str = "mongodb.privileges";
    let Some(denied) = denied else { return Ok(vec![ask::unknown(CHECK, at, no_answer)]) };

    let (database, outbox) = (&config.mongodb.database, &config.mongodb.collection);
    let found = format!("the user may not read {database}.{outbox}: {}", denied.reason);
    Err(Finding::fail(CHECK, at, found, "$ outboxd privileges --role relay   # prints the role"))
}

/// The authenticated user, with what it may do.
struct User<'a> {
    name: &'a str,
    /// The database that defines the user.
    home: &'a str,
    roles: Vec<&'a str>,
    privileges: Vec<&'a Document>,
    /// Whether the server reports privileges. Some that are like MongoDB don't.
    is_known: bool,
}

impl<'a> User<'a> {
    fn read(status: &'a Document) -> Option<Self> {
        let info = status.get_document("authInfo").ok()?;
        let documents = |name: &str| {
            let array = info.get_array(name).map(Vec::as_slice).unwrap_or_default();
            array.iter().filter_map(Bson::as_document)
        };
        let text = |document: &'a Document, name| document.get_str(name).unwrap_or_default();
        let user = documents("authenticatedUsers").next()?;

        Some(Self {
            name: text(user, "user"),
            home: text(user, "db"),
            roles: documents("authenticatedUserRoles").map(|role| text(role, "role")).collect(),
            privileges: documents("authenticatedUserPrivileges").collect(),
            is_known: info.contains_key("authenticatedUserPrivileges"),
        })
    }

    fn may(&self, database: &str, collection: &str, action: &str) -> bool {
        let mut privileges = self.privileges.iter();
        privileges
            .any(|privilege| applies(privilege, database, collection) && allows(privilege, action))
    }
}

/// Compares the user's rights with the relay's role.
fn rights(config: &Config, at: &str, user: &User<'_>) -> Finding {
    const CHECK: &str = "mongodb.privileges";
    let (database, outbox) = (&config.mongodb.database, &config.mongodb.collection);

    let mut missing = Vec::new();
    for (collection, actions) in Role::Relay.actions(config) {
        let lacking: Vec<_> = actions
            .iter()
            .filter(|action| !user.may(database, &collection, action))
            .copied()
            .collect();
        if !lacking.is_empty() {
            missing.push(format!("{} on {database}.{collection}", lacking.join(", ")));
        }
    }

    let moves = config.scheduled.enabled;
    if !missing.is_empty() {
        let found = format!("{} lacks {}", user.name, missing.join("; "));
        let mut remedy = grant(config, user);
        let scheduled = scheduled_collection(outbox);
        let is_for_scheduled = |lacking: &String| {
            lacking.ends_with(&format!(".{scheduled}"))
                || *lacking == format!("insert on {database}.{outbox}")
        };
        if moves && missing.iter().all(is_for_scheduled) {
            remedy += "\nor, if no service schedules events: scheduled.enabled = false";
        }
        return Finding::fail(CHECK, at, found, remedy);
    }

    let mut too_much = Vec::new();
    let powerful: Vec<_> =
        user.roles.iter().filter(|role| TOO_MUCH.contains(role)).copied().collect();
    if !powerful.is_empty() {
        too_much.push(format!("has the role {}", powerful.join(", ")));
    }

    if !moves && user.may(database, outbox, "insert") {
        too_much.push(format!("may insert into {database}.{outbox}, which only writers need"));
    }

    match too_much.is_empty() {
        true => {
            let inserts = match moves {
                true => "inserts events only to move scheduled ones",
                false => "can't insert events",
            };
            let found = format!("{} has the relay's privileges and {inserts}", user.name);
            Finding::ok(CHECK, at, found)
        }
        false => {
            let found = format!("{} {}", user.name, too_much.join(" and "));
            Finding::warn(CHECK, at, found, separate_user(config))
        }
    }
}

const MAKE_ROLE: &str =
    "$ outboxd privileges --role relay   # prints the role; paste it into mongosh\nmongosh> ";

fn grant(config: &Config, user: &User<'_>) -> String {
    let (role, database) = (Role::Relay.mongodb(config).role, &config.mongodb.database);
    let role = format!("{{role: {}, db: {}}}", json(&role), json(database));

    format!(
        "{MAKE_ROLE}db.getSiblingDB({}).grantRolesToUser({}, [{role}])",
        json(user.home),
        json(user.name)
    )
}

/// The remedy for too many rights. It takes none away: the user may be an administrator's or the
/// service's.
fn separate_user(config: &Config) -> String {
    let (role, database) = (Role::Relay.mongodb(config).role, &config.mongodb.database);
    let user = format!("{{user: {0}, pwd: passwordPrompt(), roles: [{0}]}}", json(&role));

    format!(
        "{MAKE_ROLE}db.getSiblingDB({}).createUser({user})   // then name this user in MONGODB_URI",
        json(database)
    )
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a privilege includes this collection. An empty name includes all that aren't the
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
    fn a_privilege_applies_to_the_collections_that_its_resource_names() {
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

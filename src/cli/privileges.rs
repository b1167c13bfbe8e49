//! `outboxd privileges`: the least roles for MongoDB and permissions for NATS, ready to paste.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::warn;
use super::output::{Output, show};
use crate::config::{Config, Fleet, Follow, Sources, UNKNOWN_DATABASE};
use crate::error::Result;
use crate::privileges::{
    MongodbRole, NatsPermissions, OthersPermissions, Privilege, Role, UNKNOWN, watch,
};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print one role only
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Output format: commands to paste, or JSON
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Privileges {
    role: Role,
    mongodb: MongodbRole,
    #[serde(skip_serializing_if = "Option::is_none")]
    nats: Option<NatsPermissions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nats_others: Option<OthersPermissions>,
}

pub(super) fn run(sources: &Sources, args: &Args) -> Result<()> {
    let fleet = Fleet::load_unconnected(sources)?.meant(sources.outbox.as_deref())?;
    warn(fleet.warnings());
    let roles = || Role::ALL.into_iter().filter(|role| args.role.is_none_or(|one| one == *role));
    let of = |config: &Config| {
        let of_role = |role: Role| Privileges {
            role,
            mongodb: role.mongodb(config),
            nats: role.nats(config),
            nats_others: role.nats_others(config),
        };
        roles().map(of_role).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = fleet.outboxes().iter().flat_map(of).collect();
    let shares = |config: &&Config| config.mongodb.follow == Follow::Shared;
    if fleet.outboxes().iter().filter(shares).count() > 1 && roles().any(|one| one == Role::Relay) {
        let (role, mongodb) = (Role::Relay, watch());
        all.push(Privileges { role, mongodb, nats: None, nats_others: None });
    }
    show(args.output, &all, || match fleet.outboxes() {
        [_] => all.iter().map(text).collect::<Vec<_>>().join("\n"),
        _ => of_fleet(&all),
    })
}

/// The roles of each outbox, and for each of them one user that has it for all outboxes.
fn of_fleet(all: &[Privileges]) -> String {
    let mut parts: Vec<_> = all.iter().map(|one| role_text(&one.mongodb, one.role)).collect();
    for role in Role::ALL {
        let of_role: Vec<_> = all.iter().filter(|one| one.role == role).collect();
        if of_role.is_empty() {
            continue;
        }

        let roles = of_role.iter().map(
            |Privileges { mongodb: MongodbRole { database, role, .. }, .. }| {
                format!("  {{ role: {}, db: {} }},\n", json(role), json(database))
            },
        );
        let user = json(&format!("outboxd-{}", role.name()));
        parts.push(format!(
            "// {}: one user for all outboxes\n\
             db.getSiblingDB(\"admin\").createUser({{ user: {user}, pwd: passwordPrompt(), roles: [\n{}] }})\n",
            role.name(),
            roles.collect::<String>()
        ));

        let permissions = of_role.iter().filter_map(|one| one.nats.as_ref());
        let all = permissions.fold(None::<NatsPermissions>, |all, one| {
            let mut all = all.unwrap_or_default();
            all.publish.extend(one.publish.iter().cloned());
            all.subscribe.extend(one.subscribe.iter().cloned());
            Some(all)
        });
        parts.extend(all.map(|NatsPermissions { publish, subscribe }| {
            nats_text(
                role,
                &user,
                &NatsPermissions { publish: once(publish), subscribe: once(subscribe) },
            )
        }));
    }

    let others = all.iter().filter_map(|one| one.nats_others.as_ref()).map(others_text);
    parts.extend(once(others.collect()));
    parts.join("\n")
}

/// The texts in their order, each once.
fn once(texts: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    texts.iter().map(|text| json(text)).collect::<Vec<_>>().join(", ")
}

fn text(Privileges { role, mongodb, nats, nats_others }: &Privileges) -> String {
    let (database, name) = (json(&mongodb.database), json(&mongodb.role));
    let mut text = role_text(mongodb, *role);
    let _ = writeln!(
        text,
        "db.getSiblingDB({database}).createUser({{ user: {name}, pwd: passwordPrompt(), roles: [{name}] }})"
    );

    if let Some(nats) = nats {
        text += "\n";
        text += &nats_text(*role, &name, nats);
    }
    if let Some(others) = nats_others {
        text += "\n";
        text += &others_text(others);
    }
    text
}

/// The command that makes a role in the outbox's database.
fn role_text(role_of: &MongodbRole, role: Role) -> String {
    let MongodbRole { database, role: name, privileges, scheduling, watching } = role_of;
    let (what, database, name) = (role.name(), json(database), json(name));
    let mut text = format!(
        "// {what}: in mongosh, as an administrator\n\
         db.getSiblingDB({database}).createRole({{ role: {name}, roles: [], privileges: [\n"
    );

    for purpose in [scheduling, watching].into_iter().flatten() {
        let _ = writeln!(text, "  // {purpose}");
    }

    if privileges.iter().any(|privilege| privilege.resource.db == UNKNOWN_DATABASE) {
        let line = format!(
            "// mongodb.database is not set: put the outbox's database in the place of \
             {UNKNOWN_DATABASE}\n"
        );
        text.insert_str(0, &line);
    }

    for Privilege { resource, actions } in privileges {
        let actions: Vec<_> = actions.iter().map(|action| json(action)).collect();
        let (db, collection) = (json(&resource.db), json(&resource.collection));
        let _ = writeln!(
            text,
            "  {{ resource: {{ db: {db}, collection: {collection} }}, actions: [{}] }},",
            actions.join(", ")
        );
    }

    text + "] })\n"
}

/// The user in the configuration of nats-server.
fn nats_text(role: Role, user: &str, permissions: &NatsPermissions) -> String {
    let NatsPermissions { publish, subscribe } = permissions;
    let mut text = String::new();
    if publish.iter().any(|subject| subject == UNKNOWN) {
        let _ = writeln!(
            text,
            "# stream.subjects is not set: put the events' subjects in the place of {UNKNOWN}\n"
        );
    }

    let _ = writeln!(
        text,
        "# {}: in nats-server.conf, among the users\n\
         {{ user: {user}, password: \"<bcrypt>\", permissions: {{\n  \
         publish: [{}]\n  subscribe: [{}]\n}} }}",
        role.name(),
        list(publish),
        list(subscribe)
    );
    text
}

/// What every other user must not be permitted.
fn others_text(OthersPermissions { publish, subscribe, .. }: &OthersPermissions) -> String {
    format!(
        "# every other user of the account: in nats-server.conf, in its permissions.\n\
         # They read events through JetStream consumers. None of them gets allow_responses\n\
         # together with a subscription to these subjects: a user who may answer a publish can\n\
         # forge its ack.\n\
         permissions: {{\n  \
         publish: {{ deny: [{}] }}\n  subscribe: {{ deny: [{}] }}\n}}\n",
        list(&publish.deny),
        list(&subscribe.deny)
    )
}

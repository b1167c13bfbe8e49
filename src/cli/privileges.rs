//! `outboxd privileges`: the least roles for MongoDB and permissions for NATS, ready to paste.

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::config::warn;
use super::output::{Output, show};
use crate::config::{Config, Sources, UNKNOWN_DATABASE};
use crate::error::Result;
use crate::privileges::{
    MongodbRole, NatsPermissions, OthersPermissions, Privilege, Role, UNKNOWN,
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
    let config = Config::load_unconnected(sources)?;
    warn(&config);
    let roles = Role::ALL.into_iter().filter(|role| args.role.is_none_or(|wanted| wanted == *role));
    let all: Vec<_> = roles
        .map(|role| Privileges {
            role,
            mongodb: role.mongodb(&config),
            nats: role.nats(&config),
            nats_others: role.nats_others(&config),
        })
        .collect();
    show(args.output, &all, || all.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn text(Privileges { role, mongodb, nats, nats_others }: &Privileges) -> String {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let list =
        |texts: &[String]| texts.iter().map(|text| json(text)).collect::<Vec<_>>().join(", ");
    let MongodbRole { database, role: name, privileges, scheduling } = mongodb;
    let (what, database, name) = (role.name(), json(database), json(name));
    let mut text = format!(
        "// {what}: in mongosh, as an administrator\n\
         db.getSiblingDB({database}).createRole({{ role: {name}, roles: [], privileges: [\n"
    );

    if let Some(scheduling) = scheduling {
        let _ = writeln!(text, "  // {scheduling}");
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

    let _ = writeln!(
        text,
        "] }})\ndb.getSiblingDB({database}).createUser({{ user: {name}, pwd: passwordPrompt(), roles: [{name}] }})"
    );
    if let Some(NatsPermissions { publish, subscribe }) = nats {
        if publish.iter().any(|subject| subject == UNKNOWN) {
            let _ = writeln!(
                text,
                "\n# stream.subjects is not set: put the events' subjects in the place of {UNKNOWN}"
            );
        }
        let _ = writeln!(
            text,
            "\n# {what}: in nats-server.conf, among the users\n\
             {{ user: {name}, password: \"<bcrypt>\", permissions: {{\n  \
             publish: [{}]\n  subscribe: [{}]\n}} }}",
            list(publish),
            list(subscribe)
        );
    }
    if let Some(OthersPermissions { publish, subscribe, .. }) = nats_others {
        let _ = writeln!(
            text,
            "\n# every other user of the account: in nats-server.conf, in its permissions.\n\
             # They read events through JetStream consumers. None of them gets allow_responses\n\
             # together with a subscription to these subjects: a user who may answer a publish can\n\
             # forge its ack.\n\
             permissions: {{\n  \
             publish: {{ deny: [{}] }}\n  subscribe: {{ deny: [{}] }}\n}}",
            list(&publish.deny),
            list(&subscribe.deny)
        );
    }

    text
}

//! What each role may do on both sides: all it needs, and no more. The one list that `outboxd
//! privileges` prints, that `outboxd check` compares with, and that the tests run under.

use serde::Serialize;

use crate::config::Config;
use crate::mongodb::collections::{AUDIT, LEASE, MIGRATIONS};

/// Who the privileges are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// `outboxd run` and `outboxd check`; never inserts an event
    Relay,
    /// The verbs that show, retry and discard events; MongoDB alone
    Operator,
    /// `outboxd migrate`
    Migrate,
}

/// A role of MongoDB, in the outbox's own database.
#[derive(Debug, Serialize)]
pub(crate) struct MongodbRole {
    pub(crate) database: String,
    pub(crate) role: String,
    pub(crate) privileges: Vec<Privilege>,
}

/// Actions on one collection.
#[derive(Debug, Serialize)]
pub(crate) struct Privilege {
    pub(crate) resource: Resource,
    pub(crate) actions: Vec<&'static str>,
}

/// A collection; an empty name stands for the database.
#[derive(Debug, Serialize)]
pub(crate) struct Resource {
    pub(crate) db: String,
    pub(crate) collection: String,
}

/// What a NATS user may publish and subscribe to.
#[derive(Debug, Serialize)]
pub(crate) struct NatsPermissions {
    pub(crate) publish: Vec<String>,
    pub(crate) subscribe: Vec<String>,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 3] = [Self::Relay, Self::Operator, Self::Migrate];

    /// Its name in the commands and in MongoDB.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Operator => "operator",
            Self::Migrate => "migrate",
        }
    }

    /// Actions by collection, of an outbox of this name.
    pub(crate) fn actions(self, outbox: &str) -> Vec<(&str, &'static [&'static str])> {
        match self {
            Self::Relay => vec![
                (outbox, &["find", "changeStream", "update", "remove"]),
                (LEASE, &["find", "insert", "update"]),
                (MIGRATIONS, &["find"]),
            ],
            // Without a relay that leads, `discard` removes events itself, under the lease.
            Self::Operator => vec![
                (outbox, &["find", "update", "remove"]),
                (LEASE, &["find", "insert", "update"]),
                (AUDIT, &["find", "insert"]),
            ],
            Self::Migrate => vec![
                (outbox, &["createCollection", "collMod", "createIndex"]),
                (LEASE, &["createCollection", "collMod"]),
                (AUDIT, &["createCollection", "collMod"]),
                (MIGRATIONS, &["find", "insert"]),
            ],
        }
    }

    /// The role for MongoDB.
    pub(crate) fn mongodb(self, config: &Config) -> MongodbRole {
        let (database, outbox) = (&config.mongodb.database, &config.mongodb.collection);
        let on = |collection: &str, actions: &[&'static str]| Privilege {
            resource: Resource { db: database.clone(), collection: collection.to_owned() },
            actions: actions.to_vec(),
        };
        let mut privileges: Vec<_> = self
            .actions(outbox)
            .into_iter()
            .map(|(collection, actions)| on(collection, actions))
            .collect();
        if self == Self::Relay {
            // `outboxd check` looks at the index and the validator.
            privileges[0].actions.push("listIndexes");
            privileges.push(on("", &["listCollections"]));
        }
        MongodbRole {
            database: database.clone(),
            role: format!("{outbox}-{}", self.name()),
            privileges,
        }
    }

    /// The permissions for NATS; `None` for those who don't go there.
    pub(crate) fn nats(self, config: &Config) -> Option<NatsPermissions> {
        let stream = &config.stream.name;
        let info = format!("$JS.API.STREAM.INFO.{stream}");
        let publish = match self {
            Self::Relay => config.stream.subjects.get().iter().cloned().chain([info]).collect(),
            Self::Operator => return None,
            Self::Migrate => vec![info, format!("$JS.API.STREAM.CREATE.{stream}")],
        };
        Some(NatsPermissions {
            publish,
            subscribe: vec![format!("{}.>", config.nats.inbox_prefix)],
        })
    }
}

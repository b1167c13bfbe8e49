//! The privileges of each role in MongoDB and NATS: all that it needs, and no more.
//!
//! `outboxd privileges` prints this list, `outboxd check` compares the relay's user with it, and
//! the tests run with it.

use outboxd_client::scheduled_collection;
use serde::Serialize;

use crate::config::{Api, Config};
use crate::jetstream::stored;
use crate::mongodb::collections::{AUDIT, LEASE, MIGRATIONS, published};

/// In the place of subjects that the settings don't name.
pub(crate) const UNKNOWN: &str = "<stream.subjects>";

/// The user of the privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// `outboxd run` and `outboxd check`; inserts an event only to move a scheduled one
    Relay,
    /// The verbs that show, retry and discard events; needs MongoDB only
    Operator,
    /// `outboxd migrate`
    Migrate,
    /// A service that writes events, beside what it needs for its own records; needs MongoDB only
    Writer,
}

/// A role in MongoDB, defined in the outbox's database.
#[derive(Debug, Serialize)]
pub(crate) struct MongodbRole {
    pub(crate) database: String,
    pub(crate) role: String,
    pub(crate) privileges: Vec<Privilege>,
    /// What of it only scheduled events need, in a sentence; the setting that does without it is in
    /// there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduling: Option<String>,
    /// What a shared change stream needs of it, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) watching: Option<String>,
}

/// The role that lets the outboxes of a daemon share one change stream of the cluster. A role of another
/// database than `admin` can't have it.
pub(crate) fn watch() -> MongodbRole {
    let all = Resource { db: String::new(), collection: String::new() };
    MongodbRole {
        database: "admin".to_owned(),
        role: "outboxd-watch".to_owned(),
        privileges: vec![Privilege { resource: all, actions: vec!["find", "changeStream"] }],
        scheduling: None,
        watching: Some(
            "for one change stream of all outboxes: MongoDB gives that only to a user who may read \
             every collection; with a database's name for `db`, one stream for that database; \
             not needed with mongodb.follow = \"own\""
                .to_owned(),
        ),
    }
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

/// The subjects that a NATS user may publish and subscribe to.
#[derive(Debug, Default, Serialize)]
pub(crate) struct NatsPermissions {
    pub(crate) publish: Vec<String>,
    pub(crate) subscribe: Vec<String>,
}

/// What no other user of the NATS account may do: see or answer the relay's publishes.
#[derive(Debug, Serialize)]
pub(crate) struct OthersPermissions {
    pub(crate) publish: Denied,
    pub(crate) subscribe: Denied,
    /// Whether they may answer messages that they receive by subject.
    pub(crate) allow_responses: bool,
}

/// Subjects that are denied.
#[derive(Debug, Serialize)]
pub(crate) struct Denied {
    pub(crate) deny: Vec<String>,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Relay, Self::Operator, Self::Migrate, Self::Writer];

    /// The name in commands, and the end of the role's name in MongoDB.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Operator => "operator",
            Self::Migrate => "migrate",
            Self::Writer => "writer",
        }
    }

    /// Actions by collection.
    pub(crate) fn actions(self, config: &Config) -> Vec<(String, Vec<&'static str>)> {
        let outbox = config.mongodb.collection.as_str();
        let (scheduled, published) = (scheduled_collection(outbox), published(outbox));
        let (scheduled, published) = (scheduled.as_str(), published.as_str());
        let (moves, keeps) = (config.scheduled.enabled, config.keep.is_on());

        let own: &[(&str, &[&'static str])] = match self {
            Self::Relay => &[
                (outbox, &["find", "changeStream", "update", "remove"]),
                (LEASE, &["find", "insert", "update"]),
                (MIGRATIONS, &["find"]),
            ],
            // While no relay leads, `discard` removes events itself, under the lease.
            Self::Operator => &[
                (outbox, &["find", "update", "remove"]),
                (LEASE, &["find", "insert", "update"]),
                (AUDIT, &["find", "insert"]),
            ],
            Self::Migrate => &[
                (outbox, &["createCollection", "collMod", "createIndex"]),
                (scheduled, &["createCollection", "collMod", "createIndex"]),
                (published, &["createCollection", "createIndex"]),
                (LEASE, &["createCollection", "collMod"]),
                (AUDIT, &["createCollection", "collMod"]),
                (MIGRATIONS, &["find", "insert"]),
            ],
            // No right to read events, to change them or to pass by the validator.
            Self::Writer => &[(outbox, &["insert"])],
        };

        let of_scheduled: &[(&str, &[&'static str])] = match self {
            // It moves what is due; an event of its own it has no reason to make.
            Self::Relay if moves => {
                &[(outbox, &["insert"]), (scheduled, &["find", "changeStream", "update", "remove"])]
            }
            Self::Operator if moves => &[(scheduled, &["find", "update", "remove"])],
            // It cancels and reschedules what it has scheduled.
            Self::Writer if moves => &[(scheduled, &["find", "insert", "update", "remove"])],
            _ => &[],
        };

        let of_kept: &[(&str, &[&'static str])] = match self {
            // It adds repairs to the audit.
            Self::Relay if keeps => {
                &[(published, &["find", "insert", "update", "remove"]), (AUDIT, &["insert"])]
            }
            Self::Operator if keeps => &[(published, &["find"])],
            _ => &[],
        };

        let mut all: Vec<(String, Vec<&'static str>)> = Vec::new();
        for (collection, actions) in own.iter().chain(of_scheduled).chain(of_kept) {
            match all.iter_mut().find(|(known, _)| known == collection) {
                Some((_, known)) => known.extend(*actions),
                None => all.push(((*collection).to_owned(), actions.to_vec())),
            }
        }
        all
    }

    pub(crate) fn mongodb(self, config: &Config) -> MongodbRole {
        let (database, outbox) = (&config.mongodb.database, &config.mongodb.collection);
        let on = |collection: String, actions: Vec<&'static str>| Privilege {
            resource: Resource { db: database.clone(), collection },
            actions,
        };

        let mut privileges: Vec<_> = self
            .actions(config)
            .into_iter()
            .map(|(collection, actions)| on(collection, actions))
            .collect();

        if matches!(self, Self::Relay | Self::Migrate) {
            // What lies under the outbox: its options, validator and indexes.
            let (scheduled, published) = (scheduled_collection(outbox), published(outbox));
            let read = [outbox.as_str(), &scheduled, &published, LEASE, AUDIT, MIGRATIONS];
            for privilege in &mut privileges {
                if read.contains(&privilege.resource.collection.as_str()) {
                    privilege.actions.push("listIndexes");
                }
            }
            privileges.push(on(String::new(), vec!["listCollections"]));
        }

        MongodbRole {
            database: database.clone(),
            role: format!("{outbox}-{}", self.name()),
            privileges,
            scheduling: config.scheduled.enabled.then(|| self.scheduling(outbox)).flatten(),
            watching: None,
        }
    }

    /// What the role has for scheduled events alone.
    fn scheduling(self, outbox: &str) -> Option<String> {
        let scheduled = scheduled_collection(outbox);
        let without = "if no service schedules events, set scheduled.enabled = false";
        match self {
            Self::Relay => Some(format!(
                "insert into {outbox}, and all rights on {scheduled}, are for scheduled events: \
                 the relay moves them into the outbox when they are due; {without}"
            )),
            Self::Operator => {
                Some(format!("the rights on {scheduled} are for scheduled events; {without}"))
            }
            Self::Writer => Some(format!(
                "the rights on {scheduled} are for a service that schedules and cancels events; \
                 {without}"
            )),
            Self::Migrate => None,
        }
    }

    /// The permissions for NATS; `None` for a role that doesn't use it.
    pub(crate) fn nats(self, config: &Config) -> Option<NatsPermissions> {
        let stream = &config.stream.name;
        let api = config.nats.api_prefix();
        let info = format!("{api}.STREAM.INFO.{stream}");
        let publish = match self {
            Self::Relay => {
                let read = format!("{api}.{}", stored::request(stream));
                let alerts = config.alerts.subject.clone();
                subjects(config).into_iter().chain([info, read]).chain(alerts).collect()
            }
            Self::Operator | Self::Writer => return None,
            Self::Migrate => {
                // What the account permits, and who else has the subjects.
                let mut publish = vec![
                    info,
                    format!("{api}.STREAM.CREATE.{stream}"),
                    format!("{api}.STREAM.NAMES"),
                    format!("{api}.INFO"),
                    "$SYS.REQ.USER.INFO".to_owned(),
                ];
                if config.nats.api == Api::Near {
                    // Whether another domain has the stream already.
                    publish.push("$SYS.REQ.ACCOUNT.PING.CONNZ".to_owned());
                    publish.push(format!("$JS.*.API.STREAM.INFO.{stream}"));
                }
                publish
            }
        };

        Some(NatsPermissions {
            publish,
            subscribe: vec![format!("{}.>", config.nats.inbox_prefix)],
        })
    }

    /// What every other user of the account must not be permitted, for the relay's acks to be the
    /// stream's; `None` for a role that publishes no events.
    pub(crate) fn nats_others(self, config: &Config) -> Option<OthersPermissions> {
        if self != Self::Relay {
            return None;
        }

        let inbox = format!("{}.>", config.nats.inbox_prefix);
        let mut unseen = subjects(config);
        // Replies, and the requests by which acks are verified.
        unseen.extend([inbox.clone(), format!("{}.>", config.nats.api_prefix())]);
        Some(OthersPermissions {
            publish: Denied { deny: vec![inbox] },
            subscribe: Denied { deny: unseen },
            allow_responses: false,
        })
    }
}

/// The events' subjects, or the name of the setting that lacks them.
fn subjects(config: &Config) -> Vec<String> {
    match config.stream.subjects.is_empty() {
        true => vec![UNKNOWN.to_owned()],
        false => config.stream.subjects.clone(),
    }
}

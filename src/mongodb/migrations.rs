//! Applies the numbered files of `migrations/` and records them.
//!
//! A migration is a list of MongoDB commands, each of which may run twice without harm: `create` on
//! a collection that is there becomes `collMod` with the same validator, `createIndexes` with the
//! same definition does nothing. So two `outboxd migrate` at once, or one that was killed half-way,
//! need no lock. The record of an applied migration carries the checksum of its text: a file edited
//! after it was applied is refused.
//!
//! The records are in `outboxd_migrations` of the outbox's database, with `_id` =
//! `<collection>/<name>`.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use mongodb::Database;
use mongodb::error::{ErrorKind as MongodbErrorKind, WriteFailure};
use outboxd_client::field;
use sha2::{Digest, Sha256};

use super::collation::{simple, simple_document};
use super::foundation::Foundation;
use super::{code, collections};
use crate::document::layout::Layout;
use crate::error::{Error, ErrorKind, MongodbContext, Result};

/// Stands for the outbox's collection in the files.
const OUTBOX: &str = "${outbox}";
/// Stands for the collection of the events that are scheduled for later.
const SCHEDULED: &str = "${outbox}_scheduled";
/// What only scheduled events need.
const FOR_SCHEDULED: &[&str] = &["0009_scheduled_collection"];

/// A numbered file of `migrations/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// File name without `.json`, such as `0001_outbox_collection`.
    pub name: &'static str,
    /// The file's text: a JSON array of MongoDB commands.
    pub text: &'static str,
}

/// Every migration, in order. Append only.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "0001_outbox_collection",
        text: include_str!("../../migrations/0001_outbox_collection.json"),
    },
    Migration {
        name: "0002_outbox_unlocked_index",
        text: include_str!("../../migrations/0002_outbox_unlocked_index.json"),
    },
    Migration {
        name: "0003_lease_collection",
        text: include_str!("../../migrations/0003_lease_collection.json"),
    },
    Migration {
        name: "0004_outbox_bookkeeping_types",
        text: include_str!("../../migrations/0004_outbox_bookkeeping_types.json"),
    },
    Migration {
        name: "0005_audit_collection",
        text: include_str!("../../migrations/0005_audit_collection.json"),
    },
    Migration {
        name: "0006_outbox_strict_validator",
        text: include_str!("../../migrations/0006_outbox_strict_validator.json"),
    },
    Migration {
        name: "0007_outbox_sweep_indexes",
        text: include_str!("../../migrations/0007_outbox_sweep_indexes.json"),
    },
    Migration {
        name: "0008_outbox_fast_validator",
        text: include_str!("../../migrations/0008_outbox_fast_validator.json"),
    },
    Migration {
        name: "0009_scheduled_collection",
        text: include_str!("../../migrations/0009_scheduled_collection.json"),
    },
    Migration {
        name: "0010_published_index",
        text: include_str!("../../migrations/0010_published_index.json"),
    },
];

/// Where a migration stands in one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not applied yet.
    Pending,
    /// Applied at this time.
    Applied(DateTime),
}

impl Migration {
    /// SHA-256 of the text, in hex.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The commands as they run for the outbox in `collection`. One with a layout of its own keeps
    /// its validator, and its index is on the field that holds the key.
    pub fn commands(&self, collection: &str, layout: &Layout) -> Result<Vec<Document>> {
        let mut commands: Vec<Document> = serde_json::from_str(self.text).map_err(|error| {
            Error::with_source(
                ErrorKind::Migration,
                format!("{}.json is not a list of commands", self.name),
                error,
            )
        })?;

        for command in &mut commands {
            let Some((_, name)) = command.iter_mut().next() else { continue };
            let Some(suffix) = name.as_str().and_then(|name| name.strip_prefix(OUTBOX)) else {
                continue;
            };
            let is_scheduled = name.as_str() == Some(SCHEDULED);
            *name = format!("{collection}{suffix}").into();

            compare_bytes(command);

            match (layout.is_own(), is_scheduled) {
                (true, _) => {}
                (false, false) => adapt(command, layout),
                (false, true) => require_due_time(command),
            }
        }

        // A `collMod` without an option changes nothing.
        commands.retain(|command| command.len() > 1 || command.contains_key("create"));
        Ok(commands)
    }

    async fn apply(&self, database: &Database, collection: &str, layout: &Layout) -> Result<()> {
        for mut command in self.commands(collection, layout)? {
            command.insert("writeConcern", doc! { "w": "majority" });
            match database.run_command(command.clone()).await {
                Ok(_) => {}
                Err(error) if code_of(&error) == Some(code::NAMESPACE_EXISTS) => {
                    let coll_mod = command.into_iter().map(|(name, value)| match name.as_str() {
                        "create" => ("collMod".to_owned(), value),
                        _ => (name, value),
                    });
                    database.run_command(coll_mod.collect()).await.during(self.name)?;
                }
                Err(error) => return Err(error).during(self.name),
            }
        }

        Ok(())
    }
}

/// Has new indexes compare texts as the relay's queries do, whatever the collection's collation is.
fn compare_bytes(command: &mut Document) {
    let indexes = command.get_array_mut("indexes").ok().into_iter().flatten();
    for index in indexes.filter_map(|index| index.as_document_mut()) {
        index.insert("collation", simple_document());
    }
}

/// Fits a command to an outbox with a layout of its own: its validator stays as it is, and the
/// index is on its own key field.
fn adapt(command: &mut Document, layout: &Layout) {
    for option in ["validator", "validationLevel", "validationAction"] {
        command.remove(option);
    }

    let indexes = command.get_array_mut("indexes").ok().into_iter().flatten();
    for key in indexes.filter_map(|index| index.as_document_mut()?.get_document_mut("key").ok()) {
        let renamed =
            |name: String| if name == field::KEY { layout.key().to_owned() } else { name };
        *key =
            std::mem::take(key).into_iter().map(|(name, order)| (renamed(name), order)).collect();
    }
}

/// Fits a command to the scheduled events of an outbox with a layout of its own: of the contract,
/// the time at which an event is due is all that its documents share.
fn require_due_time(command: &mut Document) {
    if command.contains_key("validator") {
        let is_date = doc! {
            "bsonType": "date",
            "description": "a date: when the event is due, by the server's clock",
        };
        let validator = doc! { "$jsonSchema": {
            "title": "outboxd scheduled event in a layout of its own",
            "bsonType": "object",
            "required": [field::DELIVER_AT],
            "properties": { field::DELIVER_AT: is_date },
        } };
        command.insert("validator", validator);
    }
}

/// The migrations applied to one outbox.
#[derive(Debug, Clone)]
pub struct Migrations {
    database: Database,
    collection: String,
    layout: Arc<Layout>,
}

impl Migrations {
    /// Of the outbox in `collection` of `database`.
    pub fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self { database, collection: collection.to_owned(), layout }
    }

    /// What lies under the outbox.
    pub(crate) fn foundation(&self) -> Foundation {
        Foundation::new(self.database.clone(), &self.collection, self.layout.clone())
    }

    /// Applies what is pending; returns each migration with whether it was pending.
    ///
    /// # Errors
    /// [`ErrorKind::Migration`] for an edited file, [`ErrorKind::Mongodb`] when a command is
    /// refused. Safe to repeat.
    pub async fn apply(&self) -> Result<Vec<(Migration, Status)>> {
        self.require_replica_set().await?;

        let before = self.status().await?;
        for (migration, status) in &before {
            if *status == Status::Pending {
                migration.apply(&self.database, &self.collection, &self.layout).await?;
                self.record(migration).await?;
            }
        }

        Ok(before)
    }

    /// Where each migration stands.
    ///
    /// # Errors
    /// As [`Migrations::apply`].
    pub async fn status(&self) -> Result<Vec<(Migration, Status)>> {
        let mut statuses = Vec::new();
        for migration in MIGRATIONS {
            let id = self.record_id(migration);
            let record = self
                .records()
                .find_one(doc! { "_id": id })
                .collation(simple())
                .await
                .during("reading outboxd_migrations")?;

            let status = match record {
                Some(record) => Status::Applied(check(migration, &record)?),
                None => Status::Pending,
            };
            statuses.push((*migration, status));
        }

        Ok(statuses)
    }

    /// A standalone accepts every migration, but no relay could follow its outbox.
    async fn require_replica_set(&self) -> Result<()> {
        let hello =
            self.database.run_command(doc! { "hello": 1 }).await.during("asking what it is")?;
        if hello.contains_key("setName")
            || hello.get_str("msg").is_ok_and(|text| text == "isdbgrid")
        {
            return Ok(());
        }

        if hello.get_bool("isreplicaset").unwrap_or(false) {
            let message =
                "MongoDB: the replica set was never initiated; run rs.initiate() in mongosh";
            return Err(Error::new(ErrorKind::Mongodb, message));
        }

        let message = "MongoDB is a standalone, which has no transactions and no change streams; \
                       make it a replica set of one member: `outboxd check` prints the lines";
        Err(Error::new(ErrorKind::Migration, message))
    }

    /// Fails unless every migration is applied that a relay can't work without. Returns what else
    /// is missing, with the line to run.
    ///
    /// # Errors
    /// [`ErrorKind::Migration`] that names what is missing.
    pub async fn require_applied(&self) -> Result<Option<String>> {
        self.require_replica_set().await?;

        let statuses = self.status().await?;
        let (mut scheduled, mut pending) = (Vec::new(), Vec::new());
        for (Migration { name, .. }, status) in &statuses {
            match status {
                Status::Applied(_) => {}
                Status::Pending if FOR_SCHEDULED.contains(name) => scheduled.push(*name),
                Status::Pending => pending.push(*name),
            }
        }

        let outbox = format!("{}.{}", self.database.name(), self.collection);
        if pending.is_empty() {
            return Ok((!scheduled.is_empty()).then(|| {
                format!(
                    "the outbox {outbox} has no collection for scheduled events; {} creates it: $ \
                     outboxd migrate",
                    scheduled.join(", ")
                )
            }));
        }

        pending.extend(scheduled);
        let message = format!(
            "the outbox {outbox} lacks {}; run `outboxd migrate` with this configuration",
            pending.join(", ")
        );

        Err(Error::new(ErrorKind::Migration, message))
    }

    async fn record(&self, migration: &Migration) -> Result<()> {
        let record = doc! {
            "_id": self.record_id(migration),
            "checksum": migration.checksum(),
            "appliedAt": DateTime::now(),
            "version": env!("CARGO_PKG_VERSION"),
        };

        match self.records().insert_one(record).await {
            // Another `outboxd migrate` ran at the same time and has recorded the same.
            Err(error) if code_of(&error) == Some(code::DUPLICATE_KEY) => {
                let records = self.records();
                let theirs = records.find_one(doc! { "_id": self.record_id(migration) });
                let theirs = theirs.collation(simple()).await;
                let theirs = theirs.during("reading outboxd_migrations")?;
                theirs.map_or(Ok(()), |record| check(migration, &record).map(drop))
            }
            other => other.during("writing outboxd_migrations").map(drop),
        }
    }

    fn record_id(&self, migration: &Migration) -> Bson {
        format!("{}/{}", self.collection, migration.name).into()
    }

    fn records(&self) -> mongodb::Collection<Document> {
        self.database.collection(collections::MIGRATIONS)
    }
}

fn check(migration: &Migration, record: &Document) -> Result<DateTime> {
    let applied = record.get_str("checksum").unwrap_or("(none)");
    if applied != migration.checksum() {
        let message = format!(
            "{} was applied with checksum {applied}, but this outboxd has {}; migrations are never edited: use the outboxd \
             that applied it or a newer one",
            migration.name,
            migration.checksum()
        );
        return Err(Error::new(ErrorKind::Migration, message));
    }

    record.get_datetime("appliedAt").copied().map_err(|error| {
        Error::with_source(
            ErrorKind::Migration,
            format!("the record of {} is damaged", migration.name),
            error,
        )
    })
}

fn code_of(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        MongodbErrorKind::Command(error) => Some(error.code),
        MongodbErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_list_of_commands_in_numbered_order() {
        assert!(MIGRATIONS.is_sorted_by(|one, next| one.name[..5] < next.name[..5]));
        for migration in MIGRATIONS {
            assert!(
                !migration
                    .commands("outbox", &Layout::default())
                    .expect("the migration is read")
                    .is_empty(),
                "{}",
                migration.name
            );
        }
    }

    #[test]
    fn another_layout_shares_the_due_time_with_the_contract() {
        let layout = Layout::of_fields("id", "body", "head").expect("a layout");
        let migration = MIGRATIONS.iter().find(|migration| FOR_SCHEDULED.contains(&migration.name));
        let migration = migration.expect("a migration");

        let of = |layout| migration.commands("events", layout).expect("the migration is read");
        for (own, commands) in [(true, of(&Layout::default())), (false, of(&layout))] {
            assert_eq!(commands[0].get_str("create").ok(), Some("events_scheduled"), "{own}");
            assert_eq!(
                commands[1].get_str("createIndexes").ok(),
                Some("events_scheduled"),
                "{own}"
            );

            let validator = commands[0].get_document("validator").expect("a validator");
            assert_eq!(validator.contains_key("$and"), own);
            assert!(validator.to_string().contains("deliverAt"), "{validator}");
        }
    }
}

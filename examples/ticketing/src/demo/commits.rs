//! When each change was committed, as the database itself wrote it down: the wall clock of the
//! transaction's entry in the oplog. Neither the service's answer nor its clock is involved. In
//! whole milliseconds, rounded down.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use serde::Deserialize;
use ticketing::failure::Failure;

use crate::cast::SERVICES;
use crate::stage::Servers;

/// What an event is about: a record in one version. No two records have the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Version {
    pub(crate) id: ObjectId,
    pub(crate) version: i64,
}

/// One change of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) version: Version,
    pub(crate) at: DateTime,
}

/// A transaction in the oplog.
#[derive(Debug, Deserialize)]
struct Entry {
    wall: DateTime,
    o: Transaction,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    #[serde(rename = "applyOps")]
    writes: Vec<Write>,
}

#[derive(Debug, Deserialize)]
struct Write {
    ns: String,
    o: Document,
}

/// Every commit since `since` that wrote an event to one of the outboxes.
pub(crate) async fn read(
    mongodb: &Client,
    servers: &Servers,
    since: DateTime,
) -> Result<Vec<Commit>, Failure> {
    let outboxes = SERVICES.map(|service| format!("{}.outbox", servers.database_name(service)));
    let oplog = mongodb.database("local").collection::<Entry>("oplog.rs");
    let filter = doc! { "wall": { "$gte": since }, "o.applyOps.ns": { "$in": &outboxes[..] } };
    let wanted = doc! { "wall": 1, "o.applyOps.ns": 1, "o.applyOps.o": 1 };
    let mut entries = oplog.find(filter).projection(wanted).await?;
    let mut commits = Vec::new();

    while let Some(Entry { wall, o: transaction }) = entries.try_next().await? {
        let events = transaction.writes.iter().filter(|write| outboxes.contains(&write.ns));
        commits.extend(
            events.filter_map(|event| Some(Commit { version: version(&event.o)?, at: wall })),
        );
    }

    Ok(commits)
}

/// What an event is about.
fn version(event: &Document) -> Option<Version> {
    let payload = event.get_document("payload").ok()?;
    let id = ObjectId::parse_str(payload.get_str("id").ok()?).ok()?;
    Some(Version { id, version: payload.get_i64("version").ok()? })
}

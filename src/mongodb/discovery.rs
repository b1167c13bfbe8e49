//! Finds the outboxes of a deployment: those that `outboxd migrate` made and whose collection is there.

use bson::{Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::{Client, Database};

use super::collation::simple;
use super::collections::MIGRATIONS;
use super::migrations::MIGRATIONS as ALL;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Database and collection of each outbox, sorted.
    pub(crate) outboxes: Vec<(String, String)>,
    /// Databases that could not be read.
    pub(crate) unread: Vec<String>,
}

/// Looks in every database on which the user has rights.
///
/// # Errors
/// When the databases can't be listed.
pub(crate) async fn look(client: &Client) -> mongodb::error::Result<Found> {
    let mut found = Found::default();
    let names = client.list_database_names().authorized_databases(true).await?;

    for name in names.into_iter().filter(|name| !["admin", "config", "local"].contains(&&**name)) {
        match outboxes(&client.database(&name)).await {
            Ok(outboxes) => {
                found.outboxes.extend(outboxes.into_iter().map(|outbox| (name.clone(), outbox)));
            }
            Err(_) => found.unread.push(name),
        }
    }

    found.outboxes.sort();
    Ok(found)
}

/// The collections of one database that are outboxes.
async fn outboxes(database: &Database) -> mongodb::error::Result<Vec<String>> {
    let Some(first) = ALL.first() else { return Ok(Vec::new()) };
    let end = format!("/{}", first.name);

    let records = database.collection::<Document>(MIGRATIONS);
    let found = records.find(doc! {}).projection(doc! { "_id": 1 }).collation(simple()).await?;
    let records: Vec<_> = found.try_collect().await?;
    let migrated: Vec<_> = records
        .iter()
        .filter_map(|record| record.get_str("_id").ok()?.strip_suffix(end.as_str()))
        .collect();
    if migrated.is_empty() {
        return Ok(Vec::new());
    }

    // The record outlives the collection.
    database.list_collection_names().filter(doc! { "name": { "$in": migrated } }).await
}

//! Reads the collection of an outbox as it is: its kind, its options and its indexes.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::error::{ErrorKind, Result};
use outboxd_client::scheduled_collection;

use crate::document::layout::Layout;
use crate::mongodb::code;
use crate::mongodb::collections::{AUDIT, LEASE, MIGRATIONS, published};

/// Databases of the server's own, which have no change streams.
const INTERNAL: [&str; 3] = ["admin", "config", "local"];
/// The collections beside an outbox.
const BESIDE: [&str; 3] = [LEASE, AUDIT, MIGRATIONS];

/// What is known of an outbox's collection, and of those beside it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(super) database: String,
    /// Name of the outbox's collection, whether it exists or not.
    pub(super) name: String,
    /// The outbox of which this is another collection, by its name, and what its events are there.
    pub(super) belongs_to: Option<(String, &'static str)>,
    pub(super) outbox: Option<Kept>,
    /// The relay's own collections, as far as they exist.
    pub(super) beside: Vec<Kept>,
    /// The collection of scheduled events, if it exists.
    pub(super) scheduled: Option<Kept>,
    pub(super) is_sharded: bool,
    pub(super) has_own_layout: bool,
}

/// A collection or a view that exists.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) name: String,
    /// `collection`, `view` or `timeseries`.
    pub(super) kind: String,
    pub(super) options: Document,
    /// Empty where the user may not ask for them.
    pub(super) indexes: Vec<Document>,
}

impl Found {
    /// Reads two to six documents of metadata.
    ///
    /// # Errors
    /// The driver's, and the server's refusal when the user may not list the collections.
    pub(crate) async fn read(database: &Database, name: &str, layout: &Layout) -> Result<Self> {
        let mut found = Self {
            database: database.name().to_owned(),
            name: name.to_owned(),
            belongs_to: belongs_to(name),
            outbox: None,
            beside: Vec::new(),
            scheduled: None,
            is_sharded: false,
            has_own_layout: layout.is_own(),
        };

        // Few users may look there, and nothing that they would find matters.
        if found.is_internal() || found.is_reserved() {
            return Ok(found);
        }

        let scheduled = scheduled_collection(name);
        let names: Vec<_> = BESIDE.iter().copied().chain([name, &scheduled]).collect();
        let list = doc! {
            "listCollections": 1, "filter": { "name": { "$in": names } }, "cursor": {},
        };
        let specs: Vec<Document> = database.run_cursor_command(list).await?.try_collect().await?;

        for spec in specs {
            let mut kept = Kept::read(&spec);
            if kept.kind == "collection" {
                kept.indexes = indexes(database, &kept.name).await?;
            }

            match &kept.name {
                of if of == name => found.outbox = Some(kept),
                of if *of == scheduled => found.scheduled = Some(kept),
                _ => found.beside.push(kept),
            }
        }

        if found.outbox.is_some() && is_mongos(database).await? {
            let explain = doc! { "explain": { "find": name }, "verbosity": "queryPlanner" };
            let plan = database.run_command(explain).await?;
            found.is_sharded = filters_shards(&plan.into());
        }

        Ok(found)
    }

    /// The collection of scheduled events in the outbox's place: what harms events harms them there.
    pub(super) fn of_scheduled(&self) -> Option<Self> {
        let scheduled = self.scheduled.clone()?;
        Some(Self {
            database: self.database.clone(),
            name: scheduled.name.clone(),
            belongs_to: None,
            outbox: Some(scheduled),
            beside: Vec::new(),
            scheduled: None,
            is_sharded: false,
            has_own_layout: self.has_own_layout,
        })
    }

    /// Whether the database is the server's own.
    pub(super) fn is_internal(&self) -> bool {
        INTERNAL.contains(&self.database.as_str())
    }

    /// Whether the collection is outboxd's own, beside an outbox.
    pub(super) fn is_beside(&self) -> bool {
        BESIDE.contains(&self.name.as_str())
    }

    /// Whether no collection of this name may be an outbox.
    pub(super) fn is_reserved(&self) -> bool {
        self.name.starts_with("system.") || self.is_beside() || self.belongs_to.is_some()
    }
}

/// The outbox whose scheduled or kept events a collection of this name holds, and which they are.
fn belongs_to(name: &str) -> Option<(String, &'static str)> {
    let ends = [(scheduled_collection(""), "scheduled"), (published(""), "kept")];
    ends.into_iter()
        .find_map(|(end, events)| name.strip_suffix(&end).map(|outbox| (outbox.to_owned(), events)))
}

impl Kept {
    fn read(spec: &Document) -> Self {
        let text = |name: &str| spec.get_str(name).unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            kind: text("type"),
            options: spec.get_document("options").cloned().unwrap_or_default(),
            indexes: Vec::new(),
        }
    }
}

/// The indexes of a collection. A user of an older role may ask for those of the outbox alone.
async fn indexes(database: &Database, name: &str) -> Result<Vec<Document>> {
    let list = doc! { "listIndexes": name, "cursor": {} };
    match database.run_cursor_command(list).await {
        Ok(cursor) => cursor.try_collect().await,
        Err(error) => match &*error.kind {
            // It was dropped a moment ago.
            ErrorKind::Command(refused)
                if refused.code == code::NAMESPACE_NOT_FOUND
                    || code::WITHHELD.contains(&refused.code) =>
            {
                Ok(Vec::new())
            }
            _ => Err(error),
        },
    }
}

async fn is_mongos(database: &Database) -> Result<bool> {
    let hello = database.run_command(doc! { "hello": 1 }).await?;
    Ok(hello.get_str("msg").is_ok_and(|text| text == "isdbgrid"))
}

/// Whether a plan has the stage that every shard of a sharded collection adds. Only a user with
/// rights on the cluster may ask for the shard key itself.
fn filters_shards(plan: &Bson) -> bool {
    match plan {
        Bson::String(stage) => stage == "SHARDING_FILTER",
        Bson::Document(document) => document.values().any(filters_shards),
        Bson::Array(array) => array.iter().any(filters_shards),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sharded_collection_is_known_by_its_plan() {
        let plan = |stage: &str| {
            let shard =
                doc! { "winningPlan": { "stage": stage, "inputStage": { "stage": "COLLSCAN" } } };
            let winning = doc! { "stage": "SINGLE_SHARD", "shards": [shard] };
            doc! { "queryPlanner": { "winningPlan": winning } }
        };
        assert!(filters_shards(&plan("SHARDING_FILTER").into()));
        assert!(!filters_shards(&plan("FETCH").into()));
    }
}

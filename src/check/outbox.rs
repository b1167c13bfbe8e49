//! The outbox in MongoDB: its migrations, its validators and indexes, and a sample of the events.

use std::collections::HashMap;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use outboxd_client::scheduled_collection;

use super::ask::{ask, unknown, within};
use super::{kept, scheduled};
use crate::config::Config;
use crate::document::layout::Layout;
use crate::document::record::{OutboxRecord, shown_id};
use crate::finding::Finding;
use crate::mongodb::collation::simple;
use crate::mongodb::collections;
use crate::mongodb::foundation::Foundation;
use crate::mongodb::migrations::{MIGRATIONS, Migrations, Status};
use crate::mongodb::subjects::Subjects;

/// Events in the sample: the first in the collection's own order, which are about the oldest. This
/// needs no scan and no sort.
const SAMPLE: i64 = 1000;
/// Longest time that the server looks at them.
const SAMPLE_TIME: Duration = Duration::from_secs(10);

/// The remedy for pending migrations.
const MIGRATE: &str = "$ outboxd migrate";

/// The first waiting events.
pub(super) struct Sample {
    pub(super) subjects: Subjects,
    /// The biggest event's id, and the bytes of its payload and headers as published.
    pub(super) biggest: Option<(String, usize)>,
}

/// A collection after all migrations.
#[derive(Default)]
struct Migrated {
    options: Document,
    indexes: Vec<Document>,
    /// The migrations that define it. When their records are removed, `outboxd migrate` repairs the
    /// collection.
    by: Vec<&'static str>,
}

pub(super) async fn look(
    config: &Config,
    database: &Database,
    timeout: Duration,
) -> (Vec<Finding>, Option<Sample>) {
    let (collection, layout) = (&config.mongodb.collection, &*config.event.layout);
    let at = format!("outbox {}.{collection}", database.name());
    let foundation = Foundation::new(database.clone(), collection, config.event.layout.clone());
    let (sound, applied, made, scheduled, kept, sample) = tokio::join!(
        ask(timeout, foundation.review()),
        applied(config, database, &at, timeout),
        as_migrated(config, database, &at, timeout),
        scheduled::look(config, database, &at, timeout),
        kept::look(config, database, &at, timeout),
        ask(timeout, sample(database, collection, layout))
    );

    // Before the migrations are applied, every finding would repeat their remedy.
    let pending = applied.remedy.as_deref() == Some(MIGRATE);
    let mut findings = vec![applied];
    findings
        .extend(sound.unwrap_or_else(|no_answer| vec![unknown("outbox.expiry", &at, &no_answer)]));

    if !pending {
        findings.extend(made);
        findings.extend(scheduled);
        findings.extend(kept);
    }

    match sample {
        Ok(sample) => (findings, Some(sample)),
        Err(no_answer) => {
            findings.push(unknown("outbox.sample", &at, &no_answer));
            (findings, None)
        }
    }
}

/// Whether the migrations are applied.
async fn applied(config: &Config, database: &Database, at: &str, timeout: Duration) -> Finding {
    const CHECK: &str = "outbox.migrations";
    let migrations =
        Migrations::new(database.clone(), &config.mongodb.collection, config.event.layout.clone());
    let statuses = match within(timeout, migrations.status()).await {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => {
            let found = error.report().to_string();
            return Finding::fail(CHECK, at, found, "$ outboxd migrate --status");
        }
        Err(reason) => return Finding::fail(CHECK, at, reason, "$ outboxd check --timeout 30s"),
    };

    let pending: Vec<_> = statuses
        .iter()
        .filter(|(_, status)| *status == Status::Pending)
        .map(|(migration, _)| migration.name)
        .collect();

    let is_elsewhere = match pending.len() == statuses.len() {
        true => "; this is no outbox yet, or the outbox is in another database or collection",
        false => "",
    };

    match pending.is_empty() {
        true => Finding::ok(CHECK, at, format!("all {} applied", statuses.len())),
        false => {
            let found = format!("not applied: {}{is_elsewhere}", pending.join(", "));
            Finding::fail(CHECK, at, found, MIGRATE)
        }
    }
}

/// Compares collections, validators and indexes with what the migrations make.
async fn as_migrated(
    config: &Config,
    database: &Database,
    at: &str,
    timeout: Duration,
) -> Vec<Finding> {
    const CHECK: &str = "outbox.validators";
    let outbox = &config.mongodb.collection;
    let is_read = |name: &str| config.keep.is_on() || name != collections::published(outbox);
    let expected = match migrated(outbox, &config.event.layout) {
        Ok(expected) => expected.into_iter().filter(|(name, _)| is_read(name)).collect::<Vec<_>>(),
        Err(error) => {
            let found = error.report().to_string();
            return vec![Finding::fail(CHECK, at, found, "install: outboxd again")];
        }
    };

    let names: Vec<_> = expected.iter().map(|(name, _)| name.clone()).collect();
    let read = async {
        let specs = database.run_cursor_command(
            doc! { "listCollections": 1, "filter": { "name": { "$in": names } }, "cursor": {} },
        );
        specs.await?.try_collect::<Vec<Document>>().await
    };

    let found = match ask(timeout, read).await {
        Ok(found) => found,
        Err(no_answer) => return vec![unknown(CHECK, at, &no_answer)],
    };

    let mut findings = Vec::new();
    let (mut wrong, mut by) = (Vec::new(), Vec::new());
    for (name, wanted) in &expected {
        let spec = found.iter().find(|spec| spec.get_str("name").is_ok_and(|text| text == name));
        let Some(spec) = spec else {
            wrong.push(format!("collection {name} is missing"));
            by.extend(wanted.by.iter().copied());
            continue;
        };

        let options = spec.get_document("options").cloned().unwrap_or_default();
        if !same(&wanted.options, &options) {
            wrong.push(format!(
                "the validator of {name} is not the one that `outboxd migrate` makes"
            ));
            by.extend(wanted.by.iter().copied());
        }

        if !wanted.indexes.is_empty() {
            let scanned = match name {
                name if *name == scheduled_collection(outbox) => {
                    ("the relay scans", "all scheduled events")
                }
                name if *name == collections::published(outbox) => {
                    ("the relay scans", "all kept events")
                }
                _ => ("retries scan", "the whole outbox"),
            };
            findings.push(indexes(database, (name, scanned), &wanted.indexes, at, timeout).await);
        }
    }

    let validators = match wrong.is_empty() {
        true => Finding::ok(CHECK, at, "collections and validators are as migrated"),
        false => Finding::fail(CHECK, at, wrong.join("; "), repeat(database, outbox, &by)),
    };
    findings.insert(0, validators);
    findings
}

/// The remedy that applies migrations again: without its record, a migration is pending.
fn repeat(database: &Database, outbox: &str, migrations: &[&str]) -> String {
    let records: Vec<_> = migrations.iter().map(|name| format!("\"{outbox}/{name}\"")).collect();

    format!(
        "mongosh> db.getSiblingDB({}).{}.deleteMany({{_id: {{$in: [{}]}}}})\n{MIGRATE}",
        json(database.name()),
        collections::MIGRATIONS,
        records.join(", ")
    )
}

async fn indexes(
    database: &Database,
    (name, (scan, whole)): (&str, (&str, &str)),
    wanted: &[Document],
    at: &str,
    timeout: Duration,
) -> Finding {
    const CHECK: &str = "outbox.index";
    let read = async {
        database
            .run_cursor_command(doc! { "listIndexes": name, "cursor": {} })
            .await?
            .try_collect::<Vec<_>>()
            .await
    };

    let found: Vec<Document> = match ask(timeout, read).await {
        Ok(found) => found,
        Err(no_answer) => return unknown(CHECK, at, &no_answer),
    };

    let is_there = |wanted: &Document| {
        let mut parts = wanted.clone();
        parts.remove("name");
        // The server lists an index that compares bytes without a collation. It neither uses a
        // hidden index nor, for our queries, one with another collation.
        parts.remove("collation");
        let serves = |found: &Document| {
            !found.contains_key("collation") && !found.get_bool("hidden").unwrap_or(false)
        };
        found.iter().any(|found| same(&parts, found) && serves(found))
    };

    let lacking: Vec<_> = wanted.iter().filter(|wanted| !is_there(wanted)).collect();
    let Some(first) = lacking.first() else {
        return Finding::ok(CHECK, at, "the indexes are as migrated");
    };

    let named = first.get_str("name").unwrap_or_default();
    let mongosh = |command: String| {
        format!("mongosh> db.getSiblingDB({}).runCommand({command})", json(database.name()))
    };
    // From BSON to text directly: a JSON value would not keep the order of an index's keys.
    let specs: Vec<_> =
        lacking.iter().filter_map(|index| serde_json::to_string(index).ok()).collect();
    let create =
        mongosh(format!("{{createIndexes: {}, indexes: [{}]}}", json(name), specs.join(", ")));

    match found.iter().any(|found| found.get_str("name").is_ok_and(|text| text == named)) {
        true => {
            let drop = mongosh(format!("{{dropIndexes: {}, index: {}}}", json(name), json(named)));
            let text = format!(
                "index {named} is not the one that `outboxd migrate` makes: {scan} {whole}"
            );
            Finding::fail(CHECK, at, text, format!("{drop}\n{create}"))
        }
        false => {
            let text = format!("{named} is missing: the relay reads {whole} instead");
            Finding::fail(CHECK, at, text, create)
        }
    }
}

/// The collections after all migrations, in the order in which they are first named.
fn migrated(outbox: &str, layout: &Layout) -> crate::error::Result<Vec<(String, Migrated)>> {
    let mut order = Vec::new();
    let mut all: HashMap<String, Migrated> = HashMap::new();
    for migration in MIGRATIONS {
        for command in migration.commands(outbox, layout)? {
            let Some((verb, Bson::String(name))) = command.iter().next() else { continue };
            if !order.contains(name) {
                order.push(name.clone());
            }

            let collection = all.entry(name.clone()).or_default();
            collection.by.push(migration.name);

            if verb == "createIndexes" {
                let indexes = command.get_array("indexes").map(Vec::as_slice).unwrap_or_default();
                collection.indexes.extend(indexes.iter().filter_map(Bson::as_document).cloned());
            } else {
                let options = command.iter().skip(1);
                collection.options =
                    options.map(|(name, value)| (name.clone(), value.clone())).collect();
            }
        }
    }

    let collections = order.into_iter().filter_map(|name| all.remove_entry(&name));
    Ok(collections.collect())
}

/// Whether `found` has every part of `wanted`. The types of numbers don't matter; the order of an
/// index's keys does.
fn same(wanted: &Document, found: &Document) -> bool {
    let order = |document: &Document| {
        document.get_document("key").ok().map(|key| key.keys().cloned().collect::<Vec<_>>())
    };
    order(wanted) == order(found)
        && wanted
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| plain(found) == plain(value)))
}

fn plain(value: &Bson) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

async fn sample(
    database: &Database,
    collection: &str,
    layout: &Layout,
) -> mongodb::error::Result<Sample> {
    let mut subjects = Subjects::look(database, collection, layout, SAMPLE).await?;
    // A subject that no stream covers is better found before the events are due. A user without the
    // right to look there has no finding of it.
    let scheduled = scheduled_collection(collection);
    if let Ok(later) = Subjects::look(database, &scheduled, layout, SAMPLE).await {
        subjects.add(later);
    }
    let biggest = biggest(database, collection, layout).await?;
    Ok(Sample { subjects, biggest })
}

/// The id of the sample's biggest event, and the bytes of its message.
async fn biggest(
    database: &Database,
    collection: &str,
    layout: &Layout,
) -> mongodb::error::Result<Option<(String, usize)>> {
    let events = database.collection::<Document>(collection);
    // By the sizes alone, as a sort of whole documents may hold gigabytes. The size of the failures
    // is not the event's.
    let size = doc! { "$subtract": [
        { "$bsonSize": "$$ROOT" },
        { "$bsonSize": { "failures": "$failures" } },
    ] };
    let biggest = [
        doc! { "$limit": SAMPLE },
        doc! { "$match": { "$expr": { "$lt": [{ "$bsonSize": { "id": "$_id" } }, 1024] } } },
        doc! { "$project": { "size": size } },
        doc! { "$sort": { "size": -1 } },
        doc! { "$limit": 1 },
    ];

    let biggest = events.aggregate(biggest).max_time(SAMPLE_TIME).collation(simple());
    let biggest: Option<Document> = biggest.await?.try_next().await?;
    let biggest = match biggest.as_ref().and_then(|biggest| biggest.get("_id")) {
        Some(id) => {
            let events = database.collection::<RawDocumentBuf>(collection);
            events.find_one(doc! { "_id": { "$eq": id } }).collation(simple()).await?
        }
        None => None,
    };
    let biggest = biggest.and_then(|biggest| OutboxRecord::parse(&biggest, layout).ok());

    Ok(biggest.map(|record| {
        (shown_id(&Bson::from(record.id)), record.payload.len() + record.headers.bytes())
    }))
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_migration_of_a_collection_counts() {
        let collections = migrated("events", &Layout::default()).expect("the migration is read");
        let (name, events) = &collections[0];
        assert_eq!(name, "events");
        assert!(events.options.to_string().contains("strLenBytes"), "{}", events.options);
        assert_eq!(events.indexes.len(), 3);
        assert_eq!(events.by.len(), 6);
        assert_eq!(collections[1].0, "outboxd_lease");
    }

    #[test]
    fn types_of_numbers_are_alike_and_orders_of_keys_are_not() {
        let wanted = doc! { "key": { "a": 1, "b": 1 } };
        assert!(same(&wanted, &doc! { "v": 2, "key": { "a": 1_i64, "b": 1 } }));
        assert!(!same(&wanted, &doc! { "key": { "b": 1, "a": 1 } }));
    }
}

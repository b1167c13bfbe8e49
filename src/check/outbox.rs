//! The outbox in MongoDB: migrated, as the migrations made it, and what waits in it.

use std::collections::HashMap;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Database;

use super::mongodb::{ask, unknown};
use crate::config::Config;
use crate::document::layout::Layout;
use crate::document::record::{OutboxRecord, shown_id};
use crate::finding::Finding;
use crate::mongodb::collections;
use crate::mongodb::migrations::{MIGRATIONS, Migrations, Status};
use outboxd_client::event::Subject;

/// Events looked at. The first in the collection's own order, which are about the oldest: no scan,
/// no sort.
const SAMPLE: i64 = 1000;

/// What waits in the outbox, of a bounded look.
pub(super) struct Sample {
    pub(super) events: usize,
    /// Each once; only those that can be published to.
    pub(super) subjects: Vec<String>,
    /// Its id, and the bytes of its payload and headers as published.
    pub(super) biggest: Option<(String, usize)>,
}

/// How the migrations leave a collection.
#[derive(Default)]
struct Made {
    options: Document,
    indexes: Vec<Document>,
    /// The migrations that make it so: repeated, they make it so again.
    by: Vec<&'static str>,
}

pub(super) async fn look(
    config: &Config,
    database: &Database,
    timeout: Duration,
) -> (Vec<Finding>, Option<Sample>) {
    let (collection, layout) = (&config.mongodb.collection, &*config.event.layout);
    let at = format!("outbox {}.{collection}", database.name());
    let (applied, made, sample) = tokio::join!(
        applied(config, database, &at, timeout),
        as_made(config, database, &at, timeout),
        ask(timeout, sample(database, collection, layout))
    );
    let (applied, missing) = applied;
    // What was never made needs no second remedy.
    let mut findings = vec![applied];
    if !missing {
        findings.extend(made);
    }
    match sample {
        Ok(sample) => (findings, Some(sample)),
        Err(trouble) => {
            findings.push(unknown("outbox.sample", &at, &trouble));
            (findings, None)
        }
    }
}

/// Whether the migrations are applied, and whether some are not.
async fn applied(
    config: &Config,
    database: &Database,
    at: &str,
    timeout: Duration,
) -> (Finding, bool) {
    const CHECK: &str = "outbox.migrations";
    const MIGRATE: &str = "$ outboxd migrate";
    let migrations =
        Migrations::new(database.clone(), &config.mongodb.collection, config.event.layout.clone());
    let statuses = match super::within(timeout, migrations.status()).await {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => {
            return (
                Finding::fail(CHECK, at, error.to_string(), "$ outboxd migrate --status"),
                false,
            );
        }
        Err(silent) => {
            return (Finding::fail(CHECK, at, silent, "$ outboxd check --timeout 30s"), false);
        }
    };
    let pending: Vec<_> = statuses
        .iter()
        .filter(|(_, status)| *status == Status::Pending)
        .map(|(migration, _)| migration.name)
        .collect();
    match pending.is_empty() {
        true => (Finding::ok(CHECK, at, format!("all {} applied", statuses.len())), false),
        false => (
            Finding::fail(CHECK, at, format!("not applied: {}", pending.join(", ")), MIGRATE),
            true,
        ),
    }
}

/// Collections, validators and indexes against what the migrations make.
async fn as_made(
    config: &Config,
    database: &Database,
    at: &str,
    timeout: Duration,
) -> Vec<Finding> {
    const CHECK: &str = "outbox.validators";
    let outbox = &config.mongodb.collection;
    let expected = match made(outbox, &config.event.layout) {
        Ok(expected) => expected,
        Err(error) => {
            return vec![Finding::fail(CHECK, at, error.to_string(), "install: outboxd again")];
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
        Err(trouble) => return vec![unknown(CHECK, at, &trouble)],
    };
    let mut findings = Vec::new();
    let (mut wrong, mut by) = (Vec::new(), Vec::new());
    for (name, made) in &expected {
        let spec = found.iter().find(|spec| spec.get_str("name").is_ok_and(|text| text == name));
        match spec.map(|spec| spec.get_document("options").cloned().unwrap_or_default()) {
            None => {
                wrong.push(format!("collection {name} is missing"));
                by.extend(made.by.iter().copied());
                continue;
            }
            Some(options) if !same(&made.options, &options) => {
                wrong.push(format!("the validator of {name} is not the migrations'"));
                by.extend(made.by.iter().copied());
            }
            Some(_) => {}
        }
        if !made.indexes.is_empty() {
            findings.push(indexes(database, name, &made.indexes, at, timeout).await);
        }
    }
    findings.insert(
        0,
        match wrong.is_empty() {
            true => Finding::ok(CHECK, at, "collections and validators are as migrated"),
            false => {
                let records: Vec<_> = by.iter().map(|name| format!("\"{outbox}/{name}\"")).collect();
                let remedy = format!(
                    "mongosh> db.getSiblingDB({}).{}.deleteMany({{_id: {{$in: [{}]}}}})\n$ outboxd migrate",
                    json(database.name()),
                    collections::MIGRATIONS,
                    records.join(", ")
                );
                Finding::fail(CHECK, at, wrong.join("; "), remedy)
            }
        },
    );
    findings
}

async fn indexes(
    database: &Database,
    name: &str,
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
        Err(trouble) => return unknown(CHECK, at, &trouble),
    };
    let lacking: Vec<_> = wanted
        .iter()
        .filter(|wanted| {
            let mut parts = (*wanted).clone();
            parts.remove("name");
            !found.iter().any(|found| same(&parts, found))
        })
        .collect();
    let Some(first) = lacking.first() else {
        return Finding::ok(CHECK, at, "the index of unlocked events is as migrated");
    };
    let named = first.get_str("name").unwrap_or_default();
    let shell = |command: String| {
        format!("mongosh> db.getSiblingDB({}).runCommand({command})", json(database.name()))
    };
    // As text at once: the order of an index's keys matters, and a JSON value doesn't keep it.
    let specs: Vec<_> =
        lacking.iter().filter_map(|index| serde_json::to_string(index).ok()).collect();
    let create =
        shell(format!("{{createIndexes: {}, indexes: [{}]}}", json(name), specs.join(", ")));
    match found.iter().any(|found| found.get_str("name").is_ok_and(|text| text == named)) {
        true => {
            let drop = shell(format!("{{dropIndexes: {}, index: {}}}", json(name), json(named)));
            Finding::fail(
                CHECK,
                at,
                format!("{named} is not the migrations'"),
                format!("{drop}\n{create}"),
            )
        }
        false => Finding::fail(
            CHECK,
            at,
            format!("{named} is missing: retries scan the whole outbox"),
            create,
        ),
    }
}

/// Follows the migrations' commands to their end.
fn made(outbox: &str, layout: &Layout) -> crate::error::Result<Vec<(String, Made)>> {
    let mut order = Vec::new();
    let mut all: HashMap<String, Made> = HashMap::new();
    for migration in MIGRATIONS {
        for command in migration.commands(outbox, layout)? {
            let Some((verb, Bson::String(name))) = command.iter().next() else { continue };
            if !order.contains(name) {
                order.push(name.clone());
            }
            let made = all.entry(name.clone()).or_default();
            made.by.push(migration.name);
            match verb.as_str() {
                "createIndexes" => {
                    let indexes =
                        command.get_array("indexes").map(Vec::as_slice).unwrap_or_default();
                    made.indexes.extend(indexes.iter().filter_map(Bson::as_document).cloned());
                }
                _ => {
                    made.options = command
                        .iter()
                        .skip(1)
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect()
                }
            }
        }
    }
    Ok(order.into_iter().filter_map(|name| all.remove(&name).map(|made| (name, made))).collect())
}

/// Whether every part of `wanted` is so in `found`. Kinds of numbers don't matter; the order of an
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
    let events = database.collection::<Document>(collection);
    // Anybody's text: only what can be a subject is taken, and no more of it.
    let subject = layout.subject_of_document();
    let subject =
        doc! { "$cond": [{ "$eq": [{ "$type": &subject }, "string"] }, subject, Bson::Null] };
    let each = [
        doc! { "$limit": SAMPLE },
        doc! { "$group": { "_id": subject, "events": { "$sum": 1 } } },
        doc! { "$match": { "$expr": { "$lt": [{ "$bsonSize": "$$ROOT" }, 1024] } } },
    ];
    let each: Vec<Document> = events.aggregate(each).await?.try_collect().await?;
    let count = |group: &Document| {
        group.get_i32("events").ok().and_then(|events| usize::try_from(events).ok())
    };
    let total = each.iter().filter_map(count).sum();
    let mut subjects: Vec<_> = each
        .iter()
        .filter_map(|group| group.get_str("_id").ok())
        .filter(|text| Subject::new(*text).is_ok())
        .collect();
    subjects.sort_unstable();
    let biggest = [
        doc! { "$limit": SAMPLE },
        doc! { "$project": { "failures": 0 } },
        doc! { "$set": { "outboxd_size": { "$bsonSize": "$$ROOT" } } },
        doc! { "$sort": { "outboxd_size": -1 } },
        doc! { "$limit": 1 },
    ];
    let mut biggest = events.aggregate(biggest).with_type::<RawDocumentBuf>().await?;
    let biggest = match biggest.advance().await? {
        true => OutboxRecord::parse(biggest.current(), layout).ok(),
        false => None,
    };
    let biggest = biggest.map(|record| {
        (shown_id(&Bson::from(record.id)), record.payload.len() + record.headers.bytes())
    });
    Ok(Sample {
        events: total,
        subjects: subjects.into_iter().map(str::to_owned).collect(),
        biggest,
    })
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_migrations_counts() {
        let made = made("events", &Layout::default()).unwrap();
        let (name, events) = &made[0];
        assert_eq!(name, "events");
        assert!(events.options.to_string().contains("deadAt"), "{}", events.options);
        assert_eq!(events.indexes.len(), 1);
        assert_eq!(events.by.len(), 3);
        assert_eq!(made[1].0, "outboxd_lease");
    }

    #[test]
    fn kinds_of_numbers_are_alike_and_orders_of_keys_are_not() {
        let wanted = doc! { "key": { "a": 1, "b": 1 } };
        assert!(same(&wanted, &doc! { "v": 2, "key": { "a": 1_i64, "b": 1 } }));
        assert!(!same(&wanted, &doc! { "key": { "b": 1, "a": 1 } }));
    }
}

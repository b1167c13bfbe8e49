//! The table by which the collection of an outbox is judged: each row is one way in which MongoDB
//! deletes, refuses or changes events by itself, with what it costs and the lines that fix it.
//!
//! Not in the table, because they do neither: indexes of others that are neither unique nor of a
//! special type, be they sparse, partial, hidden or wildcard indexes; `storageEngine`,
//! `indexOptionDefaults`, `recordIdsReplicated`.

use bson::{Bson, Document};
use outboxd_client::field;

use super::found::{Found, Kept};
use crate::mongodb::collections::{AUDIT, LEASE, MIGRATIONS};

pub(super) const EXPIRY: &str = "outbox.expiry";
pub(super) const COLLECTION: &str = "outbox.collection";
pub(super) const OTHER_INDEXES: &str = "outbox.other_indexes";

/// The fields that the relay writes when a publish fails.
const MARKED: [&str; 5] =
    [field::IS_LOCKED, field::FAILURES, field::ATTEMPTS, field::NEXT_ATTEMPT_AT, field::DEAD_AT];

/// What a row means for `run` and `migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They refuse: events would be lost, or none could be read.
    Refuse,
    /// They continue.
    Warn,
}

/// One fault, with the lines that fix it.
pub(super) struct Fault {
    pub(super) found: String,
    pub(super) remedy: String,
}

/// One way in which a collection harms events.
pub(super) struct Row {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) faults: fn(&Found) -> Vec<Fault>,
}

const fn refuse(check: &'static str, faults: fn(&Found) -> Vec<Fault>) -> Row {
    Row { check, verdict: Verdict::Refuse, faults }
}

const fn warn(check: &'static str, faults: fn(&Found) -> Vec<Fault>) -> Row {
    Row { check, verdict: Verdict::Warn, faults }
}

/// Every row. Of one check, the worst comes first.
pub(super) const ROWS: &[Row] = &[
    refuse(EXPIRY, ttl_indexes),
    refuse(EXPIRY, clustered_ttl),
    refuse(EXPIRY, capped),
    refuse(COLLECTION, internal_database),
    refuse(COLLECTION, reserved_name),
    refuse(COLLECTION, not_a_collection),
    warn(COLLECTION, collation),
    warn(COLLECTION, sharded),
    warn(COLLECTION, clustered),
    warn(COLLECTION, encrypted),
    warn(COLLECTION, pre_images),
    warn(COLLECTION, closed_validator),
    warn(COLLECTION, beside),
    warn(OTHER_INDEXES, unique_indexes),
    warn(OTHER_INDEXES, special_indexes),
];

fn ttl_indexes(found: &Found) -> Vec<Fault> {
    let indexes = found.outbox.iter().flat_map(|outbox| &outbox.indexes);
    let ttl = indexes.filter(|index| index.contains_key("expireAfterSeconds"));

    ttl.map(|index| Fault {
        found: format!(
            "the TTL index {} on {} makes MongoDB delete events (expireAfterSeconds: {}), whether \
             they were published or not",
            name(index),
            keys(index).join(", "),
            index.get("expireAfterSeconds").unwrap_or(&Bson::Null)
        ),
        remedy: drop_index(found, &found.name, index),
    })
    .collect()
}

fn clustered_ttl(found: &Found) -> Vec<Fault> {
    let fault = |seconds: &Bson| Fault {
        found: format!(
            "it is clustered and makes MongoDB delete events by the time in their `_id` \
             (expireAfterSeconds: {seconds}), whether they were published or not"
        ),
        remedy: command(
            found,
            &format!("{{collMod: {}, expireAfterSeconds: \"off\"}}", json(&found.name)),
        ),
    };

    let is_collection = |outbox: &&Kept| outbox.kind == "collection";
    let outbox = found.outbox.as_ref().filter(is_collection);
    outbox
        .and_then(|outbox| outbox.options.get("expireAfterSeconds"))
        .map(fault)
        .into_iter()
        .collect()
}

fn capped(found: &Found) -> Vec<Fault> {
    when(is_capped(found.outbox.as_ref()), || Fault {
        found:
            "it is capped: MongoDB deletes the oldest events when it is full, and writers can't \
                insert into it in a transaction"
                .to_owned(),
        remedy: recreate(found),
    })
}

fn internal_database(found: &Found) -> Vec<Fault> {
    when(found.is_internal(), || Fault {
        found: format!(
            "the database {} is the server's own: it has no change streams, and no transactions \
             for writers",
            found.database
        ),
        remedy: "environment: OUTBOXD_MONGODB__DATABASE=outboxd\n$ outboxd migrate".to_owned(),
    })
}

fn reserved_name(found: &Found) -> Vec<Fault> {
    when(found.is_reserved(), || Fault {
        found: match &found.belongs_to {
            Some((outbox, events)) => format!(
                "the collection {} holds the {events} events of the outbox {outbox}",
                found.name
            ),
            None if found.is_beside() => format!("the collection {} is outboxd's own", found.name),
            None => format!(
                "the collection {} is the server's own: it has no change streams",
                found.name
            ),
        },
        remedy: elsewhere(found),
    })
}

fn not_a_collection(found: &Found) -> Vec<Fault> {
    let kind = found.outbox.as_ref().map_or("collection", |outbox| outbox.kind.as_str());
    when(kind != "collection", || Fault {
        found: match kind {
            "view" => "it is a view: no writer can insert into it".to_owned(),
            "timeseries" => "it is a time series: it has no transactions, no change streams and \
                             no updates"
                .to_owned(),
            other => format!("it is a {other}, not a collection"),
        },
        remedy: elsewhere(found),
    })
}

fn collation(found: &Found) -> Vec<Fault> {
    let outbox = found.outbox.as_ref();
    let options = outbox.and_then(|outbox| outbox.options.get_document("collation").ok());
    let locale = options.and_then(|options| options.get_str("locale").ok());

    when(locale.is_some_and(|locale| locale != "simple"), || Fault {
        found: format!(
            "its collation ({}) treats different ids as equal: the insert of the second fails in \
             its writer's transaction (E11000). With string ids, each read and delete by id scans \
             the whole outbox",
            locale.unwrap_or_default()
        ),
        remedy: recreate(found),
    })
}

fn sharded(found: &Found) -> Vec<Fault> {
    when(found.is_sharded, || Fault {
        found: "it is sharded: unless `_id` is the shard key, two events on two shards may have \
                the same id, and the relay deletes both after one was published"
            .to_owned(),
        remedy: format!(
            "mongosh> sh.unshardCollection(\"{}.{}\")   // MongoDB 8.0; before, shard it by {{_id: \
             \"hashed\"}} with sh.reshardCollection",
            found.database, found.name
        ),
    })
}

/// The age of the oldest event is looked for in the order of inserts.
fn clustered(found: &Found) -> Vec<Fault> {
    let has = has_option(found, "clusteredIndex");
    when(has && !has_option(found, "expireAfterSeconds"), || Fault {
        found: "it is clustered: with ids that don't rise in time, such as random UUIDs, the age \
                of the oldest event is too small, and the alert `stuck` may be late"
            .to_owned(),
        remedy: recreate(found),
    })
}

fn encrypted(found: &Found) -> Vec<Fault> {
    when(has_option(found, "encryptedFields"), || Fault {
        found: "it has encrypted fields (encryptedFields): the relay has no key, so consumers get \
                encrypted values"
            .to_owned(),
        remedy: recreate(found),
    })
}

fn pre_images(found: &Found) -> Vec<Fault> {
    let outbox = found.outbox.as_ref();
    let images =
        outbox.and_then(|outbox| outbox.options.get_document("changeStreamPreAndPostImages").ok());
    let is_on = images.is_some_and(|images| images.get_bool("enabled").unwrap_or(false));

    when(is_on, || Fault {
        found: "changeStreamPreAndPostImages makes MongoDB store a copy of each event that the \
                relay deletes; the relay never reads it"
            .to_owned(),
        remedy: command(
            found,
            &format!(
                "{{collMod: {}, changeStreamPreAndPostImages: {{enabled: false}}}}",
                json(&found.name)
            ),
        ),
    })
}

/// With outboxd's own layout, `outboxd migrate` sets the validator.
fn closed_validator(found: &Found) -> Vec<Fault> {
    let schema = found.outbox.as_ref().and_then(|outbox| {
        outbox.options.get_document("validator").ok()?.get_document("$jsonSchema").ok()
    });
    let schema = schema.filter(|schema| schema.get("additionalProperties") == Some(&false.into()));
    let lacks = |schema: &Document| {
        let known = schema.get_document("properties").cloned().unwrap_or_default();
        MARKED.iter().filter(|name| !known.contains_key(**name)).copied().collect::<Vec<_>>()
    };

    let lacking = schema.filter(|_| !found.has_own_layout).map(lacks).unwrap_or_default();
    when(!lacking.is_empty(), || Fault {
        found: format!(
            "its validator allows no other fields (additionalProperties: false): the relay can't \
             mark an event as failed without {}",
            lacking.join(", ")
        ),
        remedy: command(
            found,
            &format!("{{collMod: {}, validationAction: \"warn\"}}", json(&found.name)),
        ),
    })
}

/// Where the relay keeps its own. The lease and the migrations are found by a text `_id`.
fn beside(found: &Found) -> Vec<Fault> {
    let mut faults = Vec::new();
    for kept in &found.beside {
        let ttl = kept.indexes.iter().find(|index| index.contains_key("expireAfterSeconds"));
        let collation = kept.options.contains_key("collation");
        let what = match (ttl, collation) {
            (Some(_), _) => "has a TTL index",
            _ if is_capped(Some(kept)) => "is capped",
            _ if kept.kind != "collection" => "is not a collection",
            (None, true) => "has a collation",
            (None, false) => continue,
        };

        let cost = match kept.name.as_str() {
            LEASE => "the relay may lose the lease, or never get it",
            AUDIT => "entries of the audit may be lost",
            _ => "migrations may seem to be missing, and `run` refuses to start",
        };

        let database = json(&found.database);
        faults.push(Fault {
            found: format!("the collection {} {what}: {cost}", kept.name),
            remedy: match ttl {
                Some(index) => drop_index(found, &kept.name, index),
                None => format!(
                    "mongosh> db.getSiblingDB({database}).{}.drop()   // while no relay runs\n$ \
                     outboxd migrate",
                    kept.name
                ),
            },
        });
    }
    faults
}

fn unique_indexes(found: &Found) -> Vec<Fault> {
    let indexes = found.outbox.iter().flat_map(|outbox| &outbox.indexes);
    let is_unique = |index: &&Document| {
        let is = |option: &str| index.get_bool(option).unwrap_or(false);
        // A key that contains `_id` is unique anyway.
        (is("unique") || is("prepareUnique")) && !keys(index).contains(&field::ID)
    };

    indexes
        .filter(is_unique)
        .map(|index| {
            let keys = keys(index);
            let is_marked = keys.iter().any(|key| MARKED.iter().any(|name| root(key) == *name));
            let cost = match is_marked {
                true => {
                    "the relay can't mark a second event as failed that has the same values in \
                     these fields"
                }
                false => {
                    "while one event waits, a second one with the same values in these fields \
                     fails in its writer's transaction (E11000)"
                }
            };

            Fault {
                found: format!("the unique index {} on {}: {cost}", name(index), keys.join(", ")),
                remedy: drop_index(found, &found.name, index),
            }
        })
        .collect()
}

/// Indexes that refuse some documents altogether.
fn special_indexes(found: &Found) -> Vec<Fault> {
    let indexes = found.outbox.iter().flat_map(|outbox| &outbox.indexes);
    let refuses = |index: &&Document| {
        let key = index.get_document("key").cloned().unwrap_or_default();
        let types: Vec<_> = key.values().filter_map(Bson::as_str).collect();
        let is_hashed = types.contains(&"hashed");
        let has_array = key.keys().any(|key| root(key) == field::FAILURES);

        types.iter().any(|kind| *kind != "hashed") || (has_array && (is_hashed || key.len() > 1))
    };

    indexes
        .filter(refuses)
        .map(|index| Fault {
            found: format!(
                "the index {} on {} refuses some documents: their inserts fail in their writers' \
                 transactions, or the relay can't mark them as failed",
                name(index),
                keys(index).join(", ")
            ),
            remedy: drop_index(found, &found.name, index),
        })
        .collect()
}

fn when(is_so: bool, fault: impl FnOnce() -> Fault) -> Vec<Fault> {
    is_so.then(fault).into_iter().collect()
}

fn has_option(found: &Found, option: &str) -> bool {
    found.outbox.as_ref().is_some_and(|outbox| outbox.options.contains_key(option))
}

fn is_capped(kept: Option<&Kept>) -> bool {
    kept.is_some_and(|kept| kept.options.get_bool("capped").unwrap_or(false))
}

fn name(index: &Document) -> &str {
    index.get_str("name").unwrap_or_default()
}

fn keys(index: &Document) -> Vec<&str> {
    index
        .get_document("key")
        .map(|key| key.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

/// The field of a path.
fn root(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

fn drop_index(found: &Found, collection: &str, index: &Document) -> String {
    format!("mongosh> {}.dropIndex({})", handle(found, collection), json(name(index)))
}

fn command(found: &Found, command: &str) -> String {
    format!("mongosh> db.getSiblingDB({}).runCommand({command})", json(&found.database))
}

/// For what can't be changed on a collection that is there.
fn recreate(found: &Found) -> String {
    let (outbox, old) = (handle(found, &found.name), format!("{}_old", found.name));
    let migrations = handle(found, MIGRATIONS);
    format!(
        "mongosh> {outbox}.renameCollection({})   // while no writer and no relay runs\nmongosh> \
         {migrations}.deleteMany({{_id: {{$gte: {}, $lt: {}}}}})\n$ outboxd migrate\nmongosh> \
         {}.aggregate([{{$merge: {}}}])",
        json(&old),
        json(&format!("{}/", found.name)),
        json(&format!("{}0", found.name)),
        handle(found, &old),
        json(&found.name)
    )
}

/// For what must not be an outbox at all.
fn elsewhere(found: &Found) -> String {
    let name = format!("{}_events", found.name.trim_start_matches("system."));
    format!("environment: OUTBOXD_MONGODB__COLLECTION={name}\n$ outboxd migrate")
}

/// A collection in mongosh.
fn handle(found: &Found, collection: &str) -> String {
    let is_plain = collection.starts_with(|c: char| c.is_ascii_alphabetic())
        && collection.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let database = json(&found.database);

    match is_plain {
        true => format!("db.getSiblingDB({database}).{collection}"),
        false => format!("db.getSiblingDB({database}).getCollection({})", json(collection)),
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

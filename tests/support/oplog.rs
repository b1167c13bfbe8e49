//! What happened to the events of an outbox, from the server's own log of every write.

use std::collections::{HashMap, HashSet};

use bson::{Bson, Document, Timestamp, doc};
use futures_util::TryStreamExt as _;

use super::{Scene, until};

/// The writes to one outbox, in their order.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Whether the oplog still reaches back to before the first of them.
    pub(crate) whole: bool,
    pub(crate) inserted: HashSet<String>,
    /// When each left the outbox, in milliseconds since 1970.
    pub(crate) deleted: HashMap<String, i64>,
    /// Updates that wrote down a failure.
    pub(crate) marks: usize,
    /// Updates that only unlocked.
    pub(crate) parks: usize,
    /// Events that were locked again, which nothing of outboxd does.
    pub(crate) locked_again: Vec<String>,
}

/// Reads the oplog of the scene's primary.
pub(crate) async fn history(scene: &Scene) -> History {
    // A small oplog may overtake who reads it.
    until("the oplog is read", async || read(scene).await.ok()).await
}

async fn read(scene: &Scene) -> mongodb::error::Result<History> {
    let oplog = scene.client.database("local").collection::<Document>("oplog.rs");
    let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?;
    let first =
        first.and_then(|first| first.get_timestamp("ts").ok()).expect("an oplog begins somewhere");
    let mut history = History { whole: first <= scene.began, ..History::default() };
    let outbox = scene.events.namespace().to_string();
    let wanted = doc! { "ts": { "$gte": scene.began }, "$or": [{ "ns": &outbox }, { "o.applyOps.ns": &outbox }] };
    let mut entries = oplog.find(wanted).sort(doc! { "$natural": 1 }).await?;
    while let Some(entry) = entries.try_next().await? {
        let wall_ms = entry.get_datetime("wall").expect("the time of a write").timestamp_millis();
        match entry.get_document("o").ok().and_then(|done| done.get_array("applyOps").ok()) {
            Some(writes) => {
                writes
                    .iter()
                    .filter_map(Bson::as_document)
                    .for_each(|write| history.add(&outbox, write, wall_ms));
            }
            None => history.add(&outbox, &entry, wall_ms),
        }
    }
    Ok(history)
}

impl History {
    fn add(&mut self, outbox: &str, write: &Document, wall_ms: i64) {
        let (Ok(op), Ok(done)) = (write.get_str("op"), write.get_document("o")) else { return };
        if write.get_str("ns").ok() != Some(outbox) || op == "c" {
            return;
        }
        let about = if op == "u" {
            write.get_document("o2").expect("what an update is about")
        } else {
            done
        };
        let id = match about.get("_id") {
            Some(Bson::ObjectId(id)) => id.to_hex(),
            Some(Bson::String(id)) => id.clone(),
            other => format!("{other:?}"),
        };
        match op {
            "i" => _ = self.inserted.insert(id),
            "d" => _ = self.deleted.insert(id, wall_ms),
            "u" => match changed(done, "isLocked") {
                Some(Bson::Boolean(true)) => self.locked_again.push(id),
                _ if changed(done, "attempts").is_some() || touches_failures(done) => {
                    self.marks += 1
                }
                Some(_) => self.parks += 1,
                None => {}
            },
            _ => {}
        }
    }
}

/// What an update sets a field to, as the oplog tells it: `u` for fields that were there, `i` for
/// new ones.
fn changed<'a>(update: &'a Document, field: &str) -> Option<&'a Bson> {
    let diff = update.get_document("diff").ok()?;
    ["u", "i"].iter().find_map(|part| diff.get_document(part).ok()?.get(field))
}

fn touches_failures(update: &Document) -> bool {
    changed(update, "failures").is_some()
        || update.get_document("diff").is_ok_and(|diff| diff.contains_key("sfailures"))
}

/// The cluster's time now.
pub(crate) async fn cluster_time(client: &mongodb::Client) -> Timestamp {
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await
        .expect("the server says hello");
    hello.get_timestamp("operationTime").expect("a replica set has a time")
}

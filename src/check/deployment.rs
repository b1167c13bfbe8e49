//! The deployment of MongoDB, asked as the relay's own user.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};

use super::ask::{NoAnswer, Why, ask, unknown};
use super::hosts::unreachable;
use super::outbox::{self, Sample};
use super::privileges;
use crate::config::Config;
use crate::duration::for_people;
use crate::error::mongodb_words;
use crate::finding::Finding;
use crate::tls;

/// The first version with everything that the relay's queries use.
const OLDEST: i32 = 6;
/// How far the oplog should reach back. After a longer outage or sweep, the relay sweeps again from
/// the start.
const OPLOG_HOURS: f64 = 24.0;
/// Below this age and this fill, an oplog's future reach can't be estimated.
const YOUNG_HOURS: f64 = 1.0;
const YOUNG_FILL: f64 = 0.5;

pub(super) async fn look(
    config: &Config,
    options: ClientOptions,
    at: &str,
    hello: &Document,
    timeout: Duration,
) -> (Vec<Finding>, Option<Sample>) {
    let user = options.credential.as_ref().and_then(|credential| credential.username.clone());
    let database = match Client::with_options(options) {
        Ok(client) => client.database(&config.mongodb.database),
        Err(error) => return (vec![unreachable(at, &mongodb_words(&error))], None),
    };

    let status = doc! { "connectionStatus": 1, "showPrivileges": true };
    let status = match ask(timeout, database.run_command(status)).await {
        Ok(status) => Ok(status),
        Err(no_answer) if [Why::Denied, Why::Withheld].contains(&no_answer.why) => Err(no_answer),
        Err(no_answer) => return (vec![not_admitted(at, user.as_deref(), &no_answer)], None),
    };

    let outbox = database.collection::<Document>(&config.mongodb.collection);
    let read = ask(timeout, outbox.find_one(doc! {}).projection(doc! { "_id": 1 })).await;
    let denied = read.err().filter(|read| [Why::Denied, Why::Withheld].contains(&read.why));
    let judged = match &status {
        Ok(status) => privileges::look(config, at, status, denied.is_some()),
        Err(no_answer) => privileges::unknown(config, at, no_answer, denied.as_ref()),
    };
    let mut findings = match judged {
        Ok(findings) => findings,
        Err(finding) => return (vec![finding], None),
    };

    let (version, write_concern, oplog, (of_outbox, sample)) = tokio::join!(
        version(&database, at, timeout),
        write_concern(&database, at, hello, timeout),
        oplog(&database, at, hello, timeout),
        outbox::look(config, &database, timeout)
    );
    findings.extend([version, write_concern, oplog]);
    findings.extend(of_outbox);

    (findings, sample)
}

fn not_admitted(at: &str, user: Option<&str>, no_answer: &NoAnswer) -> Finding {
    const CHECK: &str = "mongodb.auth";
    let user = user.unwrap_or("<user>");
    if no_answer.why == Why::BadCredentials {
        let found = format!("the user {user} was refused: {}", no_answer.reason);
        let quoted = serde_json::Value::from(user);
        let remedy = format!(
            "MONGODB_URI: correct user, password or authSource, or\n\
             mongosh> db.getSiblingDB(\"admin\").changeUserPassword({quoted}, passwordPrompt())"
        );
        return Finding::fail(CHECK, at, found, remedy);
    }

    let found = format!("connectionStatus failed: {}", tls::describe(&no_answer.reason));
    Finding::fail(CHECK, at, found, "$ outboxd check --timeout 30s")
}

async fn version(database: &Database, at: &str, timeout: Duration) -> Finding {
    const CHECK: &str = "mongodb.version";
    let info = match ask(timeout, database.run_command(doc! { "buildInfo": 1 })).await {
        Ok(info) => info,
        Err(no_answer) => return unknown(CHECK, at, &no_answer),
    };

    let version = info.get_str("version").unwrap_or("unknown");
    let parts = info.get_array("versionArray").ok();
    let major = parts.and_then(|parts| parts.first()?.as_i32()).unwrap_or(0);

    match major >= OLDEST {
        true => Finding::ok(CHECK, at, version),
        false => {
            let found = format!("{version} is older than {OLDEST}.0, which outboxd requires");
            let remedy = format!("install: MongoDB {OLDEST}.0 or later, one major at a time");
            Finding::fail(CHECK, at, found, remedy)
        }
    }
}

/// Whether committed events can be rolled back. The relay always asks for a majority; writers use
/// the deployment's default.
async fn write_concern(
    database: &Database,
    at: &str,
    hello: &Document,
    timeout: Duration,
) -> Finding {
    const CHECK: &str = "mongodb.writes";
    if hello.get_str("setName").is_err() && hello.get_str("msg").is_err() {
        return Finding::ok(CHECK, at, "not checked: a standalone has no majority");
    }

    let number = |name: &str| hello.get_array(name).map_or(0, Vec::len);
    let bearing = number("hosts") + number("passives");
    if number("arbiters") > 0 && bearing <= 2 {
        let found = format!(
            "{bearing} data-bearing members and an arbiter: when one of the {bearing} is down, no \
             majority can store a write, and the relay stops"
        );
        let remedy = "mongosh> rs.remove(\"<arbiter>\")\n\
                      mongosh> rs.add(\"<host of a third data-bearing member>\")";
        return Finding::warn(CHECK, at, found, remedy);
    }

    let admin = database.client().database("admin");
    let concern = match ask(timeout, admin.run_command(doc! { "getDefaultRWConcern": 1 })).await {
        Ok(concern) => concern,
        Err(no_answer) => return unknown(CHECK, at, &no_answer),
    };
    let w = concern.get_document("defaultWriteConcern").ok().and_then(|concern| concern.get("w"));

    match w.and_then(Bson::as_i32) {
        Some(few @ 0..=1) if bearing > 1 => {
            let found = format!(
                "the default write concern is w: {few}: a committed event can be rolled back"
            );
            let remedy = "mongosh> db.adminCommand({setDefaultRWConcern: 1, \
                          defaultWriteConcern: {w: \"majority\"}})";
            Finding::warn(CHECK, at, found, remedy)
        }
        _ => Finding::ok(CHECK, at, "a majority acknowledges every write"),
    }
}

/// The oplog's first and last second, its statistics, and the server's.
struct Oplog {
    first: f64,
    last: f64,
    stats: Document,
    server: Document,
}

/// How far back the oplog reaches, or will once it is full.
async fn oplog(database: &Database, at: &str, hello: &Document, timeout: Duration) -> Finding {
    const CHECK: &str = "mongodb.oplog";
    if hello.get_str("setName").is_err() {
        return Finding::ok(CHECK, at, "not checked: this server has no oplog of its own");
    }

    let oplog = match ask(timeout, read_oplog(database)).await {
        Ok(Some(oplog)) => oplog,
        Ok(None) => return Finding::ok(CHECK, at, "not checked: the oplog is empty"),
        Err(no_answer) => return unknown(CHECK, at, &no_answer),
    };

    let hours = (oplog.last - oplog.first) / 3600.0;
    let filled = oplog.filled();
    if hours < YOUNG_HOURS && filled < YOUNG_FILL {
        let found = format!("{} old: too young to predict how far it will reach", span(hours));
        return Finding::ok(CHECK, at, found);
    }

    let full = (hours / filled.clamp(1e-6, 1.0)).max(oplog.kept_hours());
    if full >= OPLOG_HOURS {
        let more = if full > hours { " and has room for a day" } else { "" };
        return Finding::ok(CHECK, at, format!("reaches back {}{more}", span(hours)));
    }

    let found = format!(
        "would reach back {} at the write rate of the last {}; most outages end within a day",
        span(full),
        span(hours)
    );

    let remedy = "mongosh> db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 24})   \
                  // on each member";
    Finding::warn(CHECK, at, found, remedy)
}

/// `None` when the oplog is empty.
async fn read_oplog(database: &Database) -> mongodb::error::Result<Option<Oplog>> {
    let log = database.client().database("local").collection::<Document>("oplog.rs");
    let end = |way: i32| {
        log.find_one(doc! {}).sort(doc! { "$natural": way }).projection(doc! { "ts": 1 })
    };
    let (first, last) = (end(1).await?, end(-1).await?);

    let mut stats = log.aggregate([doc! { "$collStats": { "storageStats": {} } }]).await?;
    let stats = match stats.advance().await? {
        true => stats.deserialize_current()?,
        false => Document::new(),
    };
    let admin = database.client().database("admin");
    let server = admin.run_command(doc! { "serverStatus": 1 }).await?;

    let seconds = |entry: Option<Document>| Some(f64::from(entry?.get_timestamp("ts").ok()?.time));
    let ends = seconds(first).zip(seconds(last));
    Ok(ends.map(|(first, last)| Oplog { first, last, stats, server }))
}

impl Oplog {
    /// The part of its size that is filled; 1 when the server doesn't report it.
    fn filled(&self) -> f64 {
        let storage = self.stats.get_document("storageStats").ok();
        let size = number(storage, "size").zip(number(storage, "maxSize"));
        size.map_or(1.0, |(size, max)| size / max)
    }

    /// How long entries are kept whatever the size.
    fn kept_hours(&self) -> f64 {
        let truncation = self.server.get_document("oplogTruncation").ok();
        number(truncation, "oplogMinRetentionHours").unwrap_or(0.0)
    }
}

fn number(document: Option<&Document>, name: &str) -> Option<f64> {
    let value = document?.get(name)?;
    value.as_f64().or(value.as_i64().map(|n| n as f64)).or(value.as_i32().map(f64::from))
}

fn span(hours: f64) -> String {
    for_people(Duration::from_secs((hours * 3600.0) as u64))
}

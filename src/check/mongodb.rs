//! MongoDB: every host by itself, then the deployment as the relay sees it.

use std::time::{Duration, Instant, SystemTime};

use bson::{Document, doc};
use futures_util::future::join_all;
use mongodb::error::ErrorKind as MongodbErrorKind;
use mongodb::options::{ClientOptions, ServerAddress, Tls};
use mongodb::{Client, Database};
use tokio::net::TcpStream;

use super::outbox::{self, Sample};
use super::{Clock, privileges, within};
use crate::config::Config;
use crate::finding::Finding;
use crate::tls::{self, Fault};

/// The first version with what the relay's queries use.
const OLDEST: i32 = 6;
/// An outage or a slow sweep longer than the oplog reaches back costs a sweep from the start.
const OPLOG_HOURS: f64 = 24.0;
/// MongoDB's code for a command that the user may not run.
const UNAUTHORIZED: i32 = 13;

/// What MongoDB said.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    pub(super) clock: Option<Clock>,
    pub(super) sample: Option<Sample>,
}

/// Why a question has no answer.
pub(super) struct Trouble {
    pub(super) said: String,
    /// The user may not ask it.
    pub(super) denied: bool,
    refused: bool,
}

/// One host's answer to `hello`.
struct Host {
    hello: Document,
    took: Duration,
    clock: Option<Clock>,
}

pub(super) async fn look(config: &Config, timeout: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut options = match within(timeout, config.mongodb.options("check")).await {
        Ok(Ok(options)) => options,
        Ok(Err(error)) => {
            seen.findings.push(unreachable("mongod", &error.to_string(), None));
            return seen;
        }
        Err(silent) => {
            seen.findings.push(unreachable(
                "mongod",
                &format!("the hosts of MONGODB_URI: {silent}"),
                None,
            ));
            return seen;
        }
    };
    let at = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let at = format!("mongod {at}");
    // In time to say why, before the question is given up.
    options.server_selection_timeout = Some(timeout.mul_f64(0.9));
    options.connect_timeout = Some(timeout);
    let probes = options.hosts.iter().map(|address| probe(&options, address, timeout));
    let probes: Vec<_> =
        options.hosts.iter().map(ToString::to_string).zip(join_all(probes).await).collect();
    let over_tls = matches!(options.tls, Some(Tls::Enabled(_)));
    let (mut hosts, mut silent, mut remedy) = (Vec::new(), Vec::new(), None);
    for (address, probed) in probes {
        match probed {
            Ok(host) => hosts.push(host),
            Err(error) => {
                silent.push(format!("{address}: {}", tls::says(&error)));
                remedy = remedy.or(Fault::of(&error).map(|fault| fault.mongodb(over_tls)));
            }
        }
    }
    let Some(first) = hosts
        .iter()
        .find(|host| host.hello.get_bool("isWritablePrimary").unwrap_or(false))
        .or(hosts.first())
    else {
        seen.findings.push(unreachable(&at, &silent.join("; "), remedy));
        return seen;
    };
    seen.clock = first.clock;
    let answered = format!("answered in {:.1} ms", first.took.as_secs_f64() * 1000.0);
    seen.findings.push(match silent.is_empty() {
        true => Finding::ok("mongodb.reachable", &at, answered),
        false => {
            let found = format!("{answered}, but not every host: {}", silent.join("; "));
            Finding::warn("mongodb.reachable", &at, found, remedy.unwrap_or(start_or_correct()))
        }
    });
    let (topology, usable) = topology(&at, &hosts, &mut options);
    seen.findings.push(topology);
    if usable {
        deployment(config, options, &at, &first.hello, timeout, &mut seen).await;
    }
    seen
}

/// Asks one host, without the user: whatever the deployment's state is, it answers `hello`.
async fn probe(
    options: &ClientOptions,
    address: &ServerAddress,
    timeout: Duration,
) -> Result<Host, String> {
    if let ServerAddress::Tcp { host, port } = address {
        // The driver would try again until its time is over, and bury the reason in a description
        // of everything.
        let connected =
            within(timeout, TcpStream::connect((host.as_str(), port.unwrap_or(27017)))).await?;
        connected.map_err(|error| error.to_string())?;
    }
    let mut options = options.clone();
    options.hosts = vec![address.clone()];
    options.direct_connection = Some(true);
    options.repl_set_name = None;
    options.load_balanced = None;
    options.credential = None;
    let client = Client::with_options(options).map_err(|error| error.kind.to_string())?;
    let admin = client.database("admin");
    // The first answer is slower by the making of the connection.
    ask(timeout, admin.run_command(doc! { "hello": 1 })).await.map_err(|trouble| trouble.said)?;
    let (began, asked) = (Instant::now(), SystemTime::now());
    let hello = ask(timeout, admin.run_command(doc! { "hello": 1 }))
        .await
        .map_err(|trouble| trouble.said)?;
    let clock =
        hello.get_datetime("localTime").ok().map(|at| Clock::new(at.timestamp_millis(), asked));
    Ok(Host { hello, took: began.elapsed(), clock })
}

/// Whether there are transactions and change streams. Sets the options so that the rest can be
/// asked nevertheless, unless nobody could answer.
fn topology(at: &str, hosts: &[Host], options: &mut ClientOptions) -> (Finding, bool) {
    const CHECK: &str = "mongodb.topology";
    let hellos = || hosts.iter().map(|host| &host.hello);
    if hellos().any(|hello| hello.get_str("msg").is_ok_and(|text| text == "isdbgrid")) {
        return (Finding::ok(CHECK, at, "a sharded cluster"), true);
    }
    let named = hellos().find_map(|hello| Some((hello, hello.get_str("setName").ok()?)));
    let Some((hello, set)) = named else {
        let (found, remedy) =
            match hellos().any(|hello| hello.get_bool("isreplicaset").unwrap_or(false)) {
                true => (
                    "a replica set that was never initiated: it takes no writes",
                    "mongosh> rs.initiate()".to_owned(),
                ),
                false => {
                    ("a standalone: no transactions and no change streams", to_replica_set(options))
                }
            };
        options.repl_set_name = None;
        options.direct_connection = Some(true);
        return (Finding::fail(CHECK, at, found, remedy), true);
    };
    if let Some(wanted) = options.repl_set_name.clone().filter(|wanted| wanted != set) {
        let found = format!("the replica set is called {set}, MONGODB_URI says {wanted}");
        options.repl_set_name = Some(set.to_owned());
        let remedy = format!("MONGODB_URI: replicaSet={set}");
        return (Finding::fail(CHECK, at, found, remedy), true);
    }
    if !hellos().any(|hello| {
        hello.get_bool("isWritablePrimary").unwrap_or(false) || hello.contains_key("primary")
    }) {
        let found = format!("replica set {set} has no primary: nothing can be written");
        return (
            Finding::fail(
                CHECK,
                at,
                found,
                "mongosh> rs.status()   # a majority of the members must be up",
            ),
            false,
        );
    }
    let members = members(hello);
    let noun = if members == 1 { "member" } else { "members" };
    (Finding::ok(CHECK, at, format!("replica set {set}, {members} {noun}")), true)
}

fn members(hello: &Document) -> usize {
    ["hosts", "passives", "arbiters"]
        .iter()
        .filter_map(|name| hello.get_array(name).ok())
        .map(Vec::len)
        .sum()
}

fn to_replica_set(options: &ClientOptions) -> String {
    // With authorization the members of a set know each other by a key file.
    let key = match options.credential {
        Some(_) => "\nmongod.conf: security: { authorization: enabled, keyFile: /etc/mongod.key }",
        None => "",
    };
    format!(
        "mongod.conf: replication: {{ replSetName: rs0 }}{key}\n$ systemctl restart mongod\nmongosh> rs.initiate()\n\
         MONGODB_URI: replicaSet=rs0"
    )
}

/// What is asked as the relay's own user.
async fn deployment(
    config: &Config,
    options: ClientOptions,
    at: &str,
    hello: &Document,
    timeout: Duration,
    seen: &mut Seen,
) {
    let user = options.credential.as_ref().and_then(|credential| credential.username.clone());
    let database = match Client::with_options(options) {
        Ok(client) => client.database(&config.mongodb.database),
        Err(error) => return seen.findings.push(unreachable(at, &error.kind.to_string(), None)),
    };
    let status =
        ask(timeout, database.run_command(doc! { "connectionStatus": 1, "showPrivileges": true }))
            .await;
    let status = match status {
        Ok(status) => status,
        Err(trouble) => return seen.findings.push(no_entry(at, user.as_deref(), &trouble)),
    };
    let may_read = database.collection::<Document>(&config.mongodb.collection);
    let may_read = ask(timeout, may_read.find_one(doc! {}).projection(doc! { "_id": 1 })).await;
    let denied = may_read.is_err_and(|trouble| trouble.denied);
    let (authentication, go_on) = privileges::look(config, at, &status, denied);
    seen.findings.extend(authentication);
    if !go_on {
        return;
    }
    let (version, concern, oplog, outbox) = tokio::join!(
        version(&database, at, timeout),
        write_concern(&database, at, hello, timeout),
        oplog(&database, at, hello, timeout),
        outbox::look(config, &database, timeout)
    );
    seen.findings.extend([version, concern, oplog]);
    seen.findings.extend(outbox.0);
    seen.sample = outbox.1;
}

async fn version(database: &Database, at: &str, timeout: Duration) -> Finding {
    const CHECK: &str = "mongodb.version";
    match ask(timeout, database.run_command(doc! { "buildInfo": 1 })).await {
        Err(trouble) => unknown(CHECK, at, &trouble),
        Ok(info) => {
            let version = info.get_str("version").unwrap_or("unknown").to_owned();
            let major = info
                .get_array("versionArray")
                .ok()
                .and_then(|parts| parts.first()?.as_i32())
                .unwrap_or(0);
            match major >= OLDEST {
                true => Finding::ok(CHECK, at, version),
                false => {
                    let found = format!(
                        "{version} is older than {OLDEST}.0, which the relay's queries need"
                    );
                    Finding::fail(
                        CHECK,
                        at,
                        found,
                        format!("install: MongoDB {OLDEST}.0 or later, one major at a time"),
                    )
                }
            }
        }
    }
}

/// The relay always asks for a majority; writers get what is the default.
async fn write_concern(
    database: &Database,
    at: &str,
    hello: &Document,
    timeout: Duration,
) -> Finding {
    const CHECK: &str = "mongodb.writes";
    if hello.get_str("setName").is_err() && hello.get_str("msg").is_err() {
        return Finding::ok(CHECK, at, "not looked at: a standalone has no majority");
    }
    const MAJORITY: &str = "mongosh> db.adminCommand({setDefaultRWConcern: 1, defaultWriteConcern: {w: \"majority\"}})";
    let number = |name: &str| hello.get_array(name).map_or(0, Vec::len);
    let bearing = number("hosts") + number("passives");
    if number("arbiters") > 0 && bearing <= 2 {
        let found = format!(
            "{bearing} data-bearing members and an arbiter: with one of them down no majority can store a write, and \
             the relay stands still"
        );
        let remedy = "mongosh> rs.remove(\"<arbiter>\")\nmongosh> rs.add(\"<host of a third data-bearing member>\")";
        return Finding::warn(CHECK, at, found, remedy);
    }
    let admin = database.client().database("admin");
    match ask(timeout, admin.run_command(doc! { "getDefaultRWConcern": 1 })).await {
        Err(trouble) => unknown(CHECK, at, &trouble),
        Ok(concern) => {
            let w = concern
                .get_document("defaultWriteConcern")
                .ok()
                .and_then(|concern| concern.get("w"));
            match w.and_then(bson::Bson::as_i32) {
                Some(few @ 0..=1) if bearing > 1 => {
                    let found = format!(
                        "writers' default is w: {few}: a committed event can be rolled back"
                    );
                    Finding::warn(CHECK, at, found, MAJORITY)
                }
                _ => Finding::ok(CHECK, at, "a write is acknowledged by a majority"),
            }
        }
    }
}

/// How far back the oplog reaches, or will once it is full.
async fn oplog(database: &Database, at: &str, hello: &Document, timeout: Duration) -> Finding {
    const CHECK: &str = "mongodb.oplog";
    if hello.get_str("setName").is_err() {
        return Finding::ok(CHECK, at, "not looked at: this server has none of its own");
    }
    let log = database.client().database("local").collection::<Document>("oplog.rs");
    let end = |way: i32| {
        log.find_one(doc! {}).sort(doc! { "$natural": way }).projection(doc! { "ts": 1 })
    };
    let read = async {
        let (first, last) = (end(1).await?, end(-1).await?);
        let mut stats = log.aggregate([doc! { "$collStats": { "storageStats": {} } }]).await?;
        let stats = match stats.advance().await? {
            true => stats.deserialize_current()?,
            false => Document::new(),
        };
        let status =
            database.client().database("admin").run_command(doc! { "serverStatus": 1 }).await?;
        Ok((first, last, stats, status))
    };
    let (first, last, stats, status) = match ask(timeout, read).await {
        Ok(read) => read,
        Err(trouble) => return unknown(CHECK, at, &trouble),
    };
    let seconds =
        |entry: &Option<Document>| Some(f64::from(entry.as_ref()?.get_timestamp("ts").ok()?.time));
    let (Some(first), Some(last)) = (seconds(&first), seconds(&last)) else {
        return Finding::ok(CHECK, at, "not looked at: it is empty");
    };
    let hours = (last - first) / 3600.0;
    let number = |document: Option<&Document>, name: &str| {
        let value = document?.get(name)?;
        value.as_f64().or(value.as_i64().map(|n| n as f64)).or(value.as_i32().map(f64::from))
    };
    let storage = stats.get_document("storageStats").ok();
    let filled = number(storage, "size")
        .zip(number(storage, "maxSize"))
        .map_or(1.0, |(size, max)| size / max);
    let kept = number(status.get_document("oplogTruncation").ok(), "oplogMinRetentionHours")
        .unwrap_or(0.0);
    if hours < 1.0 && filled < 0.5 {
        return Finding::ok(
            CHECK,
            at,
            format!("{} old: too young to tell how far it will reach", span(hours)),
        );
    }
    let full = (hours / filled.clamp(1e-6, 1.0)).max(kept);
    if full >= OPLOG_HOURS {
        let more = if full > hours { " and has room for a day" } else { "" };
        return Finding::ok(CHECK, at, format!("reaches back {}{more}", span(hours)));
    }
    let (full, hours) = (span(full), span(hours));
    let found = format!(
        "would reach back {full} at the rate of the last {hours}; a day outlasts most outages"
    );
    let remedy = "mongosh> db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 24})   # on each member";
    Finding::warn(CHECK, at, found, remedy)
}

/// In hours and minutes, or in seconds if it is less.
fn span(hours: f64) -> impl std::fmt::Display {
    let seconds = (hours * 3600.0) as u64;
    humantime::format_duration(Duration::from_secs(if seconds < 60 {
        seconds
    } else {
        seconds / 60 * 60
    }))
}

/// Runs one question, with its reason when it fails.
pub(super) async fn ask<T>(
    timeout: Duration,
    question: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, Trouble> {
    match within(timeout, question.into_future()).await {
        Err(said) => Err(Trouble { said, denied: false, refused: false }),
        Ok(Err(error)) => Err(Trouble {
            said: short(&error.kind.to_string()),
            denied: matches!(&*error.kind, MongodbErrorKind::Command(error) if error.code == UNAUTHORIZED),
            refused: matches!(&*error.kind, MongodbErrorKind::Authentication { .. }),
        }),
        Ok(Ok(answer)) => Ok(answer),
    }
}

/// The reason within the driver's description of the whole topology.
fn short(said: &str) -> String {
    let reason = said.split("Error: ").nth(1).and_then(|rest| rest.split(", labels").next());
    let said = reason.filter(|_| said.contains("Topology")).unwrap_or(said);
    said.strip_prefix("Kind: ").unwrap_or(said).to_owned()
}

/// A question that only tells more: not being allowed to ask it is no fault.
pub(super) fn unknown(check: &'static str, at: &str, trouble: &Trouble) -> Finding {
    match trouble.denied {
        true => Finding::ok(check, at, "not looked at: the user may not ask"),
        false => Finding::warn(
            check,
            at,
            format!("could not be asked: {}", trouble.said),
            "$ outboxd check --timeout 30s",
        ),
    }
}

fn no_entry(at: &str, user: Option<&str>, trouble: &Trouble) -> Finding {
    const CHECK: &str = "mongodb.auth";
    let user = user.unwrap_or("<user>");
    if trouble.refused {
        let found = format!("the user {user} was refused: {}", trouble.said);
        let quoted = serde_json::Value::from(user);
        let remedy = format!(
            "MONGODB_URI: correct user, password or authSource, or\n\
             mongosh> db.getSiblingDB(\"admin\").changeUserPassword({quoted}, passwordPrompt())"
        );
        return Finding::fail(CHECK, at, found, remedy);
    }
    let found = format!("no answer to the question who the user is: {}", tls::says(&trouble.said));
    Finding::fail(CHECK, at, found, "$ outboxd check --timeout 30s")
}

fn unreachable(at: &str, why: &str, of_tls: Option<&str>) -> Finding {
    match of_tls {
        Some(remedy) => Finding::fail("mongodb.tls", at, why, remedy),
        None => Finding::fail("mongodb.reachable", at, why, start_or_correct()),
    }
}

fn start_or_correct() -> &'static str {
    "$ systemctl start mongod   # on that host, or\nMONGODB_URI: correct the host"
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reason_is_found_in_the_description_of_everything() {
        let said = "Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: a:1, \
                    Type: Unknown, Error: Kind: I/O error: unexpected end of file, labels: {} } ] }";
        assert_eq!(super::short(said), "I/O error: unexpected end of file");
        assert_eq!(super::short("Error: other"), "Error: other");
    }
}

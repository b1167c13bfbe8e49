//! The members of a replica set of which the demo kills the primary: `deploy/local/servers` starts
//! one, and others join it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, Database};
use ticketing::failure::Failure;
use tokio::time::{Instant, sleep};

use crate::process::start_time;
use crate::servers::{MONGOD, Own, argument};
use crate::stage::Servers;

/// Without the primary, two of three are still a majority.
const MEMBERS: usize = 3;
/// How long the others wait for the primary before they elect another one, in ms.
const ELECTION_TIMEOUT: i32 = 1500;
/// How long a member may take to join, or to become primary.
const JOIN_TIME: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(200);

impl Own {
    /// Starts two more members, waits until they have joined, and names them in the connection
    /// string.
    pub(crate) async fn add_members(&self, servers: &mut Servers) -> Result<(), Failure> {
        let admin = Client::with_uri_str(&servers.mongodb_uri).await?.database("admin");
        let (_, mut first) = self.running(MONGOD, None)?;
        let known = format!("127.0.0.1:{}", argument(&mut first, "--port")?);
        let mut hosts = vec![known.clone()];

        for number in 2..=MEMBERS {
            let data = self.directory().join(format!("{MONGOD}-{number}"));
            std::fs::create_dir(&data)?;
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();

            let mut args = first.clone();
            *argument(&mut args, "--dbpath")? = data.display().to_string();
            *argument(&mut args, "--port")? = port.to_string();
            let log = data.with_extension("log");
            let pid = self.spawn(&args, &log)?;

            let host = format!("127.0.0.1:{port}");
            join(&admin, &host, pid, &log).await?;
            hosts.push(host);
        }

        servers.mongodb_uri = servers.mongodb_uri.replace(&known, &hosts.join(","));
        Ok(())
    }
}

/// The port of the member that is primary now.
pub(crate) async fn primary_port(servers: &Servers) -> Result<String, Failure> {
    let admin = Client::with_uri_str(&servers.mongodb_uri).await?.database("admin");
    let hello = admin.run_command(doc! { "hello": 1 }).await?;
    let port = hello.get_str("primary")?.rsplit(':').next().unwrap_or_default();
    Ok(port.to_owned())
}

/// Waits until another member than the one at this port is primary.
pub(crate) async fn elect_other(servers: &Servers, port: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + JOIN_TIME;
    loop {
        if primary_port(servers).await.is_ok_and(|now| now != port) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("no other member became primary in {JOIN_TIME:?}").into());
        }
        sleep(LOOK).await;
    }
}

/// Adds a member, which this process is, and waits until it has everything and may vote.
async fn join(admin: &Database, host: &str, pid: u32, log: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + JOIN_TIME;
    loop {
        if start_time(pid).is_none() {
            let said = std::fs::read_to_string(log)?;
            let last = said.lines().last().unwrap_or_default();
            return Err(format!("{host} ended: {last}").into());
        }

        // A set takes one member at a time, and is busy until it has the one before.
        let joined = match add(admin, host).await {
            Ok(()) => has_joined(admin, host).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(true) => return Ok(()),
            Ok(false) | Err(_) if Instant::now() < deadline => sleep(LOOK).await,
            Ok(false) => return Err(format!("{host} did not join in {JOIN_TIME:?}").into()),
            Err(error) => return Err(format!("{host} did not join: {error}").into()),
        }
    }
}

async fn add(admin: &Database, host: &str) -> Result<(), Failure> {
    let mut config = admin.run_command(doc! { "replSetGetConfig": 1 }).await?;
    let config = config.get_document_mut("config")?;
    let version = config.get_i32("version")? + 1;
    config.insert("version", version);
    config.get_document_mut("settings")?.insert("electionTimeoutMillis", ELECTION_TIMEOUT);

    let members = config.get_array_mut("members")?;
    let is_there = |member: &Document| member.get_str("host").is_ok_and(|its| its == host);
    if members.iter().any(|member| member.as_document().is_some_and(is_there)) {
        return Ok(());
    }
    members.push(doc! { "_id": i32::try_from(members.len())?, "host": host }.into());

    admin.run_command(doc! { "replSetReconfig": &*config }).await?;
    Ok(())
}

async fn has_joined(admin: &Database, host: &str) -> Result<bool, Failure> {
    let status = admin.run_command(doc! { "replSetGetStatus": 1 }).await?;
    let members = status.get_array("members")?;
    let all_vote = i32::try_from(members.len())? == status.get_i32("votingMembersCount")?;
    let members = members.iter().filter_map(|member| member.as_document());
    let is = |member: &Document, field, text| member.get_str(field).is_ok_and(|its| its == text);
    let mut members = members.filter(|member| is(member, "name", host));
    Ok(all_vote && members.any(|member| is(member, "stateStr", "SECONDARY")))
}

//! Each host of MongoDB by itself, without the user, and the deployment that the hosts form.

use std::time::{Duration, Instant, SystemTime};

use bson::{Document, doc};
use futures_util::future::join_all;
use mongodb::Client;
use mongodb::options::{ClientOptions, ServerAddress, Tls};
use tokio::net::TcpStream;

use super::ask::{Clock, ask, within};
use crate::driver_words::TlsFault;
use crate::finding::Finding;
use crate::tls;

const START_OR_CORRECT: &str =
    "$ systemctl start mongod   # on that host, or\nMONGODB_URI: correct the host";

/// One host's answer to `hello`.
pub(super) struct Host {
    pub(super) hello: Document,
    pub(super) clock: Option<Clock>,
    took: Duration,
}

/// The answers of all hosts.
pub(super) struct Hosts {
    answers: Vec<Host>,
    /// One line for each host that did not answer.
    silent: Vec<String>,
    remedy: Option<&'static str>,
}

/// Whether the deployment can answer further questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usable {
    Yes,
    No,
}

/// Asks every host at the same time.
pub(super) async fn probe(options: &ClientOptions, timeout: Duration) -> Hosts {
    let over_tls = matches!(options.tls, Some(Tls::Enabled(_)));
    let probes = options.hosts.iter().map(|address| probe_one(options, address, timeout));
    let probed = join_all(probes).await;

    let (mut answers, mut silent, mut remedy) = (Vec::new(), Vec::new(), None);
    for (address, probed) in options.hosts.iter().zip(probed) {
        match probed {
            Ok(host) => answers.push(host),
            Err(reason) => {
                silent.push(format!("{address}: {}", tls::describe(&reason)));
                let fault = TlsFault::of(&reason);
                remedy = remedy.or(fault.map(|fault| fault.mongodb_remedy(over_tls)));
            }
        }
    }

    Hosts { answers, silent, remedy }
}

/// Asks one host. Every mongod answers `hello` without a user, whatever state the deployment is in.
async fn probe_one(
    options: &ClientOptions,
    address: &ServerAddress,
    timeout: Duration,
) -> Result<Host, String> {
    // The driver would retry until the timeout, and hide the reason in its description of the whole
    // deployment.
    connect(address, timeout).await?;

    let mut options = options.clone();
    options.hosts = vec![address.clone()];
    options.direct_connection = Some(true);
    options.repl_set_name = None;
    options.load_balanced = None;
    options.credential = None;

    let client = Client::with_options(options).map_err(|error| error.kind.to_string())?;
    let admin = client.database("admin");
    let hello = async || {
        let answer = ask(timeout, admin.run_command(doc! { "hello": 1 })).await;
        answer.map_err(|no_answer| no_answer.reason)
    };

    // The first answer includes the time to connect, so the second one is measured.
    hello().await?;
    let (began, asked) = (Instant::now(), SystemTime::now());
    let hello = hello().await?;
    let clock =
        hello.get_datetime("localTime").ok().map(|at| Clock::new(at.timestamp_millis(), asked));

    Ok(Host { hello, clock, took: began.elapsed() })
}

/// Looks the host up and connects.
async fn connect(address: &ServerAddress, timeout: Duration) -> Result<(), String> {
    let ServerAddress::Tcp { host, port } = address else { return Ok(()) };
    let address = (host.as_str(), port.unwrap_or(27017));
    let connected = within(timeout, TcpStream::connect(address)).await?;
    connected.map(drop).map_err(|error| error.to_string())
}

impl Hosts {
    /// The primary, or any host that answered.
    pub(super) fn first(&self) -> Option<&Host> {
        let primary = self.answers.iter().find(|host| flag(&host.hello, "isWritablePrimary"));
        primary.or(self.answers.first())
    }

    pub(super) fn reachable(&self, at: &str) -> Finding {
        let Some(first) = self.first() else {
            return unreachable(at, &self.silent.join("; "), self.remedy);
        };

        let answered = format!("answered in {:.1} ms", first.took.as_secs_f64() * 1000.0);
        match self.silent.is_empty() {
            true => Finding::ok("mongodb.reachable", at, answered),
            false => {
                let found =
                    format!("{answered}, but not every host did: {}", self.silent.join("; "));
                let remedy = self.remedy.unwrap_or(START_OR_CORRECT);
                Finding::warn("mongodb.reachable", at, found, remedy)
            }
        }
    }

    /// Whether the deployment has transactions and change streams. Corrects the options where
    /// further questions would fail for a reason that is already found.
    pub(super) fn topology(&self, at: &str, options: &mut ClientOptions) -> (Finding, Usable) {
        const CHECK: &str = "mongodb.topology";
        let hellos = || self.answers.iter().map(|host| &host.hello);
        if hellos().any(|hello| hello.get_str("msg").is_ok_and(|text| text == "isdbgrid")) {
            return (Finding::ok(CHECK, at, "a sharded cluster"), Usable::Yes);
        }

        let member = hellos().find_map(|hello| Some((hello, hello.get_str("setName").ok()?)));
        let Some((hello, set)) = member else {
            let remedy = to_replica_set(options);
            options.repl_set_name = None;
            options.direct_connection = Some(true);

            let finding = match hellos().any(|hello| flag(hello, "isreplicaset")) {
                true => {
                    let found = "a replica set that was never initiated: it accepts no writes";
                    Finding::fail(CHECK, at, found, "mongosh> rs.initiate()")
                }
                false => {
                    let found = "a standalone: no transactions and no change streams";
                    Finding::fail(CHECK, at, found, remedy)
                }
            };
            return (finding, Usable::Yes);
        };

        if let Some(wanted) = options.repl_set_name.clone().filter(|wanted| wanted != set) {
            let found = format!("the replica set is named {set}, but MONGODB_URI names {wanted}");
            options.repl_set_name = Some(set.to_owned());
            let remedy = format!("MONGODB_URI: replicaSet={set}");
            return (Finding::fail(CHECK, at, found, remedy), Usable::Yes);
        }

        let has_primary =
            |hello: &Document| flag(hello, "isWritablePrimary") || hello.contains_key("primary");
        if !hellos().any(has_primary) {
            let found = format!("replica set {set} has no primary, so it accepts no writes");
            let remedy = "mongosh> rs.status()   # a majority of the members must be up";
            return (Finding::fail(CHECK, at, found, remedy), Usable::No);
        }

        let members = members(hello);
        let noun = if members == 1 { "member" } else { "members" };
        (Finding::ok(CHECK, at, format!("replica set {set}, {members} {noun}")), Usable::Yes)
    }

    /// Whether this machine reaches the members by the names that the replica set gives them: the
    /// driver uses those, whatever hosts the connection string names. Nothing to say where it
    /// doesn't.
    pub(super) async fn members(
        &self,
        at: &str,
        options: &ClientOptions,
        timeout: Duration,
    ) -> Option<(Finding, Usable)> {
        const CHECK: &str = "mongodb.members";
        if options.direct_connection == Some(true) {
            return None;
        }

        let hello = self
            .answers
            .iter()
            .map(|host| &host.hello)
            .find(|hello| hello.get_str("setName").is_ok())?;
        let named: Vec<&str> = ["hosts", "passives"]
            .iter()
            .filter_map(|name| hello.get_array(name).ok())
            .flatten()
            .filter_map(|host| host.as_str())
            .collect();
        let others: Vec<(usize, ServerAddress)> = named
            .iter()
            .enumerate()
            .filter_map(|(place, host)| Some((place, ServerAddress::parse(host).ok()?)))
            .filter(|(_, host)| !options.hosts.contains(host))
            .collect();

        if others.is_empty() {
            return None;
        }

        let connects = others.iter().map(|(_, host)| connect(host, timeout));
        let connected = join_all(connects).await;
        let lost: Vec<_> = others
            .iter()
            .zip(connected)
            .filter_map(|((place, host), connected)| Some((*place, host, connected.err()?)))
            .collect();

        let Some((place, host, _)) = lost.first() else {
            let found = "this machine reaches every member by the name that the set gives it";
            return Some((Finding::ok(CHECK, at, found), Usable::Yes));
        };

        let reasons: Vec<_> =
            lost.iter().map(|(_, host, reason)| format!("{host}: {reason}")).collect();
        let found = format!(
            "clients use the names that the replica set gives its members ({}), and this machine \
             doesn't reach {}",
            named.join(", "),
            reasons.join("; ")
        );
        let remedy = format!(
            "/etc/hosts or DNS: give {} the member's address on this machine, or\n\
             mongosh> c = rs.conf(); c.members[{place}].host = \"<host>:<port>\"; rs.reconfig(c)",
            name(host)
        );

        let primary = hello.get_str("primary").ok();
        let is_primary = |host: &ServerAddress| Some(host.to_string().as_str()) == primary;
        Some(match lost.iter().any(|(_, host, _)| is_primary(host)) {
            true => (Finding::fail(CHECK, at, found, remedy), Usable::No),
            false => (Finding::warn(CHECK, at, found, remedy), Usable::Yes),
        })
    }
}

fn name(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, .. } => host.clone(),
        other => other.to_string(),
    }
}

fn flag(hello: &Document, name: &str) -> bool {
    hello.get_bool(name).unwrap_or(false)
}

fn members(hello: &Document) -> usize {
    let lists = ["hosts", "passives", "arbiters"];
    lists.iter().filter_map(|name| hello.get_array(name).ok()).map(Vec::len).sum()
}

fn to_replica_set(options: &ClientOptions) -> String {
    // With authorization, the members of a set authenticate to each other with a key file.
    let key = match options.credential {
        Some(_) => "\nmongod.conf: security: { authorization: enabled, keyFile: /etc/mongod.key }",
        None => "",
    };

    format!(
        "mongod.conf: replication: {{ replSetName: rs0 }}{key}\n$ systemctl restart mongod\n\
         mongosh> rs.initiate()\nMONGODB_URI: replicaSet=rs0"
    )
}

/// No host answered. With `tls_remedy`, TLS is to blame.
pub(super) fn unreachable(at: &str, reason: &str, tls_remedy: Option<&str>) -> Finding {
    match tls_remedy {
        Some(remedy) => Finding::fail("mongodb.tls", at, reason, remedy),
        None => Finding::fail("mongodb.reachable", at, reason, START_OR_CORRECT),
    }
}

//! Each host of MongoDB by itself, without the user, and the deployment that the hosts form.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use bson::{Document, doc};
use futures_util::future::join_all;
use mongodb::Client;
use mongodb::options::{ClientOptions, ServerAddress, Tls};
use tokio::net::TcpStream;

use super::ask::{Clock, ask, within};
use crate::driver_words::{TlsFault, failed_lookup, is_another_protocol};
use crate::error::mongodb_words;
use crate::finding::{Finding, shell};
use crate::tls;

/// One host's answer to `hello`.
pub(super) struct Host {
    pub(super) address: ServerAddress,
    pub(super) hello: Document,
    clock: Option<Clock>,
    took: Duration,
}

/// A host that did not answer.
struct Silent {
    address: ServerAddress,
    /// As the network, TLS or the driver put it.
    reason: String,
}

/// The answers of all hosts.
pub(super) struct Hosts {
    answers: Vec<Host>,
    silent: Vec<Silent>,
    over_tls: bool,
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

    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    for (address, probed) in options.hosts.iter().zip(probed) {
        match probed {
            Ok(host) => answers.push(host),
            Err(reason) => silent.push(Silent { address: address.clone(), reason }),
        }
    }

    Hosts { answers, silent, over_tls }
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

    let client = Client::with_options(options).map_err(|error| mongodb_words(&error))?;
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

    Ok(Host { address: address.clone(), hello, clock, took: began.elapsed() })
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

    /// The clock that differs most from this machine's, with its host.
    pub(super) fn clock(&self) -> Option<(String, Clock)> {
        let clocks = self.answers.iter().filter_map(|host| Some((host, host.clock?)));
        let (host, clock) = clocks.max_by_key(|(_, clock)| clock.ahead_ms.unsigned_abs())?;
        Some((host.address.to_string(), clock))
    }

    pub(super) fn reachable(&self, at: &str) -> Finding {
        const CHECK: &str = "mongodb.reachable";
        let Some(first) = self.first() else {
            let check = match self.silent.iter().any(|silent| silent.tls_fault().is_some()) {
                true => "mongodb.tls",
                false => CHECK,
            };
            return Finding::fail(check, at, self.reasons(), self.remedy());
        };

        let answered = format!("answered in {:.1} ms", first.took.as_secs_f64() * 1000.0);
        match self.silent.is_empty() {
            true => Finding::ok(CHECK, at, answered),
            false => {
                let found = format!("{answered}, but not every host did: {}", self.reasons());
                Finding::warn(CHECK, at, found, self.remedy())
            }
        }
    }

    fn reasons(&self) -> String {
        let reasons: Vec<_> = self.silent.iter().map(Silent::to_string).collect();
        reasons.join("; ")
    }

    /// The remedy for the first host that did not answer, where TLS is to blame before all others.
    fn remedy(&self) -> String {
        let fault = self.silent.iter().find_map(Silent::tls_fault);
        match (fault, self.silent.first()) {
            (Some(fault), _) => fault.mongodb_remedy(self.over_tls).to_owned(),
            (None, Some(silent)) => silent.remedy(),
            (None, None) => String::new(),
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
            let initiate = format!("mongosh> {}", initiate(options));
            let remedy = to_replica_set(options);
            options.repl_set_name = None;
            options.direct_connection = Some(true);

            let finding = match hellos().any(|hello| flag(hello, "isreplicaset")) {
                true => {
                    let found = "a replica set that was never initiated: it accepts no writes";
                    Finding::fail(CHECK, at, found, initiate)
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

        if options.direct_connection == Some(true) && !flag(hello, "isWritablePrimary") {
            let found = "directConnection=true leads to a member that is not the primary, and \
                         only the primary accepts writes";
            let remedy = match hello.get_str("primary") {
                Ok(primary) => format!("MONGODB_URI: {primary} as the host, or\n"),
                Err(_) => String::new(),
            };
            let remedy = format!("{remedy}MONGODB_URI: without directConnection=true");
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
        let host = self.answers.iter().find(|host| host.hello.get_str("setName").is_ok())?;
        let hello = &host.hello;
        let named = names(hello);

        if options.direct_connection == Some(true) {
            let found = format!(
                "directConnection=true: outboxd uses only this one of {} members ({}), and publishes \
                 nothing while another one is primary",
                named.len(),
                named.join(", ")
            );
            let remedy = "MONGODB_URI: the hosts of all members, without directConnection=true";
            let warning = (Finding::warn(CHECK, at, found, remedy), Usable::Yes);
            return (named.len() > 1).then_some(warning);
        }

        let others: Vec<_> = named
            .iter()
            .filter_map(|host| ServerAddress::parse(host).ok())
            .filter(|host| !options.hosts.contains(host))
            .collect();
        if others.is_empty() {
            return None;
        }

        let asked = others.iter().map(|other| probe_one(options, other, timeout));
        let asked = join_all(asked).await;
        let lost: Vec<_> = others
            .into_iter()
            .zip(asked)
            .filter_map(|(address, answer)| {
                let reason = match answer {
                    Ok(other) if is_another(hello, &other) => "another server answers".to_owned(),
                    Ok(_) => return None,
                    Err(reason) => reason,
                };
                Some(Silent { address, reason })
            })
            .collect();

        if lost.is_empty() {
            let found = "this machine reaches every member by the name that the set gives it";
            return Some((Finding::ok(CHECK, at, found), Usable::Yes));
        }

        let reasons: Vec<_> = lost.iter().map(Silent::to_string).collect();
        let found = format!(
            "clients use the names that the replica set gives its members ({}), and this machine \
             can't reach {}",
            named.join(", "),
            reasons.join("; ")
        );

        let remedy = to_reach(&lost, host, named.len());
        let primary = hello.get_str("primary").ok();
        let is_primary = |silent: &Silent| Some(silent.address.to_string().as_str()) == primary;
        Some(match lost.iter().any(is_primary) {
            true => (Finding::fail(CHECK, at, found, remedy), Usable::No),
            false => (Finding::warn(CHECK, at, found, remedy), Usable::Yes),
        })
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, tls::describe(&self.reason))
    }
}

impl Silent {
    fn tls_fault(&self) -> Option<TlsFault> {
        TlsFault::of(&self.reason)
    }

    /// The host's name, if it is one that a resolver has to know.
    fn name(&self) -> Option<&str> {
        let ServerAddress::Tcp { host, .. } = &self.address else { return None };
        let is_name = host.parse::<IpAddr>().is_err() && host != "localhost";
        is_name.then_some(host)
    }

    fn remedy(&self) -> String {
        let correct = "MONGODB_URI: correct the host";
        match self.name() {
            Some(name) if failed_lookup(&self.reason).is_some() => format!(
                "$ getent hosts {}   # once it prints an address, the relay continues, or\n{correct}",
                shell(name)
            ),
            _ if is_another_protocol(&self.reason) => format!("{correct} and its port"),
            _ => format!("$ systemctl start mongod   # on that host, or\n{correct}"),
        }
    }
}

/// The remedies for members that can't be reached, while `host` can: the connection string, the
/// names on this machine, or those in the set.
fn to_reach(lost: &[Silent], host: &Host, members: usize) -> String {
    let mut lines = Vec::new();
    if flag(&host.hello, "isWritablePrimary") {
        let while_so = if members > 1 { ", as long as it is the primary" } else { "" };
        lines.push(format!(
            "MONGODB_URI: directConnection=true, with {} alone   # outboxd then uses no other \
             name{while_so}, or",
            host.address
        ));
    }

    let names: Vec<_> = lost.iter().filter_map(Silent::name).collect();
    if !names.is_empty() {
        let members = if names.len() == 1 { "the member's address" } else { "their addresses" };
        let names = names.join(", ");
        lines.push(format!("/etc/hosts or DNS: give {names} {members} on this machine, or"));
    }

    let renamed: Vec<_> = lost
        .iter()
        .map(|silent| {
            let host = serde_json::Value::from(silent.address.to_string());
            format!("c.members.find(m => m.host == {host}).host = \"<host>:<port>\"; ")
        })
        .collect();
    lines.push(format!("mongosh> c = rs.conf(); {}rs.reconfig(c)", renamed.concat()));

    lines.join("\n")
}

/// Whether what answered by a member's name is no member of the set, or not the member of this name.
fn is_another(of_set: &Document, answer: &Host) -> bool {
    let set = |hello: &Document| hello.get_str("setName").map(str::to_owned).ok();
    let process = |hello: &Document| {
        hello
            .get_document("topologyVersion")
            .and_then(|version| version.get_object_id("processId"))
            .ok()
    };

    let hello = &answer.hello;
    let is_same_name = of_set.get_str("me").is_ok_and(|me| me == answer.address.to_string());
    set(of_set) != set(hello) || is_same_name && process(of_set) != process(hello)
}

/// The members that a client may use, by the names that the set gives them.
fn names(hello: &Document) -> Vec<&str> {
    let lists = ["hosts", "passives"];
    let lists = lists.iter().filter_map(|name| hello.get_array(name).ok());
    lists.flatten().filter_map(|host| host.as_str()).collect()
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

    let initiate = initiate(options);
    format!(
        "mongod.conf: replication: {{ replSetName: rs0 }}{key}\n$ systemctl restart mongod\n\
         mongosh> {initiate}\nMONGODB_URI: replicaSet=rs0"
    )
}

/// With the host as the connection string names it: by itself the server takes its own name, which
/// clients may not find.
fn initiate(options: &ClientOptions) -> String {
    let set = options.repl_set_name.as_deref().unwrap_or("rs0");
    let host = options.hosts.first().map(ToString::to_string).unwrap_or_default();
    format!("rs.initiate({{_id: {set:?}, members: [{{_id: 0, host: {host:?}}}]}})")
}

/// The hosts are not known, or not usable, so none was asked.
pub(super) fn unreachable(at: &str, reason: &str) -> Finding {
    Finding::fail("mongodb.reachable", at, reason, "MONGODB_URI: correct it")
}

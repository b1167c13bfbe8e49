//! NATS: the server, JetStream, and the stream.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::Config as StreamFound;
use async_nats::{ConnectErrorKind, Event};
use bson::DateTime;

use super::{Clock, within};
use crate::config::Config;
use crate::error::ErrorKind;
use crate::finding::{Finding, shell};
use crate::jetstream::judge::judge;
use crate::jetstream::stream;
use crate::tls::{self, Fault};

/// A cluster of older servers loses messages that it has acknowledged.
const OLDEST: (u64, u64, u64) = (2, 10, 0);
/// The versions of the two maintained lines that have the latest security fixes.
const FIXED: [(u64, u64, u64); 2] = [(2, 11, 15), (2, 12, 6)];
/// What to do about an older one.
const UPGRADE: &str = "install: nats-server 2.11.15, 2.12.6 or later";

/// The client's words for a JetStream request that nobody takes.
const NO_RESPONDERS: &str = "JetStream resource does not exist";

/// What NATS said.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    pub(super) max_payload: Option<usize>,
    pub(super) stream: Option<StreamFound>,
    pub(super) clock: Option<Clock>,
}

pub(super) async fn look(config: &Config, timeout: Duration) -> Seen {
    let mut seen = Seen::default();
    let servers = config.nats.servers().unwrap_or_default();
    let named: Vec<_> =
        servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    let at = format!("nats-server {}", named.join(", "));
    let options = match config.nats.options().await {
        Ok(options) => options,
        Err(error) => {
            seen.findings.push(Finding::fail(
                "nats.auth",
                &at,
                error.to_string(),
                "NATS_CREDS: correct the file",
            ));
            return seen;
        }
    };
    // What the server denies it tells the connection, not the one who asked.
    let denied = Arc::new(Mutex::new(None));
    let told = denied.clone();
    let options = options.connection_timeout(timeout).event_callback(move |event| {
        if let Event::ServerError(error) = event {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        std::future::ready(())
    });
    let began = Instant::now();
    let client = match within(timeout, options.connect(servers)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            let refused =
                [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
            seen.findings.extend(no_entry(
                &at,
                refused.contains(&error.kind()),
                &error.to_string(),
            ));
            return seen;
        }
        Err(silent) => {
            seen.findings.extend(no_entry(&at, false, &silent));
            return seen;
        }
    };
    let took = began.elapsed().as_secs_f64() * 1000.0;
    seen.findings.push(Finding::ok("nats.reachable", &at, format!("connected in {took:.1} ms")));
    let info = client.server_info();
    seen.findings.push(match info.auth_required {
        true => Finding::ok("nats.auth", &at, "the server took the credentials"),
        false => {
            let remedy = "nats-server.conf: authorization { user: outboxd, password: <bcrypt> }\n\
                          $ nats server passwd   # makes the bcrypt";
            Finding::warn(
                "nats.auth",
                &at,
                "off: whoever reaches the server may publish anything",
                remedy,
            )
        }
    });
    seen.findings.push(version(&at, &info.version));
    seen.max_payload = Some(info.max_payload);
    let context = ContextBuilder::new().timeout(timeout).build(client);
    let why = || denied.lock().unwrap_or_else(PoisonError::into_inner).clone();
    jetstream(config, &context, &at, timeout, why, &mut seen).await;
    seen
}

async fn jetstream(
    config: &Config,
    context: &Context,
    at: &str,
    timeout: Duration,
    denied: impl Fn() -> Option<String>,
    seen: &mut Seen,
) {
    const CHECK: &str = "nats.jetstream";
    let name = &config.stream.name;
    let stream = format!("stream {name}");
    let off = || {
        let remedy = "nats-server.conf: jetstream { store_dir: /var/lib/nats }\n\
                      nats-server.conf: accounts { <account>: { jetstream: enabled } }   # if it has accounts";
        Finding::fail(CHECK, at, "JetStream is off on this server or for this account", remedy)
    };
    let info = match within(timeout + timeout / 10, stream::info(context, name)).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) if error.kind() == ErrorKind::Stream => return seen.findings.push(off()),
        Ok(Err(error)) if error.to_string().contains(NO_RESPONDERS) => {
            return seen.findings.push(off());
        }
        other => {
            let said = match other {
                Err(silent) => silent,
                Ok(answer) => answer.err().map(|error| error.to_string()).unwrap_or_default(),
            };
            seen.findings.push(match denied() {
                Some(denied) => {
                    let remedy = "$ outboxd privileges --role relay   # the user, to paste into nats-server.conf";
                    Finding::fail(CHECK, at, format!("the user may not ask for the stream: {denied}"), remedy)
                }
                None => Finding::fail(
                    CHECK,
                    at,
                    format!("JetStream doesn't answer: {said}"),
                    "$ nats server report jetstream",
                ),
            });
            return;
        }
    };
    seen.findings.push(Finding::ok(CHECK, at, "on"));
    let Some(info) = info else {
        seen.findings.push(Finding::fail(
            "stream.exists",
            &stream,
            "doesn't exist",
            "$ outboxd migrate",
        ));
        return;
    };
    seen.findings.push(Finding::ok(
        "stream.exists",
        &stream,
        format!("messages: {}", info.state.messages),
    ));
    let cluster = info.cluster.as_ref();
    let clustered = cluster.is_some_and(|cluster| cluster.name.is_some());
    if clustered && cluster.is_some_and(|cluster| cluster.leader.is_none()) {
        let remedy = format!("$ nats stream cluster step-down {}", shell(name));
        seen.findings.push(Finding::fail(
            "stream.leader",
            &stream,
            "has no leader: it takes no messages",
            remedy,
        ));
    }
    seen.findings.extend(judge(&info.config, config));
    seen.findings.push(replicas(&info.config, clustered));
    seen.stream = Some(info.config);
    seen.clock = clock(context, name, timeout).await;
}

/// Servers since 2.10 say the time with a stream's state; the client doesn't keep it.
async fn clock(context: &Context, stream: &str, timeout: Duration) -> Option<Clock> {
    let asked = SystemTime::now();
    let info = within(
        timeout,
        context.request::<_, _, serde_json::Value>(format!("STREAM.INFO.{stream}"), &()),
    )
    .await;
    let at = DateTime::parse_rfc3339_str(info.ok()?.ok()?.get("ts")?.as_str()?).ok()?;
    Some(Clock::new(at.timestamp_millis(), asked))
}

fn no_entry(at: &str, refused: bool, why: &str) -> Vec<Finding> {
    if refused {
        let remedy = "NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_NKEY or NATS_CREDS: what the server knows\n\
                      nats-server.conf: authorization { user: <user>, password: <bcrypt> }";
        let found = format!("the server refused the credentials: {why}");
        return vec![
            Finding::ok("nats.reachable", at, "answered"),
            Finding::fail("nats.auth", at, found, remedy),
        ];
    }
    if let Some(fault) = Fault::of(why) {
        return vec![Finding::fail("nats.tls", at, tls::says(why), fault.nats())];
    }
    let remedy = "$ systemctl start nats-server   # on that host, or\nNATS_URL: correct the host";
    vec![Finding::fail("nats.reachable", at, why, remedy)]
}

fn version(at: &str, version: &str) -> Finding {
    const CHECK: &str = "nats.version";
    let found = parse(version);
    let fixed = if found >= (2, 12, 0) { FIXED[1] } else { FIXED[0] };
    if found < OLDEST {
        Finding::fail(
            CHECK,
            at,
            format!("{version} is too old: outboxd needs NATS 2.10 or newer"),
            UPGRADE,
        )
    } else if found < fixed {
        Finding::warn(
            CHECK,
            at,
            format!("{version} lacks security fixes of 2.11.15 and 2.12.6"),
            UPGRADE,
        )
    } else {
        Finding::ok(CHECK, at, version)
    }
}

fn parse(version: &str) -> (u64, u64, u64) {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part(), part(), part())
}

/// Judges the number of copies. A single copy is enough only without a cluster.
fn replicas(found: &StreamFound, clustered: bool) -> Finding {
    const CHECK: &str = "stream.replicas";
    let at = format!("stream {}", found.name);
    match found.num_replicas {
        1 if clustered => {
            let remedy = format!("$ nats stream edit {} --replicas 3", shell(&found.name));
            Finding::warn(CHECK, &at, "1 copy in a cluster: it is lost with its server", remedy)
        }
        1 => Finding::ok(CHECK, &at, "1 copy on a single server"),
        copies => Finding::ok(CHECK, &at, format!("{copies} copies")),
    }
}

#[cfg(test)]
mod tests {
    use super::{StreamFound, replicas, version};
    use crate::finding::Level;

    #[test]
    fn versions_are_judged_by_their_line() {
        for (found, level) in [
            ("2.9.25", Level::Fail),
            ("2.10.26", Level::Warn),
            ("2.11.14", Level::Warn),
            ("2.11.15", Level::Ok),
            ("2.12.0", Level::Warn),
            ("2.12.6-RC.1", Level::Ok),
            ("2.15.2", Level::Ok),
        ] {
            assert_eq!(version("nats-server", found).level, level, "{found}");
        }
    }

    #[test]
    fn a_single_copy_in_a_cluster_is_warned_of() {
        for (num_replicas, clustered, level) in
            [(1, false, Level::Ok), (1, true, Level::Warn), (3, true, Level::Ok)]
        {
            let found = StreamFound { num_replicas, ..StreamFound::default() };
            assert_eq!(replicas(&found, clustered).level, level, "{num_replicas}, {clustered}");
        }
    }
}

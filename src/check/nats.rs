//! NATS: the server, JetStream, and the stream.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::stream::{Config as StreamFound, Info};
use async_nats::{Client, ConnectErrorKind, Event, ServerError};
use bson::DateTime;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::ask::{Clock, within};
use super::{bursts, version};
use crate::config::Config;
use crate::driver_words::{TlsFault, plain};
use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, shell};
use crate::jetstream::absent::{self, Absent};
use crate::jetstream::account::{self, Group};
use crate::jetstream::acks::Acks;
use crate::jetstream::denied::Denied;
use crate::jetstream::facts::Facts;
use crate::jetstream::hearing::Hearing;
use crate::jetstream::port::{self, Misfit};
use crate::jetstream::reply::Expected;
use crate::jetstream::requirements::review;
use crate::jetstream::stored;
use crate::jetstream::stream::{Described, describe, is_silent};
use crate::pattern::overlap;
use crate::tls;

/// The request by which a user asks what it may do.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";
const JETSTREAM: &str = "nats.jetstream";

/// The findings of NATS, and what is compared with the outbox.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    pub(super) max_payload: Option<usize>,
    pub(super) stream: Option<StreamFound>,
    /// What is known of the stream if it doesn't exist.
    pub(super) absent: Option<Absent>,
    pub(super) clock: Option<Clock>,
}

pub(super) async fn look(config: &Config, timeout: Duration) -> Checked {
    let mut checked = Checked::default();
    let servers = config.nats.servers().unwrap_or_default();
    let at = format!("nats-server {}", config.nats.addresses());
    let options = match config.nats.options().await {
        Ok(options) => options,
        Err(error) => {
            let (found, remedy) = (error.report().to_string(), "NATS_CREDS: correct the file");
            checked.findings.push(Finding::fail("nats.auth", &at, found, remedy));
            return checked;
        }
    };

    // Longer than the question about the stream, whose reason is better if nothing answers.
    let hearing = Hearing::new(&config.nats, &config.stream.name, timeout + timeout / 5);
    let denials = Denials::new(hearing);
    let options = options.connection_timeout(timeout).event_callback(denials.callback());
    let began = Instant::now();
    let client = match within(timeout, options.connect(servers)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            let (kind, reason) = (Some(error.kind()), error.to_string());
            checked.findings = not_connected(config, &at, kind, &reason).await;
            return checked;
        }
        Err(reason) => {
            checked.findings = not_connected(config, &at, None, &reason).await;
            return checked;
        }
    };

    let took = began.elapsed().as_secs_f64() * 1000.0;
    let reachable = Finding::ok("nats.reachable", &at, format!("connected in {took:.1} ms"));

    let info = client.server_info();
    checked.findings =
        vec![reachable, auth(&at, info.auth_required), version::look(&at, &info.version)];
    checked.max_payload = Some(info.max_payload);

    let context = config.nats.context(client.clone(), timeout);
    let asked = SystemTime::now();
    let asked_for = tokio::try_join!(
        hears(config, client, &at, &denials),
        stream_info(config, &context, &at, timeout, &denials)
    );
    match asked_for {
        Err(finding) => checked.findings.push(finding),
        Ok(((), found)) => {
            checked.findings.push(Finding::ok(JETSTREAM, &at, "on"));
            let of = format!("stream {}", config.stream.name);
            let Some(Described { info: found, at: clock, .. }) = found else {
                let absent = absent::look(config, &context.client(), &denials.0.denied).await;
                checked.absent = Some(absent);
                return checked;
            };

            checked.clock = clock.and_then(|clock| server_clock(&clock, asked));
            checked.findings.extend(may_read(config, &context, &at, timeout, &denials).await);
            let permissions = restricted(&context, &at, info.auth_required, timeout, &denials);
            checked.findings.extend(permissions.await);
            checked.findings.extend(stream(config, &of, &found, info.max_payload));
            checked.findings.extend(answered(&context.client(), &of, &found, &denials).await);
            checked.stream = Some(found.config);
        }
    }

    checked
}

/// The last error that the server sent for the connection. A denied request gets no reply of its
/// own.
#[derive(Debug, Clone)]
struct Denials(Arc<Denial>);

#[derive(Debug)]
struct Denial {
    last: Mutex<Option<String>>,
    came: Notify,
    hearing: Hearing,
    denied: Denied,
}

impl Denials {
    fn new(hearing: Hearing) -> Self {
        let (last, came, denied) = (Mutex::default(), Notify::new(), Denied::default());
        Self(Arc::new(Denial { last, came, hearing, denied }))
    }

    fn callback(&self) -> impl Fn(Event) -> Ready<()> + Send + Sync + 'static {
        let denials = self.clone();
        move |event| {
            if let Event::ServerError(error) = event {
                denials.with(|last| *last = Some(plain(&error.to_string())));
                if let ServerError::Other(error) = &error {
                    denials.0.denied.learn(error);
                    denials.0.hearing.learn(error);
                }
                denials.0.came.notify_one();
            }
            ready(())
        }
    }

    fn with<T>(&self, then: impl FnOnce(&mut Option<String>) -> T) -> T {
        then(&mut self.0.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn last(&self) -> Option<String> {
        self.with(|last| last.clone())
    }

    /// Waits for an error about this subject.
    async fn of(&self, subject: &str) {
        while !self.last().is_some_and(|error| error.contains(subject)) {
            self.0.came.notified().await;
        }
    }
}

async fn not_connected(
    config: &Config,
    at: &str,
    kind: Option<ConnectErrorKind>,
    reason: &str,
) -> Vec<Finding> {
    let refused = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
    if kind.is_some_and(|kind| refused.contains(&kind)) {
        let remedy = "NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_NKEY or NATS_CREDS: correct the \
                      credentials\n\
                      nats-server.conf: authorization { user: <user>, password: <bcrypt> }";
        let found = format!("the server refused the credentials: {}", tls::describe(reason));
        return vec![
            Finding::ok("nats.reachable", at, "answered"),
            Finding::fail("nats.auth", at, found, remedy),
        ];
    }

    if let Some(Misfit { found, remedy, is_tls }) = port::misfit(&config.nats, reason).await {
        let check = if is_tls { "nats.tls" } else { "nats.reachable" };
        return vec![Finding::fail(check, at, found, remedy)];
    }

    if let Some(fault) = TlsFault::of(reason) {
        let found = tls::describe(reason);
        return vec![Finding::fail("nats.tls", at, found, fault.nats_remedy())];
    }

    let remedy = "$ systemctl start nats-server   # on that host, or\nNATS_URL: correct the host";
    vec![Finding::fail("nats.reachable", at, tls::describe(reason), remedy)]
}

fn auth(at: &str, required: bool) -> Finding {
    const CHECK: &str = "nats.auth";
    match required {
        true => Finding::ok(CHECK, at, "the server accepted the credentials"),
        false => {
            let found = "off: anyone who reaches the server can publish anything";
            let remedy = "nats-server.conf: authorization { user: outboxd, password: <bcrypt> }\n\
                          $ nats server passwd   # prints the bcrypt";
            Finding::warn(CHECK, at, found, remedy)
        }
    }
}

/// Whether replies reach the user, where acks do and where the replies to requests do.
async fn hears(
    config: &Config,
    client: Client,
    at: &str,
    denials: &Denials,
) -> Result<(), Finding> {
    const CHECK: &str = "nats.replies";
    let Denial { hearing, denied, .. } = &*denials.0;

    let expected = Arc::new(Expected::new(&config.stream.name, config.nats.verify_acks));
    let (inbox, timeout) = (format!("{}.", client.new_inbox()), config.nats.ack_timeout);
    let proved = match Acks::subscribe(client.clone(), inbox, timeout, expected).await {
        Ok(acks) => hearing.prove(&client, &acks, denied).await,
        Err(error) => Err(error.to_string()),
    };

    proved.map_err(|why| {
        let remedy = "$ outboxd privileges --role relay   # prints the user; paste it into \
                      nats-server.conf";
        Finding::fail(CHECK, at, format!("no reply reaches the relay: {why}"), remedy)
    })
}

/// Asks for the stream; `None` when it doesn't exist.
async fn stream_info(
    config: &Config,
    context: &Context,
    at: &str,
    timeout: Duration,
    denials: &Denials,
) -> Result<Option<Described>, Finding> {
    // Longer than the client's own timeout, which has a better reason.
    let asked = within(timeout + timeout / 10, describe(context, &config.stream.name)).await;
    let reason = match asked {
        Ok(Ok(info)) => return Ok(info),
        Ok(Err(error)) if jetstream_is_off(&error) => {
            let client = context.client();
            let (found, remedy) = absent::silent(config, &client, &denials.0.denied).await;
            return Err(Finding::fail(JETSTREAM, at, found, remedy));
        }
        Ok(Err(error)) => error.report().to_string(),
        Err(reason) => reason,
    };

    Err(match denials.last() {
        Some(denied) => {
            let found = format!("the user has no permission to read the stream: {denied}");
            let remedy = "$ outboxd privileges --role relay   # prints the user; paste it into \
                          nats-server.conf";
            Finding::fail(JETSTREAM, at, found, remedy)
        }
        None => {
            let found = format!("JetStream did not answer: {reason}");
            Finding::fail(JETSTREAM, at, found, "$ nats server report jetstream")
        }
    })
}

/// A server without JetStream either refuses the request or has no responder for it.
fn jetstream_is_off(error: &Error) -> bool {
    error.kind() == ErrorKind::Stream || error.cause::<RequestError>().is_some_and(is_silent)
}

/// Whether the user may read the stream's messages, which confirms duplicates. No finding if so, or
/// if there was no answer: then nothing else of this server answers.
async fn may_read(
    config: &Config,
    context: &Context,
    at: &str,
    timeout: Duration,
    denials: &Denials,
) -> Option<Finding> {
    let subject = format!("{}.{}", config.nats.api_prefix(), stored::request(&config.stream.name));
    // No stream has a message there, so the reply is small.
    let request = json!({ "seq": u64::MAX }).to_string();
    let client = context.client();

    tokio::select! {
        _ = within(timeout, client.request(subject.clone(), request.into())) => None,
        () = denials.of(&subject) => {
            let found = format!(
                "the user may not publish to {subject}: duplicates can't be confirmed, and their \
                 events stay in the outbox"
            );
            let remedy = "$ outboxd privileges --role relay   # prints the user; paste it into \
                          nats-server.conf";
            Some(Finding::fail("nats.privileges", at, found, remedy))
        }
    }
}

/// Whether the relay's own user has permissions at all. One that may do everything is seldom the
/// only one, and a neighbour that may do everything can answer publishes. The permissions of other
/// users can't be seen from here. No finding if the server does not say.
async fn restricted(
    context: &Context,
    at: &str,
    has_users: bool,
    timeout: Duration,
    denials: &Denials,
) -> Option<Finding> {
    // Without users, `nats.auth` says so.
    if !has_users {
        return None;
    }

    let client = context.client();
    let answer = tokio::select! {
        answer = within(timeout, client.request(USER_INFO, "".into())) => answer.ok()?.ok()?,
        () = denials.of(USER_INFO) => return None,
    };
    let info: Value = serde_json::from_slice(&answer.payload).ok()?;
    let is_denied = |direction: &str| !info["data"]["permissions"][direction].is_null();
    if info["data"]["user"].is_null() || is_denied("publish") || is_denied("subscribe") {
        return None;
    }

    let found = "the user has no permissions of its own and may do everything. A user of the account \
                 that may answer the relay's publishes can forge acks";
    let remedy = "$ outboxd privileges --role relay   # prints the permissions of this user and of \
                  the others";
    Some(Finding::warn("nats.privileges", at, found, remedy))
}

fn stream(config: &Config, at: &str, info: &Info, max_payload: usize) -> Vec<Finding> {
    let found = format!("messages: {}", info.state.messages);
    let mut findings = vec![Finding::ok("stream.exists", at, found)];

    let cluster = info.cluster.as_ref().filter(|cluster| cluster.name.is_some());
    if cluster.is_some_and(|cluster| cluster.leader.is_none()) {
        let found = "has no leader, so it accepts no messages";
        let remedy = format!("$ nats stream cluster step-down {}", shell(&config.stream.name));
        findings.push(Finding::fail("stream.leader", at, found, remedy));
    }

    findings.extend(review(&Facts::new(info, config, max_payload)));
    findings.push(bursts::look(config, at, info));
    findings
}

/// Clients that answer requests to subjects of the stream. No finding if there are none, or the user
/// may not ask.
async fn answered(client: &Client, at: &str, info: &Info, denials: &Denials) -> Option<Finding> {
    let is_taken =
        |group: &Group| info.config.subjects.iter().any(|subject| overlap(subject, &group.subject));
    let groups = account::groups(client, &denials.0.denied).await;
    let Group { subject, group, client } = groups.into_iter().find(is_taken)?;

    let who = match client.is_empty() {
        true => "a client".to_owned(),
        false => format!("client {client}"),
    };
    let found = format!(
        "{who} subscribes to {subject} in the queue group {group}, as services do: \
         the stream stores the requests and answers them first, with its ack"
    );
    let name = shell(&info.config.name);
    let remedy = format!(
        "$ nats stream edit {name} --subjects '<subject>,<subject>'   # only those of the events"
    );
    Some(Finding::warn("stream.contents", at, found, remedy))
}

/// The server's clock, which it sent with a stream's state.
fn server_clock(at: &str, asked: SystemTime) -> Option<Clock> {
    let at = DateTime::parse_rfc3339_str(at).ok()?;
    Some(Clock::new(at.timestamp_millis(), asked))
}

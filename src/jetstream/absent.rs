//! A stream that isn't where it was looked for: where that was, whether it is in another JetStream
//! domain, and what would refuse to create it.
//!
//! A leaf node with JetStream has a domain of its own, and the API without a domain is that of the
//! server that a client connects to. A second stream of the same name, in another domain, stores
//! every event once more. So nobody is sent to `outboxd migrate` before the other domains were
//! looked at, and `outboxd migrate` creates nothing where it can't look.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::account::Account;
use async_nats::jetstream::response::Response;
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::account::{Server, answers};
use super::creation::{OVERLAP, Refusal, foreseen, refusals};
use super::denied::Denied;
use crate::config::{Api, Config};
use crate::finding::shell;

/// The request by which a user asks who it is.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";
/// The account of a server without accounts.
const GLOBAL: &str = "$G";
/// How long one question waits. What it would answer is worth no longer wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of an absent stream.
#[derive(Debug)]
pub(crate) struct Absent {
    /// In which JetStream it was looked for.
    place: String,
    elsewhere: Elsewhere,
    /// The domain in which it was looked for, if that has a name.
    domain: Option<String>,
    /// Whether the account may import the JetStream of another.
    may_import: bool,
    /// Streams that have some of the subjects.
    takers: Vec<String>,
    refusal: Option<&'static Refusal>,
}

/// Where else it may be.
#[derive(Debug, PartialEq, Eq)]
enum Elsewhere {
    /// In this domain.
    Domain(String),
    /// In the JetStream of this server, which has no domain and can't be asked from here.
    Unreachable(String),
    /// The server has a domain, and the user may not ask for others.
    Unknown,
    Nowhere,
}

/// Looks for the stream of these settings, which the JetStream that they name doesn't have.
pub(crate) async fn look(config: &Config, client: &Client, denied: &Denied) -> Absent {
    let asker = Asker { config, client, denied };
    let (account, elsewhere, takers, refusal) = tokio::join!(
        asker.account(),
        asker.elsewhere(),
        asker.takers(&config.stream.subjects),
        asker.foreseen()
    );

    let of_account = account.as_deref().filter(|name| *name != GLOBAL);
    let place = match of_account {
        Some(account) => format!("{}, account {account}", asker.place()),
        None => asker.place(),
    };
    let may_import = of_account.is_some() && config.nats.api == Api::Near;
    let refusal = match takers.is_empty() {
        true => refusal,
        false => refusals(OVERLAP).next(),
    };

    Absent { place, elsewhere, domain: client.server_info().domain, may_import, takers, refusal }
}

/// In which JetStream the settings look for the stream: domain or prefix, and the server that is
/// asked.
pub(crate) fn place(config: &Config, client: &Client) -> String {
    Asker { config, client, denied: &Denied::default() }.place()
}

/// What a JetStream that does not answer, or is off, means: what was found, and the lines that help.
pub(crate) async fn silent(config: &Config, client: &Client, denied: &Denied) -> (String, String) {
    let asker = Asker { config, client, denied };
    if config.nats.api != Api::Near {
        let known: BTreeSet<_> =
            asker.servers().await.into_iter().filter_map(|server| server.domain).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(" or ");
        let setting = match (&config.nats.api, known.is_empty()) {
            (Api::Prefix(_), _) => {
                "environment: OUTBOXD_NATS__API_PREFIX=<what the account imports $JS.API as>"
                    .to_owned()
            }
            (_, true) => "environment: OUTBOXD_NATS__DOMAIN=<the domain of the stream>".to_owned(),
            (_, false) => format!(
                "environment: OUTBOXD_NATS__DOMAIN={}   # which the account reaches",
                shell(&known)
            ),
        };
        return (format!("no JetStream answers for {}", asker.place()), setting);
    }

    let (account, elsewhere) = tokio::join!(asker.account(), asker.elsewhere());
    let account = account.unwrap_or_else(|| "the account".to_owned());
    let found = format!("JetStream is off for account {account}, or on {}", asker.place());
    let remedy = match elsewhere {
        Elsewhere::Domain(domain) => {
            format!("environment: OUTBOXD_NATS__DOMAIN={}   # it has the stream", shell(&domain))
        }
        _ => "nats-server.conf: jetstream { store_dir: /var/lib/nats }\n\
              nats-server.conf: accounts { <account>: { jetstream: enabled } }   # if it has \
              accounts\n\
              environment: OUTBOXD_NATS__API_PREFIX=<prefix>   # if the account imports the \
              JetStream of another"
            .to_owned(),
    };

    (found, remedy)
}

/// The streams that take some of these subjects, if the user may ask for them.
pub(super) async fn takers(config: &Config, client: &Client, denied: &Denied) -> Vec<String> {
    Asker { config, client, denied }.takers(&config.stream.subjects).await
}

impl Absent {
    pub(crate) fn found(&self) -> String {
        let found = format!("doesn't exist in {}, where it was looked for", self.place);
        match &self.elsewhere {
            Elsewhere::Domain(domain) => {
                format!("{found}; it exists in domain {domain}: set nats.domain = {domain:?}")
            }
            Elsewhere::Unreachable(server) => format!(
                "{found}; server {server} has JetStream without a domain, which can't be asked \
                 from here"
            ),
            Elsewhere::Unknown => {
                format!("{found}; the user may not ask which other domains there are")
            }
            Elsewhere::Nowhere if !self.takers.is_empty() => {
                format!("{found}; stream {} takes subjects of it", self.takers.join(", "))
            }
            Elsewhere::Nowhere => match self.refusal {
                Some(refusal) => format!("{found}, and can't be created: {}", refusal.meaning),
                None => found,
            },
        }
    }

    /// Why `outboxd migrate` creates no stream here: what was found, and the lines that help.
    pub(super) fn forbids(&self) -> Option<(String, String)> {
        let moves = self.moves()?;
        // Who has seen that another domain has it may name this one, too, and knows why.
        let here = self.domain.as_ref().filter(|_| !matches!(self.elsewhere, Elsewhere::Domain(_)));
        let create = here.map(|here| {
            format!("\n$ OUTBOXD_NATS__DOMAIN={} outboxd migrate   # creates it here", shell(here))
        });

        let reason = format!("{}; nothing was created", self.found());
        Some((reason, moves + &create.unwrap_or_default()))
    }

    /// What a person should know about a stream that was created here, in an account that may import
    /// the stream of another: no user can see that.
    pub(super) fn created(&self, stream: &str) -> Option<String> {
        self.may_import.then(|| {
            format!(
                "it is in {}. If this account imports the JetStream of another one that has a stream \
                 of these subjects, every event is stored in both: then remove this one (nats stream \
                 rm {}) and set nats.api_prefix",
                self.place,
                shell(stream)
            )
        })
    }

    /// What the account's limits would refuse, if it has this code.
    pub(super) fn foresaw(&self, code: &str) -> Option<&'static Refusal> {
        self.refusal.filter(|refusal| refusal.code == code)
    }

    /// The line for a stream that is elsewhere.
    fn moves(&self) -> Option<String> {
        match &self.elsewhere {
            Elsewhere::Domain(domain) => {
                Some(format!("environment: OUTBOXD_NATS__DOMAIN={}", shell(domain)))
            }
            Elsewhere::Unreachable(server) => Some(format!(
                "NATS_URL: server {server}   # if the stream is there, or\n\
                 nats-server.conf: jetstream {{ domain: <name> }}   # of server {server}; then set \
                 nats.domain to it"
            )),
            Elsewhere::Unknown => {
                let setting = "environment: OUTBOXD_NATS__DOMAIN=<domain>   # the one that has it, \
                               such as a hub's";
                Some(setting.to_owned())
            }
            Elsewhere::Nowhere => None,
        }
    }

    /// The lines that help. `subjects` are those of the events, for settings that name none.
    pub(crate) fn remedy(&self, config: &Config, subjects: &[String]) -> String {
        let own = &config.stream.subjects;
        let with = match (own.is_empty(), subjects) {
            (false, _) => String::new(),
            (true, []) => "OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' ".to_owned(),
            (true, some) => format!("OUTBOXD_STREAM__SUBJECTS={} ", shell(&some.join(","))),
        };

        if let Some(moves) = self.moves() {
            return moves;
        }
        if !self.takers.is_empty() {
            return overlap(&self.takers);
        }

        let create = match self.refusal {
            Some(refusal) => {
                refusal.remedy.replacen("outboxd migrate", &format!("{with}outboxd migrate"), 1)
            }
            None => format!("$ {with}outboxd migrate"),
        };
        match self.may_import {
            // With both, each event would be stored twice.
            true => format!(
                "environment: OUTBOXD_NATS__API_PREFIX=<prefix>   # if the stream is in another \
                 account, whose JetStream this one imports\n\
                 {create}   # only if it is in no other account: creates it in this one"
            ),
            false => create,
        }
    }
}

/// The lines for subjects that other streams have.
pub(super) fn overlap(takers: &[String]) -> String {
    let first = takers.first().map_or("", String::as_str);
    format!(
        "environment: NATS_CLUSTER_ID={}   # if the events go there, or\n\
         $ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate   # subjects that no \
         other stream has",
        shell(first)
    )
}

/// Asks what the user may ask. What is denied or not answered is not known.
struct Asker<'a> {
    config: &'a Config,
    client: &'a Client,
    denied: &'a Denied,
}

impl Asker<'_> {
    async fn ask(&self, subject: String, body: Value) -> Option<Bytes> {
        let (asked, body) = (Instant::now(), body.to_string());
        let answer = self.client.request(subject.clone(), body.into());

        tokio::select! {
            answer = timeout(PATIENCE, answer) => Some(answer.ok()?.ok()?.payload),
            () = self.denied.after(&subject, asked) => None,
        }
    }

    async fn api<T: DeserializeOwned>(&self, request: &str, body: Value) -> Option<T> {
        let subject = format!("{}.{request}", self.config.nats.api_prefix());
        let answer = self.ask(subject, body).await?;
        match serde_json::from_slice(&answer).ok()? {
            Response::Ok(answer) => Some(answer),
            Response::Err { .. } => None,
        }
    }

    fn place(&self) -> String {
        let info = self.client.server_info();
        let server = match info.server_name.is_empty() || info.server_name == info.server_id {
            true => format!("server {}", self.config.nats.addresses()),
            false => format!("server {}", info.server_name),
        };

        match (&self.config.nats.api, info.domain) {
            (Api::Prefix(prefix), _) => format!("the JetStream of {prefix} at {server}"),
            (Api::Domain(domain), _) => format!("JetStream domain {domain} at {server}"),
            (Api::Near, Some(domain)) => format!("JetStream domain {domain} of {server}"),
            (Api::Near, None) => format!("the JetStream of {server}"),
        }
    }

    /// The account of the user.
    async fn account(&self) -> Option<String> {
        let answer = self.ask(USER_INFO.to_owned(), json!({})).await?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        Some(answer["data"]["account"].as_str()?.to_owned())
    }

    /// Where else the stream is. Settings that name a JetStream are believed.
    async fn elsewhere(&self) -> Elsewhere {
        if self.config.nats.api != Api::Near {
            return Elsewhere::Nowhere;
        }

        let own = self.client.server_info().domain;
        let servers = self.servers().await;
        if servers.is_empty() {
            return own.map_or(Elsewhere::Nowhere, |_| Elsewhere::Unknown);
        }

        let others: BTreeSet<_> = servers
            .iter()
            .filter_map(|server| server.domain.clone())
            .filter(|domain| own.as_ref() != Some(domain))
            .collect();
        let asked = others.into_iter().map(async |domain| {
            let subject = format!("$JS.{domain}.API.STREAM.INFO.{}", self.config.stream.name);
            let answer = self.ask(subject, json!({})).await?;
            let answer: Value = serde_json::from_slice(&answer).ok()?;
            answer["config"].is_object().then_some(domain)
        });
        if let Some(domain) = join_all(asked).await.into_iter().flatten().next() {
            return Elsewhere::Domain(domain);
        }

        // Without a domain it is not this server's JetStream, and not one that can be asked.
        let is_apart = |server: &&Server| server.jetstream && server.domain.is_none();
        match servers.iter().find(is_apart).filter(|_| own.is_some()) {
            Some(server) => Elsewhere::Unreachable(server.name.clone()),
            None => Elsewhere::Nowhere,
        }
    }

    /// The servers that the account reaches; none if the user may not ask.
    async fn servers(&self) -> Vec<Server> {
        let answers = answers(self.client, self.denied, json!({})).await;
        answers.into_iter().map(|answer| answer.server).collect()
    }

    /// The other streams that take some of these subjects.
    async fn takers(&self, subjects: &[String]) -> Vec<String> {
        #[derive(Deserialize)]
        struct Names {
            streams: Option<Vec<String>>,
        }

        let mut takers = BTreeSet::new();
        for subject in subjects {
            let names = self.api::<Names>("STREAM.NAMES", json!({ "subject": subject })).await;
            // Whoever may not ask for one may ask for none.
            let Some(names) = names else { break };
            takers.extend(names.streams.unwrap_or_default());
        }

        takers.remove(&self.config.stream.name);
        takers.into_iter().collect()
    }

    /// What the account's limits would refuse.
    async fn foreseen(&self) -> Option<&'static Refusal> {
        let account: Account = self.api("INFO", json!({})).await?;
        foreseen(&account, &self.config.stream)
    }
}

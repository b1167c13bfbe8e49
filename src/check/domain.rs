//! The JetStream domains that the server knows of, to find a stream that isn't where it is looked
//! for.
//!
//! A leaf node with JetStream has a domain of its own, and the API without a domain is that of the
//! server that a client connects to. Every server that the account reaches answers a request for
//! the account's connections, and names its domain. A user with few rights can't ask; then the
//! finding has no name to suggest.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::ask::within;
use crate::config::Config;
use crate::finding::{Finding, shell};
use crate::jetstream::stream;

/// The request that every server of the account answers.
const CONNECTIONS: &str = "$SYS.REQ.ACCOUNT.PING.CONNZ";
/// How long to collect answers. Servers answer at once; nothing says which is the last.
const COLLECT: Duration = Duration::from_millis(500);

/// An answer to [`CONNECTIONS`].
#[derive(Debug, Deserialize)]
struct Answer {
    server: Server,
}

#[derive(Debug, Deserialize)]
struct Server {
    domain: Option<String>,
}

/// The finding about a stream that doesn't exist in the domain in which it was looked for.
pub(super) async fn missing(
    config: &Config,
    client: &Client,
    at: &str,
    timeout: Duration,
) -> Finding {
    const EXISTS: &str = "stream.exists";
    const MIGRATE: &str = "$ outboxd migrate";

    let domain = config.nats.domain.clone().or_else(|| client.server_info().domain);
    let Some(domain) = domain else {
        return Finding::fail(EXISTS, at, "doesn't exist", MIGRATE);
    };

    for other in domains(client).await.into_iter().filter(|other| *other != domain) {
        if is_in(config, client, &other, timeout).await {
            let found = format!(
                "doesn't exist in JetStream domain {domain}, in which it was looked for; it \
                 exists in domain {other}: set nats.domain = {other:?}"
            );
            let remedy = format!("environment: OUTBOXD_NATS__DOMAIN={}", shell(&other));
            return Finding::fail(EXISTS, at, found, remedy);
        }
    }

    let found = format!("doesn't exist in JetStream domain {domain}, in which it was looked for");
    let remedy = format!(
        "{MIGRATE}   # creates it in domain {domain}\n\
         environment: OUTBOXD_NATS__DOMAIN=<domain>   # if it is in another, such as a hub's"
    );
    Finding::fail(EXISTS, at, found, remedy)
}

/// The domains of the servers that the account reaches.
async fn domains(client: &Client) -> BTreeSet<String> {
    let mut domains = BTreeSet::new();
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return domains };
    if client.publish_with_reply(CONNECTIONS, inbox, "".into()).await.is_err() {
        return domains;
    }

    let collect = async {
        while let Some(answer) = answers.next().await {
            if let Ok(Answer { server }) = serde_json::from_slice(&answer.payload) {
                domains.extend(server.domain);
            }
        }
    };
    // They never end by themselves.
    let _ = within(COLLECT, collect).await;

    domains
}

/// Whether the stream exists in this domain.
async fn is_in(config: &Config, client: &Client, domain: &str, timeout: Duration) -> bool {
    let mut nats = config.nats.clone();
    nats.domain = Some(domain.to_owned());
    let context = nats.context(client.clone(), timeout);

    matches!(stream::describe(&context, &config.stream.name).await, Ok(Some(_)))
}

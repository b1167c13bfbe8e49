//! What the servers say of the account: each of them answers a request for the account's
//! connections. A user with few rights may not ask; then nothing is known.

use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::denied::Denied;

/// The request that every server of the account answers.
pub(crate) const CONNECTIONS: &str = "$SYS.REQ.ACCOUNT.PING.CONNZ";
/// How long to collect answers. Servers answer at once; nothing says which is the last.
const COLLECT: Duration = Duration::from_millis(500);

/// One server's answer.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) server: Server,
    #[serde(default)]
    data: Connections,
}

/// A server, as it describes itself.
#[derive(Debug, Deserialize)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) domain: Option<String>,
    #[serde(default)]
    pub(super) jetstream: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Connections {
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    #[serde(default)]
    name: String,
    #[serde(default)]
    subscriptions_list_detail: Vec<Subscription>,
}

#[derive(Debug, Deserialize)]
struct Subscription {
    subject: String,
    #[serde(default)]
    qgroup: String,
}

/// Clients that share the messages of a subject, as those do that answer requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) subject: String,
    pub(crate) group: String,
    /// The name of one of the clients; empty if it has none.
    pub(crate) client: String,
}

/// Every server's answer; none if the user may not ask.
pub(super) async fn answers(client: &Client, denied: &Denied, question: Value) -> Vec<Answer> {
    let (inbox, asked, mut answers) = (client.new_inbox(), Instant::now(), Vec::new());
    let Ok(mut replies) = client.subscribe(inbox.clone()).await else { return answers };
    let question = question.to_string().into();
    if client.publish_with_reply(CONNECTIONS, inbox, question).await.is_err() {
        return answers;
    }

    let collect = async {
        while let Some(reply) = replies.next().await {
            answers.extend(serde_json::from_slice::<Answer>(&reply.payload));
        }
    };
    // They never end by themselves.
    tokio::select! {
        _ = timeout(COLLECT, collect) => {}
        () = denied.after(CONNECTIONS, asked) => {}
    }

    answers
}

/// The groups of clients in the account, outside of JetStream. A server lists a thousand
/// connections.
pub(crate) async fn groups(client: &Client, denied: &Denied) -> Vec<Group> {
    let question = serde_json::json!({ "subscriptions_detail": true });
    let answers = answers(client, denied, question).await;

    let connections = answers.into_iter().flat_map(|answer| answer.data.connections);
    let mut groups: Vec<_> = connections
        .flat_map(|Connection { name, subscriptions_list_detail }| {
            let shared = subscriptions_list_detail.into_iter().filter(|one| !one.qgroup.is_empty());
            shared.map(move |Subscription { subject, qgroup }| Group {
                subject,
                group: qgroup,
                client: name.clone(),
            })
        })
        .collect();

    groups.sort();
    groups.dedup_by(|one, other| one.subject == other.subject && one.group == other.group);
    groups
}

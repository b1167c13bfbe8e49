//! A scene for one test: its own database and stream on the servers of `make test`, and relays as
//! processes.

pub(crate) mod checker;
mod cluster;
mod mongod;
pub(crate) mod oplog;
pub(crate) mod otlp;
pub(crate) mod pki;
mod ports;
mod privileges;
mod process;
mod proxy;
pub(crate) mod terminal;
mod ticketing;
mod tls_proxy;
mod wall;
mod writers;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context, stream};
use bson::{Document, doc};
use mongodb::{Client, ClientSession, Collection, Database};
use outboxd_client::{Event, Outbox};

pub(crate) use self::cluster::{NatsCluster, ReplicaSet};
pub(crate) use self::mongod::{Mongod, PASSWORD};
pub(crate) use self::ports::free_ports;
pub(crate) use self::privileges::NatsUsers;
pub(crate) use self::process::{
    NatsServer, OUTBOXD, Relay, command, json, memory, outboxd, outboxd_with, says,
};
pub(crate) use self::proxy::{Proxy, Toxic};
pub(crate) use self::ticketing::{Answer, KEY, Ticketing, signed, token};
pub(crate) use self::tls_proxy::TlsProxy;
pub(crate) use self::wall::WallClock;
pub(crate) use self::writers::{Ledger, Outcome, Writers};

/// Long enough for a lease to expire on a busy machine; a test that waits this long fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// One at a time of the tests that keep a small machine busy, with three servers of each kind or
/// with what they measure.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One test's place to play.
pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) database: Database,
    pub(crate) events: Collection<Document>,
    pub(crate) outbox: Outbox,
    /// The cluster's time before anything was written here.
    pub(crate) began: bson::Timestamp,
    pub(crate) context: Context,
    /// Name of the database.
    pub(crate) name: String,
    /// Name of the stream; the database's, unless a second service shares it.
    pub(crate) stream: String,
    pub(crate) mongodb_uri: String,
    pub(crate) nats_url: String,
    /// What the stream takes: `<name>.>`, unless the scene has a nats-server of its own.
    pub(crate) subjects: String,
    /// Where its relays write.
    pub(crate) folder: tempfile::TempDir,
    /// Whether its nats-server wants each verb's own user.
    has_nats_users: bool,
    /// The nats-server, if nobody else holds it.
    _nats: Option<NatsServer>,
}

/// A message as the stream has it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) payload: String,
}

pub(crate) fn mongodb_uri() -> String {
    std::env::var("OUTBOXD_TEST_MONGODB_URI")
        .expect("run the tests with `make test`, which starts the servers")
}

/// Polls until `check` gives something. Fails the test, naming `what`, when it doesn't.
pub(crate) async fn until<T, F>(what: &str, check: impl Fn() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Scene {
    /// Migrated and ready.
    pub(crate) async fn new() -> Self {
        let scene = Self::bare().await;
        let (code, said) = outboxd(&scene, &["migrate"]);
        assert_eq!(code, Some(0), "{said}");
        scene
    }

    /// Before `outboxd migrate`.
    pub(crate) async fn bare() -> Self {
        let nats = NatsServer::start().await;
        let scene = Self::on(&nats).await;
        Self { _nats: Some(nats), ..scene }
    }

    /// Migrated, on a nats-server that no other test uses.
    pub(crate) async fn alone(nats: &NatsServer) -> Self {
        let scene = Self::on(nats).await;
        let (code, said) = outboxd(&scene, &["migrate"]);
        assert_eq!(code, Some(0), "{said}");
        scene
    }

    /// Before `outboxd migrate`, on this nats-server.
    pub(crate) async fn on(nats: &NatsServer) -> Self {
        Self::of(mongodb_uri(), nats.url.clone(), nats.users.clone(), ConnectOptions::new()).await
    }

    /// A second service's: with a database of its own, before `outboxd migrate`, on the same
    /// stream.
    pub(crate) async fn beside(&self) -> Self {
        let scene =
            Self::of(self.mongodb_uri.clone(), self.nats_url.clone(), None, ConnectOptions::new())
                .await;
        let (stream, subjects) = (self.stream.clone(), self.subjects.clone());
        Self { stream, subjects, has_nats_users: self.has_nats_users, ..scene }
    }

    /// Migrated, on servers that no other test uses. `replicas` is that of the stream.
    pub(crate) async fn among(
        mongodb_uri: String,
        nats_url: String,
        users: Option<NatsUsers>,
        replicas: &str,
    ) -> Self {
        let scene = Self::of(mongodb_uri, nats_url, users, ConnectOptions::new()).await;
        // A cluster may take a moment to agree on who leads what.
        until("the scene is made", async || {
            let (code, _) =
                outboxd_with(&scene, &["migrate"], &[("OUTBOXD_STREAM__REPLICAS", replicas)]);
            (code == Some(0)).then_some(())
        })
        .await;
        scene
    }

    /// Before `outboxd migrate`, with the test's own connection to NATS made as `options` say.
    pub(crate) async fn reached(
        mongodb_uri: String,
        nats_url: String,
        options: ConnectOptions,
    ) -> Self {
        Self::of(mongodb_uri, nats_url, None, options).await
    }

    async fn of(
        mongodb_uri: String,
        nats_url: String,
        users: Option<NatsUsers>,
        options: ConnectOptions,
    ) -> Self {
        let has_nats_users = users.is_some();
        let NatsUsers { stream: name, subjects } = users.unwrap_or_else(|| NatsUsers::new(None));
        let client = Client::with_uri_str(&mongodb_uri).await.expect("the test's mongod");
        let servers: Vec<_> = nats_url.split(',').collect();
        let nats = options
            .retry_on_initial_connect()
            .connect(servers)
            .await
            .expect("the test's nats-server");
        let database = client.database(&name);
        if privileges::has_users(&mongodb_uri) {
            privileges::grant(&database).await;
        }
        Self {
            events: database.collection("outbox"),
            outbox: Outbox::new(&database, "outbox"),
            began: oplog::cluster_time(&client).await,
            context: jetstream::new(nats),
            client,
            database,
            stream: name.clone(),
            name,
            mongodb_uri,
            nats_url,
            subjects,
            folder: tempfile::tempdir().expect("a folder for what the relays write"),
            has_nats_users,
            _nats: None,
        }
    }

    /// The environment of an `outboxd` on this scene.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let uri = &self.mongodb_uri;
        let (server, options) = uri.split_once("/?").unwrap_or((uri.trim_end_matches('/'), ""));
        [
            ("MONGODB_URI", format!("{server}/{}?{options}", self.name)),
            ("NATS_URL", self.nats_url.clone()),
            ("NATS_CLUSTER_ID", self.stream.clone()),
            ("OUTBOXD_STREAM__SUBJECTS", self.subjects.clone()),
            ("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTBOXD_ALERTS__FILE", self.alerts_file().display().to_string()),
            ("OUTBOXD_LOG__FORMAT", "text".to_owned()),
            ("OUTBOXD_LEASE__TTL", "3s".to_owned()),
            ("OUTBOXD_RETRY__CRON", "* * * * * *".to_owned()),
            ("OUTBOXD_RETRY__BASE_DELAY", "200ms".to_owned()),
            ("OUTBOXD_RETRY__OUTAGE_GRACE", "2s".to_owned()),
            ("OUTBOXD_NATS__ACK_TIMEOUT", "1s".to_owned()),
        ]
        .into_iter()
        .chain(
            std::env::var("OUTBOXD_TEST_BURSTS")
                .ok()
                .map(|bursts| ("OUTBOXD_NATS__BURSTS", bursts)),
        )
        .map(|(name, text)| (name.to_owned(), text))
        .collect()
    }

    /// The same, for the user that has what this verb needs and no more.
    pub(crate) fn env_of(&self, verb: &str) -> Vec<(String, String)> {
        let mut env: HashMap<_, _> = self.env().into_iter().collect();
        let role = privileges::role(verb);
        if privileges::has_users(&self.mongodb_uri) {
            env.entry("MONGODB_URI".to_owned())
                .and_modify(|uri| *uri = privileges::mongodb_uri(uri, role, &self.name));
        }
        if self.has_nats_users {
            env.extend(privileges::nats_env(role));
        }
        env.into_iter().collect()
    }

    /// Where its relays write alerts.
    pub(crate) fn alerts_file(&self) -> std::path::PathBuf {
        self.folder.path().join("alerts.jsonl")
    }

    /// `<scene>.<rest>`, which the scene's stream takes.
    pub(crate) fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.name)
    }

    /// Has the stream take these subjects of the scene alone.
    pub(crate) async fn cover(&self, subjects: &[&str]) {
        let subjects = subjects.iter().map(|subject| self.subject(subject)).collect();
        let stream = self.context.get_stream(&self.stream).await.expect("the scene's stream");
        let config = stream::Config { subjects, ..stream.cached_info().config.clone() };
        self.context.update_stream(config).await.expect("the stream takes other subjects");
    }

    /// An event of `key` that carries its number.
    pub(crate) fn event(&self, key: &str, number: u32) -> Event {
        Event::new(self.subject("made"), &doc! { "key": key, "number": number })
            .and_then(|event| event.key(key))
            .expect("a good event")
    }

    /// A session with a transaction under way.
    pub(crate) async fn transaction(&self) -> ClientSession {
        let mut session = self.client.start_session().await.expect("a session");
        session.start_transaction().await.expect("a transaction");
        session
    }

    /// Commits these events in one transaction.
    pub(crate) async fn commit(&self, events: impl IntoIterator<Item = Event>) {
        let mut session = self.transaction().await;
        self.outbox.enqueue_many(&mut session, events).await.expect("the events are written");
        session.commit_transaction().await.expect("the events are committed");
    }

    /// Waits until the outbox is empty.
    pub(crate) async fn drained(&self) {
        until("the outbox is empty", async || {
            (self.events.count_documents(doc! {}).await.expect("a count") == 0).then_some(())
        })
        .await;
    }

    /// The only document in the outbox that matches.
    pub(crate) async fn one(&self, filter: Document) -> Option<Document> {
        self.events.find_one(filter).await.expect("the outbox is read")
    }

    /// Everything in the stream, in its order. Waits for a cluster that elects a leader.
    pub(crate) async fn messages(&self) -> Vec<Message> {
        let stream = until("the stream describes itself", async || {
            self.context.get_stream(&self.stream).await.ok()
        })
        .await;
        let state = stream.cached_info().state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = until("the stream gives its message", async || {
                stream.get_raw_message(sequence).await.ok()
            })
            .await;
            let headers = message.headers.iter().flat_map(|(name, values)| {
                values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
            });
            messages.push(Message {
                subject: message.subject.to_string(),
                headers: headers.collect(),
                payload: String::from_utf8(message.payload.to_vec())
                    .expect("the tests publish text"),
            });
        }
        messages
    }

    /// The numbers of each key's events, in the stream's order.
    pub(crate) async fn numbers(&self) -> HashMap<String, Vec<u32>> {
        let mut numbers: HashMap<String, Vec<u32>> = HashMap::new();
        for message in self.messages().await {
            let payload: serde_json::Value =
                serde_json::from_str(&message.payload).expect("a JSON payload");
            let key = payload["key"].as_str().expect("the event's key").to_owned();
            let number = payload["number"].as_u64().and_then(|number| u32::try_from(number).ok());
            numbers.entry(key).or_default().push(number.expect("the event's number"));
        }
        numbers
    }
}

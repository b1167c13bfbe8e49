//! A database and a stream for one measurement, and the events in them.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, stream};
use bson::oid::ObjectId;
use bson::{Document, Timestamp, doc};
use mongodb::{Client, Collection};

use super::peer::Running;

/// Events per insert.
const BATCH: u32 = 1000;
/// How often the stream is asked how far it is. The rate is taken from its own times, not from this.
const LOOK: Duration = Duration::from_millis(20);
/// A peer that takes longer for one measurement has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where one peer does its work once.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) mongodb_uri: String,
    pub(crate) nats_url: String,
    outbox: Collection<Document>,
    context: Context,
    stream: stream::Stream,
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run `make bench`, which starts the servers"))
}

impl Stage {
    /// An empty outbox and an empty stream.
    pub(crate) async fn set_up() -> Self {
        let name = format!("b{}", ObjectId::new());
        let (mongodb_uri, nats_url) = (env("OUTBOXD_TEST_MONGODB_URI"), env("OUTBOXD_TEST_NATS_URL"));
        let client = Client::with_uri_str(&mongodb_uri).await.expect("a mongod");
        let context = jetstream::new(async_nats::connect(&nats_url).await.expect("a nats-server"));
        let config =
            stream::Config { name: name.clone(), subjects: vec![format!("{name}.>")], ..stream::Config::default() };
        let stream = context.create_stream(config).await.expect("a stream");
        Self { outbox: client.database(&name).collection("outbox"), name, mongodb_uri, nats_url, context, stream }
    }

    /// What a peer is told in its environment.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let (server, options) =
            self.mongodb_uri.split_once("/?").unwrap_or((self.mongodb_uri.trim_end_matches('/'), ""));
        [
            ("MONGODB_URI", format!("{server}/{}?{options}", self.name)),
            ("NATS_URL", self.nats_url.clone()),
            ("NATS_CLUSTER_ID", self.name.clone()),
            ("NATS_CLIENT_ID", "bench".to_owned()),
            ("OUTBOXD_STREAM__SUBJECTS", format!("{}.>", self.name)),
            ("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTBOXD_ALERTS__FILE", "/dev/null".to_owned()),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into()
    }

    /// Inserts events as a service would write them, in bulk and without transactions.
    pub(crate) async fn insert(&self, events: u32, keys: u32, bytes: usize) {
        let padding = "x".repeat(bytes.saturating_sub(40));
        let mut next = 0;
        while next < events {
            let batch = (next..events.min(next + BATCH)).map(|number| {
                let key = format!("k{}", number % keys);
                doc! {
                    "ts": Timestamp { time: 0, increment: 0 },
                    "subject": format!("{}.made", self.name),
                    "payload": { "key": &key, "number": i64::from(number), "padding": &padding },
                    "key": key,
                    "isLocked": true,
                    "failures": [],
                }
            });
            self.outbox.insert_many(batch).await.expect("the events are inserted");
            next += BATCH;
        }
    }

    /// Waits until the stream has so many messages and the outbox is empty.
    ///
    /// # Panics
    /// When the peer ends before, or takes longer than [`PATIENCE`].
    pub(crate) async fn delivered(&mut self, running: &mut Running, events: u32) {
        let began = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let messages = self.stream.info().await.expect("the stream").state.messages;
            if messages >= u64::from(events) && self.outbox.find_one(doc! {}).await.expect("the outbox").is_none() {
                return;
            }
            assert!(running.is_alive(), "the peer has ended with {messages} of {events} events through");
            assert!(began.elapsed() < PATIENCE, "{messages} of {events} events came in {PATIENCE:?}");
        }
    }

    /// Messages a second, between the first and the last that the stream stored, by its own clock.
    pub(crate) async fn rate(&self, events: u32) -> f64 {
        self.rate_from(1, events).await
    }

    /// The same from a later message on.
    pub(crate) async fn rate_from(&self, first: u32, last: u32) -> f64 {
        let at = async |sequence| {
            let message = self.stream.get_raw_message(sequence).await.expect("a message");
            message.time.unix_timestamp_nanos()
        };
        let took = at(last.into()).await - at(first.into()).await;
        f64::from(last - first) / (took as f64 / 1e9)
    }

    /// How many messages the stream has beyond one of each event.
    pub(crate) async fn copies(&mut self, events: u32) -> u64 {
        self.stream.info().await.expect("the stream").state.messages - u64::from(events)
    }

    /// Removes both.
    pub(crate) async fn tear_down(self) {
        self.context.delete_stream(&self.name).await.expect("the stream is deleted");
        self.outbox.client().database(&self.name).drop().await.expect("the database is dropped");
    }
}

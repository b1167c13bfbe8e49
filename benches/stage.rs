//! The stage of one measurement: a database with an outbox, a stream, and the events in them. The
//! stage also knows when a peer has delivered them.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::{self, Context, stream};
use bson::oid::ObjectId;
use bson::{Document, Timestamp, doc};
use futures_util::StreamExt as _;
use mongodb::{Client, Collection};
use tokio::sync::mpsc;

use super::process::Running;

/// Keys of the events, unless a measurement varies them.
pub(crate) const KEYS: u32 = 1000;

/// Bytes of each payload, unless a measurement varies them.
pub(crate) const BYTES: usize = 380;

/// Events per insert.
const BATCH: u32 = 1000;

/// Pause between two looks at the stream.
const LOOK: Duration = Duration::from_millis(20);

/// Pause between two looks when a peer has nearly finished: the end is timed closely.
const LOOK_CLOSELY: Duration = Duration::from_millis(2);

/// A peer that needs longer for one measurement has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Time for this program's own NATS client to reconnect after an outage.
const RECONNECT: Duration = Duration::from_secs(30);

/// A peer is warm once it has published nothing for this long after its first message.
const QUIET: Duration = Duration::from_secs(1);

/// Numbers of events, and when the consumer received each.
pub(crate) type Arrivals = mpsc::UnboundedReceiver<(u32, Instant)>;

/// A database and a stream of the same name, for one turn of one peer.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) mongodb_uri: String,
    pub(crate) nats_url: String,
    pub(crate) client: Client,
    /// Settings of the peer besides those of [`Self::env`] that every peer has.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    outbox: Collection<Document>,
    context: Context,
    stream: stream::Stream,
}

pub(crate) fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run `make bench`, which starts the servers"))
}

/// The time now, in seconds since 1970.
pub(crate) fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs()
}

impl Stage {
    /// Creates an empty outbox and an empty stream on the servers of the benchmark.
    pub(crate) async fn set_up() -> Self {
        Self::with_nats(env("OUTBOXD_TEST_NATS_URL")).await
    }

    /// Creates an empty outbox, and an empty stream on the given nats-server.
    pub(crate) async fn with_nats(nats_url: String) -> Self {
        let mongodb_uri = env("OUTBOXD_TEST_MONGODB_URI");
        let client = Client::with_uri_str(&mongodb_uri).await.expect("a connection to MongoDB");

        let nats = async_nats::connect(&nats_url).await.expect("a connection to NATS");
        let context = jetstream::new(nats);
        Self::on(mongodb_uri, client, nats_url, context).await
    }

    /// Another outbox and another stream on the same servers, over the same connections.
    pub(crate) async fn beside(&self) -> Self {
        let (client, context) = (self.client.clone(), self.context.clone());
        Self::on(self.mongodb_uri.clone(), client, self.nats_url.clone(), context).await
    }

    async fn on(mongodb_uri: String, client: Client, nats_url: String, context: Context) -> Self {
        let name = format!("b{}", ObjectId::new());
        let config = stream::Config {
            name: name.clone(),
            subjects: vec![format!("{name}.*")],
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await.expect("the stream is created");

        Self {
            outbox: client.database(&name).collection("outbox"),
            client,
            name,
            settings: Vec::new(),
            mongodb_uri,
            nats_url,
            context,
            stream,
        }
    }

    /// The environment of a peer: which outbox and which stream it serves.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let (server, options) = self
            .mongodb_uri
            .split_once("/?")
            .unwrap_or((self.mongodb_uri.trim_end_matches('/'), ""));

        let common = [
            ("MONGODB_URI", format!("{server}/{}?{options}", self.name)),
            ("NATS_URL", self.nats_url.clone()),
            ("NATS_CLUSTER_ID", self.name.clone()),
            ("NATS_CLIENT_ID", "bench".to_owned()),
            ("OUTBOXD_STREAM__SUBJECTS", format!("{}.*", self.name)),
            ("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTBOXD_ALERTS__FILE", "/dev/null".to_owned()),
        ];
        let besides = self.settings.iter().map(|(name, text)| (*name, (*text).to_owned()));
        common.into_iter().chain(besides).map(|(name, text)| (name.to_owned(), text)).collect()
    }

    /// Inserts events like those of a service, in bulk and without transactions.
    pub(crate) async fn insert(&self, numbers: Range<u32>, keys: u32, bytes: usize) {
        self.insert_with(numbers, |number| key_of(number, keys), bytes).await;
    }

    /// The same, with these keys.
    pub(crate) async fn insert_with(
        &self,
        numbers: Range<u32>,
        key: impl Fn(u32) -> String,
        bytes: usize,
    ) {
        let padding = "x".repeat(bytes.saturating_sub(40));

        let mut next = numbers.start;
        while next < numbers.end {
            let batch = (next..numbers.end.min(next + BATCH))
                .map(|number| event(&self.name, number, key(number), &padding));
            self.outbox.insert_many(batch).await.expect("the events are inserted");
            next += BATCH;
        }
    }

    /// Inserts events that are due at these times, in milliseconds since 1970, in bulk.
    pub(crate) async fn schedule(&self, numbers: Range<u32>, due: impl Fn(u32) -> i64) {
        let scheduled = self.client.database(&self.name).collection("outbox_scheduled");
        let padding = "x".repeat(BYTES.saturating_sub(40));

        let mut next = numbers.start;
        while next < numbers.end {
            let batch = (next..numbers.end.min(next + BATCH)).map(|number| {
                let mut event = event(&self.name, number, key_of(number, KEYS), &padding);
                event.insert("deliverAt", bson::DateTime::from_millis(due(number)));
                event
            });
            scheduled.insert_many(batch).await.expect("the events are scheduled");
            next += BATCH;
        }
    }

    /// The number of messages in the stream.
    pub(crate) async fn messages(&mut self) -> u64 {
        let began = Instant::now();

        loop {
            match self.stream.info().await {
                Ok(info) => return info.state.messages,
                // After an outage, the client needs a moment to reconnect.
                Err(error) => assert!(began.elapsed() < RECONNECT, "{error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Inserts events until the peer publishes, then waits until it has published all that it
    /// will. Returns the number of messages in the stream.
    ///
    /// # Panics
    /// If the peer ends, or publishes nothing within [`PATIENCE`].
    pub(crate) async fn warm_up(&mut self, running: &mut Running) -> u64 {
        let began = Instant::now();

        loop {
            // A peer that starts with the changes after its start may miss the first of these.
            self.insert(0..1, 1, BYTES).await;
            tokio::time::sleep(QUIET / 2).await;
            if self.messages().await > 0 {
                break;
            }

            assert!(running.is_alive(), "the peer ended without a message");
            assert!(began.elapsed() < PATIENCE, "the peer published nothing in {PATIENCE:?}");
        }

        loop {
            let before = self.messages().await;
            tokio::time::sleep(QUIET).await;
            if self.messages().await == before {
                return before;
            }
        }
    }

    /// Waits until the peer has published something of what was there before its start.
    ///
    /// # Panics
    /// If the peer ends, or publishes nothing within [`PATIENCE`].
    pub(crate) async fn begun(&mut self, running: &mut Running) {
        let began = Instant::now();

        while self.messages().await == 0 {
            tokio::time::sleep(LOOK).await;
            assert!(running.is_alive(), "the peer ended without a message");
            assert!(began.elapsed() < PATIENCE, "the peer published nothing in {PATIENCE:?}");
        }
    }

    /// Waits until the stream has `events` messages and, if the peer empties the outbox, until the
    /// outbox is empty. Returns when that was.
    ///
    /// # Panics
    /// If the peer ends before that, or needs longer than [`PATIENCE`].
    pub(crate) async fn delivered(&mut self, running: &mut Running, events: u64) -> SystemTime {
        let (began, mut messages) = (Instant::now(), 0);

        loop {
            let nearly = messages >= events - events / 10;
            tokio::time::sleep(if nearly { LOOK_CLOSELY } else { LOOK }).await;

            if messages < events {
                messages = self.messages().await;
            }
            if messages >= events && (!running.peer.empties_outbox() || self.is_empty().await) {
                return SystemTime::now();
            }

            assert!(
                running.is_alive(),
                "the peer ended after {messages} of {events} events were published"
            );
            assert!(
                began.elapsed() < PATIENCE,
                "the peer published {messages} of {events} events in {PATIENCE:?}"
            );
        }
    }

    /// Whether the outbox is empty.
    pub(crate) async fn is_empty(&self) -> bool {
        self.outbox.find_one(doc! {}).await.expect("the outbox is read").is_none()
    }

    /// The number of events in the outbox.
    pub(crate) async fn waiting(&self) -> u64 {
        self.outbox.estimated_document_count().await.expect("the events are counted")
    }

    /// When the stream stored its first message.
    pub(crate) async fn began(&self) -> SystemTime {
        let message = self.stream.get_raw_message(1).await.expect("the first message");
        let nanos = u64::try_from(message.time.unix_timestamp_nanos()).expect("a time after 1970");
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    /// Events per second, from when the stream stored message `first` until `end`, the time at
    /// which the peer had delivered message `last`. Both times are from the clock of this machine.
    pub(crate) async fn rate(&self, first: u64, last: u64, end: SystemTime) -> f64 {
        let message = self.stream.get_raw_message(first).await.expect("the first message");
        let end = end.duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_nanos();

        let took = end as f64 - message.time.unix_timestamp_nanos() as f64;
        (last - first) as f64 / (took / 1e9)
    }

    /// Starts a consumer that receives every new message as soon as the stream has stored it.
    pub(crate) async fn consume(&self) -> Arrivals {
        let client = self.context.client();
        let config = OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: DeliverPolicy::New,
            ..OrderedConfig::default()
        };
        let consumer = self.stream.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("the consumer's messages");

        let (arrived, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let at = Instant::now();

                // The stream was deleted. The receiver counts the events that didn't arrive.
                let Ok(message) = message else { return };

                let number = number(&message.payload).expect("an event's number");
                if arrived.send((number, at)).is_err() {
                    return;
                }
            }
        });
        arrivals
    }

    /// Deletes the stream and the database.
    pub(crate) async fn tear_down(self) {
        self.context.delete_stream(&self.name).await.expect("the stream is deleted");
        self.client.database(&self.name).drop().await.expect("the database is dropped");
    }
}

/// The key of an event among so many.
pub(crate) fn key_of(number: u32, keys: u32) -> String {
    format!("k{}", number % keys)
}

/// An event as a service writes it.
pub(crate) fn event(stage: &str, number: u32, key: String, padding: &str) -> Document {
    doc! {
        "ts": Timestamp { time: 0, increment: 0 },
        "subject": format!("{stage}.made"),
        "payload": { "key": &key, "number": i64::from(number), "padding": padding },
        "key": key,
        "isLocked": true,
        "failures": [],
    }
}

/// Finds the number of an event in a message, whatever envelope the peer has put around it.
fn number(payload: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"number\"";

    let from = payload.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let rest = payload.get(from..)?;

    // `"number":7`, or with its type: `"number":{"$numberLong":"7"}`.
    let digits: Vec<_> = rest
        .iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .take_while(|byte| byte.is_ascii_digit())
        .copied()
        .collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

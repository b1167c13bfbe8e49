//! A database and a stream for one measurement, and the events in them.

use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::{self, Context, stream};
use bson::oid::ObjectId;
use bson::{Document, Timestamp, doc};
use futures_util::StreamExt as _;
use mongodb::{Client, Collection};
use tokio::sync::mpsc;

use super::peer::Running;

/// Keys of the events, unless a measurement is about keys.
pub(crate) const KEYS: u32 = 1000;
/// Bytes of each payload, likewise.
pub(crate) const BYTES: usize = 380;
/// Events per insert.
const BATCH: u32 = 1000;
/// How often the stream is asked how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// The same when a peer is nearly done, so that its end is seen when it comes.
const LOOK_CLOSELY: Duration = Duration::from_millis(2);
/// A peer that takes longer for one measurement has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long this program's own client may take to be back after an outage.
const RECONNECT: Duration = Duration::from_secs(30);
/// How long after its first message a peer has to stay quiet to be warm.
const QUIET: Duration = Duration::from_secs(1);

/// Numbers of events, and when each came to the consumer.
pub(crate) type Arrivals = mpsc::UnboundedReceiver<(u32, Instant)>;

/// Where one peer does its work once.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) mongodb_uri: String,
    pub(crate) nats_url: String,
    pub(crate) client: Client,
    outbox: Collection<Document>,
    context: Context,
    stream: stream::Stream,
}

pub(crate) fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; run `make bench`, which starts the servers"))
}

impl Stage {
    /// An empty outbox and an empty stream.
    pub(crate) async fn set_up() -> Self {
        Self::with_nats(env("OUTBOXD_TEST_NATS_URL")).await
    }

    /// With the stream on a nats-server of the measurement's own.
    pub(crate) async fn with_nats(nats_url: String) -> Self {
        let name = format!("b{}", ObjectId::new());
        let mongodb_uri = env("OUTBOXD_TEST_MONGODB_URI");
        let client = Client::with_uri_str(&mongodb_uri).await.expect("a mongod");
        let context = jetstream::new(async_nats::connect(&nats_url).await.expect("a nats-server"));
        let config = stream::Config {
            name: name.clone(),
            subjects: vec![format!("{name}.*")],
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await.expect("a stream");
        Self {
            outbox: client.database(&name).collection("outbox"),
            client,
            name,
            mongodb_uri,
            nats_url,
            context,
            stream,
        }
    }

    /// What a peer is told in its environment.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let (server, options) = self
            .mongodb_uri
            .split_once("/?")
            .unwrap_or((self.mongodb_uri.trim_end_matches('/'), ""));
        [
            ("MONGODB_URI", format!("{server}/{}?{options}", self.name)),
            ("NATS_URL", self.nats_url.clone()),
            ("NATS_CLUSTER_ID", self.name.clone()),
            ("NATS_CLIENT_ID", "bench".to_owned()),
            ("OUTBOXD_STREAM__SUBJECTS", format!("{}.*", self.name)),
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
            let batch = (next..events.min(next + BATCH))
                .map(|number| event(&self.name, number, keys, &padding));
            self.outbox.insert_many(batch).await.expect("the events are inserted");
            next += BATCH;
        }
    }

    /// How many messages the stream has.
    pub(crate) async fn messages(&mut self) -> u64 {
        let began = Instant::now();
        loop {
            match self.stream.info().await {
                Ok(info) => return info.state.messages,
                // After an outage it takes the client a moment to be back.
                Err(error) => assert!(began.elapsed() < RECONNECT, "{error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the peer brings over what is inserted now, and has brought all it will bring of
    /// that. Returns how many messages the stream has then.
    pub(crate) async fn warm_up(&mut self, running: &mut Running) -> u64 {
        let began = Instant::now();
        loop {
            // One that begins with what comes after its start may have missed those before.
            self.insert(1, 1, BYTES).await;
            tokio::time::sleep(QUIET / 2).await;
            if self.messages().await > 0 {
                break;
            }
            assert!(running.is_alive(), "the peer has ended without a message");
            assert!(began.elapsed() < PATIENCE, "no message came in {PATIENCE:?}");
        }
        loop {
            let before = self.messages().await;
            tokio::time::sleep(QUIET).await;
            if self.messages().await == before {
                return before;
            }
        }
    }

    /// Waits until the stream has so many messages and, if the peer sees to that, the outbox is
    /// empty. Returns when that was.
    ///
    /// # Panics
    /// When the peer ends before, or takes longer than [`PATIENCE`].
    pub(crate) async fn delivered(&mut self, running: &mut Running, events: u64) -> SystemTime {
        let (began, mut messages) = (Instant::now(), 0);
        loop {
            let nearly = messages >= events - events / 10;
            tokio::time::sleep(if nearly { LOOK_CLOSELY } else { LOOK }).await;
            if messages < events {
                messages = self.messages().await;
            }
            if messages >= events && (!running.peer.deletes() || self.is_empty().await) {
                return SystemTime::now();
            }
            assert!(
                running.is_alive(),
                "the peer has ended with {messages} of {events} events through"
            );
            assert!(
                began.elapsed() < PATIENCE,
                "{messages} of {events} events came in {PATIENCE:?}"
            );
        }
    }

    /// Whether nothing is left in the outbox.
    pub(crate) async fn is_empty(&self) -> bool {
        self.outbox.find_one(doc! {}).await.expect("the outbox").is_none()
    }

    /// Events a second, from when the stream stored one until a peer was through with another, by
    /// one clock.
    pub(crate) async fn rate(&self, first: u64, last: u64, end: SystemTime) -> f64 {
        let message = self.stream.get_raw_message(first).await.expect("a message");
        let end = end.duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_nanos();
        let took = end as f64 - message.time.unix_timestamp_nanos() as f64;
        (last - first) as f64 / (took / 1e9)
    }

    /// A consumer that is told of every new message as it is stored.
    pub(crate) async fn consume(&self) -> Arrivals {
        let client = self.context.client();
        let config = OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: DeliverPolicy::New,
            ..OrderedConfig::default()
        };
        let consumer = self.stream.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("its messages");
        let (arrived, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let at = Instant::now();
                // Ends with the stream. What didn't come is counted by whoever waits for it.
                let Ok(message) = message else { return };
                let number = number(&message.payload).expect("an event's number");
                if arrived.send((number, at)).is_err() {
                    return;
                }
            }
        });
        arrivals
    }

    /// Removes both.
    pub(crate) async fn tear_down(self) {
        self.context.delete_stream(&self.name).await.expect("the stream is deleted");
        self.client.database(&self.name).drop().await.expect("the database is dropped");
    }
}

/// An event as a service writes it.
pub(crate) fn event(stage: &str, number: u32, keys: u32, padding: &str) -> Document {
    let key = format!("k{}", number % keys);
    doc! {
        "ts": Timestamp { time: 0, increment: 0 },
        "subject": format!("{stage}.made"),
        "payload": { "key": &key, "number": i64::from(number), "padding": padding },
        "key": key,
        "isLocked": true,
        "failures": [],
    }
}

/// The number of an event, in whatever envelope a peer put it.
fn number(payload: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"number\"";
    let from = payload.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let rest = payload.get(from..)?;
    // `"number":7`, or with the type: `"number":{"$numberLong":"7"}`.
    let digits = rest
        .iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .take_while(|byte| byte.is_ascii_digit());
    std::str::from_utf8(&digits.copied().collect::<Vec<_>>()).ok()?.parse().ok()
}

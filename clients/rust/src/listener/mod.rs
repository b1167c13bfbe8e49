//! A durable consumer of the stream that hands each message to a handler and acks it after the
//! commit.
//!
//! `run` pulls messages, `consumer` makes the consumer or changes it to what order needs, `delivery`
//! hands one message to the handler and keeps it until there is an answer, `step` is what follows
//! from the answer, and `trace` continues the message's trace. `parts` has the settings.
//!
//! ```text
//!  stream ──▶ consumer ──pull──▶ waiting ──▶ handler ──commit──▶ ack
//!                 ▲                 │           │
//!                 │            heartbeats       ├── later, error ──▶ again, after a delay
//!                 └─────────────────────────────┘        └── too often ──▶ <inbox>_failed, ack
//! ```
//!
//! # Order
//!
//! An instance handles one message at a time, in the order of the stream. What `max_ack_pending`
//! of the consumer adds:
//!
//! - *1*, the default: one message is out at a time, over all instances of the group. The next one
//!   comes after the ack. So events of a key are applied in order, also when an instance dies and
//!   when a message is delivered again; a message that fails holds the others back meanwhile.
//! - *more*: instances work side by side, and a message that comes again comes after later ones.
//!   That is for handlers that check a version, as [`Replica`](crate::Replica) does.
//!
//! # Outages
//!
//! The listener connects and reconnects for ever. While NATS is away, nothing comes. While MongoDB
//! is away, the listener keeps its message, with heartbeats, and tries again itself: an outage
//! costs no delivery, so it puts no message aside.
//!
//! An instance that is killed leaves its message to another one after the ack wait, and its
//! transaction to MongoDB, which ends it after a minute (`transactionLifetimeLimitSeconds`).
//! Messages that change the same records are [`Later`](crate::Verdict::Later) meanwhile.

mod consumer;
mod delivery;
mod parts;
mod run;
mod step;
#[cfg(feature = "opentelemetry")]
mod trace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::ConnectOptions;
use futures_util::FutureExt;
use tokio::sync::Notify;

use self::parts::{Parts, Settings, check};
use self::run::{Run, Stop};
use crate::inbox::Inbox;
use crate::message::Handle;

pub use self::parts::ListenError;

/// How often the server is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// How long the last acks may take.
const FLUSH: Duration = Duration::from_secs(2);

/// A service's ear: a durable pull consumer named by the queue group, shared by all instances.
#[derive(Debug)]
pub struct Listener {
    servers: Vec<String>,
    options: ConnectOptions,
    stream: String,
    group: String,
    inbox: Inbox,
    settings: Settings,
}

impl Listener {
    /// Listens to `stream` as `group`: the name of the service, the same for all of its instances.
    /// `nats_url` may name several servers, separated by commas. What can't be applied goes to
    /// `<inbox>_failed`; [`Inbox::create`] makes it.
    pub fn new(
        nats_url: &str,
        stream: impl Into<String>,
        group: impl Into<String>,
        inbox: Inbox,
    ) -> Self {
        let group = group.into();
        Self {
            servers: nats_url.split(',').map(|server| server.trim().to_owned()).collect(),
            options: ConnectOptions::new().name(&group).ping_interval(PING),
            stream: stream.into(),
            group,
            inbox,
            settings: Settings::default(),
        }
    }

    /// Sets the options of the connection: credentials, TLS, a name. The listener sets the event
    /// callback itself, and reconnects for ever.
    #[must_use]
    pub fn options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Asks only for these subjects; the default is everything in the stream. One listener takes
    /// all subjects that tell about the same records: two would lose the order between them.
    #[must_use]
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.subjects = subjects.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how many messages may be out without an ack, over all instances; the default is 1,
    /// which keeps the order. Set more for a handler that checks versions.
    #[must_use]
    pub fn max_ack_pending(mut self, messages: u32) -> Self {
        self.settings.max_ack_pending = i64::from(messages);
        self
    }

    /// Sets after which time the server gives the messages of a killed instance to another; the
    /// default is 30 s, the least 1 s. Work may take longer: the listener sends heartbeats.
    #[must_use]
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.settings.ack_wait = ack_wait;
        self
    }

    /// Sets after how many errors of this instance a message is put aside; the default is 10, which
    /// takes about a minute.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.settings.limits.deliveries = deliveries;
        self
    }

    /// Sets after how many answers [`Verdict::Later`](crate::Verdict::Later) a message is put
    /// aside; the default is 100, which takes about a quarter of an hour.
    #[must_use]
    pub fn max_later(mut self, deliveries: u32) -> Self {
        self.settings.limits.later = deliveries;
        self
    }

    /// Sets how long the message under way may take after the stop; the default is 10 s. After that
    /// its transaction is rolled back, and another instance gets it.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.settings.drain = drain;
        self
    }

    /// Hands messages to `handler` until `stop` is ready; then finishes the message under way,
    /// gives back those that wait, and returns.
    ///
    /// # Errors
    /// [`ListenError`], for what won't pass by itself.
    pub async fn run(
        self,
        handler: impl Handle,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ListenError> {
        let stop: Stop<'_> = stop.boxed().shared();
        let Self { servers, options, stream, group, inbox, settings } = self;
        check(&group, &settings)?;

        let lame_duck = Arc::new(Notify::new());
        let noticed = lame_duck.clone();
        let options = options.retry_on_initial_connect().max_reconnects(None);
        let options = options.event_callback(move |event| {
            if event == async_nats::Event::LameDuckMode {
                noticed.notify_one();
            }
            std::future::ready(())
        });
        let client = options.connect(&servers).await?;
        let context = async_nats::jetstream::new(client.clone());

        let answers = Mutex::default();
        let parts = Parts { stream, group, inbox, settings, answers };
        let run = Run { listener: &parts, handler: &handler, stop, lame_duck: &lame_duck };
        let ended = run.listen(&context, servers.len()).await;

        // Acks are buffered by the client.
        let _ = tokio::time::timeout(FLUSH, client.flush()).await;
        ended
    }
}

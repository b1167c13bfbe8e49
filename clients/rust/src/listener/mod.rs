//! A durable consumer of the stream that hands each message to a handler and acks it after the
//! commit.
//!
//! `consumer` makes the consumer or changes it to what order needs, `delivery` hands one message to
//! the handler and keeps it until there is an answer, `step` is what follows from the answer, and
//! `trace` continues the message's trace.
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

mod consumer;
mod delivery;
mod step;
#[cfg(feature = "opentelemetry")]
mod trace;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::Message as Delivered;
use async_nats::jetstream::{AckKind, Context};
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::inbox::Inbox;
use crate::message::Handle;

use self::step::{Answers, Limits};

/// After this time without an ack or a heartbeat, the server gives a message to another instance.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Errors before a message is put aside: about a minute.
const MAX_DELIVERIES: u32 = 10;
/// Times that an earlier message may be missing: about a quarter of an hour.
const MAX_LATER: u32 = 100;
/// Heartbeats within that time.
const HEARTBEATS: u32 = 3;
/// Most messages that an instance has waiting. A handler takes some milliseconds, so this keeps it
/// busy over a round trip.
const MAX_WAITING: i64 = 32;
/// When a lost consumer is looked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the message under way may take after the stop.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);
/// How often the server is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// How long the last acks may take.
const FLUSH: Duration = Duration::from_secs(2);

/// Why a listener ended or could not begin. Everything that may pass is tried again for ever and is
/// not among them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The queue group can't name a consumer.
    #[error("queue group {0:?} can't name a consumer; use letters, digits, `-` and `_`")]
    Group(String),
    /// A setting is out of its bounds.
    #[error("{0}")]
    Setting(&'static str),
    /// The addresses or the options of the connection are refused.
    #[error("the connection to NATS can't be begun")]
    Connect(#[from] async_nats::ConnectError),
    /// The consumer of this name is not one that a listener can use.
    #[error("consumer {group} of stream {stream} {what}; delete it, or choose another queue group")]
    Consumer {
        /// The stream.
        stream: String,
        /// The consumer.
        group: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The inbox forgets ids that the stream may deliver again.
    #[error(
        "stream {stream} drops duplicates for {} s and the inbox keeps ids for {} s; keep them for longer",
        .window.as_secs(), .ttl.as_secs()
    )]
    Ttl {
        /// The stream.
        stream: String,
        /// Its duplicate window.
        window: Duration,
        /// How long the inbox keeps ids.
        ttl: Duration,
    },
}

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

#[derive(Debug, Clone)]
struct Settings {
    subjects: Vec<String>,
    max_ack_pending: i64,
    ack_wait: Duration,
    limits: Limits,
    drain: Duration,
}

/// Tells that the listener is to end. Every clone does.
type Stop<'a> = Shared<BoxFuture<'a, ()>>;

/// Why a listener let go of its consumer.
enum End {
    Stopped,
    /// The server asked its clients to go to another one.
    LameDuck,
    /// The messages ended.
    Lost,
}

/// A listener at work.
struct Run<'a, H> {
    listener: &'a Parts,
    handler: &'a H,
    stop: Stop<'a>,
    lame_duck: &'a Notify,
}

/// What a running listener needs.
struct Parts {
    stream: String,
    group: String,
    inbox: Inbox,
    settings: Settings,
    answers: Mutex<Answers>,
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
        let settings = Settings {
            subjects: Vec::new(),
            max_ack_pending: 1,
            ack_wait: DEFAULT_ACK_WAIT,
            limits: Limits { deliveries: MAX_DELIVERIES, later: MAX_LATER },
            drain: DEFAULT_DRAIN,
        };
        let group = group.into();
        Self {
            servers: nats_url.split(',').map(|server| server.trim().to_owned()).collect(),
            options: ConnectOptions::new().name(&group).ping_interval(PING),
            stream: stream.into(),
            group,
            inbox,
            settings,
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

fn check(group: &str, settings: &Settings) -> Result<(), ListenError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if group.is_empty() || group.len() > 255 || !group.bytes().all(is_name) {
        return Err(ListenError::Group(group.to_owned()));
    }

    if settings.max_ack_pending < 1 {
        return Err(ListenError::Setting("max_ack_pending is 0; set 1 or more"));
    }

    if settings.ack_wait < Duration::from_secs(1) {
        return Err(ListenError::Setting("ack_wait is less than a second; set 1 s or more"));
    }

    if settings.limits.deliveries < 1 || settings.limits.later < 1 {
        return Err(ListenError::Setting("max_deliveries or max_later is 0; set 1 or more"));
    }

    Ok(())
}

impl<H: Handle> Run<'_, H> {
    /// Begins again whenever the consumer is lost.
    async fn listen(&self, context: &Context, servers: usize) -> Result<(), ListenError> {
        let Parts { stream, group, .. } = self.listener;
        loop {
            let consumer = tokio::select! {
                biased;
                () = self.stop.clone() => return Ok(()),
                consumer = consumer::take(context, self.listener) => consumer,
            };

            let ended = match consumer {
                Ok(consumer) => {
                    info!(stream, group, "listening");
                    self.consume(&consumer).await
                }
                Err(consumer::TakeError::Fatal(error)) => return Err(error),
                Err(consumer::TakeError::Passing(error)) => Err(error),
            };

            match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::LameDuck) => self.leave(context, servers).await,
                Ok(End::Lost) => warn!(stream, group, "the messages ended; beginning again"),
                Err(error) => warn!(%error, stream, group, "not listening; trying again"),
            }

            tokio::select! {
                () = self.stop.clone() => return Ok(()),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Goes to another server, if there is one. With a single server the connection is good until
    /// it closes, and the client then waits for the server.
    async fn leave(&self, context: &Context, servers: usize) {
        let client = context.client();
        let others = client.server_info().connect_urls.len();
        if servers.max(others) > 1 {
            info!("the NATS server is about to stop; connecting to another one");
            if let Err(error) = client.force_reconnect().await {
                warn!(%error, "the connection to NATS could not be renewed");
            }
        }
    }

    async fn consume(&self, consumer: &PullConsumer) -> Result<End, async_nats::Error> {
        let settings = &self.listener.settings;
        let batch = settings.max_ack_pending.min(MAX_WAITING);
        let batch = usize::try_from(batch).unwrap_or(1);
        let mut messages = consumer.stream().max_messages_per_batch(batch).messages().await?;

        let mut waiting = VecDeque::new();
        let end = loop {
            let next = match waiting.pop_front() {
                Some(next) => next,
                None => tokio::select! {
                    biased;
                    () = self.stop.clone() => break Ok(End::Stopped),
                    () = self.lame_duck.notified() => break Ok(End::LameDuck),
                    next = messages.next() => match next {
                        Some(Ok(next)) => next,
                        Some(Err(error)) => break Err(error.into()),
                        None => break Ok(End::Lost),
                    },
                },
            };

            match self.attend(&next, &mut messages, &mut waiting).await {
                Ok(None) => {}
                Ok(Some(end)) => break Ok(end),
                Err(error) => break Err(error),
            }
        };

        // What waits here is for another instance, at once. No more may be asked for, or this one
        // would get it again.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            waiting.push_back(message);
        }
        drop(messages);
        for message in waiting {
            message.ack_with(AckKind::Nak(None)).await?;
        }

        end
    }

    /// Hands over one message, and keeps it and those that wait alive until there is an answer.
    /// Some if the listener is to let go of the consumer.
    async fn attend(
        &self,
        message: &Delivered,
        messages: &mut pull::Stream,
        waiting: &mut VecDeque<Delivered>,
    ) -> Result<Option<End>, async_nats::Error> {
        let settings = &self.listener.settings;
        let work = delivery::deliver(message, self.listener, self.handler);
        tokio::pin!(work);

        let period = settings.ack_wait / HEARTBEATS;
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let drain = async {
            self.stop.clone().await;
            tokio::time::sleep(settings.drain).await;
        };
        tokio::pin!(drain);

        let mut ended = None;
        loop {
            tokio::select! {
                biased;
                kind = &mut work => {
                    message.ack_with(kind).await?;
                    return ended.unwrap_or(Ok(None));
                }
                () = &mut drain => {
                    warn!(subject = %message.subject, "the time to stop is over; another instance gets the message");
                    message.ack_with(AckKind::Nak(None)).await?;
                    return Ok(Some(End::Stopped));
                }
                _ = heartbeat.tick() => {
                    for message in std::iter::once(message).chain(&*waiting) {
                        message.ack_with(AckKind::Progress).await?;
                    }
                }
                next = messages.next(), if ended.is_none() => match next {
                    Some(Ok(next)) => waiting.push_back(next),
                    Some(Err(error)) => ended = Some(Err(error.into())),
                    None => ended = Some(Ok(Some(End::Lost))),
                },
            }
        }
    }
}

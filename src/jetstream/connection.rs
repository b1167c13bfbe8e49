//! The connection to NATS: whether publishes may leave over it, and why not.
//!
//! A client that could not reconnect for too long is replaced by a new one, and so is a client that
//! hears no replies. The messages queued in it are dropped with it, so none leaves minutes after its
//! caller gave up. A client that is not known to hear gets no publish.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{Event, ServerError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::acks::Acks;
use super::denied::Denied;
use super::hearing::Hearing;
use super::lines::{Line, Lines, Listener, reconnect_wait};
use super::port::{self, Misfit};
use super::reply::Expected;
use crate::config::{Api, NatsConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::relay::clock;
use crate::task;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Level, Metrics};
use crate::tls;

/// How often the state of the connection is read. The client's events alone don't do, because it
/// drops some when many come at once.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// A NATS connection that is kept up by replacing its client when that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    current: watch::Receiver<Current>,
    /// Whether publishes may leave: the connection is up, and the client hears.
    pub(crate) connected: watch::Receiver<bool>,
    /// How often it came up.
    ups: Arc<AtomicU64>,
    /// Why not, if the client is deaf.
    deaf: Arc<Mutex<Option<String>>>,
    pub(crate) denied: Arc<Denied>,
    /// The stream whose acks count.
    pub(super) expected: Arc<Expected>,
    /// Whose JetStream has the stream.
    api: Api,
    /// What the subjects of API requests begin with.
    pub(super) api_prefix: Arc<str>,
    /// How long a publish or an API request waits for its reply.
    pub(super) ack_timeout: Duration,
    /// Where `connected` is reported once it is measured; zero when this connection is dropped.
    reports: Arc<OnceLock<Reports>>,
}

/// One client's two uses: requests and publishes.
#[derive(Debug, Clone)]
struct Current {
    context: Context,
    acks: Arc<Acks>,
    hearing: Arc<Hearing>,
    /// The client, which others may use too.
    line: Arc<Line>,
    _listener: Arc<Listener>,
}

/// Where it is reported whether the connection is up.
#[derive(Debug)]
struct Reports {
    level: Level,
    health: Arc<Health>,
}

impl Nats {
    /// Connects, to publish to this stream: over the line of these settings, if others have one.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`]. The message names the servers' addresses and never credentials.
    pub(crate) async fn connect(nats: &NatsConfig, stream: &str, lines: &Lines) -> Result<Self> {
        let (up, connected) = watch::channel(true);
        let reports = Arc::<OnceLock<Reports>>::default();
        let signals = Signals {
            up: Arc::new(up),
            ups: Arc::new(AtomicU64::new(1)),
            deaf: Arc::default(),
            denied: Arc::default(),
            expected: Arc::new(Expected::new(stream, nats.verify_acks)),
            reports: Arc::downgrade(&reports),
        };
        let (denied, deaf) = (signals.denied.clone(), signals.deaf.clone());
        let ups = signals.ups.clone();
        let expected = signals.expected.clone();

        let client = match start_client(nats, stream, &signals, lines).await {
            Ok(started) => started,
            Err(error) => return Err(explained(nats, error).await),
        };
        let (replace, current) = watch::channel(client);
        let keeping =
            Keeping { nats: nats.clone(), stream: stream.to_owned(), lines: lines.clone() };
        task::spawn(keeping.keep(replace, signals));

        Ok(Self {
            current,
            connected,
            ups,
            deaf,
            denied,
            expected,
            api: nats.api.clone(),
            api_prefix: nats.api_prefix().into(),
            ack_timeout: nats.ack_timeout,
            reports,
        })
    }

    /// Reports from now on whether the connection is up. A connection that is only tried is not
    /// reported.
    pub(crate) fn report_to(&self, metrics: &Metrics, health: &Arc<Health>) {
        let reports = Reports { level: metrics.nats_connected(), health: health.clone() };
        self.reports.get_or_init(|| reports).set(*self.connected.borrow(), &self.deaf);
    }

    /// The number of the connection that is up; 0 if publishes may not leave.
    pub(crate) fn connection(&self) -> u64 {
        let connected = self.connected.borrow();
        if *connected { self.ups.load(Ordering::Relaxed) } else { 0 }
    }

    /// What is known of the stream over this connection counts no more.
    pub(super) fn begin_anew(&self) {
        self.ups.fetch_add(1, Ordering::Relaxed);
    }

    /// Why no reply reaches the relay, if none does.
    pub(crate) fn why_deaf(&self) -> Option<String> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A publish or a request timed out: whether the client hears is found out.
    pub(super) fn doubt(&self) {
        self.current.borrow().hearing.doubt();
    }

    /// The JetStream API on the current client.
    pub(crate) fn context(&self) -> Context {
        self.current.borrow().context.clone()
    }

    /// The largest message that the server accepts, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.current.borrow().context.client().server_info().max_payload
    }

    /// The JetStream domain in which the stream is looked for, if it has a name.
    pub(crate) fn domain(&self) -> Option<String> {
        match &self.api {
            Api::Domain(domain) => Some(domain.clone()),
            Api::Near => self.context().client().server_info().domain,
            Api::Prefix(_) => None,
        }
    }

    /// The acks of the current client, which publish.
    pub(crate) fn acks(&self) -> Arc<Acks> {
        self.current.borrow().acks.clone()
    }
}

/// Where a client reports its events.
#[derive(Debug, Clone)]
struct Signals {
    up: Arc<watch::Sender<bool>>,
    ups: Arc<AtomicU64>,
    deaf: Arc<Mutex<Option<String>>>,
    denied: Arc<Denied>,
    expected: Arc<Expected>,
    /// Gone with the last [`Nats`]: a client outlives it for a while and must not set the metric of
    /// the next connection.
    reports: Weak<OnceLock<Reports>>,
}

impl Reports {
    fn set(&self, is_up: bool, deaf: &Mutex<Option<String>>) {
        self.level.set_flag(is_up);
        let why = deaf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.health.nats(match (is_up, why) {
            (true, _) => Ok(()),
            (false, Some(why)) => Err(format!("receives no replies: {why}")),
            (false, None) => Err("not connected".to_owned()),
        });
    }
}

impl Signals {
    fn set_up(&self, is_up: bool) {
        self.up.send_if_modified(|was_up| {
            if is_up && !*was_up {
                self.ups.fetch_add(1, Ordering::Relaxed);
            }
            std::mem::replace(was_up, is_up) != is_up
        });
        if let Some(reports) = self.reports.upgrade() {
            reports.get().into_iter().for_each(|reports| reports.set(is_up, &self.deaf));
        }
    }

    fn set_deaf(&self, why: Option<String>) {
        *self.deaf.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Takes an event of the client with this hearing, and whether it ends a subscription of it. A
    /// client that is being replaced has no say. Returns whether the event is news.
    fn take(&self, event: &Event, is_ended: bool, hearing: &Hearing) -> bool {
        if hearing.why().is_some() {
            return false;
        }

        match event {
            // Publishes leave once it has proved to hear.
            Event::Connected => hearing.doubt(),
            Event::Disconnected | Event::Closed => {
                hearing.disconnected();
                self.set_up(false);
            }
            Event::ServerError(ServerError::Other(error)) => {
                self.denied.learn(error);
                if is_ended {
                    hearing.learn(error);
                }
                // At once: from here on no ack can arrive.
                if let Some(why) = hearing.why() {
                    self.set_deaf(Some(why.to_owned()));
                    self.set_up(false);
                }
            }
            _ => {}
        }

        // A client that outlives its connection may yet try to reconnect. That is no news. Nor is
        // what becomes of a client that is only tried: while no reply arrives, one follows the other.
        !self.up.is_closed() && hearing.has_heard()
    }
}

/// Starts a client that hears.
async fn start_client(
    nats: &NatsConfig,
    stream: &str,
    signals: &Signals,
    lines: &Lines,
) -> Result<Current> {
    let line = lines.line(nats).await?;
    let addresses = nats.addresses();
    let unreachable = |why: String| {
        let why = tls::describe(&why);
        Error::new(ErrorKind::Nats, format!("NATS at {addresses} can't be reached: {why}"))
    };

    let (client, expected) = (line.client.clone(), signals.expected.clone());
    if client.server_info().domain.is_some() {
        expected.has_others();
    }

    // Before it subscribes, so that a refusal is its own.
    let (inbox, hearing) =
        (line.inbox(nats), Arc::new(Hearing::new(nats, stream, nats.ack_timeout)));
    let (reports, heard) = (signals.clone(), hearing.clone());
    let take = Box::new(move |event: &Event, is_ended| reports.take(event, is_ended, &heard));

    let listener = line.join(Listener { inbox: inbox.clone(), hearing: hearing.clone(), take });

    let acks = Acks::subscribe(client.clone(), inbox, nats.ack_timeout, expected)
        .await
        .map_err(|error| unreachable(error.to_string()))?;

    if let Err(why) = hearing.prove(&client, &acks, &signals.denied).await {
        line.fails(&hearing);
        signals.set_deaf(Some(why.clone()));
        let message = format!("NATS at {addresses} delivers no replies: {why}");
        return Err(Error::new(ErrorKind::Nats, message));
    }

    let context = nats.context(client, nats.ack_timeout);
    Ok(Current { context, acks: Arc::new(acks), hearing, line, _listener: listener })
}

/// The error of a first connection, with what listens at the address where that is to blame.
async fn explained(nats: &NatsConfig, error: Error) -> Error {
    match port::misfit(nats, &error.report().to_string()).await {
        Some(Misfit { found, remedy, .. }) => {
            let lines = remedy.replace('\n', " ");
            let message =
                format!("NATS at {} can't be reached: {found}: {lines}", nats.addresses());
            Error::new(ErrorKind::Nats, message)
        }
        None => error,
    }
}

/// What it takes to replace a client.
struct Keeping {
    nats: NatsConfig,
    stream: String,
    lines: Lines,
}

impl Keeping {
    /// Replaces the client each time it has ended or is deaf, until no [`Nats`] is left.
    async fn keep(self, current: watch::Sender<Current>, signals: Signals) {
        loop {
            match watch_client(&current, &signals).await {
                Watched::NobodyLeft => return,
                Watched::Ended => {
                    warn!(
                        "the nats client stopped reconnecting; starting a new one, with nothing queued"
                    );
                }
                Watched::Deaf(why) => {
                    error!(
                        why,
                        "no reply of nats arrives; nothing is published until a new client receives \
                         replies"
                    );
                    signals.set_deaf(Some(why));
                    let Current { line, hearing, .. } = current.borrow().clone();
                    line.fails(&hearing);
                }
            }
            signals.set_up(false);

            let Some(client) = self.reconnect(&current, &signals).await else { return };

            current.send_replace(client);
            signals.set_deaf(None);
            signals.set_up(true);
            info!("connected to nats with a new client, which receives replies");
        }
    }

    /// Starts another client, as often as it takes. `None` when no [`Nats`] is left.
    async fn reconnect(
        &self,
        current: &watch::Sender<Current>,
        signals: &Signals,
    ) -> Option<Current> {
        let mut attempt = 1;
        loop {
            tokio::select! {
                () = current.closed() => return None,
                () = tokio::time::sleep(reconnect_wait(attempt)) => {}
            }

            match start_client(&self.nats, &self.stream, signals, &self.lines).await {
                Ok(started) => return Some(started),
                Err(error) if attempt == 1 => warn!(error = %error.report(), "still no connection"),
                Err(error) => debug!(error = %error.report(), attempt, "still no connection"),
            }

            attempt += 1;
        }
    }
}

/// Why a client is no longer watched.
enum Watched {
    Ended,
    Deaf(String),
    NobodyLeft,
}

/// Reports whether the connection is up, until the client ends, is deaf, or no [`Nats`] is left.
async fn watch_client(current: &watch::Sender<Current>, signals: &Signals) -> Watched {
    let Current { acks, hearing, line, .. } = current.borrow().clone();
    let (client, ended) = (&line.client, &line.ended);
    let is_connected = || client.connection_state() == State::Connected;
    // At most one question in this time, however many publishes time out.
    let mut next_question = Instant::now();

    loop {
        let is_doubted = tokio::select! {
            () = current.closed() => return Watched::NobodyLeft,
            () = ended.cancelled() => return Watched::Ended,
            () = hearing.ended() => false,
            () = tokio::time::sleep_until(next_look()) => false,
            () = hearing.doubted() => true,
        };

        // A time-out without a connection is no sign of deafness. A connection that was made again
        // has to prove itself.
        let is_asked = is_doubted && Instant::now() >= next_question || !hearing.is_proven();
        if is_connected() && is_asked {
            tokio::select! {
                () = current.closed() => return Watched::NobodyLeft,
                () = ended.cancelled() => return Watched::Ended,
                _ = hearing.prove(client, &acks, &signals.denied) => {}
            }
            next_question = Instant::now() + STATE_INTERVAL;
        }

        if let Some(why) = hearing.why() {
            return Watched::Deaf(why.to_owned());
        }
        signals.set_up(is_connected() && hearing.is_proven());
    }
}

fn next_look() -> Instant {
    clock::beat(Instant::now() + STATE_INTERVAL, STATE_INTERVAL)
}

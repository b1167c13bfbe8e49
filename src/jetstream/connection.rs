//! The connection to NATS: whether it is up, and which subjects the server denied.
//!
//! A publish without permission gets no reply. The server only sends an error for the connection,
//! so the denied subjects are kept here for the publish that times out.
//!
//! A client that could not reconnect for too long is replaced by a new one. The messages queued in
//! it are dropped with it, so none leaves minutes after its caller gave up.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{Event, ServerError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::acks::Acks;
use super::reply::Expected;
use super::servers::Turns;
use crate::backoff::Backoff;
use crate::config::NatsConfig;
use crate::driver_words::denied_subject;
use crate::error::{Error, ErrorKind, Result};
use crate::relay::clock;
use crate::telemetry::metrics::{Level, Metrics};
use crate::tls;

/// Publishes that may queue in the client. The queue is short because a queued publish can leave
/// long after its caller gave up on it.
const CLIENT_CAPACITY: usize = 256;
/// Attempts to reconnect before the client is replaced. They take half a minute when connections
/// are refused and a bit over a minute when they time out, far less than the 30 minutes for which
/// the stream remembers message ids by default.
const MAX_RECONNECTS: usize = 20;
/// Waits between attempts to reconnect. Jitter spreads the relays of many services.
const RECONNECTS: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2))
    .with_jitter(0.5..1.0, clock::chance);
/// How often the state of the connection is read. The client's events alone don't do, because it
/// drops some when many come at once.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// Most denied subjects that are remembered. A service publishes to a handful. When there are more,
/// all are forgotten and learned again.
const MAX_DENIED: usize = 1024;

/// A NATS connection that is kept up by replacing its client when that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    current: watch::Receiver<Current>,
    /// Whether the connection is up.
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) denied: Arc<Denied>,
    /// The stream whose acks count.
    pub(super) expected: Arc<Expected>,
    /// `nats.domain`.
    configured_domain: Option<String>,
    /// What the subjects of API requests begin with.
    pub(super) api_prefix: Arc<str>,
    /// How long a publish or an API request waits for its reply.
    pub(super) ack_timeout: Duration,
    /// The metric of `connected` once it is measured, zero when this connection is dropped.
    level: Arc<OnceLock<Level>>,
}

/// One client's two uses: requests and publishes.
#[derive(Debug, Clone)]
struct Current {
    context: Context,
    acks: Arc<Acks>,
}

/// The subjects that the server denied, and when it last denied each.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    subjects: Mutex<HashMap<Box<str>, Instant>>,
    learned: Notify,
}

impl Denied {
    /// Whether the server denied this subject after `since`.
    pub(crate) fn since(&self, subject: &str, since: Instant) -> bool {
        let denied = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get(subject).is_some_and(|at| *at >= since)
    }

    /// Waits until the server denies this subject.
    pub(super) async fn after(&self, subject: &str, since: Instant) {
        loop {
            let mut learned = pin!(self.learned.notified());
            // Registers before the look, so that no notification falls between the two.
            learned.as_mut().enable();
            if self.since(subject, since) {
                return;
            }
            learned.await;
        }
    }

    fn learn(&self, error: &str) {
        let Some(subject) = denied_subject(error) else { return };
        let mut denied = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);

        if denied.len() >= MAX_DENIED {
            denied.clear();
        }

        denied.insert(subject.into(), Instant::now());
        self.learned.notify_waiters();
    }
}

impl Nats {
    /// Connects, to publish to this stream.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`]. The message names the servers' addresses and never credentials.
    pub(crate) async fn connect(nats: &NatsConfig, stream: &str) -> Result<Self> {
        let (up, connected) = watch::channel(true);
        let level = Arc::<OnceLock<Level>>::default();
        let signals = Signals {
            up: Arc::new(up),
            denied: Arc::default(),
            expected: Arc::new(Expected::new(stream, nats.verify_acks)),
            level: Arc::downgrade(&level),
        };
        let (denied, expected) = (signals.denied.clone(), signals.expected.clone());

        let (client, ended) = start_client(nats, &signals).await?;
        let (replace, current) = watch::channel(client);
        tokio::spawn(keep(nats.clone(), replace, ended, signals));

        Ok(Self {
            current,
            connected,
            denied,
            expected,
            configured_domain: nats.domain.clone(),
            api_prefix: nats.api_prefix().into(),
            ack_timeout: nats.ack_timeout,
            level,
        })
    }

    /// Shows in the metrics whether the connection is up. A connection that is only tried does not
    /// show.
    pub(crate) fn measure(&self, metrics: &Metrics) {
        let level = self.level.get_or_init(|| metrics.nats_connected());
        level.set_flag(*self.connected.borrow());
    }

    /// The JetStream API on the current client.
    pub(crate) fn context(&self) -> Context {
        self.current.borrow().context.clone()
    }

    /// The largest message that the server accepts, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.current.borrow().context.client().server_info().max_payload
    }

    /// The JetStream domain in which the stream is looked for.
    pub(crate) fn domain(&self) -> Option<String> {
        self.configured_domain.clone().or_else(|| self.context().client().server_info().domain)
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
    denied: Arc<Denied>,
    expected: Arc<Expected>,
    /// Gone with the last [`Nats`]: a client outlives it for a while and must not set the metric of
    /// the next connection.
    level: Weak<OnceLock<Level>>,
}

impl Signals {
    fn set_up(&self, is_up: bool) {
        self.up.send_if_modified(|was_up| std::mem::replace(was_up, is_up) != is_up);
        if let Some(level) = self.level.upgrade() {
            level.get().into_iter().for_each(|level| level.set_flag(is_up));
        }
    }

    fn take(&self, event: &Event) {
        match event {
            Event::Connected => self.set_up(true),
            Event::Disconnected | Event::Closed => self.set_up(false),
            Event::ServerError(ServerError::Other(error)) => self.denied.learn(error),
            _ => {}
        }

        // A client that outlives its connection may yet try to reconnect. That is no news.
        if !self.up.is_closed() {
            info!(%event, "nats connection");
        }
    }
}

/// Starts a client. The token is cancelled when it has ended for good.
async fn start_client(
    nats: &NatsConfig,
    signals: &Signals,
) -> Result<(Current, CancellationToken)> {
    let servers = nats.servers().unwrap_or_default();
    let addresses = servers
        .iter()
        .map(|server| format!("{}:{}", server.host(), server.port()))
        .collect::<Vec<_>>()
        .join(", ");

    let unreachable = |why: String| {
        let why = tls::describe(&why);
        Error::new(ErrorKind::Nats, format!("NATS at {addresses} can't be reached: {why}"))
    };

    // The client drops the callback, and with it the guard, when it ends.
    let ended = CancellationToken::new();
    let (guard, expected) = (ended.clone().drop_guard(), signals.expected.clone());
    let (signals, turns) = (signals.clone(), Turns::default());
    let begins = turns.clone();
    let options = nats
        .options()
        .await?
        .client_capacity(CLIENT_CAPACITY)
        .max_reconnects(MAX_RECONNECTS)
        .reconnect_delay_callback(reconnect_wait)
        .reconnect_to_server_callback(move |servers, _| std::future::ready(turns.next(&servers)))
        .event_callback(move |event| {
            let _ = &guard;
            if let Event::Connected = event {
                begins.begin();
            }
            signals.take(&event);
            std::future::ready(())
        });

    let client = options.connect(servers).await.map_err(|error| unreachable(error.to_string()))?;
    if client.server_info().domain.is_some() {
        expected.has_others();
    }
    let acks = Acks::subscribe(client.clone(), nats.ack_timeout, expected)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let context = nats.context(client, nats.ack_timeout);

    Ok((Current { context, acks: Arc::new(acks) }, ended))
}

/// The wait before this attempt to reconnect. There is none before the first.
fn reconnect_wait(attempt: usize) -> Duration {
    match u32::try_from(attempt).unwrap_or(u32::MAX) {
        0 | 1 => Duration::ZERO,
        attempt => RECONNECTS.after(attempt),
    }
}

/// Replaces the client each time it has ended, until no [`Nats`] is left.
async fn keep(
    nats: NatsConfig,
    current: watch::Sender<Current>,
    mut ended: CancellationToken,
    signals: Signals,
) {
    while let Watched::ClientEnded = watch_client(&current, &ended, &signals).await {
        warn!("the nats client has given up; starting another, with nothing queued");
        signals.set_up(false);

        let Some((client, its_end)) = reconnect(&nats, &current, &signals).await else { return };
        current.send_replace(client);
        ended = its_end;
        signals.set_up(true);
    }
}

/// Why a client is no longer watched.
enum Watched {
    ClientEnded,
    NobodyLeft,
}

/// Reports whether the connection is up, until the client ends or no [`Nats`] is left.
async fn watch_client(
    current: &watch::Sender<Current>,
    ended: &CancellationToken,
    signals: &Signals,
) -> Watched {
    loop {
        tokio::select! {
            () = current.closed() => return Watched::NobodyLeft,
            () = ended.cancelled() => return Watched::ClientEnded,
            () = tokio::time::sleep(STATE_INTERVAL) => {}
        }

        let state = current.borrow().context.client().connection_state();
        signals.set_up(state == State::Connected);
    }
}

/// Starts another client, as often as it takes. `None` when no [`Nats`] is left.
async fn reconnect(
    nats: &NatsConfig,
    current: &watch::Sender<Current>,
    signals: &Signals,
) -> Option<(Current, CancellationToken)> {
    let mut attempt = 1;
    loop {
        tokio::select! {
            () = current.closed() => return None,
            () = tokio::time::sleep(reconnect_wait(attempt)) => {}
        }

        match start_client(nats, signals).await {
            Ok(started) => return Some(started),
            Err(error) if attempt == 1 => warn!(error = %error.report(), "still no connection"),
            Err(error) => debug!(error = %error.report(), attempt, "still no connection"),
        }

        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_subject_is_known_until_it_is_tried_again() {
        let denied = Denied::default();
        let before = Instant::now();

        denied.learn("Permissions Violation for Publish to \"Shop.made\"");
        denied.learn("Permissions Violation for Subscription to \"other\"");

        assert!(denied.since("Shop.made", before));
        assert!(!denied.since("other", before));
        assert!(!denied.since("Shop.made", Instant::now() + Duration::from_secs(1)));
    }
}

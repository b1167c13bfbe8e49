//! The connection to NATS: whether it stands, and what the server refused without an answer.
//!
//! A publish that the account has no permission for gets no reply; the server only sends an error
//! for the connection. So what it denied is kept here for the publish that waits in vain.
//!
//! A client that could not reconnect for long is replaced by a new one. What was still queued in it
//! goes with it: nothing leaves minutes after its caller gave up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Event, ServerError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::acks::Acks;
use crate::config::NatsConfig;
use crate::driver_words::denied_subject;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::{Level, Metrics};
use crate::tls;

/// Publishes that may queue in the client. A queued publish can leave long after its caller gave up
/// on it, so the queue is short.
const CLIENT_CAPACITY: usize = 256;
/// Attempts to reconnect before the client is replaced: half a minute when connections are refused,
/// three when they are swallowed. Far below the 30 minutes for which the stream remembers message
/// ids by default.
const MAX_RECONNECTS: usize = 20;
/// Longest wait before an attempt to reconnect.
const MAX_RECONNECT_WAIT: Duration = Duration::from_secs(2);
/// How often the state of the connection is looked at besides the client's events, which it drops
/// when many come at once.
const LOOK: Duration = Duration::from_secs(1);
/// Denied subjects remembered: a service publishes to a handful. When there are more, all are
/// forgotten and learned anew.
const MAX_DENIED: usize = 1024;

/// A NATS connection that is kept up, with whatever client stands for it now.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    current: watch::Receiver<Current>,
    /// Whether it stands.
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) denied: Arc<Denied>,
    /// The metric of `connected`, zero once this connection is dropped.
    _level: Arc<Level>,
}

/// A client, for requests and for publishes.
#[derive(Debug, Clone)]
struct Current {
    context: Context,
    acks: Arc<Acks>,
}

/// The subjects that the server denied, and when it last said so.
#[derive(Debug, Default)]
pub(crate) struct Denied(Mutex<HashMap<Box<str>, Instant>>);

impl Denied {
    /// Whether the server denied this subject after `since`.
    pub(crate) fn since(&self, subject: &str, since: Instant) -> bool {
        let denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get(subject).is_some_and(|at| *at >= since)
    }

    fn learn(&self, error: &str) {
        let Some(subject) = denied_subject(error) else { return };
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.len() >= MAX_DENIED {
            denied.clear();
        }
        denied.insert(subject.into(), Instant::now());
    }
}

impl Nats {
    /// Connects.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`]; the servers' addresses are in the message, credentials never.
    pub(crate) async fn connect(nats: &NatsConfig, metrics: &Metrics) -> Result<Self> {
        let (stands, connected) = watch::channel(true);
        let level = Arc::new(metrics.nats_connected());
        let signals = Signals {
            stands: Arc::new(stands),
            denied: Arc::default(),
            level: Arc::downgrade(&level),
        };
        let (first, gone) = client(nats, &signals).await?;
        let denied = signals.denied.clone();
        let (keeps, current) = watch::channel(first);
        tokio::spawn(keep(nats.clone(), keeps, gone, signals));
        Ok(Self { current, connected, denied, _level: level })
    }

    /// The JetStream API on the current client.
    pub(crate) fn context(&self) -> Context {
        self.current.borrow().context.clone()
    }

    /// The way to publish on the current client.
    pub(crate) fn acks(&self) -> Arc<Acks> {
        self.current.borrow().acks.clone()
    }
}

/// Where a client's events go.
#[derive(Debug, Clone)]
struct Signals {
    stands: Arc<watch::Sender<bool>>,
    denied: Arc<Denied>,
    level: Weak<Level>,
}

impl Signals {
    fn stands(&self, stands: bool) {
        self.stands.send_if_modified(|was| std::mem::replace(was, stands) != stands);
        // A client that outlives its connection must not speak for the next connection.
        if let Some(level) = self.level.upgrade() {
            level.set_flag(stands);
        }
    }
}

/// A new client; the token is cancelled when it has ended for good.
async fn client(nats: &NatsConfig, signals: &Signals) -> Result<(Current, CancellationToken)> {
    let servers = nats.servers().unwrap_or_default();
    let named = servers
        .iter()
        .map(|server| format!("{}:{}", server.host(), server.port()))
        .collect::<Vec<_>>()
        .join(", ");
    let gone = CancellationToken::new();
    // Dropped with the callback, which the client drops when it ends.
    let (guard, signals) = (gone.clone().drop_guard(), signals.clone());
    let options = nats
        .options()
        .await?
        .client_capacity(CLIENT_CAPACITY)
        .max_reconnects(MAX_RECONNECTS)
        .reconnect_delay_callback(reconnect_wait)
        .event_callback(move |event| {
            let _ = &guard;
            match &event {
                Event::Connected => signals.stands(true),
                Event::Disconnected | Event::Closed => signals.stands(false),
                Event::ServerError(ServerError::Other(error)) => signals.denied.learn(error),
                _ => {}
            }
            // One that was left behind when the relay began anew may yet try to reconnect.
            if !signals.stands.is_closed() {
                info!(%event, "nats connection");
            }
            std::future::ready(())
        });
    let unreachable = |why: String| {
        Error::new(
            ErrorKind::Nats,
            format!("NATS at {named} can't be reached: {}", tls::describe(&why)),
        )
    };
    let client = options.connect(servers).await.map_err(|error| unreachable(error.to_string()))?;
    let acks = Acks::subscribe(client.clone(), nats.ack_timeout).await;
    let acks = acks.map_err(|error| unreachable(error.to_string()))?;
    let context = ContextBuilder::new().timeout(nats.ack_timeout).build(client);
    Ok((Current { context, acks: Arc::new(acks) }, gone))
}

/// Doubles from 10 ms, with jitter so that the relays of many services don't return together.
fn reconnect_wait(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let wait = Duration::from_millis(10 << doublings).min(MAX_RECONNECT_WAIT);
    if attempts <= 1 { Duration::ZERO } else { wait.mul_f64(rand::random_range(0.5..1.0)) }
}

/// Watches over the client and replaces it when it has ended, until nobody wants one.
async fn keep(
    nats: NatsConfig,
    current: watch::Sender<Current>,
    mut gone: CancellationToken,
    signals: Signals,
) {
    loop {
        tokio::select! {
            () = current.closed() => return,
            () = tokio::time::sleep(LOOK) => {
                let stands = current.borrow().context.client().connection_state() == State::Connected;
                signals.stands(stands);
                continue;
            }
            () = gone.cancelled() => {
                warn!("the nats client has given up; starting another, with nothing queued");
                signals.stands(false);
            }
        }
        for attempt in 1.. {
            tokio::select! {
                () = current.closed() => return,
                () = tokio::time::sleep(reconnect_wait(attempt)) => {}
            }
            match client(&nats, &signals).await {
                Ok((another, its_end)) => {
                    current.send_replace(another);
                    gone = its_end;
                    signals.stands(true);
                    break;
                }
                Err(error) if attempt == 1 => {
                    warn!(error = %error.report(), "still no connection")
                }
                Err(error) => debug!(error = %error.report(), attempt, "still no connection"),
            }
        }
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
        assert!(!denied.since("Shop.made", Instant::now() + std::time::Duration::from_secs(1)));
    }
}

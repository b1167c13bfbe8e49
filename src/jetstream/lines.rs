//! The connections to NATS that the outboxes of a process share: one for each set of servers and
//! credentials.
//!
//! ```text
//!                     ┌─▶ acks of one outbox, whether it hears
//!   client ─ events ──┤
//!                     └─▶ acks of another, whether it hears
//! ```
//!
//! Each outbox has a subscription for its acks and finds out by itself whether replies reach it. What
//! ends the client ends it for all, and the first that needs a client makes the next. An outbox that hears
//! nothing has the others try, too; a line on which nobody hears is left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_nats::{Client, Event, ServerError};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::hearing::Hearing;
use super::servers::Turns;
use crate::backoff::Backoff;
use crate::config::NatsConfig;
use crate::driver_words::{self, ended_subscription, ends_subscription};
use crate::error::{Error, ErrorKind, Result};
use crate::relay::clock;
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

/// What a line depends on.
type Key = [u8; 32];

/// The lines of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Place>>>>>);

/// Where the line of a key is. Whoever needs one waits here for the attempt of another.
#[derive(Debug, Default)]
struct Place {
    line: Weak<Line>,
    /// When the last attempt failed, and why.
    failed: Option<(Instant, String)>,
}

/// A client, and the outboxes that use it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) client: Client,
    /// Cancelled when the client has ended for good.
    pub(super) ended: CancellationToken,
    listeners: Arc<Listeners>,
}

/// Takes an event of the client, and whether this listener's subscription is the one that it ends.
/// Returns whether the event is news.
type Take = Box<dyn Fn(&Event, bool) -> bool + Send + Sync>;

/// An outbox on a line, until it is dropped.
pub(super) struct Listener {
    /// What the subjects of its acks begin with.
    pub(super) inbox: String,
    pub(super) hearing: Arc<Hearing>,
    pub(super) take: Take,
}

#[derive(Debug, Default)]
struct Listeners {
    all: Mutex<Vec<Weak<Listener>>>,
    /// Nobody hears over this line any more.
    is_left: AtomicBool,
}

impl Lines {
    /// The line of these settings: that of others, or a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`]. The message names the servers' addresses and never credentials.
    pub(super) async fn line(&self, nats: &NatsConfig) -> Result<Arc<Line>> {
        let asked = Instant::now();
        // The files may be on a volume that hangs.
        let of = nats.clone();
        let key = spawn_blocking(move || of.fingerprint()).await;
        let key = key.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));

        let place = self.place(key);
        let mut place = place.lock().await;

        if let Some(line) = place.line.upgrade().filter(|line| line.is_good()) {
            return Ok(line);
        }

        if let Some((_, why)) = place.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(Error::new(ErrorKind::Nats, why.clone()));
        }

        match Line::start(nats).await {
            Ok(line) => {
                let line = Arc::new(line);
                *place = Place { line: Arc::downgrade(&line), failed: None };
                Ok(line)
            }
            Err(error) => {
                place.failed = Some((Instant::now(), error.report().to_string()));
                Err(error)
            }
        }
    }

    fn place(&self, key: Key) -> Arc<tokio::sync::Mutex<Place>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for, and whose line is gone.
        places.retain(|_, place| {
            Arc::strong_count(place) > 1
                || place.try_lock().is_ok_and(|place| place.line.strong_count() > 0)
        });

        places.entry(key).or_default().clone()
    }
}

impl Line {
    async fn start(nats: &NatsConfig) -> Result<Self> {
        let servers = nats.servers().unwrap_or_default();

        // The client drops the callback, and with it the guard, when it ends.
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let (listeners, turns) = (Arc::<Listeners>::default(), Turns::default());
        let (hearing, begins) = (listeners.clone(), turns.clone());

        let options = nats
            .options()
            .await?
            .client_capacity(CLIENT_CAPACITY)
            .max_reconnects(MAX_RECONNECTS)
            .reconnect_delay_callback(reconnect_wait)
            .reconnect_to_server_callback(move |servers, _| {
                std::future::ready(turns.next(&servers))
            })
            .event_callback(move |event| {
                let _ = &guard;
                if let Event::Connected = event {
                    begins.begin();
                }
                hearing.take(&event);
                std::future::ready(())
            });

        let client = options.connect(servers).await.map_err(|error| {
            let (addresses, why) = (nats.addresses(), tls::describe(&error.to_string()));
            Error::new(ErrorKind::Nats, format!("NATS at {addresses} can't be reached: {why}"))
        })?;

        Ok(Self { client, ended, listeners })
    }

    /// What the subjects of a new listener's acks begin with.
    pub(super) fn inbox(&self, nats: &NatsConfig) -> String {
        let unique = self.client.new_inbox();
        let unique = unique.rsplit('.').next().unwrap_or(&unique);
        format!("{}.{unique}.", nats.inbox_prefix)
    }

    /// Tells this listener of the client's events, until it is dropped.
    pub(super) fn join(&self, listener: Listener) -> Arc<Listener> {
        let listener = Arc::new(listener);
        self.listeners.lock().push(Arc::downgrade(&listener));
        listener
    }

    /// This listener hears nothing. If not even its own subscription is to blame, the others try too.
    pub(super) fn fails(&self, hearing: &Arc<Hearing>) {
        self.listeners.fails(hearing);
    }

    /// Whether a client that was just started may use it.
    fn is_good(&self) -> bool {
        !self.ended.is_cancelled() && !self.listeners.is_left.load(Ordering::Relaxed)
    }
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Listener>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Listener>> {
        let mut all = self.lock();
        all.retain(|listener| listener.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    fn take(&self, event: &Event) {
        let all = self.all();

        let ends = ended(event);
        // Of all before any of them takes it.
        let is_ended = all.iter().map(|of| ends.is_some_and(|by| of.is_ended(by, &all)));
        let is_ended: Vec<bool> = is_ended.collect();

        let mut is_news = false;
        for (listener, is_ended) in all.iter().zip(is_ended) {
            is_news |= (listener.take)(event, is_ended);
        }

        let event = event.to_string();
        let event = driver_words::event(&event);
        match is_news {
            true => info!(%event, "nats connection"),
            false => debug!(%event, "nats connection"),
        }
    }

    fn fails(&self, hearing: &Arc<Hearing>) {
        let others = self.all();
        let mut others = others.iter().filter(|other| !Arc::ptr_eq(&other.hearing, hearing));
        if others.clone().all(|other| !other.hearing.is_hearing()) {
            self.is_left.store(true, Ordering::Relaxed);
        } else if !hearing.is_own_fault() {
            others.by_ref().for_each(|other| other.hearing.doubt());
        }
    }
}

/// The error of an event that ends a subscription.
fn ended(event: &Event) -> Option<&str> {
    match event {
        Event::ServerError(ServerError::Other(error)) if ends_subscription(error) => Some(error),
        _ => None,
    }
}

impl Listener {
    /// Whether this error ends a subscription that this listener needs. One that names no listener's
    /// acks is about the client's requests, which all need; a limit is met by those that came last.
    fn is_ended(&self, by: &str, all: &[Arc<Self>]) -> bool {
        match ended_subscription(by) {
            Some(subject) => {
                let is_of = |listener: &Self| subject.starts_with(&listener.inbox);
                let is_own = is_of(self);
                if is_own {
                    self.hearing.set_own_fault();
                }
                is_own || !all.iter().any(|listener| is_of(listener))
            }
            None => !self.hearing.is_proven() || all.iter().all(|of| of.hearing.is_proven()),
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

/// The wait before this attempt to reconnect. There is none before the first.
pub(super) fn reconnect_wait(attempt: usize) -> Duration {
    match u32::try_from(attempt).unwrap_or(u32::MAX) {
        0 | 1 => Duration::ZERO,
        attempt => RECONNECTS.after(attempt),
    }
}

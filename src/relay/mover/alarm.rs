//! Rings when an event is scheduled that may be due before the mover looks next.
//!
//! The due times come from a change stream of the scheduled events. It is a hint and no more: the
//! mover looks from time to time without it, and what is due is read from the collection. While many
//! events leave the outbox, there is no such stream, and the mover looks more often: see
//! [`Traffic`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, warn};

use super::traffic::Traffic;
use crate::backoff::Backoff;
use crate::relay::clock;
use crate::relay::ports::scheduled::{Alarms, ScheduledStore};
use crate::relay::ports::{StoreError, StoreResult};

/// How often the mover looks while nothing tells it of due times, because nothing can.
const DEAF_POLL: Duration = Duration::from_secs(5);
/// How often it looks while it is told. The change stream asks as often, and the watch over overdue
/// events asks too: all together ask less than once in 5 s.
pub(crate) const CALM_POLL: Duration = Duration::from_secs(15);
/// How often it looks while so many events leave the outbox that it isn't told. Four looks a second
/// cost less than a change stream with 250 changes.
const BUSY_POLL: Duration = Duration::from_millis(250);
/// Waits before the stream is opened again. A user without the right is asked again as late.
const REOPEN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60))
    .with_jitter(0.5..1.0, clock::chance);

/// A handle that the stream rings and the mover waits on.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The earliest due time since the mover last took it.
    earliest_ms: AtomicI64,
    rung: Notify,
    /// How often the mover looks besides, in ms.
    poll_ms: AtomicU64,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            earliest_ms: AtomicI64::new(i64::MAX),
            rung: Notify::new(),
            poll_ms: AtomicU64::new(BUSY_POLL.as_millis() as u64),
        }
    }
}

impl Alarm {
    fn ring(&self, at_ms: i64) {
        self.0.earliest_ms.fetch_min(at_ms, Ordering::Relaxed);
        self.0.rung.notify_one();
    }

    /// Waits for a due time, and takes the earliest. A wait that is dropped loses none.
    pub(super) async fn rung(&self) -> i64 {
        self.0.rung.notified().await;
        self.0.earliest_ms.swap(i64::MAX, Ordering::Relaxed)
    }

    /// How often the mover looks although nothing rings.
    pub(super) fn poll(&self) -> Duration {
        Duration::from_millis(self.0.poll_ms.load(Ordering::Relaxed))
    }

    /// Whether it rings for each event that is scheduled.
    pub(super) fn is_told(&self) -> bool {
        self.poll() == CALM_POLL
    }

    /// From now on the mover looks so often. It looks now too: what was written while nobody
    /// listened rang nothing.
    fn look_every(&self, poll: Duration) {
        self.0.poll_ms.store(poll.as_millis() as u64, Ordering::Relaxed);
        self.ring(i64::MIN);
    }
}

/// Listens while the outbox is calm, until it is dropped.
pub(super) async fn listen(store: impl ScheduledStore, alarm: Alarm, traffic: Traffic) {
    let mut backoff = REOPEN;
    let mut known = None;
    loop {
        traffic.calm().await;

        let ended = tokio::select! {
            biased;
            ended = listen_once(&store, &alarm, &mut backoff) => ended,
            () = traffic.busy() => {
                alarm.look_every(BUSY_POLL);
                continue;
            }
        };
        alarm.look_every(DEAF_POLL);
        match ended {
            Ok(()) => debug!("the change stream of the scheduled events has ended"),
            Err(error) => report(error, &mut known),
        }

        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn listen_once(
    store: &impl ScheduledStore,
    alarm: &Alarm,
    backoff: &mut Backoff,
) -> StoreResult<()> {
    let mut alarms = store.alarms().await?;
    backoff.reset();
    // What was written before the stream began is not in it.
    alarm.look_every(CALM_POLL);

    while let Some(at_ms) = alarms.next().await? {
        alarm.ring(at_ms);
    }
    Ok(())
}

/// Each reason once: the stream is opened again and again.
fn report(error: StoreError, known: &mut Option<StoreError>) {
    if known.as_ref() == Some(&error) {
        return debug!(%error, "still no change stream of the scheduled events");
    }

    warn!(
        %error,
        "cannot follow the scheduled events: an event that is scheduled less than 5 s ahead may \
         be up to 5 s late"
    );
    *known = Some(error);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_earliest_time_is_taken_once() {
        let alarm = Alarm::default();
        assert_eq!(alarm.rung().now_or_never(), None);

        [30, 10, 20].into_iter().for_each(|at| alarm.ring(at));
        assert_eq!(alarm.rung().now_or_never(), Some(10));
        assert_eq!(alarm.rung().now_or_never(), None);
    }
}

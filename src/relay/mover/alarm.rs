//! Rings when an event is scheduled that may be due before the mover looks next.
//!
//! The due times come from a change stream of the scheduled events. It is a hint and no more: the
//! mover looks from time to time without it, and what is due is read from the collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::relay::clock;
use crate::relay::ports::scheduled::{Alarms, ScheduledStore};
use crate::relay::ports::{StoreError, StoreResult};

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
    is_listening: AtomicBool,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            earliest_ms: AtomicI64::new(i64::MAX),
            rung: Notify::new(),
            is_listening: AtomicBool::new(false),
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

    /// Whether due times are reported as they are written.
    pub(super) fn is_listening(&self) -> bool {
        self.0.is_listening.load(Ordering::Relaxed)
    }
}

/// Listens until it is dropped.
pub(super) async fn listen(store: impl ScheduledStore, alarm: Alarm) {
    let mut backoff = REOPEN;
    let mut known = None;
    loop {
        let ended = listen_once(&store, &alarm, &mut backoff).await;
        alarm.0.is_listening.store(false, Ordering::Relaxed);
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
    alarm.0.is_listening.store(true, Ordering::Relaxed);
    // What was written before the stream began is not in it.
    alarm.ring(i64::MIN);

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
        "cannot follow the scheduled events: an event that is scheduled less than 5 s ahead may be \
         late by as much"
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

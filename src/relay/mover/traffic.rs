//! How many events leave the outbox. While they are many, following the scheduled events costs more
//! than asking for them.
//!
//! A change stream reads every entry of the oplog, and each delivered event is one: with a second
//! stream, draining a backlog took mongod a third more (34 µs an event instead of 25).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// How long the events are counted before anything follows from their number.
const WHILE: Duration = Duration::from_millis(250);
/// So many events within [`WHILE`] cost more than the mover's question in that time.
const BUSY: u64 = 63;
/// After how many such times with fewer events the outbox is calm.
const CALM_TIMES: u32 = 8;

/// The count, shared by those who add to it and those who wait for what it says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    events: AtomicU64,
    added: Notify,
}

impl Traffic {
    /// So many events have left the outbox.
    pub(crate) fn add(&self, events: usize) {
        self.0.events.fetch_add(events as u64, Ordering::Relaxed);
        self.0.added.notify_one();
    }

    fn events(&self) -> u64 {
        self.0.events.load(Ordering::Relaxed)
    }

    /// Waits until many events leave. While none does, it costs nothing.
    pub(super) async fn busy(&self) {
        loop {
            let before = self.events();
            self.0.added.notified().await;
            if self.is_busy_since(before).await {
                return;
            }
        }
    }

    /// Waits until few events have left for a moment.
    pub(super) async fn calm(&self) {
        let mut times = 0;
        while times < CALM_TIMES {
            times = if self.is_busy_since(self.events()).await { 0 } else { times + 1 };
        }
    }

    async fn is_busy_since(&self, before: u64) -> bool {
        sleep(WHILE).await;
        self.events().wrapping_sub(before) >= BUSY
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_calm_only_after_a_while_without_many_events() {
        let traffic = Traffic::default();
        let adding = tokio::spawn({
            let traffic = traffic.clone();
            async move {
                for _ in 0..5 {
                    traffic.add(BUSY as usize);
                    sleep(WHILE).await;
                }
            }
        });

        let began = Instant::now();
        traffic.busy().await;
        assert_eq!(began.elapsed(), WHILE);
        traffic.calm().await;
        assert!(adding.is_finished());
        assert!(began.elapsed() >= WHILE * (5 + CALM_TIMES - 1), "{:?}", began.elapsed());
    }
}

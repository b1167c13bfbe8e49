//! The tasks around the loop of a leadership, and how they end.
//!
//! The settler is waited for: it writes down what is known. The readers are not, because a read
//! takes up to a second to notice that nobody wants it, and a relay that stops should not take that
//! long. But what they read is in memory until then, so the readers of the next leadership wait for
//! them: one page at a time is in memory, however often the lease changes hands.

use std::sync::Arc;
use std::time::Duration;

use outboxd_client::Key;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::relay::follow::follow;
use crate::relay::follow::found::Found;
use crate::relay::ports::EventStore;
use crate::telemetry::metrics::Metrics;

/// Longest wait for readers whose leadership is over. A server that does not answer at all would
/// keep them, and with them the next leadership, for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tasks of a leadership.
pub(super) struct Stages {
    pub(super) following: JoinHandle<()>,
    pub(super) retrying: JoinHandle<()>,
    pub(super) settling: JoinHandle<()>,
    /// `None` if no scheduled events are moved.
    pub(super) moving: Option<JoinHandle<()>>,
    pub(super) stop_moving: CancellationToken,
    /// Ends the repeating of writes that fail.
    pub(super) give_up: CancellationToken,
}

/// How settling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settling {
    Done,
    /// Writes failed until the deadline.
    GivenUp,
}

/// Readers of leaderships that are over and may still read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Readers {
    async fn add(&self, reader: JoinHandle<()>) {
        if !reader.is_finished() {
            self.0.lock().await.push(reader);
        }
    }

    /// Waits until they have ended. Ends those that take too long. Whoever stops waiting leaves the
    /// rest to the next.
    async fn end(&self) {
        let (deadline, mut readers) = (Instant::now() + PATIENCE, self.0.lock().await);
        while let Some(reader) = readers.last_mut() {
            if timeout_at(deadline, &mut *reader).await.is_err() {
                warn!("dropped a read of an earlier term that MongoDB does not answer");
                reader.abort();
                let _ = timeout(PATIENCE, &mut *reader).await;
            }
            readers.pop();
        }
    }

    /// Follows the outbox once the earlier readers have ended.
    pub(super) async fn follow(
        self,
        store: impl EventStore,
        found: mpsc::Sender<Found>,
        resting: watch::Receiver<Vec<Key>>,
        metrics: Metrics,
    ) {
        tokio::select! {
            biased;
            () = found.closed() => return,
            () = self.end() => {}
        }
        follow(store, found, resting, metrics).await;
    }
}

impl Stages {
    /// Waits for a stage to end, which none should.
    pub(super) async fn first_ended(&mut self) -> &'static str {
        let moving = async {
            match &mut self.moving {
                Some(moving) => _ = moving.await,
                None => std::future::pending().await,
            }
        };

        tokio::select! {
            biased;
            _ = &mut self.following => "follower",
            _ = &mut self.retrying => "retrier",
            _ = &mut self.settling => "settler",
            () = moving => "mover",
        }
    }

    /// Lets the settler, whose inbox is closed, write the rest, and the mover finish its step. The
    /// readers end by themselves.
    pub(super) async fn end_until(self, deadline: Instant, readers: &Readers) -> Settling {
        let Self { following, retrying, mut settling, moving, stop_moving, give_up } = self;
        stop_moving.cancel();
        readers.add(following).await;
        readers.add(retrying).await;

        let is_settled =
            settling.is_finished() || timeout_at(deadline, &mut settling).await.is_ok();
        if !is_settled {
            give_up.cancel();
            if let Err(error) = settling.await {
                error!(%error, "settling ended with an error");
            }
        }

        if let Some(mut moving) = moving.filter(|moving| !moving.is_finished())
            && timeout_at(deadline, &mut moving).await.is_err()
        {
            // Dropped half-way, its transaction is taken back.
            moving.abort();
        }

        if is_settled { Settling::Done } else { Settling::GivenUp }
    }
}

//! How an operator removes events. A dead event is in no relay's memory and is removed at
//! once. Of any other, the relay is asked to let go; while no relay leads, the lease keeps one away.
//!
//! This process makes every delete itself, so it knows how many of its own came true. The request
//! names the command and lapses: whether the command ends, is interrupted or is killed, no event is
//! removed after that.

use std::sync::Arc;
use std::time::Duration;

use bson::Bson;
use bson::oid::ObjectId;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{MongodbContext as _, Result};
use crate::mongodb::act::{Act, Done};
use crate::mongodb::lease::LeaseDocument;
use crate::relay::lease::Lease;

/// Longest wait for a running relay to let go of events.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to withdraw a request after an error. It lapses soon without that.
const WITHDRAWAL: Duration = Duration::from_secs(5);
/// Between two looks at what the relay has let go.
const POLL: Duration = Duration::from_millis(200);

/// How events are removed.
pub(crate) struct Discard<'a> {
    pub(crate) act: &'a Act,
    pub(crate) lease: &'a Arc<Lease<LeaseDocument>>,
    pub(crate) stop: &'a CancellationToken,
}

impl Discard<'_> {
    /// Removes these events. Returns how many it has removed when all are settled, the time is up
    /// or the command is stopped, and those that MongoDB does not let it ask for.
    pub(crate) async fn remove(&self, ids: &[Bson]) -> Result<Done> {
        let by = ObjectId::new();
        let removed = self.remove_as(ids, by).await;
        let withdrawn = self.act.withdraw_discard(ids, by);

        // After an error MongoDB may be away; without one the request must be gone for certain.
        match &removed {
            Ok(_) => drop(withdrawn.await.during("withdrawing the request to discard")?),
            Err(_) => drop(timeout(WITHDRAWAL, withdrawn).await),
        }

        if removed.is_ok() {
            self.act.wake_relay().await.during("waking the relay")?;
        }

        removed
    }

    async fn remove_as(&self, ids: &[Bson], by: ObjectId) -> Result<Done> {
        let asked = self.act.request_discard(ids, by).await;
        let refused = asked.during("asking the relay to discard")?.refused;

        let deadline = Instant::now() + PATIENCE;
        let mut removed = Done { events: 0, refused };

        loop {
            removed.events += self.act.discard_granted(ids, by).await.during("discarding")?;
            let left = self.act.left(ids, by).await.during("reading the outbox")?;
            if left == 0 || Instant::now() > deadline || self.stop.is_cancelled() {
                return Ok(removed);
            }

            // While this process holds the lease, no relay has them in memory.
            if let Some(held) = self.lease.acquire_now().await.during("asking for the lease")? {
                if held.term.is_trusted() {
                    removed.events +=
                        self.act.discard_requested(ids, by).await.during("discarding")?;
                }
                self.lease.resign(held).await.during("resigning the lease")?;
                continue;
            }

            tokio::select! {
                () = sleep(POLL) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}

//! One leadership after the other, for as long as the relay runs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::loss::Told;
use super::parts::{Parts, Totals};
use super::{Leadership, Stopped};
use crate::error::{Error, ErrorKind, Result};
use crate::relay::kept::KeptStore;
use crate::relay::lease::{Lease, Term};
use crate::relay::ports::scheduled::ScheduledStore;
use crate::relay::ports::{EventBus, EventStore, LeaseStore};
use crate::relay::wake::Wake;

impl<S: EventStore + KeptStore + ScheduledStore, B: EventBus> Parts<S, B> {
    /// One leadership after the other, until `stop`. Each wake-up lets the retrier look.
    pub(crate) async fn relay<L: LeaseStore>(
        &self,
        lease: &Arc<Lease<L>>,
        wake: &Wake,
        stop: &CancellationToken,
    ) -> Result<Totals> {
        let (mut totals, mut last) = (Totals::default(), None::<Term>);
        let mut told = Told::default();
        while let Some(held) = lease.acquire(stop).await {
            let term = held.term.number;
            // It knows more than what it had stored by its last renewal.
            if let Some(known) = last.filter(|last| last.number + 1 == term) {
                known.newest.get().into_iter().for_each(|newest| held.term.newest.set(newest));
            }
            last = Some(held.term.clone());
            self.look_at_kept(&held.term).await;

            info!(term, "holding the lease; relaying");
            self.health.lease(Some(term));

            let leading = self.metrics.leads(term);
            let forgetting = self.forget_kept();
            let leadership = Leadership::begin(self.clone(), held.term.clone(), wake.clone());
            let stopped = leadership.run(stop, &held.lost, &mut totals).await;

            self.health.lease(None);
            drop((leading, forgetting));

            match stopped {
                Stopped::LeaseLost => {
                    warn!(term, "lost the lease; standing by");
                    continue;
                }
                Stopped::NotBorneOut if !stop.is_cancelled() => {
                    warn!(term, "the stream lacks messages that seemed acked; sweeping again");
                    continue;
                }
                Stopped::Rewound(loss) => {
                    self.rewound((lease, &held), loss, &mut told, (wake, stop)).await;
                    if !stop.is_cancelled() {
                        continue;
                    }
                }
                Stopped::GraceOver(left) => {
                    warn!(left, "shutdown.grace is over; unsettled events stay in the outbox")
                }
                Stopped::Drained | Stopped::NotBorneOut | Stopped::StageEnded(_) => {}
            }

            match lease.resign(held).await {
                Ok(()) => info!(term, "resigned the lease"),
                Err(error) => warn!(
                    %error,
                    term, "could not resign the lease; it expires"
                ),
            }

            if let Stopped::StageEnded(stage) = stopped {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("the {stage} has ended; start the relay again"),
                ));
            }
        }

        Ok(totals)
    }
}

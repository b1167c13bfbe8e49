//! What becomes of a stream that has lost what it had acked: it is reported, and repaired from what
//! is kept. No leadership is under way meanwhile, so nothing newer is published.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use super::parts::Parts;
use crate::relay::kept::{KeptStore, epoch_of};
use crate::relay::lease::{Held, Lease, Term};
use crate::relay::ports::{EventBus, EventStore, LeaseStore, Room};
use crate::relay::repair::{Interrupted, Plan, Repair, Repaired};
use crate::relay::wake::Wake;
use crate::relay::watermark::{Epoch, Rewound, Watermark};
use crate::task;
use crate::telemetry::alert::Alert;
use crate::telemetry::loss::Loss;

/// How often kept events are removed whose time is over.
const FORGET: Duration = Duration::from_secs(5);
/// How long to wait before a repair that was interrupted begins again.
const AGAIN: Duration = Duration::from_secs(1);

/// The loss that was reported last.
#[derive(Debug, Default)]
pub(super) struct Told(Option<u64>);

impl<S: EventStore + KeptStore, B: EventBus> Parts<S, B> {
    /// Raises the watermark to the newest kept event: that may be newer than what was stored when
    /// the last relay died, and a repair may have been interrupted before it.
    pub(super) async fn look_at_kept(&self, term: &Term) {
        if !self.config.keep.repairs() {
            return;
        }

        let newest = self.store.last_held(0..i64::MAX, Room { events: 1, bytes: 1 }).await;
        let kept = match newest.map(|newest| newest.into_iter().next()) {
            Ok(Some(kept)) if kept.stream == self.config.stream.name => kept,
            Ok(_) => return,
            Err(error) => return warn!(%error, "could not read the newest kept event"),
        };
        let (Some(sequence), Ok(event)) = (kept.sequence, kept.event) else { return };

        let publisher = self.publisher(term.clone(), Wake::default());
        let message_id = kept.message_id.unwrap_or_else(|| publisher.message_id(&event.id));
        term.newest.raise(Watermark {
            stream: kept.stream,
            created_ms: 0,
            sequence,
            message_id: Some(message_id),
            epoch: epoch_of(kept.place),
        });
    }

    /// Removes kept events whose time is over while NATS is connected, until the returned guard is
    /// dropped.
    pub(super) fn forget_kept(&self) -> Option<DropGuard> {
        if !self.config.keep.is_on() {
            return None;
        }

        let (store, age) = (self.store.clone(), self.config.keep.lasts);
        let connected = self.bus.connected().clone();

        let stop = CancellationToken::new();
        let stopped = stop.clone();
        task::spawn(async move {
            let mut wait = FORGET;
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }

                // A stream that is away may come back without them.
                if !*connected.borrow() {
                    continue;
                }

                wait = match store.forget(age).await {
                    Ok(0) => FORGET,
                    Ok(events) => {
                        debug!(events, "removed kept events older than keep.for");
                        Duration::ZERO
                    }
                    Err(error) => {
                        warn!(%error, "could not remove kept events");
                        FORGET
                    }
                };
            }
        });

        Some(stop.drop_guard())
    }

    /// Reports a loss, and repairs it if the settings say so. From then on, the stream as it is
    /// counts. A repair that is interrupted leaves the watermark as it is, so the next comparison
    /// begins it again.
    pub(super) async fn rewound<L: LeaseStore>(
        &self,
        (lease, held): (&Lease<L>, &Held),
        loss: Rewound,
        told: &mut Told,
        (wake, stop): (&Wake, &CancellationToken),
    ) {
        let publisher = self.publisher(held.term.clone(), wake.clone());
        publisher.clearance.grant(publisher.bus.connection());
        publisher.bus.set_hurt(false);
        let known = held.term.newest.get();
        let is_begun = known.as_ref().is_some_and(Watermark::is_repaired);
        // Also after an interrupted one: what that has published may be lost by now.
        let epoch = held.term.newest.epoch().after(&loss);

        let repair = Repair {
            store: &self.store,
            publisher: &publisher,
            loss,
            epoch,
            rate: self.config.keep.rate,
            health: &self.health,
            stop,
        };

        let plan = match self.config.keep.is_on() {
            true => repair.plan().await.map(Some),
            false => Ok(None),
        };

        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return self.interrupted(&error, stop).await,
        };

        if told.0 != Some(loss.from) && !is_begun {
            self.tell(loss, plan.as_ref());
        }
        told.0 = Some(loss.from);

        let repaired = match &plan {
            Some(plan) if self.config.keep.repairs() => {
                if let Some(mut begun) = known {
                    begun.begin_repair(epoch);
                    held.term.newest.set(begun);
                }
                match lease.store_watermark(held).await {
                    Ok(_) => repair.publish(plan).await,
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(Repaired::default()),
        };

        let repaired = match repaired {
            Ok(repaired) => repaired,
            Err(error) => return self.interrupted(&error, stop).await,
        };

        if plan.is_some() && self.config.keep.repairs() {
            self.repaired(&repaired, loss).await;
        }

        self.stands(lease, held, (loss, epoch), repaired.newest).await;
        told.0 = None;
    }

    /// Reports a loss.
    fn tell(&self, loss: Rewound, plan: Option<&Plan>) {
        let (stream, Rewound { from, to, how, .. }) = (&self.config.stream.name, loss);
        let (how, is_repaired) = (how.as_str(), self.config.keep.repairs());
        let kept = plan.map(|plan| plan.events);
        let unrecoverable = plan.map(|plan| plan.unrecoverable);

        error!(
            stream,
            from,
            to,
            how,
            kept,
            unrecoverable,
            "the stream has gone back: it has lost messages that it had acked"
        );

        let stream = stream.clone();
        let loss = Loss { stream, from, to, how, kept, unrecoverable, is_repaired };
        self.alerts.raise(Alert::Rewound(loss));
    }

    async fn repaired(&self, repaired: &Repaired, Rewound { from, to, .. }: Rewound) {
        let Repaired { published, duplicates, refused, .. } = *repaired;
        let stream = &self.config.stream.name;
        info!(stream, published, duplicates, refused, "repaired the stream");
        self.metrics.events().repaired.increment(published);

        let what = format!(
            "stream {stream} went back from {from} to {to}: {published} published again, \
             {duplicates} of them there already, {refused} refused"
        );

        let relay = &self.config.nats.client_id;
        if let Err(error) = self.store.record_repair(relay, published, what).await {
            warn!(%error, "could not record the repair in the audit");
        }
    }

    /// The stream as it is counts from now on.
    async fn stands<L: LeaseStore>(
        &self,
        lease: &Lease<L>,
        held: &Held,
        (Rewound { to, created_ms, .. }, epoch): (Rewound, Epoch),
        newest: Option<Watermark>,
    ) {
        let (stream, sequence) = (self.config.stream.name.clone(), to);
        let as_it_is = Watermark { stream, created_ms, sequence, message_id: None, epoch };
        held.term.newest.set(newest.unwrap_or(as_it_is));

        match lease.store_watermark(held).await {
            Ok(_) => {}
            Err(error) => warn!(%error, "could not store the watermark; the next renewal retries"),
        }
    }

    async fn interrupted(&self, error: &Interrupted, stop: &CancellationToken) {
        warn!(%error, "the repair of the stream was interrupted; it begins again");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

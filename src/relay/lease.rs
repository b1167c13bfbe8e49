//! The lease: of all relays on one outbox, one publishes and the others stand by.
//!
//! # States
//!
//! ```text
//!                      ┌──────────────────────────────────────────────┐
//!                      │ claimed in vain: another's, and not expired; │
//!                      │ asked again after a poll (± 20 %)            │
//!                      ▼                                              │
//!               ┌─────────────┐                                       │
//!   start ─────▶│   standby   ├───────────────────────────────────────┘
//!               └──┬──────────┘
//!                  │  ▲   ▲ claimed: free, expired by the server's clock, or one's own
//!  claimed: term+1 │  │   └──────────────────────────────────────────────────────────┐
//!                  ▼  │                                                              │
//!               ┌─────┴───────┐  renewed: the deadline moves                         │
//!               │   holder    │◀─────────┐                                           │
//!               │  (trusted)  ├──────────┘ every ttl / 3                             │
//!               └──┬───────┬──┘                                                      │
//!     a clean stop │       │ another holder, or no renewal before the deadline       │
//!                  ▼       ▼                                                         │
//!       ┌────────────┐   ┌──────────────────────────────────────────────┐            │
//!       │  drained,  │   │ lost: publishes nothing more, waits for acks │            │
//!       │  resigned  │   │ under way, writes them down                  ├────────────┘
//!       └────────────┘   └──────────────────────────────────────────────┘
//! ```
//!
//! # One document
//!
//! `{_id: <collection>, holder, term, expiresAt}` in `outboxd_lease` of the outbox's database.
//! Every step is one update of it by a pipeline on the primary, with `w: majority`: a claim that
//! finds it free, expired or its own sets `holder`, adds one to `term` and puts `expiresAt` a ttl
//! ahead; a renewal puts `expiresAt` off if holder and term are still its own; a resignation sets
//! `expiresAt` to now. `holder` is the relay's name and a number drawn at its start: a process that
//! was started again is another holder, since the old one may still run.
//!
//! # Two clocks, and neither is the machine's
//!
//! Whether the lease has expired is the *server's* to say (`$$NOW`). A relay whose wall clock is an
//! hour off claims, renews and loses like any other. Whether it still holds the lease, the holder
//! must know without asking, at every publish: it trusts the lease until a deadline on its own
//! monotonic clock, counted from *before* the claim or renewal was sent, less a fifth.
//!
//! ```text
//!  holder    sent              trusted until
//!  ───────────┼──────────────────────┤· · · · ·                   ttl - ttl/5 after it was sent
//!  server          ├─────────────────────────────────┤            ttl after it was done
//!                 done                          expires
//! ```
//!
//! A renewal is done after it was sent, so the holder stops before anyone else can begin, as long
//! as its clock runs no slower than four fifths of the server's. After a lost reply the holder
//! trusts less than the server grants; never more.
//!
//! # When a step goes wrong
//!
//! - *The holder dies.* A standby that polls at `min(1 s, ttl / 3)` takes over within the ttl and
//!   one poll.
//! - *It stops cleanly.* It drains, then resigns: a standby takes over with its next poll.
//! - *It is paused*, and wakes when another holds the lease. The deadline has passed on its own
//!   clock: the check before each publish says so, before any task could have. What it had sent
//!   before is acked twice at worst, and stored once.
//! - *MongoDB can't be reached.* Renewals fail until the deadline; two may fail without harm. Then
//!   it publishes nothing, though NATS may be well: a standby on the other side may be at work.
//! - *The reply to a claim is lost.* The lease is this relay's and it doesn't know. It asks again,
//!   finds its own and begins a new term; a renewal of the old term, if one is still on its way,
//!   finds nothing.
//! - *A claim or renewal comes late*, after its sender gave up. A claim finds the lease held, or
//!   makes its sender's next claim begin a new term; a renewal keeps others waiting for a ttl at
//!   most.
//! - *The primary steps down.* What a majority had stays; what it hadn't was never answered.
//!
//! Renewals go through a `Client` of their own, so none waits for a connection behind the outbox's
//! queries, and are never dropped half-way: a command whose future is dropped costs its connection,
//! and may happen all the same.
//!
//! # What it is for
//!
//! The lease makes duplicates rare and keeps one order. It is not what makes the relay safe: an
//! event is deleted only on its own ack, message ids are the same from every relay, and marks and
//! parks may be written twice. `tests/protocol` explores two relays with every step above lost or
//! late; `relay/simulation` plays this very code through thousands of seeds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::clock;
use super::ports::{LeaseStore, StoreResult};
use crate::telemetry::health::Health;

/// Part of the ttl by which a holder stops early: clocks run at different speeds, and a publish
/// takes a moment.
const MARGIN: u32 = 5;
/// Renewals per ttl: two may fail.
const RENEWALS: u32 = 3;
/// Shortest wait between two renewals, however late the last one was.
const SOONEST: Duration = Duration::from_millis(50);
/// Longest a standby takes to see that the lease is free.
const STANDBY_POLL: Duration = Duration::from_secs(1);

/// A relay's claim on one outbox.
#[derive(Debug, Clone)]
pub(crate) struct Lease<L> {
    document: L,
    ttl: Duration,
    health: Arc<Health>,
}

/// Proof of holding the lease, for as long as it is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    /// Rises with each change of holder.
    pub(crate) number: i64,
    trusted_until: watch::Receiver<Instant>,
}

impl Term {
    /// Whether nobody else can hold the lease right now.
    pub(crate) fn is_trusted(&self) -> bool {
        Instant::now() < *self.trusted_until.borrow()
    }
}

/// A lease that is held and renewed until dropped or lost.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) term: Term,
    /// Cancelled when the lease is lost.
    pub(crate) lost: CancellationToken,
    stop: CancellationToken,
}

impl<L: LeaseStore> Lease<L> {
    pub(crate) fn new(document: L, ttl: Duration) -> Self {
        Self { document, ttl, health: Arc::default() }
    }

    /// Says how it goes to `health`: asking for the lease, or renewing it, is what is done all the
    /// time.
    pub(crate) fn watched(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// Waits until the lease is this relay's, or `stop`.
    pub(crate) async fn acquire(self: &Arc<Self>, stop: &CancellationToken) -> Option<Held> {
        let mut said = false;
        while !stop.is_cancelled() {
            let sent = Instant::now();
            let asked = self.document.claim(self.ttl).await;
            self.health.turned();
            self.health.mongodb(asked.is_ok());
            if matches!(asked, Ok(None)) {
                self.health.lease(None);
            }
            match asked {
                Ok(Some(number)) => return Some(self.hold(number, sent)),
                Ok(None) if !said => {
                    info!(
                        relay = self.document.holder(),
                        "another relay holds the lease; standing by"
                    );
                    said = true;
                }
                Ok(None) => {}
                Err(error) => warn!(%error, "could not ask for the lease"),
            }
            let poll = clock::jitter(STANDBY_POLL.min(self.ttl / RENEWALS), 0.8..1.2);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
        None
    }

    /// The lease, if it is free now.
    pub(crate) async fn acquire_now(self: &Arc<Self>) -> StoreResult<Option<Held>> {
        let sent = Instant::now();
        Ok(self.document.claim(self.ttl).await?.map(|number| self.hold(number, sent)))
    }

    fn hold(self: &Arc<Self>, number: i64, sent: Instant) -> Held {
        let (trust, trusted_until) = watch::channel(self.trust_deadline(sent));
        let held = Held {
            term: Term { number, trusted_until },
            lost: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let (lease, lost, stop) = (self.clone(), held.lost.clone(), held.stop.clone());
        tokio::spawn(async move {
            let mut next = sent + lease.ttl / RENEWALS;
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep_until(next) => {}
                }
                let sent = Instant::now();
                // Never dropped half-way: a command whose future is dropped costs its connection
                // and may still happen.
                let renewal = tokio::spawn({
                    let lease = lease.clone();
                    async move { lease.document.renew(number, lease.ttl).await }
                });
                let deadline = *trust.borrow();
                let renewed = tokio::time::timeout_at(deadline, renewal).await;
                lease.health.mongodb(matches!(renewed, Ok(Ok(Ok(_)))));
                match renewed {
                    Ok(Ok(Ok(true))) => drop(trust.send_replace(lease.trust_deadline(sent))),
                    Ok(Ok(Ok(false))) => {
                        warn!(term = number, "the lease has gone to another relay");
                        trust.send_replace(Instant::now());
                    }
                    Ok(Ok(Err(error))) => {
                        warn!(
                            %error, term = number, "could not renew the lease"
                        )
                    }
                    Ok(Err(_)) | Err(_) => warn!(term = number, "renewing the lease took too long"),
                }
                let deadline = *trust.borrow();
                if Instant::now() >= deadline {
                    lost.cancel();
                    return;
                }
                next = (sent + lease.ttl / RENEWALS).min(deadline).max(Instant::now() + SOONEST);
            }
        });
        held
    }

    fn trust_deadline(&self, sent: Instant) -> Instant {
        sent + self.ttl - self.ttl / MARGIN
    }

    /// Lets a standby take over at once. Call it when nothing is under way any more.
    pub(crate) async fn resign(&self, held: Held) -> StoreResult<()> {
        held.stop.cancel();
        self.document.release(held.term.number).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

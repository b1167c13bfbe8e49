//! The lease decides which of all relays on one outbox publishes. The others stand by.
//!
//! # States
//!
//! ```text
//!                      ┌──────────────────────────────────────────────┐
//!                      │ claim refused: another relay holds it;       │
//!                      │ claims again after a poll (± 20 %)           │
//!                      ▼                                              │
//!               ┌─────────────┐                                       │
//!   start ─────▶│   standby   ├───────────────────────────────────────┘
//!               └──┬──────────┘
//!                  │  ▲   ▲ claimed: free, expired by the server's clock, or its own
//!  claimed: term+1 │  │   └──────────────────────────────────────────────────────────┐
//!                  ▼  │                                                              │
//!               ┌─────┴───────┐  renewed: the deadline moves                         │
//!               │   holder    │◀─────────┐                                           │
//!               │  (trusted)  ├──────────┘ every ttl / 3                             │
//!               └──┬───────┬──┘                                                      │
//!     a clean stop │       │ taken over, or not renewed before the deadline          │
//!                  ▼       ▼                                                         │
//!       ┌────────────┐   ┌──────────────────────────────────────────────┐            │
//!       │  drained,  │   │ lost: starts no publish, waits for the acks  │            │
//!       │  resigned  │   │ of those in flight and settles them          ├────────────┘
//!       └────────────┘   └──────────────────────────────────────────────┘
//! ```
//!
//! # One document
//!
//! `{_id: <collection>, holder, term, expiresAt, watermark}` in `outboxd_lease` of the outbox's database.
//! Every step is one update of it by a pipeline on the primary, with `w: majority`:
//!
//! - A *claim* that finds it free, expired or its own sets `holder`, adds one to `term` and sets
//!   `expiresAt` to now + ttl.
//! - A *renewal* sets `expiresAt` to now + ttl if holder and term are still its own.
//! - A *resignation* sets `expiresAt` to now.
//!
//! The last two also store the [watermark](super::watermark), which a claim leaves as it is.
//!
//! `holder` is the relay's name and a number drawn when the relay connects. A restarted process is
//! another holder, because the old one may still run.
//!
//! # Two clocks, and neither is the machine's
//!
//! The *server's* clock (`$$NOW`) decides whether the lease has expired. A relay whose wall clock
//! is an hour off claims, renews and loses like any other. The holder must know at every publish,
//! without asking, whether it still holds the lease. It trusts the lease until a deadline on its
//! own monotonic clock: the ttl less a fifth, counted from *before* the claim or renewal was sent.
//!
//! ```text
//!  holder    sent              trusted until
//!  ───────────┼──────────────────────┤· · · · ·                   ttl - ttl/5 after it was sent
//!  server          ├─────────────────────────────────┤            ttl after it was applied
//!                applied                        expires
//! ```
//!
//! The server's clock may be set back, and a dead holder's lease then seems to last. A standby that
//! has seen the lease unchanged for the whole ttl of its holder, on its own monotonic clock, claims
//! it all the same: the holder's deadline has passed.
//!
//! A renewal is applied after it was sent, so the holder stops before another relay can begin, as
//! long as its clock runs no slower than four fifths of the server's. After a lost reply the holder
//! trusts the lease for less time than the server grants, never for more.
//!
//! # When a step goes wrong
//!
//! - *The holder dies.* A standby polls at `min(1 s, ttl / 3)`, so it takes over within the ttl and
//!   one poll.
//! - *The holder stops cleanly.* It drains, then resigns. A standby takes over with its next poll.
//! - *The holder is paused* and wakes when another relay holds the lease. The deadline on its own
//!   clock has passed, so the check before each publish fails before any task has run. A message it
//!   had sent before is acked twice at worst, and stored once.
//! - *MongoDB can't be reached.* Renewals fail until the deadline; two may fail without harm. Then
//!   the holder publishes nothing, even if NATS is up: a standby on the other side of the partition
//!   may be publishing.
//! - *The reply to a claim is lost.* The relay holds the lease and doesn't know it. It claims
//!   again, finds the lease its own and begins a new term. A renewal of the old term that is still
//!   on its way changes nothing.
//! - *A claim or renewal arrives late*, after its sender gave up. A late claim finds the lease
//!   held, or makes its sender's next claim begin a new term. A late renewal keeps other relays
//!   waiting for a ttl at most.
//! - *The primary steps down.* A step that reached a majority stays. A step that didn't was never
//!   answered.
//!
//! Renewals use a `Client` of their own, so none waits for a connection behind the outbox's
//! queries. They are never dropped half-way: a command whose future is dropped costs its
//! connection, and the server may apply it all the same.
//!
//! # What it is for
//!
//! The lease makes duplicates rare and keeps one order. The relay's safety does not depend on it:
//! an event is deleted only on its own ack, message ids are the same from every relay, and marks
//! and parks may be written twice. `tests/protocol` explores two relays with every step above lost
//! or late; `relay/simulation` runs this code through thousands of seeds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::clock;
use super::ports::{Claimed, LeaseStore, StoreError, StoreResult};
use super::watermark::{Newest, Reached};
use crate::task;
use crate::telemetry::health::Health;

/// A holder stops this part of the ttl early (a fifth), because clocks run at different speeds and
/// a publish takes a moment.
const MARGIN: u32 = 5;
/// Renewals per ttl. Two may fail.
const RENEWALS: u32 = 3;
/// Beats between two renewals: a renewal is this part of the wait too early at most.
const BEATS: u32 = 2;
/// Shortest wait between two renewals, however late the last one was.
const SOONEST: Duration = Duration::from_millis(50);
/// Longest time between two claims of a standby.
const STANDBY_POLL: Duration = Duration::from_secs(1);

/// The moment until which a term is trusted.
type Trust = watch::Sender<Instant>;

/// The lease of one outbox, as one relay claims it.
#[derive(Debug, Clone)]
pub(crate) struct Lease<L> {
    document: L,
    ttl: Duration,
    health: Arc<Health>,
}

/// Proof of holding the lease, as long as [`Term::is_trusted`].
#[derive(Debug, Clone)]
pub(crate) struct Term {
    /// Rises with each successful claim, also one by the same holder.
    pub(crate) number: i64,
    /// What the stream has acked. Each renewal stores it.
    pub(crate) newest: Newest,
    pub(crate) reached: Reached,
    trusted_until: watch::Receiver<Instant>,
}

/// A command ends before.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Term {
    /// For a command that publishes kept events, which is no relay's to publish.
    pub(crate) fn of_command() -> Self {
        let (_, trusted_until) = watch::channel(Instant::now() + FOR_EVER);
        Self { number: 0, newest: Newest::default(), reached: Reached::default(), trusted_until }
    }

    /// Whether no other relay can hold the lease right now.
    pub(crate) fn is_trusted(&self) -> bool {
        Instant::now() < *self.trusted_until.borrow()
    }
}

/// A lease that is renewed until it is lost or this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) term: Term,
    /// Cancelled when the lease is lost.
    pub(crate) lost: CancellationToken,
    stop: CancellationToken,
}

/// The result of one renewal.
enum Renewal {
    Renewed,
    /// Another relay holds the lease.
    TakenOver,
    Failed(StoreError),
    /// No reply came before the deadline. The server may have renewed the lease.
    NoReply,
}

impl<L: LeaseStore> Lease<L> {
    pub(crate) fn new(document: L, ttl: Duration) -> Self {
        Self { document, ttl, health: Arc::default() }
    }

    /// Reports to `health` after every claim and renewal.
    pub(crate) fn watched(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// Claims the lease until this relay holds it. Returns `None` when stopped before that.
    pub(crate) async fn acquire(self: &Arc<Self>, stop: &CancellationToken) -> Option<Held> {
        let mut is_standby = false;

        while !stop.is_cancelled() {
            let sent = Instant::now();
            let claimed = self.document.claim(self.ttl).await;
            self.health.turned();
            self.health.mongodb(claimed.is_ok());

            match claimed {
                Ok(Some(claimed)) => return Some(self.hold(claimed, sent)),
                Ok(None) => {
                    self.health.outrun();
                    if !is_standby {
                        let relay = self.document.holder();
                        info!(relay, "another relay holds the lease; standing by");
                    }
                    is_standby = true;
                }
                Err(error) => warn!(%error, "could not claim the lease"),
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

    /// Claims the lease once. Returns `None` when another relay holds it.
    pub(crate) async fn acquire_now(self: &Arc<Self>) -> StoreResult<Option<Held>> {
        let sent = Instant::now();
        Ok(self.document.claim_briefly(self.ttl).await?.map(|claimed| self.hold(claimed, sent)))
    }

    /// Begins a term that was claimed at `sent`, and renews it in a task of its own.
    fn hold(self: &Arc<Self>, claimed: Claimed, sent: Instant) -> Held {
        let Claimed { term: number, watermark } = claimed;
        let newest = Newest::new(watermark);
        let (trust, trusted_until) = watch::channel(self.trust_deadline(sent));
        let held = Held {
            term: Term {
                number,
                newest: newest.clone(),
                reached: Reached::default(),
                trusted_until,
            },
            lost: CancellationToken::new(),
            stop: CancellationToken::new(),
        };

        let (lost, stop) = (held.lost.clone(), held.stop.clone());
        let renewing = self.clone().keep_renewing((number, newest), sent, trust);
        task::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = renewing => lost.cancel(),
            }
        });

        held
    }

    /// Renews the lease until it can't be trusted any more.
    async fn keep_renewing(
        self: Arc<Self>,
        (term, newest): (i64, Newest),
        claimed: Instant,
        trust: Trust,
    ) {
        let mut next = self.next_renewal(claimed);
        loop {
            tokio::time::sleep_until(next).await;

            let sent = Instant::now();
            let deadline = *trust.borrow();
            let renewal = self.renew(term, &newest, deadline).await;

            self.health.mongodb(matches!(renewal, Renewal::Renewed | Renewal::TakenOver));

            match renewal {
                Renewal::Renewed => drop(trust.send_replace(self.trust_deadline(sent))),
                Renewal::TakenOver => {
                    warn!(term, "the lease has gone to another relay");
                    trust.send_replace(Instant::now());
                }
                Renewal::Failed(error) => warn!(%error, term, "could not renew the lease"),
                Renewal::NoReply => warn!(term, "renewing the lease took too long"),
            }

            let deadline = *trust.borrow();
            if Instant::now() >= deadline {
                return;
            }

            next = self.next_renewal(sent).min(deadline).max(Instant::now() + SOONEST);
        }
    }

    /// Renews the lease once. Waits for the reply until `deadline`.
    async fn renew(self: &Arc<Self>, term: i64, newest: &Newest, deadline: Instant) -> Renewal {
        // A task of its own, so that it is never dropped half-way.
        let (lease, newest) = (self.clone(), newest.get());
        let renewal =
            task::spawn(async move { lease.document.renew(term, lease.ttl, newest).await });

        match tokio::time::timeout_at(deadline, renewal).await {
            Ok(Ok(Ok(true))) => Renewal::Renewed,
            Ok(Ok(Ok(false))) => Renewal::TakenOver,
            Ok(Ok(Err(error))) => Renewal::Failed(error),
            Ok(Err(_)) | Err(_) => Renewal::NoReply,
        }
    }

    /// When to renew after what was sent then: on a beat, so that the leases of a process are renewed
    /// together, and the server syncs its journal once for all of them.
    fn next_renewal(&self, sent: Instant) -> Instant {
        clock::beat(sent + self.ttl / RENEWALS, self.ttl / RENEWALS / BEATS)
    }

    fn trust_deadline(&self, sent: Instant) -> Instant {
        sent + self.ttl - self.ttl / MARGIN
    }

    /// Lets a standby take over at once. Call it when no publish is in flight any more.
    pub(crate) async fn resign(&self, held: Held) -> StoreResult<()> {
        held.stop.cancel();
        self.document.release(held.term.number, held.term.newest.get()).await
    }

    /// Stores the watermark now.
    pub(crate) async fn store_watermark(&self, held: &Held) -> StoreResult<bool> {
        self.document.renew(held.term.number, self.ttl, held.term.newest.get()).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

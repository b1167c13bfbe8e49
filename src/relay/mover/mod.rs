//! Moves scheduled events into the outbox once they are due. From then on each is an event like any
//! other, and the rest of the relay doesn't know that it was scheduled.
//!
//! ```text
//!              alarm: scheduled for soon
//!                        │
//!                        ▼
//!  [scheduled] ── due ─▶ mover ── one transaction: delete here, insert there ──▶ [outbox]
//!       ▲                  │
//!       └─── dead ─────────┘ what can't be moved
//! ```
//!
//! A move is a transaction, so an event is in one of the two collections at any time, and a service
//! that cancels it and the mover that moves it can't both succeed. Two movers can't either: an ended
//! leader whose move is still under way can delay events and nothing else. It stops before its next
//! step, because it no longer trusts its term; and the next leader ends the transaction that a dead
//! one has left open.
//!
//! The server's clock decides what is due. The timer is a hint: when it is early or late, the next
//! look is right. Events go in the order of their due times, then of their ids. One that somebody
//! else's transaction holds is passed over for a moment, with its key; one that can't be moved is
//! marked as dead where it is, and holds up nothing.
//!
//! - [`alarm`]: rings when an event is scheduled for soon
//! - [`aside`]: the events that are passed over
//! - [`known`]: what it knows from one look to the next
//! - [`traffic`]: how many events leave the outbox, on which listening depends

mod alarm;
mod aside;
mod known;
mod traffic;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::alarm::Alarm;
pub(crate) use self::alarm::CALM_POLL;
use self::known::{Known, MOST, Step, Untransferred};
pub(crate) use self::traffic::Traffic;
use super::clock;
use super::lease::Term;
use super::ports::scheduled::{Due, DuePage, Misfit, Movable, Mover, NextDue, ScheduledStore};
use super::ports::{Room, StoreError, StoreResult};
use super::settle::Refusal;
use super::verdict::{Failed, Verdicts};
use crate::backoff::Backoff;
use crate::crash::{self, Point};
use crate::document::record::shown_id;
use crate::failure::{MALFORMED, Rejection};
use crate::telemetry::metrics::Events;

/// Most bytes in a move, but for one event that is larger by itself.
const MOST_BYTES: usize = 8 << 20;
/// How often a move is made although the relay has enough to do: overdue events don't keep fresh
/// ones waiting, and fresh ones don't keep overdue ones waiting for ever.
const CROWDED: Duration = Duration::from_secs(1);
/// How soon the mover looks again if an event is due and can't be read.
const FRUITLESS: Duration = Duration::from_secs(1);
/// How long it waits after an error that a person has to fix.
const LASTING: Duration = Duration::from_secs(60);
/// Waits after any other error.
const RETRIES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    .with_jitter(0.5..1.0, clock::chance);

/// Whether the relay can take more events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// It has as many as it should for now.
    Crowded,
    /// Nothing can be published. What stays scheduled can still be cancelled.
    Closed,
}

/// The mover of one leadership.
pub(crate) struct Moving<S> {
    /// Over connections of their own: a change stream never waits for a query.
    pub(crate) follow: S,
    pub(crate) store: S,
    pub(crate) term: Term,
    pub(crate) gate: watch::Receiver<Gate>,
    /// Of the outbox.
    pub(crate) traffic: Traffic,
    pub(in crate::relay) verdicts: Verdicts,
    pub(crate) events: Events,
    /// How often it looks for documents that never come to be due.
    pub(crate) misfits_every: Duration,
    pub(crate) stop: CancellationToken,
}

/// When the mover looks next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// An event is due then.
    At(Instant),
    /// No event is scheduled.
    Unknown,
    /// Never: the leadership is over.
    Over,
}

impl<S: ScheduledStore> Moving<S> {
    /// Moves events until it is stopped. Ends between two steps: what wasn't committed is undone.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let alarm = Alarm::default();
        // Dropping it ends it.
        let mut listening = JoinSet::new();
        listening.spawn(alarm::listen(self.follow.clone(), alarm.clone(), self.traffic.clone()));

        let (mut backoff, mut known_error) = (RETRIES, None);
        let mut known = Known::new();
        while !stop.is_cancelled() {
            let Err(error) = self.move_events(&mut known, &alarm, &mut backoff).await else {
                // The leadership is about to see it.
                return stop.cancelled().await;
            };

            let wait = if error.is_lasting { LASTING } else { backoff.next_wait() };
            report(error, &mut known_error);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Until the leadership is over.
    async fn move_events(
        &mut self,
        known: &mut Known,
        alarm: &Alarm,
        backoff: &mut Backoff,
    ) -> StoreResult<()> {
        let mut mover = self.store.mover(self.term.number).await?;
        // A look that no due time brings asks first.
        let (mut next, mut is_due) = (Instant::now(), false);

        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                at_ms = alarm.rung() => {
                    let at = known.when(at_ms);
                    if at < next {
                        (next, is_due) = (at, at_ms > i64::MIN);
                    }
                    if next > Instant::now() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }

            let due = match self.look(known, &mut mover, is_due).await? {
                Next::Over => return Ok(()),
                Next::Unknown => None,
                Next::At(due) => Some(due),
            };
            backoff.reset();

            // While the alarm rings for each that is written, nothing comes to be due by itself.
            let poll = match due {
                None if alarm.is_told() => self.misfits_every.max(alarm.poll()),
                _ => alarm.poll(),
            };
            let poll = Instant::now() + poll;

            is_due = due.is_some_and(|due| due <= poll);
            next = due.into_iter().chain(known.aside.until()).fold(poll, Instant::min);
        }
    }

    /// Moves what is due, and returns when the next event is.
    async fn look(
        &mut self,
        known: &mut Known,
        mover: &mut S::Mover,
        mut is_due: bool,
    ) -> StoreResult<Next> {
        let mut is_fruitless = false;
        loop {
            while is_due {
                if !self.may_move().await {
                    return Ok(Next::Over);
                }

                let step = self.move_some(known, mover).await?;
                (is_due, is_fruitless) = (step == Step::More, step == Step::Nothing);
                if step == Step::Over {
                    return Ok(Next::Over);
                }
            }

            if known.misfits_at <= Instant::now() {
                self.mark_misfits(known).await?;
            }

            let without = known.aside.without(Instant::now());
            let Some(next) = self.store.next_due(&without).await? else {
                return Ok(Next::Unknown);
            };

            known.see(next);
            let NextDue { at_ms, now_ms } = next;
            if at_ms > now_ms {
                return Ok(Next::At(known.when(at_ms)));
            }
            if is_fruitless {
                return Ok(Next::At(Instant::now() + FRUITLESS));
            }
            is_due = true;
        }
    }

    /// Waits until the relay takes more events. False when the leadership is over.
    async fn may_move(&mut self) -> bool {
        let stop = self.stop.clone();
        let opens = async {
            let opened = self.gate.wait_for(|gate| *gate == Gate::Open);
            match timeout(CROWDED, opened).await.map(|opened| opened.is_ok()) {
                Ok(is_open) => is_open,
                Err(_) => self.gate.wait_for(|gate| *gate != Gate::Closed).await.is_ok(),
            }
        };

        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            is_open = opens => is_open && self.term.is_trusted(),
        }
    }

    /// One move.
    async fn move_some(&mut self, known: &mut Known, mover: &mut S::Mover) -> StoreResult<Step> {
        let room = Room { events: known.size, bytes: MOST_BYTES };
        let without = known.aside.without(Instant::now());
        let begun = mover.begin(room, &without).await;
        let DuePage { events, nameless, more } = match begun {
            Ok(page) => page,
            Err(error) => {
                mover.abort().await;
                return Err(error);
            }
        };

        let are_nameless = known.aside.nameless(nameless);
        if are_nameless {
            warn!(
                events = nameless,
                "scheduled events have a huge or unreadable _id; they stay where they are"
            );
        }

        let mut step = match events.is_empty() && !are_nameless {
            true => Step::Nothing,
            false if more || are_nameless => Step::More,
            false => Step::Done,
        };

        let (mut misfits, mut movable) = (Vec::new(), Vec::with_capacity(events.len()));
        for Due { id, key, document } in events {
            match document {
                Ok(document) => movable.push(Movable { id, key, document }),
                Err(reason) => misfits.push((MALFORMED, Misfit { id, key, reason })),
            }
        }

        if movable.is_empty() {
            mover.abort().await;
        } else {
            let number = movable.len();
            match self.transfer(mover, &movable).await {
                Ok(()) => {
                    debug!(events = number, more, "moved scheduled events");
                    known.grow();
                }
                Err(error) => {
                    mover.abort().await;
                    step = known.after(error, movable, &mut misfits)?;
                }
            }
        }

        self.mark(known, misfits).await?;
        Ok(step)
    }

    /// The writes of a move.
    async fn transfer(
        &self,
        mover: &mut S::Mover,
        movable: &[Movable],
    ) -> Result<(), Untransferred> {
        // An ended leader makes no further step.
        let goes_on = || match self.term.is_trusted() && !self.stop.is_cancelled() {
            true => Ok(()),
            false => Err(Untransferred::Over),
        };

        goes_on()?;
        crash::here(Point::Due);
        mover.take(movable).await?;
        crash::here(Point::Taken);

        goes_on()?;
        mover.put(movable).await?;
        crash::here(Point::Put);

        goes_on()?;
        mover.commit().await?;
        crash::here(Point::Moved);
        Ok(())
    }

    /// Marks what can never be moved as dead.
    async fn mark(
        &mut self,
        known: &mut Known,
        misfits: Vec<(&'static str, Misfit)>,
    ) -> StoreResult<()> {
        if misfits.is_empty() {
            return Ok(());
        }

        let mut marks = Vec::with_capacity(misfits.len());
        for (code, Misfit { id, key, reason }) in misfits {
            let Ok(shown) = id.to_bson() else {
                known.aside.unmarkable(id);
                continue;
            };
            let failed = Failed { id: shown, subject: None, key: key.as_ref(), attempts: 0 };
            marks.push(self.verdicts.mark(&failed, Rejection::new(code, reason)));
        }

        let refused = self.store.mark_scheduled(&marks).await?;
        self.events.dead.increment((marks.len().saturating_sub(refused.len())) as u64);
        for refused in refused {
            let Some(mark) = marks.get(refused.index) else { continue };
            known.aside.unmarkable(mark.id.clone());
            let id = mark.id.to_bson().ok().map(|id| shown_id(&id));
            self.verdicts.refused(Refusal { write: "mark", id, error: refused.error });
        }

        self.verdicts.log();
        Ok(())
    }

    async fn mark_misfits(&mut self, known: &mut Known) -> StoreResult<()> {
        let room = Room { events: MOST, bytes: MOST_BYTES };
        loop {
            let without = known.aside.without(Instant::now());
            let misfits = self.store.misfits(room, &without).await?;
            let is_last = misfits.len() < MOST / 2;
            self.mark(known, misfits.into_iter().map(|misfit| (MALFORMED, misfit)).collect())
                .await?;

            if is_last {
                known.misfits_at = Instant::now() + self.misfits_every;
                return Ok(());
            }
        }
    }
}

/// Each reason once: the mover tries again and again.
fn report(error: StoreError, known: &mut Option<StoreError>) {
    if known.as_ref() == Some(&error) {
        return debug!(%error, "still cannot move scheduled events");
    }

    match error.is_lasting {
        true => warn!(
            %error,
            "cannot move scheduled events: they wait, and other events are not affected; run \
             `outboxd check`"
        ),
        false => warn!(%error, "moving scheduled events failed; trying again"),
    }
    *known = Some(error);
}

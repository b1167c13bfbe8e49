//! The one loop of a leadership: whatever is found, answered, settled or lost comes in here, and
//! what may be published now goes out.

mod intake;
pub(crate) mod parts;
mod terms;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use self::parts::{Parts, Totals};
use super::clock;
use super::dispatch::lane::{Dispatched, Ended, Marking};
use super::dispatch::twins::Origin;
use super::dispatch::{Dispatch, LANE_READ};
use super::follow::follow;
use super::follow::found::Found;
use super::lease::Term;
use super::ports::{EventBus, EventStore, Next};
use super::publish::Publisher;
use super::publish::breaker::Breaker;
use super::publish::outcome::Outcome;
use super::retry::{self, Answer, Ask};
use super::settle::{self, Settled, Settlement};
use super::verdict::{Failed, Judge};
use crate::config::Config;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Events, Load};
use crate::telemetry::traces;

/// How often the pump says how it is doing.
const BEAT: Duration = Duration::from_secs(1);
/// Found events between the readers and dispatch, on top of its own bounds: enough that a reader
/// doesn't wait for the loop to come round.
const FOUND_CAPACITY: usize = 64;
/// Messages of each kind taken per turn of the loop, so that no kind starves the others.
const TURN: usize = 256;

/// Why a pump stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Asked to, and nothing is left under way.
    Drained,
    /// Asked to, with this many events not settled in time.
    GraceOver(usize),
    /// Another relay holds the lease now, or may soon.
    LeaseLost,
    /// A stage has ended that never should.
    StageEnded(&'static str),
}

/// The stages of one leadership.
pub(super) struct Pump<B> {
    config: Config,
    judge: Judge,
    health: Arc<Health>,
    events: Events,
    load: Load,
    dispatch: Dispatch,
    publisher: Arc<Publisher<B>>,
    in_flight: FuturesUnordered<BoxFuture<'static, (Dispatched, Outcome)>>,
    found: mpsc::Receiver<Found>,
    answers: mpsc::UnboundedReceiver<Answer>,
    asks: mpsc::UnboundedSender<Ask>,
    settlements: mpsc::UnboundedSender<Settlement>,
    settled: mpsc::UnboundedReceiver<Settled>,
    following: JoinHandle<()>,
    retrying: JoinHandle<()>,
    settling: JoinHandle<()>,
    give_up: CancellationToken,
    tick: Arc<Notify>,
    ticking: bool,
    /// Malformed events that are being marked, or that the server won't have marked.
    malformed: HashSet<Vec<u8>>,
    /// Whether an operator may want events removed: asked for once, or seen by the sweep.
    wants_discards: bool,
    /// Whether the last tick left due events where they are, for want of room.
    more_due: bool,
}

impl<B: EventBus> Pump<B> {
    pub(super) fn build(parts: Parts<impl EventStore, B>, term: Term, tick: Arc<Notify>) -> Self {
        let Parts { config, follow: follow_from, store, bus, alerts, health, metrics } = parts;
        let (found_tx, found) = mpsc::channel(FOUND_CAPACITY);
        // Bounded by what dispatch knows: each event is settled once, and each read is asked for by
        // dispatch.
        let (settlements, inbox) = mpsc::unbounded_channel();
        let (reports, settled) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let give_up = CancellationToken::new();
        let following = tokio::spawn(follow(follow_from, found_tx, metrics.clone()));
        let retrying = tokio::spawn(retry::run(store.clone(), asked, answer));
        let settling = tokio::spawn(settle::run(store, inbox, reports, give_up.clone()));
        let publisher = Publisher {
            bus,
            stream: config.stream.name.as_str().into(),
            id_prefix: format!("{}.{}.", config.mongodb.database, config.mongodb.collection).into(),
            grace: config.retry.outage_grace,
            breaker: Breaker::new(tick.clone(), metrics.breaker()),
            newest: AtomicU64::new(0),
            term,
            tracer: traces::tracer(),
            stop: CancellationToken::new(),
        };
        Self {
            judge: Judge::new(&config.retry, &config.nats.client_id, &alerts),
            health,
            events: metrics.events(),
            load: metrics.load(),
            dispatch: Dispatch::new(config.dispatch.clone()),
            config,
            publisher: Arc::new(publisher),
            in_flight: FuturesUnordered::new(),
            found,
            answers,
            asks,
            settlements,
            settled,
            following,
            retrying,
            settling,
            give_up,
            tick,
            ticking: false,
            malformed: HashSet::new(),
            wants_discards: false,
            more_due: false,
        }
    }

    /// Runs until `stop` or `lost`, then drains.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        lost: &CancellationToken,
        totals: &mut Totals,
    ) -> Stopped {
        let mut found = Vec::with_capacity(TURN);
        let mut settled = Vec::with_capacity(TURN);
        let mut connected = self.publisher.bus.connected().clone();
        // The sweep that begins a leadership has just looked.
        let mut stray = tokio::time::interval_at(
            Instant::now() + self.config.sweep.interval,
            self.config.sweep.interval,
        );
        stray.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let publisher = self.publisher.clone();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = None;
        loop {
            self.publish();
            let (mut room, may_tick) = (self.dispatch.room(), self.may_tick());
            room.events = room.events.saturating_sub(self.malformed.len());
            tokio::select! {
                // What comes rarely is looked at first, so that nothing has to wait for long; and a
                // seed of the simulation does the same every time.
                biased;
                () = stop.cancelled() => break,
                () = lost.cancelled() => break,
                _ = beat.tick() => self.beat(),
                _ = stray.tick(), if may_tick => self.read(Ask::Stray(room)),
                () = self.tick.notified(), if may_tick => {
                    let wants_discards = std::mem::take(&mut self.wants_discards);
                    self.read(if wants_discards { Ask::Discards(room) } else { Ask::Due(room) });
                }
                Some(answer) = self.answers.recv() => self.answered(answer),
                1.. = self.settled.recv_many(&mut settled, TURN) => settled.drain(..).for_each(|settled| self.settled(settled)),
                1.. = self.found.recv_many(&mut found, room.events.min(TURN)), if !room.is_none() => {
                    found.drain(..).for_each(|found| self.found(found));
                }
                Some(first) = self.in_flight.next() => {
                    // The others that are answered by now too: a turn of this loop costs more than
                    // one of them.
                    let mut ended = Some(first);
                    let mut untrusted = false;
                    while let Some((dispatched, outcome)) = ended {
                        untrusted |= matches!(outcome, Outcome::Abandoned);
                        self.finished(dispatched, outcome, totals);
                        ended = self.in_flight.next().now_or_never().flatten();
                    }
                    // The lease lapsed, if only for a moment: its lane stays taken, so this
                    // leadership is over.
                    if untrusted {
                        break;
                    }
                }
                // Dispatch looks whether one more may leave.
                () = publisher.breaker.probe.notified() => {}
                // Dispatch looks again once the connection stands.
                Ok(()) = connected.changed() => {}
                _ = &mut self.following => ended = Some("follower"),
                _ = &mut self.retrying => ended = Some("retrier"),
                _ = &mut self.settling => ended = Some("settler"),
            }
            if ended.is_some() {
                break;
            }
        }
        if let Some(stage) = ended {
            error!(stage, "a stage has ended that never should; stopping");
            let deadline = Instant::now() + self.config.shutdown.grace;
            self.drain(deadline, totals).await;
            return Stopped::StageEnded(stage);
        }
        if !stop.is_cancelled() {
            self.publisher.stop.cancel();
            let deadline = Instant::now() + self.config.nats.ack_timeout;
            self.drain(deadline, totals).await;
            return Stopped::LeaseLost;
        }
        info!(
            in_flight = self.dispatch.in_flight(),
            unsettled = self.dispatch.unsettled(),
            "draining"
        );
        let deadline = Instant::now() + self.config.shutdown.grace;
        match self.drain(deadline, totals).await {
            0 => Stopped::Drained,
            left => Stopped::GraceOver(left),
        }
    }

    /// Ends intake, lets publishes under way finish and writes down how they ended. Returns how
    /// many events were left without that at the deadline.
    async fn drain(mut self, deadline: Instant, totals: &mut Totals) -> usize {
        self.found.close();
        // Those waiting for an answer get it; no try begins anew.
        self.publisher.stop.cancel();
        let mut left = self.dispatch.in_flight();
        while let Ok(Some((dispatched, outcome))) =
            tokio::time::timeout_at(deadline, self.in_flight.next()).await
        {
            self.finished(dispatched, outcome, totals);
            left = self.dispatch.in_flight();
        }
        self.judge.tell();
        let Self { settlements, mut settling, give_up, .. } = self;
        drop(settlements);
        if !settling.is_finished()
            && tokio::time::timeout_at(deadline, &mut settling).await.is_err()
        {
            give_up.cancel();
            left = left.max(1);
            if let Err(error) = settling.await {
                error!(%error, "settling ended badly");
            }
        }
        left
    }

    fn publish(&mut self) {
        while self.publisher.is_connected()
            && self.dispatch.in_flight() < self.publisher.breaker.limit()
        {
            let Some(dispatched) = self.dispatch.next() else {
                break;
            };
            self.in_flight.push(Box::pin(self.publisher.clone().publish(dispatched)));
        }
        for park in self.dispatch.take_parks() {
            self.settle(Settlement::Park(park));
        }
        while let Some(key) = self.dispatch.next_lane_read() {
            self.ask(Ask::Lane(key, LANE_READ));
        }
    }

    /// While the broker doesn't answer, failed events rest too, unless there is nothing else left
    /// to find out with.
    fn may_tick(&self) -> bool {
        !self.ticking
            && self.dispatch.has_swept()
            && !self.dispatch.room().is_none()
            && (self.publisher.breaker.is_well() || self.dispatch.in_flight() == 0)
    }

    fn read(&mut self, ask: Ask) {
        self.ticking = true;
        self.dispatch.tick_began();
        self.ask(ask);
    }

    fn finished(&mut self, dispatched: Dispatched, outcome: Outcome, totals: &mut Totals) {
        match outcome {
            Outcome::Acked(acked) => {
                totals.published += 1;
                totals.duplicates += u64::from(acked.duplicate);
                self.events.published.increment(1);
                self.events.duplicates.increment(acked.duplicate.into());
                self.events.publish.record(acked.took);
                self.events.retried.increment((dispatched.origin == Origin::Retry).into());
                if let Some(rewound) = acked.rewound {
                    self.judge.rewound(&self.config.stream.name, rewound);
                }
                if let Some(committed_ms) = dispatched.committed_ms {
                    let millis = clock::now().timestamp_millis() - committed_ms;
                    self.events
                        .latency
                        .record(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
                }
                self.dispatch.finished(dispatched, Ended::Delivered);
                self.settle(Settlement::Delivered(acked));
            }
            Outcome::Rejected(rejection) => {
                totals.failed += 1;
                self.events.failed.add(rejection.class);
                let record = self.dispatch.finished(dispatched, Ended::Failed);
                let mark = self.judge.mark(&Failed::new(&record), rejection);
                self.events.dead.increment((mark.next == Next::Dead).into());
                let marking = Marking {
                    id: Some(record.id),
                    malformed: None,
                    key: record.key,
                    dead: mark.next == Next::Dead,
                };
                self.settle(Settlement::Failed(marking, Box::new(mark)));
                // What the lane held is parked after its head is marked.
                for park in self.dispatch.take_parks() {
                    self.settle(Settlement::Park(park));
                }
            }
            Outcome::Abandoned => {
                totals.abandoned += 1;
                self.dispatch.finished(dispatched, Ended::Abandoned);
            }
        }
    }

    fn settled(&mut self, settled: Settled) {
        match settled {
            Settled::Delivered(acked) => {
                acked.iter().for_each(|acked| self.dispatch.settled(acked.id()))
            }
            Settled::Discarded(id) => {
                self.dispatch.settled(&id);
                // What waited behind it.
                self.tick.notify_one();
            }
            Settled::Failed(marking) => {
                self.dispatch.marked(&marking);
                marking.malformed.iter().for_each(|id| _ = self.malformed.remove(id));
            }
            Settled::Refused(key, id) => self.dispatch.refused(key.as_ref(), id.as_ref()),
            Settled::Park(park) => {
                debug!(events = park.ids.len(), "parked behind a failed event");
                self.events.parked.increment(park.ids.len() as u64);
                self.dispatch.parked(&park);
            }
        }
        // The rest of what was due, without waiting for the schedule.
        if self.more_due && !self.dispatch.is_retrying() {
            self.more_due = false;
            self.tick.notify_one();
        }
    }

    /// Says how it is doing.
    fn beat(&mut self) {
        self.judge.tell();
        self.health.turned();
        self.health.nats(self.publisher.is_connected());
        let (events, bytes, keys) = self.dispatch.load();
        self.load.in_flight.set(self.dispatch.in_flight() as f64);
        self.load.buffered_events.set(events as f64);
        self.load.buffered_bytes.set(bytes as f64);
        self.load.unsettled.set(self.dispatch.unsettled() as f64);
        self.load.keys.set(keys as f64);
    }

    fn settle(&self, settlement: Settlement) {
        if self.settlements.send(settlement).is_err() {
            error!("settling has ended early; the event stays in the outbox");
        }
    }

    fn ask(&self, ask: Ask) {
        if self.asks.send(ask).is_err() {
            error!("the retrier has ended early");
        }
    }
}

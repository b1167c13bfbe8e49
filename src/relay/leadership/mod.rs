//! One leadership: the loop that joins the stages while the relay holds the lease.
//!
//! The loop owns dispatch, and so the state of every event in the relay. The stages around it run
//! as tasks of their own and reach it through channels; none of them starts another:
//!
//! ```text
//!   follow ── found ──────▶ ┌────────────┐ ── publishes ──▶ publish
//!   retry  ── answers ────▶ │ Leadership │ ◀── outcomes ───
//!          ◀── asks ─────── │  dispatch  │ ── settlements ▶ settle
//!                           └────────────┘ ◀── settled ────
//!                                 │
//!                                 └─ gate ────────▶ mover
//! ```
//!
//! The mover hands nothing over: what it moves into the outbox, the follower finds there.
//!
//! A leadership runs until the relay is stopped, the lease is lost or a stage ends. Then it drains:
//! intake ends first, publishes under way get their answers, and `settle` writes down what is
//! known, all that until a deadline.
//!
//! - [`terms`]: one leadership after the other
//! - [`comparing`], [`compared`]: whether the stream has lost what it had acked
//! - [`intake`]: what comes from the readers
//! - [`look`]: what the retrier is asked for, and when it need not be
//! - [`outcomes`]: what comes from publish and settle
//! - [`loss`]: what becomes of a stream that has lost what it had acked
//! - [`stages`]: the tasks around the loop, and how they end
//! - [`parts`]: what a leadership is built from, and what it adds up to

mod compared;
mod comparing;
mod intake;
mod look;
mod loss;
mod outcomes;
pub(crate) mod parts;
mod stages;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use outboxd_client::Key;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::comparing::Comparing;
use self::look::Look;
use self::parts::{Parts, Totals};
use self::stages::{Readers, Settling, Stages};
use super::clock;
use super::dispatch::{Dispatch, KEY_READ};
use super::follow::found::Found;
use super::lease::Term;
use super::mover::{Gate, Moving, Traffic};
use super::ports::scheduled::ScheduledStore;
use super::ports::{EventBus, EventStore};
use super::publish::Publisher;
use super::publish::burst::Published;
use super::retry::{self, Answer, Ask};
use super::settle::{self, Settled, Settlement};
use super::verdict::Verdicts;
use super::wake::Wake;
use super::watermark::Rewound;
use crate::config::Config;
use crate::task;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Events, Load};

/// How often the leadership reports its load and health.
const BEAT: Duration = Duration::from_secs(1);
/// Found events between the readers and dispatch, on top of its own bounds: enough that a reader
/// doesn't wait for the loop to come round.
const FOUND_CAPACITY: usize = 64;
/// Messages of each kind taken per turn of the loop, so that no kind starves the others.
const TURN: usize = 256;

/// How a leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The relay was stopped, and nothing is left under way.
    Drained,
    /// The relay was stopped, and this many events were not settled in time.
    GraceOver(usize),
    /// Another relay holds the lease now, or may soon.
    LeaseLost,
    /// The stream doesn't bear out acks, so what this leadership knows of events is wrong.
    NotBorneOut,
    /// The stream has lost what it had acked.
    Rewound(Rewound),
    /// A stage has ended that never should.
    StageEnded(&'static str),
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Stop,
    LeaseLost,
    NotBorneOut,
    Rewound(Rewound),
    StageEnded(&'static str),
}

/// Tells the readers how long a payload may be.
type LimitPayloads = Box<dyn Fn(usize) + Send>;

/// See the module.
pub(super) struct Leadership<B> {
    config: Config,
    verdicts: Verdicts,
    health: Arc<Health>,
    events: Events,
    load: Load,
    dispatch: Dispatch,
    publisher: Arc<Publisher<B>>,
    comparing: Comparing,
    in_flight: FuturesUnordered<BoxFuture<'static, Published>>,
    found: mpsc::Receiver<Found>,
    /// Keys that a sweep leaves out: what there is of them stays in the database for now.
    resting: watch::Sender<Vec<Key>>,
    answers: mpsc::UnboundedReceiver<Answer>,
    asks: mpsc::UnboundedSender<Ask>,
    settlements: mpsc::UnboundedSender<Settlement>,
    settled: mpsc::UnboundedReceiver<Settled>,
    limits: LimitPayloads,
    stages: Stages,
    /// Takes this leadership's readers when it ends.
    readers: Readers,
    gate: watch::Sender<Gate>,
    traffic: Traffic,
    wake: Wake,
    look: Look,
    /// Published events that stay in the outbox, because the stream doesn't bear out their acks.
    not_borne_out: usize,
}

/// Limits the payloads that both stores make.
fn limit_payloads(following: impl EventStore, reading: impl EventStore) -> LimitPayloads {
    Box::new(move |bytes| {
        following.limit_payloads(bytes);
        reading.limit_payloads(bytes);
    })
}

impl<B: EventBus> Leadership<B> {
    /// Starts the stages.
    pub(super) fn begin<S>(parts: Parts<S, B>, term: Term, wake: Wake) -> Self
    where
        S: EventStore + ScheduledStore,
    {
        let publisher = parts.publisher(term.clone(), wake.clone());
        let Parts { config, follow: follow_from, store, bus, alerts, health, metrics, readers } =
            parts;
        let limits = limit_payloads(follow_from.clone(), store.clone());
        limits(bus.max_payload());

        let (found_tx, found) = mpsc::channel(FOUND_CAPACITY);
        let (resting, rests) = watch::channel(Vec::new());
        // Bounded by what dispatch knows: its events, one look, and `MAX_KEY_READS` key reads.
        let (settlements, inbox) = mpsc::unbounded_channel();
        let (reports, settled) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();

        let (give_up, stop_moving) = (CancellationToken::new(), CancellationToken::new());
        let stored = (store.clone(), bus, term.clone(), config.keep.is_on());
        let verdicts = || Verdicts::new(&config.retry, &config.nats.client_id, &alerts);
        let ((gate, gated), traffic) = (watch::channel(Gate::Closed), Traffic::default());
        let moving = Moving {
            follow: follow_from.clone(),
            store: store.clone(),
            term,
            gate: gated,
            traffic: traffic.clone(),
            verdicts: verdicts(),
            events: metrics.events(),
            misfits_every: config.sweep.interval,
            stop: stop_moving.clone(),
        };

        let following = readers.clone().follow(follow_from, found_tx, rests, metrics.clone());
        let stages = Stages {
            following: task::spawn(following),
            retrying: task::spawn(retry::run(store, asked, answer)),
            settling: task::spawn(settle::run(stored, inbox, reports, give_up.clone())),
            moving: config.scheduled.enabled.then(|| task::spawn(moving.run())),
            stop_moving,
            give_up,
        };

        Self {
            verdicts: verdicts(),
            health,
            events: metrics.events(),
            load: metrics.load(),
            dispatch: Dispatch::new(config.dispatch.clone()),
            config,
            publisher: Arc::new(publisher),
            comparing: Comparing::default(),
            in_flight: FuturesUnordered::new(),
            found,
            resting,
            answers,
            asks,
            settlements,
            settled,
            limits,
            stages,
            readers,
            gate,
            traffic,
            wake,
            look: Look::default(),
            not_borne_out: 0,
        }
    }

    /// Relays until `stop` or `lost`, then drains.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        lost: &CancellationToken,
        totals: &mut Totals,
    ) -> Stopped {
        let over = self.relay(stop, lost, totals).await;

        let grace = match over {
            Over::Stop => {
                let (in_flight, unsettled) = (self.dispatch.in_flight(), self.dispatch.unsettled());
                info!(in_flight, unsettled, "draining");
                self.config.shutdown.grace
            }
            Over::StageEnded(stage) => {
                error!(stage, "a stage ended unexpectedly; stopping");
                self.config.shutdown.grace
            }
            Over::LeaseLost | Over::NotBorneOut | Over::Rewound(_) => self.config.nats.ack_timeout,
        };

        let left = self.drain(Instant::now() + grace, totals).await;

        match over {
            Over::Stop if left == 0 => Stopped::Drained,
            Over::Stop => Stopped::GraceOver(left),
            Over::LeaseLost => Stopped::LeaseLost,
            Over::NotBorneOut => Stopped::NotBorneOut,
            Over::Rewound(loss) => Stopped::Rewound(loss),
            Over::StageEnded(stage) => Stopped::StageEnded(stage),
        }
    }

    /// The loop: after each message, everything that may leave now does.
    async fn relay(
        &mut self,
        stop: &CancellationToken,
        lost: &CancellationToken,
        totals: &mut Totals,
    ) -> Over {
        let mut found = Vec::with_capacity(TURN);
        let mut settled = Vec::with_capacity(TURN);
        let mut connected = self.publisher.bus.connected().clone();
        let publisher = self.publisher.clone();
        let sweep = self.config.sweep.interval;
        // The sweep at the start of a leadership finds everything, so the first one can wait.
        let mut safety_sweep = every(sweep, Instant::now() + sweep);
        let mut beat = every(BEAT, clock::beat(Instant::now(), BEAT));
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);

        loop {
            self.send();
            let (room, may_look) = (self.dispatch.room(), self.may_look());
            let next_found = if room.is_none() { 0 } else { room.events.min(TURN) };

            // What comes rarely is looked at first, so that nothing has to wait for long; and a
            // seed of the simulation does the same every time.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Over::Stop,
                () = lost.cancelled() => return Over::LeaseLost,
                _ = beat.tick() => self.report(),
                _ = safety_sweep.tick(), if may_look => self.look_for_passed_over(room),
                reasons = self.wake.woken(), if may_look => self.look_for_due(room, reasons),
                Some(answer) = self.answers.recv() => self.answered(answer),
                1.. = self.settled.recv_many(&mut settled, TURN) => {
                    self.take_settled(&mut settled);
                    if self.not_borne_out > 0 {
                        return Over::NotBorneOut;
                    }
                }
                1.. = self.found.recv_many(&mut found, next_found), if next_found > 0 => {
                    self.take_found(&mut found);
                }
                Some(first) = self.in_flight.next() => {
                    let lapsed = self.take_outcomes(first, totals);
                    if lapsed {
                        return if stop.is_cancelled() { Over::Stop } else { Over::LeaseLost };
                    }
                }
                // One more may leave.
                () = publisher.breaker.probe.notified() => {}
                // Publishes leave again once the stream was compared over the connection.
                Ok(()) = connected.changed() => self.compare(),
                Some((over, compared)) = self.comparing.under_way.next() => {
                    if let Some(loss) = self.compared(over, compared) {
                        return Over::Rewound(loss);
                    }
                }
                stage = self.stages.first_ended() => return Over::StageEnded(stage),
            }
        }
    }

    /// Ends intake, lets publishes under way finish and writes down how they ended. Returns how
    /// many events were left without that at the deadline.
    async fn drain(mut self, deadline: Instant, totals: &mut Totals) -> usize {
        self.found.close();
        self.stages.stop_moving.cancel();
        // Those waiting for an answer get it; no new try begins.
        self.publisher.stop.cancel();

        while let Ok(Some(published)) =
            tokio::time::timeout_at(deadline, self.in_flight.next()).await
        {
            self.finished(published, totals);
        }

        self.report_stream();

        let left = self.dispatch.in_flight();
        let Self { settlements, stages, readers, mut settled, mut verdicts, events, .. } = self;
        drop(settlements);
        // Nobody polls them any more, and one may be in the middle of a question to the stream, behind
        // which those of the settler wait.
        drop((self.in_flight, self.comparing));

        let settling = stages.end_until(deadline, &readers).await;

        while let Ok(settled) = settled.try_recv() {
            verdicts.written(&settled, &events);
        }
        verdicts.log();

        match settling {
            Settling::Done => left,
            Settling::GivenUp => left.max(1),
        }
    }

    /// Publishes what may leave, parks what waits behind a failure, and asks for the reads of keys.
    fn send(&mut self) {
        while self.publisher.may_try()
            && self.dispatch.in_flight() < self.publisher.breaker.limit()
            && let Some(burst) = self.dispatch.next(self.publisher.most_together())
        {
            self.in_flight.push(Box::pin(self.publisher.clone().publish(burst)));
        }

        self.settle_parks();
        self.set_gate();

        if let Some(keys) = self.dispatch.take_changed_rests() {
            self.resting.send_replace(keys);
        }

        while let Some((key, read)) = self.dispatch.begin_key_read() {
            self.ask(Ask::Key(key, read, KEY_READ));
        }

        if let Some((of, room, read)) = self.dispatch.begin_rest_read() {
            self.ask(Ask::Rest(of, read, room));
        }
    }

    /// Whether to look for due events, discards or events passed over now. While the broker doesn't
    /// answer, failed events rest too, unless there is nothing else left to find out with.
    fn may_look(&self) -> bool {
        !self.look.under_way
            && self.dispatch.has_swept()
            && !self.dispatch.room().is_none()
            && (self.publisher.breaker.is_well() || self.dispatch.in_flight() == 0)
    }

    /// Reports load and health, and logs what failed.
    fn report(&mut self) {
        self.verdicts.log();
        // The server may have been restarted with another limit.
        (self.limits)(self.publisher.bus.max_payload());
        self.report_stream();
        self.dispatch.retry_rests();
        if let Some(filter) = self.dispatch.begin_filling() {
            self.ask(Ask::Waiting(filter));
        }
        self.health.turned();

        let (events, bytes, keys) = self.dispatch.load();
        self.load.in_flight.set(self.dispatch.in_flight() as f64);
        self.load.buffered_events.set(events as f64);
        self.load.buffered_bytes.set(bytes as f64);
        self.load.unsettled.set(self.dispatch.unsettled() as f64);
        self.load.keys.set(keys as f64);
    }

    fn settle_parks(&mut self) {
        for park in self.dispatch.take_parks() {
            self.settle(Settlement::Park(park));
        }
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

fn every(period: Duration, first: Instant) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(first, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

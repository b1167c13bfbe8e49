//! What happens to the relays: processes die and sleep, servers go away, operators intervene.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::bus::Bus;
use super::connection::Store;
use super::lease::LeaseRow;
use super::neighbours;
use super::row::{Discard, Row};
use super::services::SUBJECTS;
use super::world::{Change, Life, State, World};
use crate::config::Config;
use crate::error::Result;
use crate::relay::clock;
use crate::relay::leadership::parts::{Parts, Readers, Totals};
use crate::relay::lease::Lease;
use crate::relay::wake::{Reason, Wake};
use crate::telemetry::alerts::Alerts;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// How often the retrier looks.
const TICK: Duration = Duration::from_secs(1);
/// How long a clean stop may take.
const STOP: Duration = Duration::from_secs(60);

/// A relay that runs.
pub(super) struct Relay {
    life: usize,
    stop: CancellationToken,
    running: JoinHandle<Result<Totals>>,
    ticking: JoinHandle<()>,
}

impl Relay {
    pub(super) fn start(world: &World, config: &Config) -> Self {
        let (life, stands) = live(world);

        let holder = format!("relay {life}");
        let shared = neighbours::share(world, life);
        let store = Store { world: world.clone(), life, shared };
        let bus = Bus { world: world.clone(), life, holder: holder.clone(), connected: stands };
        let lease =
            Arc::new(Lease::new(LeaseRow { store: store.clone(), holder }, config.lease.ttl));
        let (follow, config, health, alerts) =
            (store.clone(), config.clone(), Arc::<Health>::default(), Alerts::none());
        let (metrics, readers) = (Metrics::none(), Readers::default());
        let parts = Parts { config, follow, store, bus, health, alerts, metrics, readers };

        let (stop, wake) = (CancellationToken::new(), Wake::default());
        let ticking = tokio::spawn({
            let wake = wake.clone();
            async move {
                loop {
                    sleep(TICK).await;
                    wake.because(Reason::Schedule);
                }
            }
        });

        let stopped = stop.clone();
        let running = tokio::spawn(async move { parts.relay(&lease, &wake, &stopped).await });
        Self { life, stop, running, ticking }
    }

    fn kill(self, world: &World) {
        world.lock().lives[self.life].dead = true;
        self.running.abort();
        self.ticking.abort();
    }

    /// Stops it as a container is stopped.
    pub(super) async fn stop(self, world: &World) {
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP, self.running).await;
        self.ticking.abort();

        let mut state = world.lock();
        match ended {
            Ok(Ok(Ok(_))) => {}
            other => state.wrong.push(format!("a relay that was stopped: {other:?}")),
        }

        state.lives[self.life].dead = true;
    }

    /// A relay never ends by itself.
    pub(super) fn check(&self, world: &World) {
        if self.running.is_finished() {
            world.lock().wrong.push(format!("relay {} has ended", self.life));
        }
    }
}

/// Begins a life, with its connection to NATS.
pub(super) fn live(world: &World) -> (usize, watch::Receiver<bool>) {
    let (connected, stands) = watch::channel(true);
    let mut state = world.lock();
    let now = Instant::now();
    state.lives.push(Life {
        dead: false,
        paused_until: now,
        connected,
        tails: 0,
        cuts: 0,
        arrives: now,
    });
    (state.lives.len() - 1, stands)
}

/// One fault after the other, until `end`.
pub(super) async fn inject(world: &World, config: &Config, relays: &mut [Relay], end: Instant) {
    while Instant::now() < end {
        let (wait, what, victim, long) = {
            let mut state = world.lock();
            let long = Duration::from_millis(state.random.random_range(20..8000));
            let victim = state.random.random_range(0..relays.len());
            (state.random.random_range(20..2500), state.random.random_range(0..20), victim, long)
        };
        sleep(Duration::from_millis(wait)).await;

        let awake = {
            let mut state = world.lock();
            let life = relays[victim].life;
            state.note("trouble", what);
            if what > 1 {
                begin(world, &mut state, what, life, long);
                continue;
            }
            state.count(if what == 0 { "relays killed" } else { "relays stopped" });
            state.lives[life].paused_until
        };

        relays[victim].check(world);
        if what == 0 {
            std::mem::replace(&mut relays[victim], Relay::start(world, config)).kill(world);
        } else {
            // A paused process doesn't see the stop.
            tokio::time::sleep_until(awake).await;
            std::mem::replace(&mut relays[victim], Relay::start(world, config)).stop(world).await;
        }
    }
}

/// Begins a fault that may last a while.
fn begin(world: &World, state: &mut State, what: usize, life: usize, long: Duration) {
    let until = Instant::now() + long;
    match what {
        2 | 3 => {
            state.count("relays paused");
            state.lives[life].paused_until = until;
        }
        4 => {
            state.count("MongoDB away");
            state.weather.mongodb_away = until;
        }
        5 => {
            state.count("change streams cut");
            state.cuts += 1;
            world.changed.notify_waiters();
        }
        6 => cut_off(world, state, long),
        7 => {
            state.count("stream without a leader");
            state.weather.no_leader = until;
        }
        8 => {
            state.count("stream full");
            state.weather.full = until;
        }
        9 | 10 => {
            state.count("subjects the stream doesn't take");
            state.weather.uncovered =
                state.chance(0.6).then(|| state.random.random_range(0..SUBJECTS));
        }
        11 => {
            state.count("messages too large");
            state.weather.too_large =
                state.chance(0.4).then(|| state.random.random_range(0..SUBJECTS));
        }
        12 => {
            state.count("clock set");
            clock::simulated::jump(state.random.random_range(-3_600_000..3_600_000));
            // The server's is only set by seconds, or what is scheduled would be due after the end.
            state.scheduled.clock_ms = state.random.random_range(-10_000..10_000);
        }
        13 => {
            state.count("network lossy or slow");
            match state.chance(0.5) {
                true => state.weather.lossy = until,
                false => state.weather.slow = until,
            }
        }
        // A purge between a loss and its repair hides the loss.
        14 | 15 if !state.is_hurt() => {
            state.count("messages removed");
            state.remove_messages();
        }
        14 | 15 => {}
        16 => {
            state.restore();
            world.changed.notify_waiters();
        }
        17 => {
            state.count("neighbours that forge acks");
            state.weather.forger = until;
        }
        18 if state.rewind() => cut_off(world, state, long),
        _ => {
            intervene(world, state);
            world.changed.notify_waiters();
        }
    }
}

/// No relay reaches NATS for so long.
fn cut_off(world: &World, state: &mut State, long: Duration) {
    state.count("NATS away");
    for life in &mut state.lives {
        life.cuts += 1;
        life.connected.send_replace(false);
    }

    let world = world.clone();
    tokio::spawn(async move {
        sleep(long).await;
        world.lock().lives.iter().for_each(|life| _ = life.connected.send_replace(true));
    });
}

/// An operator has some of what is stuck published or removed.
fn intervene(world: &World, state: &mut State) {
    state.count("operators at work");
    let mut unlocked = of(state, |row| !row.locked);
    unlocked.retain(|_| state.chance(0.5));

    match state.chance(0.5) {
        true => retry(state, unlocked),
        false => discard(world, state, unlocked),
    }
}

fn of(state: &State, which: impl Fn(&Row) -> bool) -> Vec<u32> {
    state.rows.iter().filter(|(_, row)| which(row)).map(|(number, _)| *number).collect()
}

/// An operator has these published now.
fn retry(state: &mut State, events: Vec<u32>) {
    let now_ms = state.now_ms();
    for number in events {
        let Some(row) = state.rows.get_mut(&number) else { continue };
        row.attempts = if row.dead { 0 } else { row.attempts };
        (row.dead, row.due_ms, row.discard) = (false, Some(now_ms), None);
        // An operator repairs an event before retrying it.
        row.malformed = false;
        requested(state, number);
    }
}

/// An operator asks for these to be removed, and removes what the relay grants. The request is
/// withdrawn after a while, unless the command is killed before.
fn discard(world: &World, state: &mut State, events: Vec<u32>) {
    let asked_ms = state.now_ms();
    for number in &events {
        if let Some(row) = state.rows.get_mut(number) {
            row.discard = Some(Discard { asked_ms, granted: false });
            requested(state, *number);
        }
    }

    let (world, is_killed) = (world.clone(), state.chance(0.3));
    let looks = state.random.random_range(0..40);
    tokio::spawn(async move {
        for _ in 0..looks {
            remove_granted(&world, &events, asked_ms);
            sleep(Duration::from_millis(200)).await;
        }
        if !is_killed {
            withdraw(&world, &events, asked_ms);
        }
    });
}

/// The request of the command that asked then, unless another has taken its place.
fn asked_then(row: &Row, asked_ms: i64) -> Option<Discard> {
    row.discard.filter(|asked| asked.asked_ms == asked_ms && !row.locked)
}

/// Dead ones go at once: no relay holds them.
fn remove_granted(world: &World, events: &[u32], asked_ms: i64) {
    let mut state = world.lock();
    let mut removed = false;
    for number in events {
        let Some(row) = state.rows.get(number) else { continue };
        if asked_then(row, asked_ms).is_some_and(|asked| asked.granted || row.dead) {
            state.rows.remove(number);
            state.excused.insert(*number);
            state.count("discarded");
            removed = true;
        }
    }

    if removed {
        state.remember();
        poke(world, &mut state);
    }
}

fn withdraw(world: &World, events: &[u32], asked_ms: i64) {
    let mut state = world.lock();
    for number in events {
        let Some(row) = state.rows.get_mut(number) else { continue };
        if asked_then(row, asked_ms).is_some() {
            row.discard = None;
            state.count("discards withdrawn");
        }
    }

    state.remember();
    poke(world, &mut state);
}

/// Has the relay look for what is due.
fn poke(world: &World, state: &mut State) {
    if let Some(number) = of(state, |row| !row.locked && !row.dead).first() {
        requested(state, *number);
        world.changed.notify_waiters();
    }
}

fn requested(state: &mut State, number: u32) {
    let ts = state.tick();
    state.changes.push((ts, Change::Requested(number)));
    state.remember();
}

/// Ends every fault.
pub(super) fn calm(world: &World) {
    let mut state = world.lock();
    let now = Instant::now();
    let weather = &mut state.weather;

    (weather.mongodb_away, weather.no_leader, weather.full) = (now, now, now);
    (weather.lossy, weather.slow) = (now, now);
    (weather.uncovered, weather.too_large) = (None, None);
    state.rows.values_mut().for_each(|row| row.cursed = false);
    state.scheduled.later.values_mut().for_each(|later| later.row.cursed = false);
    state.lives.iter_mut().for_each(|life| life.paused_until = now);
    state.lives.iter().for_each(|life| _ = life.connected.send_replace(true));
}

/// An operator retries whatever is dead.
pub(super) fn retry_dead(world: &World) {
    let mut state = world.lock();
    let dead = of(&state, |row| row.dead);
    retry(&mut state, dead);
    world.changed.notify_waiters();
}

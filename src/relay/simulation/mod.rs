//! Runs the relay's core, as it ships, against a world in memory: a clock that is set, a store and
//! a bus that lose, delay, repeat and reorder, relays that die, sleep and start again. Everything
//! follows from a seed.
//!
//! Real are the leadership, dispatch, the publisher with its breaker, the verdicts, the settler,
//! the retrier, sweep and tail, the stream that outboxes share, the mover, the watermark, and the
//! lease. Most relays publish bursts, the others one event of a key at a time.
//!
//! The world checks at every step that nothing is published without the lease, before what comes
//! earlier in its key, beside another event of its key that it isn't behind, after its ack or as it
//! never was committed, and that nothing is deleted that isn't in the stream, though the stream acks
//! as a duplicate what it doesn't have, and a neighbour acks what the stream didn't get. No
//! scheduled event is moved early, twice or after it was cancelled. At the end it checks that everything has arrived and the outbox is empty.
//!
//! `OUTBOXD_SIMULATE=<seed>` plays one seed, `OUTBOXD_SIMULATE=<from>..<to>` others than the usual.
//! `OUTBOXD_SIMULATE_TRACE=1` prints every step.

mod bus;
mod connection;
mod faults;
mod follow;
mod joining;
mod kept;
mod later;
mod lease;
mod neighbours;
mod row;
mod scheduled;
mod services;
mod store;
mod stream;
mod transactions;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::{RawArray, RawArrayBuf};
use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use self::faults::{Relay, calm, inject, retry_dead};
use self::later::schedule;
use self::services::commit;
use self::world::{BEGAN_MS, Lie, World};
use super::ports::{EventPage, StoreResult};
use crate::config::{Config, OnDead, SendBursts, Sources};
use crate::relay::clock;

/// Seeds that are played unless others are asked for.
const SEEDS: Range<u64> = 0..2000;
/// How long everything may take to drain once the trouble is over. The safety sweep takes what is a
/// minute old.
const DRAIN: Duration = Duration::from_secs(240);
/// How often the operator looks then.
const LOOK: Duration = Duration::from_secs(5);
/// A dedupe window that no trouble outlasts.
const LONG: Duration = Duration::from_secs(3600);

impl EventPage for RawArrayBuf {
    fn documents(&self) -> StoreResult<&RawArray> {
        Ok(self)
    }
}

/// How a seed went.
#[derive(Debug)]
struct Played {
    wrong: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    trace: u64,
}

fn config(world: &World) -> Config {
    let env = [
        ("NATS_CLIENT_ID", "relay"),
        ("NATS_URL", "nats://n"),
        ("MONGODB_URI", "mongodb://m/shop"),
    ];

    let env = env.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    let mut config = Config::load(&Sources {
        env,
        set: vec![format!("stream.name={}", bus::STREAM)],
        ..Sources::default()
    })
    .expect("a configuration");

    let mut state = world.lock();
    let random = &mut state.random;
    config.dispatch.max_in_flight = random.random_range(1..8);
    config.dispatch.max_buffered_events = random.random_range(2..40);
    config.sweep.interval = Duration::from_secs(random.random_range(5..40));
    config.retry.base_delay = Duration::from_millis(random.random_range(10..2000));
    config.retry.max_delay = Duration::from_secs(10);
    config.retry.max_attempts = random.random_range(2..8);
    config.retry.outage_grace = Duration::from_millis(random.random_range(200..6000));
    config.nats.ack_timeout = bus::ACK_TIMEOUT;
    config.lease.ttl = Duration::from_millis(random.random_range(1000..6000));
    config.shutdown.grace = Duration::from_millis(random.random_range(0..5000));
    if random.random_bool(0.4) {
        // A few lanes are forgotten, and few events fit.
        config.dispatch.max_buffered_bytes = random.random_range(1 << 10..16 << 10);
    }
    if random.random_bool(0.7) {
        config.nats.bursts = SendBursts::Auto;
    }
    config.dispatch.on_dead = state.on_dead;
    if state.keeps {
        config.keep.lasts = LONG;
    }

    config
}

/// Plays one seed on this thread.
fn play(seed: u64, lie: Option<Lie>) -> Played {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let played = runtime.expect("a runtime").block_on(async {
        clock::simulated::set(BEGAN_MS, seed);
        let on_dead = if seed.is_multiple_of(4) { OnDead::Skip } else { OnDead::Hold };
        let window = if seed.is_multiple_of(3) { Duration::from_secs(5) } else { LONG };
        let world = World::new(seed, on_dead, window, lie);
        let config = config(&world);
        let (relays, events, scheduled, length) = {
            let random = &mut world.lock().random;
            let (relays, events) = (random.random_range(1..4), random.random_range(10..80));
            (relays, events, random.random_range(0..40), random.random_range(5..40))
        };

        let mut relays: Vec<_> = (0..relays).map(|_| Relay::start(&world, &config)).collect();
        let committing = tokio::spawn(commit(world.clone(), events));
        let scheduling = tokio::spawn(schedule(world.clone(), scheduled));
        inject(&world, &config, &mut relays, Instant::now() + Duration::from_secs(length)).await;
        committing.await.expect("the services end well");
        scheduling.await.expect("the services end well");

        calm(&world);
        // A key of which a write was refused waits for the next leadership.
        for relay in std::mem::take(&mut relays) {
            relay.stop(&world).await;
            relays.push(Relay::start(&world, &config));
        }

        let deadline = Instant::now() + DRAIN;
        let is_over = || world.lock().is_drained() && !world.lock().is_hurt();
        while !is_over() && Instant::now() < deadline {
            sleep(LOOK).await;
            // What was refused before may be marked dead only now.
            retry_dead(&world);
        }

        relays.iter().for_each(|relay| relay.check(&world));
        for relay in relays {
            relay.stop(&world).await;
        }

        end(&world)
    });
    clock::simulated::unset();

    played
}

/// What must hold when all is over.
fn end(world: &World) -> Played {
    let mut state = world.lock();
    let mut wrong = std::mem::take(&mut state.wrong);

    let gone = |number: &&u32| {
        !state.stream.contains_key(number)
            && !state.excused.contains(number)
            && !state.rows.contains_key(number)
    };
    wrong.extend(state.committed.keys().filter(gone).map(|number| format!("e{number} is lost")));

    wrong.extend(state.left_scheduled());
    let delivered = |number: &&u32| state.stream.contains_key(number);
    let cancelled = state.scheduled.cancelled.iter().filter(delivered);
    wrong.extend(cancelled.map(|number| format!("e{number} is cancelled and delivered")));

    wrong.extend(
        state.rows.iter().map(|(number, row)| format!("e{number} is left in the outbox: {row:?}")),
    );

    let copies = state.stream.iter().filter(|(number, times)| {
        let repeats = state.repeatable.get(number).copied().unwrap_or(0);
        **times > 1 + repeats && state.window == LONG
    });
    wrong.extend(copies.map(|(number, times)| format!("e{number} is in the stream {times} times")));

    let published = u64::try_from(state.stream.len()).expect("few events");
    state.counts.insert("events published", published);
    Played { wrong, counts: std::mem::take(&mut state.counts), trace: state.trace() }
}

/// The seeds that were asked for.
fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("OUTBOXD_SIMULATE") else { return SEEDS };
    let number = |text: &str| {
        text.parse().unwrap_or_else(|_| panic!("OUTBOXD_SIMULATE={asked}: <seed> or <from>..<to>"))
    };

    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

#[test]
fn whatever_a_seed_brings_nothing_is_lost_reordered_or_left() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = BTreeMap::<&str, u64>::new();

    std::thread::scope(|scope| {
        let play_some = || {
            let mut counts = BTreeMap::<&str, u64>::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return counts;
                }

                let played = play(seed, None);
                let again = format!("make simulate SEEDS={seed}");
                assert!(
                    played.wrong.is_empty(),
                    "seed {seed}: {:#?}\nagain with: {again}",
                    played.wrong
                );

                played
                    .counts
                    .into_iter()
                    .for_each(|(what, count)| *counts.entry(what).or_default() += count);
            }
        };
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
        for player in players {
            match player.join() {
                Ok(some) => some
                    .into_iter()
                    .for_each(|(what, count)| *counts.entry(what).or_default() += count),
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
        }
    });
    println!("{} seeds", seeds.end - seeds.start);
    counts.iter().for_each(|(what, count)| println!("{count:>9} {what}"));

    if seeds == SEEDS {
        assert!(counts.len() >= 45, "some trouble never came: {counts:#?}");
    }
}

#[test]
fn a_seed_plays_the_same_every_time() {
    for seed in 0..20 {
        assert_eq!(play(seed, None).trace, play(seed, None).trace, "seed {seed}");
    }
    assert_ne!(play(0, None).trace, play(1, None).trace);
}

/// Shows that the checks can fail, and that the relay needs each promise of the world.
#[test]
fn a_world_that_breaks_its_word_is_found_out() {
    for (lie, wrong) in [
        (Lie::Ack, "is lost"),
        (Lie::Forget, "is in the stream 2 times"),
        (Lie::Stale, "passed"),
        (Lie::Torn, "passed"),
        (Lie::Early, "early"),
        (Lie::Unheld, "is moved, and"),
        (Lie::Gap, "passed"),
        (Lie::Unchained, "passed"),
    ] {
        let found = (0..1000)
            .any(|seed| play(seed, Some(lie)).wrong.iter().any(|found| found.contains(wrong)));
        assert!(found, "{lie:?} is never found out");
    }
}

//! Joining the shared stream, with events that are committed at each moment of it, one ms after the
//! other: messages take whole ms, so no moment is left out.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::Store;
use super::faults::live;
use super::neighbours::{Source, neighbour};
use super::row::{Row, document};
use super::world::{BEGAN_MS, Change, World};
use super::{LONG, OnDead};
use crate::relay::clock;
use crate::relay::follow::follow;
use crate::relay::follow::found::Found;
use crate::relay::shared::SharedStream;
use crate::telemetry::metrics::Metrics;

/// In ms: as long as joining takes and the tail begins.
const JOINING: u64 = 120;
/// Between the commits of two events of a key, in ms.
const APART: [u64; 4] = [0, 1, 4, 30];
/// Until both events must have arrived.
const ARRIVED: Duration = Duration::from_secs(60);
/// Bytes of all buffers.
const ROOMY: usize = 1 << 20;

/// What happens besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Besides {
    Nothing,
    /// The stream ends with an error.
    Cut,
    /// Another outbox joins, so the stream is opened again.
    AnotherJoins,
    /// No change fits in the buffers.
    NoRoom,
    /// The follower is slow to take what was found.
    Slow,
}

/// A service commits an event of the one key.
fn commit(world: &World, number: u32) {
    let mut state = world.lock();
    let row = Row::new(Some(1), state.tick(), 0);
    let at = state.tick();
    let event = document(number, &row);
    state.rows.insert(number, row);
    state.changes.push((at, Change::Insert(number, event)));
    drop(state);
    world.changed.notify_waiters();
}

/// The events in the order in which they are found, when each is committed at its ms. What is found
/// leaves the outbox at once.
async fn found(world: &World, at: [u64; 2], besides: Besides, besides_at: u64) -> Vec<String> {
    let life = live(world).0;
    let room = if besides == Besides::NoRoom { 1 } else { ROOMY };
    let store = Store { world: world.clone(), life, shared: None };
    let shared = SharedStream::with_room(Source(store.clone()), room);
    let store = Store { shared: Some(shared.clone()), ..store };

    let (found, mut finds) = mpsc::channel(1);
    let (_resting, rests) = watch::channel(Vec::new());
    let following = tokio::spawn(follow(store, found, rests, Metrics::none()));

    let began = Instant::now();
    let moment = move |ms| sleep_until(began + Duration::from_millis(ms));
    let (committing, besiding) = (world.clone(), world.clone());
    tokio::spawn(async move {
        for (number, at) in (1..).zip(at) {
            moment(at).await;
            commit(&committing, number);
        }
    });
    tokio::spawn(async move {
        moment(besides_at).await;
        match besides {
            Besides::Cut => {
                besiding.lock().cuts += 1;
                besiding.changed.notify_waiters();
            }
            Besides::AnotherJoins => drop(shared.join(neighbour()).await),
            Besides::Nothing | Besides::NoRoom | Besides::Slow => {}
        }
    });

    let mut events = Vec::new();
    while let Ok(Some(one)) = timeout(ARRIVED, finds.recv()).await {
        match one {
            Found::SweepBegan(_, taken) => _ = taken.send(()),
            Found::Event(pending, _) => {
                let id = pending.record.id.to_string();
                world.lock().rows.remove(&super::row::number(&id));
                events.push(id);
            }
            _ => {}
        }
        if besides == Besides::Slow {
            sleep(Duration::from_millis(9)).await;
        }
    }

    following.abort();
    events
}

#[test]
fn an_event_of_any_moment_of_joining_arrives_once_and_in_order() {
    let mut seed = 0;
    for besides in
        [Besides::Nothing, Besides::Cut, Besides::AnotherJoins, Besides::NoRoom, Besides::Slow]
    {
        for first in 0..JOINING {
            for apart in APART {
                seed += 1;
                let at = [first, first + apart];
                let besides_at = seed * 7 % JOINING;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build();
                let events = runtime.expect("a runtime").block_on(async {
                    clock::simulated::set(BEGAN_MS, seed);
                    let world = World::new(seed, OnDead::Hold, LONG, None);
                    found(&world, at, besides, besides_at).await
                });
                clock::simulated::unset();
                assert_eq!(
                    events,
                    ["e1", "e2"],
                    "committed at {at:?} ms; {besides:?} at {besides_at} ms; seed {seed}"
                );
            }
        }
    }
}

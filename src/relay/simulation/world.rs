//! What is outside the relays: the outbox, the stream, the lease and the weather. Checks the
//! promises at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{RawDocumentBuf, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::row::Row;
use super::transactions::Scheduled;
use crate::config::OnDead;
use crate::relay::ports::Burst;
use crate::relay::watermark::Watermark;

/// What the servers' clocks said when the simulation began, in milliseconds since 1970.
pub(super) const BEGAN_MS: i64 = 1_800_000_000_000;

/// Keys of the services, when there are few.
const FEW_KEYS: u8 = 4;
/// Enough keys that some wait for their read: see `MAX_KEY_READS` of dispatch.
const MANY_KEYS: u8 = 12;

/// How the world breaks a promise, to show that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// The stream acks what it doesn't store.
    Ack,
    /// The stream forgets message ids at once.
    Forget,
    /// Reads show the outbox as it was a while ago.
    Stale,
    /// A list shows its first events as they were a while ago, and the others as they are.
    Torn,
    /// A move finds events due that aren't yet.
    Early,
    /// A move deletes scheduled events although somebody else has.
    Unheld,
    /// A shared stream that is opened again leaves out what came since its place.
    Gap,
    /// The stream doesn't look what a message is behind, and stores a part of a batch.
    Unchained,
}

/// A message on its way to the stream.
#[derive(Debug, Clone)]
pub(super) struct Arriving {
    pub(super) message_id: String,
    /// The id of the message that it must come behind.
    pub(super) behind: Option<String>,
    pub(super) number: u32,
    pub(super) subject: u8,
}

/// An event that was committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) key: Option<u8>,
    pub(super) subject: u8,
    /// When its transaction began, and when it was committed, in ticks of the cluster's time.
    pub(super) begun: u32,
    pub(super) at: u32,
}

/// A kept event.
#[derive(Debug, Clone)]
pub(super) struct KeptRow {
    pub(super) number: u32,
    pub(super) sequence: Option<u64>,
    pub(super) message_id: Option<String>,
    pub(super) row: Row,
}

/// A change as the change stream reports it.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Insert(u32, RawDocumentBuf),
    /// By the transaction that inserted the event.
    Update(u32),
    /// Likewise.
    Delete(u32),
    Requested(u32),
}

/// One life of a relay, from its start to its end.
pub(super) struct Life {
    pub(super) dead: bool,
    pub(super) paused_until: Instant,
    pub(super) connected: watch::Sender<bool>,
    /// Tails that it reads.
    pub(super) tails: usize,
    /// How often it was cut off.
    pub(super) cuts: u64,
    /// When its latest message arrives at the stream.
    pub(super) arrives: Instant,
}

/// Until when something is wrong with the servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) mongodb_away: Instant,
    pub(super) no_leader: Instant,
    pub(super) full: Instant,
    pub(super) lossy: Instant,
    pub(super) slow: Instant,
    /// Somebody acks what the stream doesn't store.
    pub(super) forger: Instant,
    /// The subject that the stream doesn't take.
    pub(super) uncovered: Option<u8>,
    /// The subject whose messages are too big for the stream.
    pub(super) too_large: Option<u8>,
}

pub(super) struct Lease {
    pub(super) holder: String,
    pub(super) term: i64,
    pub(super) until: Instant,
    pub(super) watermark: Option<Watermark>,
}

impl Lease {
    pub(super) fn set(&mut self, until: Instant, watermark: Option<Watermark>) {
        self.until = until;
        if watermark.is_some() {
            self.watermark = watermark;
        }
    }
}

pub(super) struct State {
    pub(super) random: StdRng,
    /// Keys of the services.
    pub(super) keys: u8,
    pub(super) began: Instant,
    increment: u32,
    /// Events inserted, committed or not.
    pub(super) inserted: u32,
    /// Events whose transaction deleted them again.
    pub(super) withdrawn: u32,
    /// By the number in their id, which is their order by `ts` unless they were restored. One that
    /// was inserted earlier may have been committed later.
    pub(super) rows: BTreeMap<u32, Row>,
    /// The rows as they were a few changes ago.
    past: Vec<BTreeMap<u32, Row>>,
    pub(super) changes: Vec<(Timestamp, Change)>,
    pub(super) scheduled: Scheduled,
    /// How often change streams have been cut.
    pub(super) cuts: u32,
    pub(super) lease: Option<Lease>,
    pub(super) lives: Vec<Life>,
    pub(super) weather: Weather,
    /// The messages of the stream by their sequence: message id and event.
    pub(super) log: BTreeMap<u64, (String, u32)>,
    pub(super) newest: u64,
    /// Whether the relays' outbox shares its change streams with a neighbour.
    pub(super) shares: bool,
    /// Whether acked events are kept; only such a stream loses messages.
    pub(super) keeps: bool,
    /// The kept events, by place and number. A loss may give one place to two of them.
    pub(super) kept: BTreeMap<(i64, u32), KeptRow>,
    /// Events that the stream has lost: later ones of their key may have been on the way.
    pub(super) lost: BTreeSet<u32>,
    /// Message ids that the stream remembers, since when and of which message. It remembers them
    /// when the message is gone.
    pub(super) remembered: BTreeMap<String, (Instant, u64)>,
    pub(super) window: Duration,
    /// Every event ever committed.
    pub(super) committed: BTreeMap<u32, Committed>,
    /// How often the stream has each event.
    pub(super) stream: BTreeMap<u32, u32>,
    /// How often more the stream may have an event, because its message was removed while the event
    /// was in the outbox.
    pub(super) repeatable: BTreeMap<u32, u32>,
    /// Events that were delivered, removed from the stream, and put back into the outbox.
    pub(super) restored: BTreeSet<u32>,
    /// When each event left the outbox.
    pub(super) deleted: BTreeMap<u32, Instant>,
    /// Events that a relay has seen stored, and in which term.
    pub(super) acked: BTreeSet<(i64, u32)>,
    /// The same by the life of the relay.
    pub(super) seen_stored: BTreeSet<(usize, u32)>,
    /// Events whose ack was forged: later ones of their key may pass them.
    pub(super) forged: BTreeSet<u32>,
    /// Lives of relays that believed a forged ack, and those that have found it out.
    pub(super) deceived: BTreeSet<usize>,
    pub(super) suspicious: BTreeSet<usize>,
    /// Publishes under way, by the life of their relay and their key.
    pub(super) publishing: BTreeMap<(usize, u8), usize>,
    /// How events leave together.
    pub(super) burst: Burst,
    /// The message id of the last message.
    pub(super) last_id: String,
    /// What an operator had removed, and, where dead events are skipped, what was dead.
    pub(super) excused: BTreeSet<u32>,
    pub(super) on_dead: OnDead,
    pub(super) lie: Option<Lie>,
    pub(super) wrong: Vec<String>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    trace: DefaultHasher,
}

/// A handle of the world.
#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Notify>,
}

impl World {
    pub(super) fn new(seed: u64, on_dead: OnDead, window: Duration, lie: Option<Lie>) -> Self {
        let now = Instant::now();
        let mut random = StdRng::seed_from_u64(seed);
        let burst = if random.random_bool(0.5) { Burst::Chain } else { Burst::Batch };
        let state = State {
            keys: if random.random_bool(0.3) { MANY_KEYS } else { FEW_KEYS },
            random,
            began: now,
            increment: 0,
            inserted: 0,
            withdrawn: 0,
            rows: BTreeMap::new(),
            past: Vec::new(),
            changes: Vec::new(),
            scheduled: Scheduled::default(),
            cuts: 0,
            lease: None,
            lives: Vec::new(),
            weather: Weather {
                mongodb_away: now,
                no_leader: now,
                full: now,
                lossy: now,
                slow: now,
                forger: now,
                uncovered: None,
                too_large: None,
            },
            log: BTreeMap::new(),
            newest: 0,
            shares: seed % 2 == 1,
            keeps: seed % 5 == 1,
            kept: BTreeMap::new(),
            lost: BTreeSet::new(),
            remembered: BTreeMap::new(),
            window,
            committed: BTreeMap::new(),
            stream: BTreeMap::new(),
            repeatable: BTreeMap::new(),
            restored: BTreeSet::new(),
            deleted: BTreeMap::new(),
            acked: BTreeSet::new(),
            seen_stored: BTreeSet::new(),
            forged: BTreeSet::new(),
            deceived: BTreeSet::new(),
            suspicious: BTreeSet::new(),
            publishing: BTreeMap::new(),
            burst,
            last_id: String::new(),
            excused: BTreeSet::new(),
            on_dead,
            lie,
            wrong: Vec::new(),
            counts: BTreeMap::new(),
            trace: DefaultHasher::new(),
        };

        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this process runs: a paused one until it resumes, a killed one for ever.
    pub(super) async fn alive(&self, life: usize) {
        loop {
            let until = match &self.lock().lives[life] {
                Life { dead: true, .. } => None,
                Life { paused_until, .. } => Some(*paused_until),
            };
            match until {
                None => std::future::pending().await,
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// The time that a message takes to a server or back.
    pub(super) async fn travel(&self) {
        let time = self.lock().travel_time();
        sleep(time).await;
    }

    /// A message of this relay travels to the stream. One of a burst arrives right behind the one
    /// before it.
    pub(super) async fn travel_to_stream(&self, life: usize, is_behind: bool) {
        let arrives = {
            let mut state = self.lock();
            let time = state.travel_time();
            let arrives = &mut state.lives[life].arrives;
            *arrives = match is_behind {
                true => *arrives + Duration::from_millis(1),
                false => Instant::now() + time,
            };
            *arrives
        };
        tokio::time::sleep_until(arrives).await;
    }
}

impl State {
    fn travel_time(&mut self) -> Duration {
        Duration::from_millis(match self.weather.slow > Instant::now() {
            true => self.random.random_range(1..1500),
            false => self.random.random_range(1..8),
        })
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Notes what happened, for the comparison of two runs.
    pub(super) fn note(&mut self, what: &str, who: usize) {
        (what, who, self.began.elapsed().as_millis()).hash(&mut self.trace);
        if std::env::var_os("OUTBOXD_SIMULATE_TRACE").is_some() {
            println!("{:>9.3} {who:>3} {what}", self.began.elapsed().as_secs_f64());
        }
    }

    /// The whole history in one number.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn now_ms(&self) -> i64 {
        BEGAN_MS
            + i64::try_from(self.began.elapsed().as_millis())
                .expect("a simulation of less than centuries")
    }

    /// The cluster's time, which rises with each call.
    pub(super) fn tick(&mut self) -> Timestamp {
        self.increment += 1;
        Timestamp {
            time: u32::try_from(self.now_ms() / 1000).expect("a time before 2106"),
            increment: self.increment,
        }
    }

    /// Whether nothing is left that will ever be delivered.
    pub(super) fn is_drained(&self) -> bool {
        self.rows.is_empty() && self.left_scheduled().is_empty()
    }

    /// When the newest change was committed.
    pub(super) fn newest_change(&self) -> Timestamp {
        self.changes.last().map_or(Timestamp { time: 0, increment: 0 }, |(at, _)| *at)
    }

    /// Keeps the outbox as it is now, for stale reads.
    pub(super) fn remember(&mut self) {
        if matches!(self.lie, Some(Lie::Stale | Lie::Torn)) {
            self.past.push(self.rows.clone());
        }
    }

    /// The outbox as a read shows it.
    pub(super) fn shown(&mut self) -> BTreeMap<u32, Row> {
        let past = self.past.len();
        match self.lie {
            Some(Lie::Stale) if past > 0 => {
                self.past[past - 1 - self.random.random_range(0..past.min(6))].clone()
            }
            _ => self.rows.clone(),
        }
    }

    /// The locked events, the oldest first, as a list shows them.
    pub(super) fn locked(&mut self) -> Vec<u32> {
        let mut locked = of(&self.rows, |row| row.locked);
        if self.lie == Some(Lie::Torn) && self.past.len() > 3 {
            let middle = locked.get(locked.len() / 2).copied().unwrap_or(0);
            let past = of(&self.past[self.past.len() - 3], |row| row.locked);
            locked.retain(|number| *number >= middle || past.contains(number));
        }
        locked
    }

    /// An event leaves the outbox: the stream has it, or had it when the relay saw it there.
    pub(super) fn delete(&mut self, number: u32, life: usize) {
        let is_stored = self.log.values().any(|(_, stored)| *stored == number);
        if self.lie != Some(Lie::Ack) && !is_stored && !self.seen_stored.contains(&(life, number)) {
            self.wrong.push(format!("e{number} was deleted and is not in the stream"));
        }
        self.deleted.insert(number, Instant::now());
        self.rows.remove(&number);
        self.remember();
    }
}

/// The events that `which` wants, the oldest by `ts` first, as the server sorts them. A restored one
/// has a new `ts` and its old number.
pub(super) fn of(rows: &BTreeMap<u32, Row>, which: impl Fn(&Row) -> bool) -> Vec<u32> {
    let mut found: Vec<_> = rows.iter().filter(|(_, row)| which(row)).collect();
    found.sort_by_key(|(number, row)| (row.ts, **number));
    found.into_iter().map(|(number, _)| *number).collect()
}

//! Dispatch against a model of the outbox, in random order: what was read is offered late, what was decided is written
//! late, publishes fail, sweeps start over. The same invariants must hold in every order.

use std::collections::{BTreeMap, VecDeque};

use bson::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::outbox::record::Custody;
use crate::outbox::{Headers, Subject};

const LIMITS: DispatchConfig =
    DispatchConfig { max_in_flight: 4, max_buffered_events: 16, max_buffered_bytes: 1 << 20 };

fn key(number: u8) -> Key {
    Key::new(format!("k{number}")).expect("a short key")
}

fn record(seq: u32, key: Option<Key>, custody: Custody) -> OutboxRecord {
    OutboxRecord {
        id: EventId::string(format!("e{seq}")).expect("a short id"),
        ts: Timestamp { time: seq, increment: 0 },
        subject: Subject::new("a").expect("a subject"),
        key,
        payload: vec![0; 10],
        headers: Headers::default(),
        attempts: 0,
        custody,
    }
}

fn pending(seq: u32, key: Option<Key>, custody: Custody, origin: Origin) -> Pending {
    Pending { record: record(seq, key, custody), origin }
}

/// An event as the database has it. `due` is whether an unlocked one's wait is over.
#[derive(Debug, Clone)]
struct Row {
    key: Option<Key>,
    locked: bool,
    due: bool,
}

/// What the relay asked the database for and hasn't got yet.
#[derive(Debug)]
enum Write {
    Delete(u32),
    Mark(u32),
    Park(Park),
}

#[derive(Debug)]
enum Read {
    Due(Vec<Pending>),
    Stray(Vec<Pending>),
    Lane(Key, Vec<Pending>, Behind),
}

struct World {
    dispatch: Dispatch,
    rows: BTreeMap<u32, Row>,
    next_seq: u32,
    tail: VecDeque<Pending>,
    sweep: Option<VecDeque<Pending>>,
    sweeps: u64,
    in_flight: Vec<Dispatched>,
    writes: VecDeque<Write>,
    reads: VecDeque<Read>,
    ticking: bool,
    delivered: BTreeMap<u32, u32>,
}

fn seq_of(id: &EventId) -> u32 {
    id.to_string()[1..].parse().expect("ids are e and a number")
}

impl World {
    fn new() -> Self {
        Self {
            dispatch: Dispatch::new(LIMITS),
            rows: BTreeMap::new(),
            next_seq: 0,
            tail: VecDeque::new(),
            sweep: None,
            sweeps: 0,
            in_flight: Vec::new(),
            writes: VecDeque::new(),
            reads: VecDeque::new(),
            ticking: false,
            delivered: BTreeMap::new(),
        }
    }

    fn custody(row: &Row) -> Custody {
        match (row.locked, row.due) {
            (true, _) => Custody::Live,
            (false, true) => Custody::Unlocked { due_at_ms: 0 },
            (false, false) => Custody::Unlocked { due_at_ms: i64::MAX },
        }
    }

    fn insert(&mut self, number: u8) {
        let key = (number > 0).then(|| key(number));
        self.next_seq += 1;
        self.rows.insert(self.next_seq, Row { key: key.clone(), locked: true, due: false });
        self.tail.push_back(pending(self.next_seq, key, Custody::Live, Origin::Tail));
    }

    /// The stream broke: what it would have brought is found by the sweep.
    fn start_sweep(&mut self) {
        self.tail.clear();
        self.sweeps += 1;
        self.dispatch.sweep_began(self.sweeps);
        let origin = Origin::Sweep(self.sweeps);
        self.sweep = Some(
            self.rows.iter().map(|(seq, row)| pending(*seq, row.key.clone(), Self::custody(row), origin)).collect(),
        );
    }

    /// One event from the sweep, or from the tail once the sweep is over.
    fn follow(&mut self) {
        if self.dispatch.room() == 0 {
            return;
        }
        match &mut self.sweep {
            Some(page) => match page.pop_front() {
                Some(pending) => self.dispatch.offer(pending, 1),
                None => {
                    self.sweep = None;
                    self.dispatch.sweep_ended();
                }
            },
            None => {
                if let Some(pending) = self.tail.pop_front() {
                    self.dispatch.offer(pending, 1);
                }
            }
        }
    }

    fn publish(&mut self) {
        if let Some(dispatched) = self.dispatch.next() {
            let seq = seq_of(&dispatched.record.id);
            assert!(self.in_flight.len() < LIMITS.max_in_flight);
            assert!(!self.delivered.contains_key(&seq), "{seq} is published again after its ack");
            if let Some(key) = &dispatched.record.key {
                let busy = self.in_flight.iter().any(|other| other.record.key.as_ref() == Some(key));
                assert!(!busy, "two in flight of {key:?}");
                let earlier = self.rows.iter().find(|(other, row)| {
                    **other < seq && row.key.as_ref() == Some(key) && !self.delivered.contains_key(other)
                });
                assert!(earlier.is_none(), "{seq} leaves before {earlier:?}");
            }
            self.in_flight.push(dispatched);
        }
        for park in self.dispatch.take_parks() {
            self.writes.push_back(Write::Park(park));
        }
        while let Some(key) = self.dispatch.next_lane_read() {
            let mut events = Vec::new();
            let mut behind = Behind::Nothing;
            for (seq, row) in self.rows.iter().filter(|(_, row)| row.key.as_ref() == Some(&key) && !row.locked) {
                if !row.due {
                    behind = Behind::Held;
                    break;
                }
                if events.len() == 3 {
                    behind = Behind::More;
                    break;
                }
                events.push(pending(*seq, row.key.clone(), Self::custody(row), Origin::Retry));
            }
            self.reads.push_back(Read::Lane(key, events, behind));
        }
    }

    fn finish(&mut self, which: u8, ended: Ended) {
        if self.in_flight.is_empty() {
            return;
        }
        let dispatched = self.in_flight.swap_remove(usize::from(which) % self.in_flight.len());
        let seq = seq_of(&dispatched.record.id);
        self.dispatch.finished(dispatched, ended);
        match ended {
            Ended::Delivered => {
                *self.delivered.entry(seq).or_default() += 1;
                self.writes.push_back(Write::Delete(seq));
            }
            Ended::Failed => self.writes.push_back(Write::Mark(seq)),
            Ended::Abandoned => {}
        }
        for park in self.dispatch.take_parks() {
            self.writes.push_back(Write::Park(park));
        }
    }

    fn write(&mut self) {
        let Some(write) = self.writes.pop_front() else { return };
        match write {
            Write::Delete(seq) => {
                self.rows.remove(&seq);
                self.dispatch.settled(&record(seq, None, Custody::Live).id);
            }
            Write::Mark(seq) => {
                let row = self.rows.get_mut(&seq).expect("a failed event stays");
                (row.locked, row.due) = (false, false);
                self.dispatch.settled(&record(seq, None, Custody::Live).id);
            }
            Write::Park(park) => {
                for row in park.ids.iter().map(seq_of) {
                    let row = self.rows.get_mut(&row).expect("a parked event stays");
                    (row.locked, row.due) = (false, true);
                }
                self.dispatch.parked(&park);
            }
        }
    }

    fn tick(&mut self) {
        if self.ticking || self.dispatch.room() == 0 {
            return;
        }
        self.ticking = true;
        self.dispatch.tick_began();
        let mut heads = BTreeMap::new();
        let mut due = Vec::new();
        for (seq, row) in self.rows.iter().filter(|(_, row)| !row.locked) {
            let head = match &row.key {
                Some(key) => heads.insert(key.clone(), ()).is_none(),
                None => true,
            };
            if head && row.due {
                due.push(pending(*seq, row.key.clone(), Self::custody(row), Origin::Retry));
            }
        }
        due.truncate(self.dispatch.room());
        self.reads.push_back(Read::Due(due));
    }

    fn look_for_stray(&mut self) {
        if self.ticking || self.dispatch.room() == 0 || self.dispatch.is_sweeping() {
            return;
        }
        self.ticking = true;
        self.dispatch.tick_began();
        let locked = self.rows.iter().filter(|(_, row)| row.locked).take(self.dispatch.room());
        let stray = locked.map(|(seq, row)| pending(*seq, row.key.clone(), Custody::Live, Origin::Stray)).collect();
        self.reads.push_back(Read::Stray(stray));
    }

    fn answer(&mut self) {
        match self.reads.pop_front() {
            Some(Read::Stray(stray)) => {
                self.ticking = false;
                self.dispatch.stray_ended(stray);
            }
            Some(Read::Due(due)) => {
                self.ticking = false;
                self.dispatch.tick_ended(due);
            }
            Some(Read::Lane(key, events, behind)) => self.dispatch.lane_read(&key, events, behind),
            None => {}
        }
    }

    fn time_passes(&mut self) {
        self.rows.values_mut().for_each(|row| row.due = true);
    }

    fn step(&mut self, op: u8, which: u8) {
        match op % 16 {
            0..=2 => self.insert(which % 4),
            3..=5 => self.follow(),
            6..=7 => self.publish(),
            8..=9 => self.finish(which, Ended::Delivered),
            10 => self.finish(which, Ended::Failed),
            11..=12 => self.write(),
            13 => self.tick(),
            14 => self.answer(),
            _ => match which % 8 {
                0 if self.sweep.is_none() => self.start_sweep(),
                1 => self.finish(which, Ended::Abandoned),
                2..=3 => self.look_for_stray(),
                _ => self.time_passes(),
            },
        }
    }

    /// Every fault ends; everything must get out.
    fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.finish(0, Ended::Delivered);
        }
        while !self.writes.is_empty() {
            self.write();
        }
        // The next leadership finds what this one left.
        (self.dispatch, self.ticking) = (Dispatch::new(LIMITS), false);
        self.reads.clear();
        self.start_sweep();
        for _ in 0..self.rows.len() * 40 + 200 {
            self.time_passes();
            self.tick();
            self.answer();
            self.follow();
            self.publish();
            self.finish(0, Ended::Delivered);
            self.write();
        }
        assert!(self.rows.is_empty(), "stuck: {:?} in {:?}", self.rows, self.dispatch);
        assert!(self.delivered.values().all(|copies| *copies == 1), "{:?}", self.delivered);
        assert_eq!(self.delivered.len(), self.next_seq as usize);
        assert_eq!((self.dispatch.unsettled(), self.dispatch.buffered, self.dispatch.buffered_bytes), (0, 0, 0));
        assert_eq!(self.dispatch.twins.remembered(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_key_leaves_in_order_once_whatever_fails(ops in prop::collection::vec((any::<u8>(), any::<u8>()), 0..400)) {
        let mut world = World::new();
        for (op, which) in ops {
            world.step(op, which);
            prop_assert!(world.dispatch.buffered <= LIMITS.max_buffered_events + MAX_LANE_READS * LANE_READ);
        }
        world.drain();
    }
}

#[test]
fn one_event_of_a_key_is_in_flight_and_others_pass_it() {
    let mut dispatch = Dispatch::new(LIMITS);
    for (seq, number) in [(1, 1), (2, 1), (3, 2)] {
        dispatch.offer(pending(seq, Some(key(number)), Custody::Live, Origin::Tail), 0);
    }
    let first = dispatch.next().expect("the head of k1");
    assert_eq!(seq_of(&first.record.id), 1);
    assert_eq!(dispatch.next().map(|next| seq_of(&next.record.id)), Some(3));
    assert!(dispatch.next().is_none(), "k1 has one in flight");
    dispatch.finished(first, Ended::Delivered);
    assert_eq!(dispatch.next().map(|next| seq_of(&next.record.id)), Some(2));
}

#[test]
fn what_comes_behind_a_failure_is_parked() {
    let mut dispatch = Dispatch::new(LIMITS);
    dispatch.offer(pending(1, Some(key(1)), Custody::Live, Origin::Tail), 0);
    dispatch.offer(pending(2, Some(key(1)), Custody::Live, Origin::Tail), 0);
    let head = dispatch.next().expect("the head");
    dispatch.finished(head, Ended::Failed);
    dispatch.offer(pending(3, Some(key(1)), Custody::Live, Origin::Tail), 0);
    let parked: Vec<u32> = dispatch.take_parks().iter().flat_map(|park| park.ids.iter().map(seq_of)).collect();
    assert_eq!(parked, [2, 3]);
    assert!(dispatch.next().is_none());
}

#[test]
fn intake_stops_at_each_bound() {
    let mut by_count = Dispatch::new(DispatchConfig { max_buffered_events: 2, ..LIMITS });
    let mut by_bytes = Dispatch::new(DispatchConfig { max_buffered_bytes: 2 * (OVERHEAD + 10), ..LIMITS });
    for dispatch in [&mut by_count, &mut by_bytes] {
        dispatch.offer(pending(1, None, Custody::Live, Origin::Tail), 0);
        assert!(dispatch.room() > 0);
        dispatch.offer(pending(2, None, Custody::Live, Origin::Tail), 0);
        assert_eq!(dispatch.room(), 0);
    }
}

#[test]
fn an_event_found_twice_is_published_once() {
    let mut dispatch = Dispatch::new(LIMITS);
    dispatch.offer(pending(1, None, Custody::Live, Origin::Tail), 0);
    dispatch.offer(pending(1, None, Custody::Live, Origin::Sweep(1)), 0);
    assert!(dispatch.next().is_some());
    assert!(dispatch.next().is_none());
}

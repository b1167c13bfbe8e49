//! Dispatch against a model of the outbox, in random order: what was read is offered late, what was
//! decided is written late, publishes fail, sweeps start over. The same invariants must hold in
//! every order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::stall::MAX_KEY_READS;
use super::tests::{LIMITS, key, record, seq_of, swept};
use super::*;
use crate::config::OnDead;
use crate::relay::dispatch::debt::{Debt, Unmarked};
use crate::relay::dispatch::known::{Origin, RawId};
use crate::relay::dispatch::read::{Behind, Read as Token};
use crate::relay::ports::Next;
use std::time::Duration;

/// An event as the database has it. `due` is whether an unlocked one's wait is over.
#[derive(Debug, Clone)]
struct Row {
    key: Option<Key>,
    locked: bool,
    due: bool,
    /// Whether it doesn't follow the contract.
    malformed: bool,
    dead: bool,
}

/// What the relay asked the database for and hasn't got yet.
#[derive(Debug)]
enum Write {
    Delete(u32),
    Mark(u32, Unmarked, Next),
    Park(Park),
}

/// What a read makes of a row.
#[derive(Debug)]
enum Found {
    Event(Pending),
    Malformed(u32),
}

#[derive(Debug)]
enum Read {
    Due(Token, Vec<Found>),
    Stray(Token, Vec<Found>),
    Lane(Key, Token, Vec<Pending>, Behind),
}

/// How a publish ends.
#[derive(Clone, Copy)]
enum Ended {
    Delivered,
    Failed,
    Abandoned,
}

struct World {
    dispatch: Dispatch,
    rows: BTreeMap<u32, Row>,
    next_seq: u32,
    on_dead: OnDead,
    tail: VecDeque<Found>,
    sweep: Option<VecDeque<Found>>,
    sweeps: u64,
    in_flight: Vec<Dispatched>,
    writes: VecDeque<Write>,
    reads: VecDeque<Read>,
    ticking: bool,
    delivered: BTreeMap<u32, u32>,
    /// Keys of which a write was refused in this leadership.
    blocked: BTreeSet<Key>,
}

impl World {
    fn new(on_dead: OnDead) -> Self {
        Self {
            dispatch: swept(DispatchConfig { on_dead, ..LIMITS }),
            on_dead,
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
            blocked: BTreeSet::new(),
        }
    }

    fn pending(seq: u32, row: &Row, origin: Origin) -> Pending {
        let state = match row {
            Row { dead: true, .. } => State::Dead,
            Row { locked: true, .. } => State::Locked,
            Row { .. } => State::Failed,
        };
        let mut record = record(seq, row.key.clone(), state);
        record.due_at_ms = if row.due { 0 } else { i64::MAX };
        Pending { record: record.into(), origin, committed_ms: None }
    }

    fn found((seq, row): (&u32, &Row), origin: Origin) -> Found {
        match row.malformed {
            true => Found::Malformed(*seq),
            false => Found::Event(Self::pending(*seq, row, origin)),
        }
    }

    fn insert(&mut self, number: u8, malformed: bool) {
        let key = (number > 0).then(|| key(number));
        self.next_seq += 1;
        let row = Row { key, locked: true, due: false, malformed, dead: false };
        self.tail.push_back(Self::found((&self.next_seq, &row), Origin::Tail));
        self.rows.insert(self.next_seq, row);
    }

    /// The stream broke: what it would have brought is found by the sweep.
    fn start_sweep(&mut self) {
        self.tail.clear();
        self.sweeps += 1;
        self.dispatch.sweep_began(self.sweeps);
        let origin = Origin::Sweep(self.sweeps);
        self.sweep = Some(self.rows.iter().map(|row| Self::found(row, origin)).collect());
    }

    /// One event from the sweep, or from the tail once the sweep is over.
    fn follow(&mut self) {
        if self.dispatch.room().is_none() {
            return;
        }
        let found = match &mut self.sweep {
            Some(page) => match page.pop_front() {
                Some(found) => Some(found),
                None => {
                    self.sweep = None;
                    return self.dispatch.sweep_ended();
                }
            },
            None => self.tail.pop_front(),
        };
        match found {
            Some(Found::Event(pending)) => self.dispatch.offer(pending, 1),
            Some(Found::Malformed(seq)) => self.malformed(seq),
            None => {}
        }
    }

    /// As the pump does.
    fn malformed(&mut self, seq: u32) {
        let row = &self.rows[&seq];
        if row.dead {
            return self.dispatch.hold_dead(row.key.as_ref());
        }
        let id = RawId::new(&bson::Bson::Int64(seq.into()));
        if let Some(Debt { unmarked, .. }) = self.dispatch.hold_malformed(id, row.key.clone()) {
            self.writes.push_back(Write::Mark(seq, unmarked, Next::Dead));
        }
    }

    fn publish(&mut self) {
        if let Some(dispatched) = self.dispatch.next() {
            let seq = seq_of(&dispatched.record.id);
            assert!(self.in_flight.len() < LIMITS.max_in_flight);
            assert!(!self.delivered.contains_key(&seq), "{seq} is published again after its ack");
            if let Some(key) = &dispatched.record.key {
                let busy =
                    self.in_flight.iter().any(|other| other.record.key.as_ref() == Some(key));
                assert!(!busy, "two in flight of {key:?}");
                let earlier = self.rows.iter().find(|(other, row)| {
                    let skipped = (row.dead || row.malformed) && self.on_dead == OnDead::Skip;
                    let passed = self.delivered.contains_key(other) || skipped;
                    **other < seq && row.key.as_ref() == Some(key) && !passed
                });
                assert!(earlier.is_none(), "{seq} leaves before {earlier:?}");
            }
            self.in_flight.push(dispatched);
        }
        for park in self.dispatch.take_parks() {
            self.writes.push_back(Write::Park(park));
        }
        while let Some((key, token)) = self.dispatch.begin_key_read() {
            let mut events = Vec::new();
            let mut behind = Behind::Nothing;
            for (seq, row) in
                self.rows.iter().filter(|(_, row)| row.key.as_ref() == Some(&key) && !row.locked)
            {
                if row.dead && self.on_dead == OnDead::Skip {
                    continue;
                }
                if !row.due || row.dead || row.malformed {
                    behind = Behind::Held;
                    break;
                }
                if events.len() == 3 {
                    behind = Behind::More;
                    break;
                }
                events.push(Self::pending(*seq, row, Origin::Retry));
            }
            self.reads.push_back(Read::Lane(key, token, events, behind));
        }
    }

    fn finish(&mut self, which: u8, ended: Ended, dies: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let dispatched = self.in_flight.swap_remove(usize::from(which) % self.in_flight.len());
        let seq = seq_of(&dispatched.record.id);
        match ended {
            Ended::Delivered => {
                self.dispatch.delivered(dispatched);
                *self.delivered.entry(seq).or_default() += 1;
                self.writes.push_back(Write::Delete(seq));
            }
            Ended::Failed => {
                let (_, Debt { unmarked, behind }) = self.dispatch.failed(dispatched);
                let next = if dies { Next::Dead } else { Next::RetryAfter(Duration::ZERO) };
                self.writes.push_back(Write::Mark(seq, unmarked, next));
                self.writes.extend(behind.map(Write::Park));
            }
            Ended::Abandoned => self.dispatch.abandoned(dispatched),
        }
        for park in self.dispatch.take_parks() {
            self.writes.push_back(Write::Park(park));
        }
    }

    /// The server refuses to touch the document: nothing more of its key is parked, as in `settle`.
    fn refuse(&mut self) {
        match self.writes.pop_front() {
            Some(Write::Mark(_, unmarked, _)) => {
                self.blocked.extend(unmarked.key.clone());
                self.dispatch.mark_refused(&unmarked);
            }
            Some(Write::Park(park)) => {
                self.blocked.insert(park.key.clone());
                self.park(park);
            }
            Some(delete) => self.writes.push_front(delete),
            None => {}
        }
    }

    fn park(&mut self, park: Park) {
        if self.blocked.contains(&park.key) {
            return park.ids.iter().for_each(|id| self.dispatch.park_refused(&park.key, id));
        }
        for row in park.ids.iter().map(seq_of) {
            let row = self.rows.get_mut(&row).expect("a parked event stays");
            (row.locked, row.due) = (false, true);
        }
        self.dispatch.parked(&park);
    }

    fn write(&mut self) {
        let Some(write) = self.writes.pop_front() else { return };
        match write {
            Write::Delete(seq) => {
                self.rows.remove(&seq);
                self.dispatch.deleted(&record(seq, None, State::Locked).id);
            }
            Write::Mark(seq, unmarked, next) => {
                let row = self.rows.get_mut(&seq).expect("a failed event stays");
                (row.locked, row.due, row.dead) = (false, false, row.dead || next == Next::Dead);
                self.dispatch.mark_written(&unmarked, next);
            }
            Write::Park(park) => self.park(park),
        }
    }

    fn tick(&mut self) {
        if self.ticking || self.dispatch.room().is_none() {
            return;
        }
        self.ticking = true;
        let token = self.dispatch.begin_read();
        let mut heads = BTreeMap::new();
        let mut due = Vec::new();
        let unlocked = |row: &Row| !(row.locked || row.dead && self.on_dead == OnDead::Skip);
        for row in self.rows.iter().filter(|(_, row)| unlocked(row)) {
            let head = match &row.1.key {
                Some(key) => heads.insert(key.clone(), ()).is_none(),
                None => true,
            };
            if head && row.1.due && !row.1.dead {
                due.push(Self::found(row, Origin::Retry));
            }
        }
        due.truncate(self.dispatch.room().events);
        self.reads.push_back(Read::Due(token, due));
    }

    fn look_for_stray(&mut self) {
        if self.ticking || self.dispatch.room().is_none() || !self.dispatch.has_swept() {
            return;
        }
        self.ticking = true;
        let token = self.dispatch.begin_read();
        let locked =
            self.rows.iter().filter(|(_, row)| row.locked).take(self.dispatch.room().events);
        let stray = locked.map(|row| Self::found(row, Origin::SafetySweep)).collect();
        self.reads.push_back(Read::Stray(token, stray));
    }

    fn answer(&mut self) {
        match self.reads.pop_front() {
            Some(Read::Stray(token, found)) => {
                self.ticking = false;
                for found in found {
                    match found {
                        Found::Event(pending) => {
                            _ = self.dispatch.offer_passed_over(&token, pending)
                        }
                        Found::Malformed(seq) => self.malformed(seq),
                    }
                }
                self.dispatch.end_read(token);
            }
            Some(Read::Due(token, found)) => {
                self.ticking = false;
                let mut due = Vec::new();
                for found in found {
                    match found {
                        Found::Event(pending) => due.push(pending),
                        Found::Malformed(seq) => self.malformed(seq),
                    }
                }
                self.dispatch.end_due_read(token, due);
            }
            Some(Read::Lane(key, token, events, behind)) => {
                self.dispatch.end_key_read(&key, token, events, behind);
            }
            None => {}
        }
    }

    fn time_passes(&mut self) {
        self.rows.values_mut().for_each(|row| row.due = true);
    }

    fn step(&mut self, op: u8, which: u8) {
        match op % 16 {
            0..=2 => self.insert(which % 4, which >= 250),
            3..=5 => self.follow(),
            6..=7 => self.publish(),
            8..=9 => self.finish(which, Ended::Delivered, false),
            10 => self.finish(which, Ended::Failed, which.is_multiple_of(8)),
            11..=12 if which >= 253 => self.refuse(),
            11..=12 => self.write(),
            13 => self.tick(),
            14 => self.answer(),
            _ => match which % 8 {
                0 if self.sweep.is_none() => self.start_sweep(),
                1 => self.finish(which, Ended::Abandoned, false),
                2..=3 => self.look_for_stray(),
                _ => self.time_passes(),
            },
        }
    }

    /// Every fault ends; everything must get out.
    fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.finish(0, Ended::Delivered, false);
        }
        while !self.writes.is_empty() {
            self.write();
        }
        // The next leadership finds what this one left.
        let on_dead = self.on_dead;
        (self.dispatch, self.ticking) =
            (Dispatch::new(DispatchConfig { on_dead, ..LIMITS }), false);
        self.reads.clear();
        self.blocked.clear();
        self.start_sweep();
        for _ in 0..self.rows.len() * 40 + 200 {
            self.time_passes();
            self.tick();
            self.answer();
            self.follow();
            self.publish();
            self.finish(0, Ended::Delivered, false);
            self.write();
        }
        let dead = |seq: &u32, row: &Row| {
            let behind = |(other, before): (&u32, &Row)| {
                before.dead
                    && (other == seq || (row.key.is_some() && row.key == before.key && other < seq))
            };
            row.dead || (on_dead == OnDead::Hold && self.rows.iter().any(behind))
        };
        let stuck: Vec<_> = self.rows.iter().filter(|(seq, row)| !dead(seq, row)).collect();
        assert!(stuck.is_empty(), "stuck: {stuck:?} in {:?}", self.dispatch);
        assert!(self.delivered.values().all(|copies| *copies == 1), "{:?}", self.delivered);
        assert_eq!(self.delivered.len() + self.rows.len(), self.next_seq as usize);
        assert_eq!(
            (self.dispatch.unsettled(), self.dispatch.buffered, self.dispatch.buffered_bytes),
            (0, 0, 0)
        );
        assert_eq!(self.dispatch.known.remembered(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_key_leaves_in_order_once_whatever_fails(
        ops in prop::collection::vec((any::<u8>(), any::<u8>()), 0..400),
        on_dead in prop::sample::select(vec![OnDead::Hold, OnDead::Skip]),
    ) {
        let mut world = World::new(on_dead);
        for (op, which) in ops {
            world.step(op, which);
            prop_assert!(world.dispatch.buffered <= LIMITS.max_buffered_events + MAX_KEY_READS * KEY_READ.events);
        }
        world.drain();
    }
}

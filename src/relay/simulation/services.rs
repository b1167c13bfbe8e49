//! What the services do: they commit events, one at a time and in bursts, and some transactions
//! touch the events that they have just inserted.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::sleep;

use super::world::{Change, Row, State, World, document};
use crate::config::OnDead;

/// Subjects of the services.
pub(super) const SUBJECTS: u8 = 3;
/// Numbers of events that are withdrawn begin here: those are never committed.
const WITHDRAWN: u32 = 1_000_000;

/// Services commit so many events.
pub(super) async fn commit(world: World, events: u32) {
    let mut left = events;
    while left > 0 {
        let wait = {
            let mut state = world.lock();
            let burst =
                if state.chance(0.1) { state.random.random_range(5..25) } else { 1 }.min(left);
            left -= burst;

            let mut committed = 0;
            while committed < burst {
                committed += state.transaction(burst - committed);
            }
            state.random.random_range(1..600)
        };

        world.changed.notify_waiters();
        sleep(Duration::from_millis(wait)).await;
    }
}

impl State {
    /// A service commits some events, at most as many as it may. Returns how many.
    fn transaction(&mut self, most: u32) -> u32 {
        let touches = self.chance(0.3);
        let events = if touches { self.random.random_range(1..6).min(most) } else { 1 };
        let mut changes = Vec::new();
        let mut touched = Vec::new();

        for _ in 0..events {
            let number = u32::try_from(self.committed.len()).expect("few events") + 1;
            let row = self.row();
            let insert = |row: &Row| Change::Insert(number, document(number, row));

            let kind = if touches { self.random.random_range(0..6) } else { 0 };
            match kind {
                // It is inserted as another event than it is committed.
                1 | 2 => {
                    let first = Row { ts: row.ts, ..self.row() };
                    changes.push(insert(&first));
                    touched.push(Change::Update(number));
                }
                3 => {
                    let first = self.row();
                    changes.extend([insert(&first), Change::Delete(number), insert(&row)]);
                }
                4 => self.withdraw(&mut changes, &mut touched),
                _ => {}
            }

            if !matches!(kind, 1..=3) {
                changes.push(insert(&row));
            }

            if row.malformed && self.on_dead == OnDead::Skip {
                self.excused.insert(number);
            }
            self.committed.insert(number, row.key);
            self.subjects.insert(number, row.subject);
            self.rows.insert(number, row);
        }

        if touches {
            self.count("transactions that touch their events");
        }

        let at = self.tick();
        changes.extend(touched);
        self.changes.extend(changes.into_iter().map(|change| (at, change)));
        self.remember();
        events
    }

    /// An event that its transaction deletes again, now or after everything else.
    fn withdraw(&mut self, changes: &mut Vec<Change>, touched: &mut Vec<Change>) {
        self.count("events withdrawn");
        let number = WITHDRAWN + u32::try_from(self.changes.len() + changes.len()).expect("few");
        let row = self.row();
        changes.push(Change::Insert(number, document(number, &row)));

        match self.chance(0.5) {
            true => changes.extend([Change::Update(number), Change::Delete(number)]),
            false => touched.push(Change::Delete(number)),
        }
    }

    /// An event of some key.
    fn row(&mut self) -> Row {
        let key = self.random.random_range(0..=self.keys);
        Row {
            key: (key > 0).then_some(key),
            ts: self.tick(),
            subject: self.random.random_range(0..SUBJECTS),
            locked: true,
            attempts: 0,
            due_ms: None,
            dead: false,
            discard: false,
            malformed: self.chance(0.03),
            cursed: self.chance(0.02),
            marks: BTreeSet::new(),
        }
    }
}

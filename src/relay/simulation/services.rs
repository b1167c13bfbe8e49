//! What the services do: they commit events, one at a time and in bursts, and some transactions
//! touch the events that they have just inserted.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::sleep;

use super::row::{Row, document};
use super::world::{Change, Committed, State, World};
use crate::config::OnDead;

/// Subjects of the services.
pub(super) const SUBJECTS: u8 = 3;
/// Numbers of events that are withdrawn begin here: those are never committed.
const WITHDRAWN: u32 = 1_000_000;

/// A transaction that is not committed yet.
struct Open {
    /// What it did, in this order.
    changes: Vec<Change>,
    rows: Vec<(u32, Row)>,
}

/// Services commit so many events. Some transactions stay open while others are committed.
pub(super) async fn commit(world: World, events: u32) {
    let (mut left, mut open) = (events, VecDeque::new());
    while left > 0 || !open.is_empty() {
        let wait = {
            let mut state = world.lock();
            let burst =
                if state.chance(0.1) { state.random.random_range(5..25) } else { 1 }.min(left);
            left -= burst;

            let mut begun = 0;
            while begun < burst {
                let transaction = state.begin(burst - begun);
                begun += u32::try_from(transaction.rows.len()).expect("few events");

                if state.chance(0.1) {
                    state.count("transactions open for long");
                    open.push_back(transaction);
                } else {
                    state.commit(transaction);
                }
            }

            let is_time = left == 0 || state.chance(0.3);
            if is_time && let Some(late) = open.pop_front() {
                state.commit(late);
            }
            state.random.random_range(1..600)
        };

        world.changed.notify_waiters();
        sleep(Duration::from_millis(wait)).await;
    }
}

impl State {
    /// A service inserts some events, at most as many as it may.
    fn begin(&mut self, most: u32) -> Open {
        let touches = self.chance(0.3);
        let events = if touches { self.random.random_range(1..6).min(most) } else { 1 };
        let mut changes = Vec::new();
        let mut touched = Vec::new();
        let mut rows = Vec::new();

        for _ in 0..events {
            self.inserted += 1;
            let number = self.inserted;
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
            rows.push((number, row));
        }

        if touches {
            self.count("transactions that touch their events");
        }
        changes.extend(touched);
        Open { changes, rows }
    }

    /// What the transaction did is seen by others.
    fn commit(&mut self, transaction: Open) {
        let at = self.tick();
        for (number, row) in transaction.rows {
            if row.malformed && self.on_dead == OnDead::Skip {
                self.excused.insert(number);
            }

            let (key, subject, begun) = (row.key, row.subject, row.ts.increment);
            let committed = Committed { key, subject, begun, at: at.increment };
            self.committed.insert(number, committed);
            self.rows.insert(number, row);

            // The id was used before, or is used by another outbox.
            if self.chance(0.04) {
                self.count("message ids of another event");
                self.occupy_id(number);
            }
        }

        self.changes.extend(transaction.changes.into_iter().map(|change| (at, change)));
        self.remember();
    }

    /// An event that its transaction deletes again, now or after everything else.
    fn withdraw(&mut self, changes: &mut Vec<Change>, touched: &mut Vec<Change>) {
        self.count("events withdrawn");
        self.withdrawn += 1;
        let number = WITHDRAWN + self.withdrawn;
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
        let (ts, subject) = (self.tick(), self.random.random_range(0..SUBJECTS));
        Row {
            malformed: self.chance(0.03),
            cursed: self.chance(0.02),
            ..Row::new((key > 0).then_some(key), ts, subject)
        }
    }
}

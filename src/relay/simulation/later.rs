//! What the services do with scheduled events: they schedule, reschedule and cancel, around the time
//! at which the events are due.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::sleep;

use super::row::Row;
use super::transactions::Later;
use super::world::{State, World};

/// Numbers of scheduled events begin here.
const SCHEDULED: u32 = 2_000_000;

/// Services schedule so many events.
pub(super) async fn schedule(world: World, events: u32) {
    for number in SCHEDULED..SCHEDULED + events {
        let (wait, touches, life) = {
            let mut state = world.lock();
            state.schedule(number);
            let touches = state.chance(0.5);
            let after = Duration::from_millis(state.random.random_range(0..15_000));
            (state.random.random_range(0..600), touches, after)
        };
        world.changed.notify_waiters();
        if touches {
            tokio::spawn(touch(world.clone(), number, life));
        }
        sleep(Duration::from_millis(wait)).await;
    }
}

/// A transaction that changes one scheduled event, after a while. It may stay open, and be rolled
/// back.
async fn touch(world: World, number: u32, after: Duration) {
    sleep(after).await;
    let (transaction, cancels, open) = {
        let mut state = world.lock();
        let now_ms = state.server_ms();
        if state.scheduled.is_held(number, None) {
            // A service begins again; this one gives up.
            return state.count("changes of scheduled events that conflict");
        }
        let transaction = state.scheduled.begin(now_ms);
        let Some(later) = state.scheduled.later.get_mut(&number) else {
            state.count("cancels that come too late");
            return state.scheduled.end(transaction);
        };
        later.held = Some(transaction);
        let open = if state.chance(0.2) { state.random.random_range(0..8000) } else { 3 };
        (transaction, state.chance(0.6), Duration::from_millis(open))
    };
    sleep(open).await;

    let mut state = world.lock();
    if state.chance(0.2) {
        state.count("changes of scheduled events rolled back");
    } else if cancels {
        state.scheduled.later.remove(&number);
        state.scheduled.cancelled.insert(number);
        state.count("scheduled events cancelled");
    } else {
        state.reschedule(number);
    }
    state.scheduled.end(transaction);
    world.changed.notify_waiters();
}

impl State {
    fn schedule(&mut self, number: u32) {
        let due_ms = self.due_time();
        let key = self.random.random_range(0..=self.keys);
        let (ts, subject) = (self.tick(), self.random.random_range(0..super::services::SUBJECTS));
        let row = Row {
            malformed: self.chance(0.03),
            cursed: self.chance(0.02),
            ..Row::new((key > 0).then_some(key), ts, subject)
        };
        let (undated, refused) = (self.chance(0.03), self.chance(0.03));
        let version = self.scheduled.version();
        let later = Later { row, due_ms, version, held: None, undated, refused };
        self.scheduled.later.insert(number, later);
        self.scheduled.rung.push(if undated { i64::MIN } else { due_ms });
        self.count("events scheduled");
    }

    fn reschedule(&mut self, number: u32) {
        let (due_ms, version) = (self.due_time(), self.scheduled.version());
        if let Some(later) = self.scheduled.later.get_mut(&number) {
            (later.due_ms, later.version) = (due_ms, version);
            self.scheduled.rung.push(due_ms);
            self.count("scheduled events rescheduled");
        }
    }

    /// Some are due at the same time, and some were long ago.
    fn due_time(&mut self) -> i64 {
        let now_ms = self.server_ms();
        match self.random.random_range(0..4) {
            0 => now_ms - self.random.random_range(0..3_600_000),
            1 => (now_ms + 2000) / 4000 * 4000,
            _ => now_ms + self.random.random_range(0..20_000),
        }
    }

    /// What was not delivered though it should have been, once all is over.
    pub(super) fn left_scheduled(&self) -> Vec<String> {
        let left = self.scheduled.later.iter().filter(|(_, later)| {
            let is_event = !later.undated && !later.refused && !later.row.malformed;
            is_event || !later.row.dead
        });
        left.map(|(number, later)| format!("e{number} is left scheduled: {later:?}")).collect()
    }
}

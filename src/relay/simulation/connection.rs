//! A connection to the database, over a network that loses requests and replies, and delivers some
//! long after their sender has given up.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::world::{State, World};
use crate::relay::ports::{StoreError, StoreErrorKind, StoreResult};
use crate::relay::shared::SharedStream;

/// How long a client waits for a reply that doesn't come.
const NO_REPLY: Duration = Duration::from_secs(2);

/// A connection of one life of a relay to the database.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) world: World,
    pub(super) life: usize,
    /// The stream that the outboxes of its daemon share, if they do.
    pub(super) shared: Option<SharedStream>,
}

/// What becomes of a command.
#[derive(Debug)]
enum Fate {
    Done,
    Refused,
    RequestLost,
    ReplyLost,
    /// It reaches the server when its sender has given up.
    Late(Duration),
}

impl Store {
    /// A command: what it does happens at once and whole, or not at all.
    pub(super) async fn command<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> StoreResult<T> {
        let Self { world, life, .. } = self;
        world.alive(*life).await;
        world.travel().await;
        let fate = {
            let mut state = world.lock();
            state.note(name, *life);
            let lossy = if state.weather.lossy > Instant::now() { 0.15 } else { 0.003 };
            if state.weather.mongodb_away > Instant::now() {
                Fate::Refused
            } else if !state.chance(lossy) {
                Fate::Done
            } else {
                match state.random.random_range(0..3) {
                    0 => Fate::RequestLost,
                    1 => Fate::ReplyLost,
                    _ => Fate::Late(Duration::from_millis(state.random.random_range(1..8000))),
                }
            }
        };

        self.trace(|| format!("{name}: {fate:?}"));
        match fate {
            Fate::Done => {
                let done = run(&mut world.lock());
                world.travel().await;
                world.alive(*life).await;
                return Ok(done);
            }
            Fate::Refused => world.lock().count("commands refused"),
            Fate::RequestLost => world.lock().count("commands lost"),
            Fate::ReplyLost => {
                let mut state = world.lock();
                run(&mut state);
                state.count("replies lost");
            }
            Fate::Late(by) => {
                let world = world.clone();
                tokio::spawn(async move {
                    sleep(NO_REPLY + by).await;
                    let mut state = world.lock();
                    run(&mut state);
                    state.count("commands that came late");
                });
            }
        }

        if !matches!(fate, Fate::Refused) {
            sleep(NO_REPLY).await;
        }
        world.alive(*life).await;
        Err(StoreError::new(StoreErrorKind::Connection, "no reply"))
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("OUTBOXD_SIMULATE_TRACE").is_some() {
            println!(
                "{:>9.3} {:>3} {}",
                self.world.lock().began.elapsed().as_secs_f64(),
                self.life,
                what()
            );
        }
    }
}

//! The stream that the outbox shares with a neighbour in the same daemon. The neighbour's follower comes
//! and goes, reads nothing for long times, and its events fill the buffers.

use std::time::Duration;

use bson::{RawArrayBuf, RawDocumentBuf, Timestamp, rawdoc};
use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::connection::Store;
use super::follow::{TAIL_PAGE, outbox, shown, watched};
use super::world::{Lie, World};
use crate::relay::ports::shared::{ChangeSource, ChangeStream, Watched};
use crate::relay::ports::{EventTail, StoreError, StoreErrorKind, StoreResult};
use crate::relay::shared::SharedStream;

/// Bytes of an event of the neighbour, at most.
const LARGE: usize = 1000;

pub(super) fn neighbour() -> Watched {
    watched("neighbour")
}

/// The shared stream of a life of a relay, and the neighbour that shares it.
pub(super) fn share(world: &World, life: usize) -> Option<SharedStream> {
    let room = {
        let mut state = world.lock();
        if !state.shares {
            return None;
        }
        state.random.random_range(1 << 10..8 << 10)
    };

    let store = Store { world: world.clone(), life, shared: None };
    let shared = SharedStream::with_room(Source(store), room);
    tokio::spawn(follow(world.clone(), life, shared.clone()));
    Some(shared)
}

/// The neighbour's follower: it joins, takes some changes or none, and joins again.
async fn follow(world: World, life: usize, shared: SharedStream) {
    loop {
        let (takes, idle, away) = {
            let random = &mut world.lock().random;
            (random.random_range(0..20), random.random_range(0..8000), random.random_range(0..9000))
        };

        if let Ok(Some(mut share)) = shared.join(neighbour()).await {
            world.lock().count("neighbours that joined");
            sleep(Duration::from_millis(idle)).await;
            for _ in 0..takes {
                match share.changes().await {
                    Ok(_) => world.alive(life).await,
                    Err(error) => {
                        if error.kind == StoreErrorKind::Behind {
                            world.lock().count("neighbours that fell behind");
                        }
                        break;
                    }
                }
            }
        }

        world.alive(life).await;
        sleep(Duration::from_millis(away)).await;
    }
}

/// Opens the shared stream of a life of a relay.
pub(super) struct Source(pub(super) Store);

/// The changes from one on.
pub(super) struct Stream {
    store: Store,
    next: usize,
    cuts: u32,
    began: Timestamp,
    has_outbox: bool,
    has_neighbour: bool,
    /// Whether the newest page ended with a change.
    is_at_change: bool,
}

impl ChangeSource for Source {
    type Stream = Stream;

    async fn open(
        &self,
        watched: &[Watched],
        from: Option<&(usize, Timestamp)>,
    ) -> StoreResult<Option<Stream>> {
        let from = from.copied();
        let (next, cuts, began) = self
            .0
            .command("shared stream", move |state| {
                let newest = state.changes.len();
                match from {
                    Some((next, began)) => {
                        state.count("shared streams opened again");
                        let next = if state.lie == Some(Lie::Gap) { newest } else { next };
                        (next, state.cuts, began)
                    }
                    None => (newest, state.cuts, state.tick()),
                }
            })
            .await?;

        let [has_outbox, has_neighbour] =
            [outbox(), neighbour()].map(|collection| watched.contains(&collection));
        let store = self.0.clone();
        Ok(Some(Stream {
            store,
            next,
            cuts,
            began,
            has_outbox,
            has_neighbour,
            is_at_change: false,
        }))
    }
}

impl EventTail for Stream {
    type Page = RawArrayBuf;

    async fn next(&mut self) -> StoreResult<Option<RawArrayBuf>> {
        self.store.await_change(self.next).await;

        let mut state = self.store.world.lock();
        if state.cuts != self.cuts || state.weather.mongodb_away > Instant::now() {
            state.count("shared streams ended");
            return Err(StoreError::unexpected("the stream was cut"));
        }

        let wall = bson::DateTime::from_millis(state.now_ms());
        let mut page = RawArrayBuf::new();
        let mut changes = 0;
        self.is_at_change = false;
        while changes < TAIL_PAGE && self.next < state.changes.len() {
            let at = state.changes[self.next].0;
            if self.has_neighbour && state.chance(0.4) {
                let bytes = state.random.random_range(0..LARGE);
                page.push(of_neighbour(at, bytes));
            } else {
                let change = shown(&mut state, self.next, wall);
                self.next += 1;
                if !self.has_outbox {
                    continue;
                }
                page.push(change);
                self.is_at_change = true;
            }
            changes += 1;
        }

        Ok(Some(page))
    }

    fn may_be_cut(&self, changes: usize, _bytes: usize) -> bool {
        changes >= TAIL_PAGE
    }
}

impl ChangeStream for Stream {
    type Place = (usize, Timestamp);

    fn began(&self) -> Timestamp {
        self.began
    }

    fn place(&self) -> (usize, Timestamp) {
        (self.next, self.began)
    }

    fn may_drop(&self) -> bool {
        !self.is_at_change
    }
}

fn of_neighbour(at: Timestamp, bytes: usize) -> RawDocumentBuf {
    rawdoc! {
        "operationType": "insert",
        "clusterTime": at,
        "ns": neighbour().namespace(),
        "txnNumber": 1_i64,
        "documentKey": { "_id": "another" },
        "fullDocument": { "_id": "another", "payload": "x".repeat(bytes) },
    }
}

//! The changes that a follower has not taken yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::RawArrayBuf;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::relay::clock;
use crate::relay::ports::{StoreError, StoreErrorKind, StoreResult};

/// Bytes that a part takes besides its changes.
const OVERHEAD: usize = 128;

/// The changes of one collection in one page of the stream.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) changes: RawArrayBuf,
    /// Whether the page may end within the transaction of the last of them.
    pub(super) is_cut: bool,
}

impl Part {
    fn bytes(&self) -> usize {
        self.changes.as_bytes().len() + OVERHEAD
    }
}

/// The bytes in all buffers.
pub(super) type Held = Arc<AtomicUsize>;

/// Filled by the reader, emptied by one follower.
#[derive(Debug)]
pub(super) struct Buffer {
    state: Mutex<State>,
    filled: Notify,
    held: Held,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Part>,
    bytes: usize,
    /// Why there will be no more.
    ended: Option<StoreError>,
}

impl Buffer {
    pub(super) fn new(held: Held) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), held }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    pub(super) fn fill(&self, part: Part) {
        let bytes = part.bytes();
        let mut state = self.lock();
        state.bytes += bytes;
        state.parts.push_back(part);
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.filled.notify_one();
    }

    /// Lets go of the changes: the follower has to sweep.
    pub(super) fn overflow(&self) {
        let behind = "this outbox is read more slowly than it is written, or stands still";
        self.end(StoreError::new(StoreErrorKind::Behind, behind));
    }

    /// What is left isn't handed over any more.
    pub(super) fn end(&self, error: StoreError) {
        let mut state = self.lock();
        self.held.fetch_sub(state.bytes, Ordering::Relaxed);
        *state = State { ended: Some(error), ..State::default() };
        self.filled.notify_one();
    }

    /// The oldest part, once there is one. `None` if nothing changed for so long.
    pub(super) async fn take(&self, wait: Duration) -> StoreResult<Option<Part>> {
        let deadline = clock::beat(Instant::now() + wait, wait);
        loop {
            {
                let mut state = self.lock();
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
                if let Some(part) = state.parts.pop_front() {
                    let bytes = part.bytes();
                    state.bytes -= bytes;
                    self.held.fetch_sub(bytes, Ordering::Relaxed);
                    return Ok(Some(part));
                }
            }
            if timeout_at(deadline, self.filled.notified()).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

//! One change stream for many outboxes.
//!
//! A change stream reads the whole oplog, whatever it wants of it. So the outboxes of a daemon share
//! one, and its changes are handed out by their namespace:
//!
//! ```text
//!                                   ┌─▶ buffer ─▶ Share ─▶ follower of one outbox
//!   change stream ─ page ─▶ reader ─┤
//!                                   └─▶ buffer ─▶ Share ─▶ follower of another
//! ```
//!
//! **The reader waits for nobody.** What a follower has not taken yet is in its buffer. All buffers
//! together have a bound. When it is reached, the fullest buffer is emptied, and its follower sweeps
//! again: an outbox that is slow, or stands still, holds up no other.
//!
//! **Joining leaves no gap and brings nothing twice.** A follower joins before it lists: from then on
//! its changes are collected. The list that follows shows what a majority has by then, and the stream has
//! shown nothing else before: whatever is not collected is in the list, or has left the outbox. From
//! what is collected, the changes up to the time of the list are left out. A list that was cut is
//! followed by another, and the follower joins again before that: the buffer has to last for one
//! round, not for a sweep.
//!
//! **A stream ends for all, and begins for whoever joins.** After an error every follower sweeps
//! again. A collection that the stream doesn't have yet is added by opening it again at the place
//! where it is; the others lose nothing. One that nobody wants any more is left out when that costs
//! nothing: see [`ChangeStream::may_drop`](crate::relay::ports::shared::ChangeStream::may_drop).
//!
//! - [`reader`]: reads the stream and hands out
//! - [`buffer`]: what a follower has not taken yet
//! - [`share`]: the follower's side; [`Joined`] and [`Tail`]: an outbox's own stream, or a share

mod buffer;
mod reader;
mod share;

use tokio::sync::{mpsc, oneshot};

use self::reader::{Ask, Reader};
pub(crate) use self::share::{Joined, Share, Tail};
use super::ports::shared::{ChangeSource, Watched};
use super::ports::{StoreError, StoreResult};

/// Requests to join that wait for the reader. More wait for their turn.
const ASKS: usize = 64;
/// Bytes in all buffers. Forty thousand typical events: what the busiest outbox that was measured
/// inserts in two seconds, while the list of a nearly empty one takes some milliseconds. Two replies
/// of the server's largest size fit, so a large transaction alone makes nobody sweep.
const BUFFERED: usize = 32 << 20;

/// A handle of the shared stream. The stream is open while anybody follows.
#[derive(Debug, Clone)]
pub(crate) struct SharedStream {
    asks: mpsc::Sender<Ask>,
}

impl SharedStream {
    /// Reads on a task of its own, which ends with the last handle.
    pub(crate) fn new(source: impl ChangeSource) -> Self {
        Self::with_room(source, BUFFERED)
    }

    /// With so many bytes in all buffers.
    pub(crate) fn with_room(source: impl ChangeSource, buffered: usize) -> Self {
        let (asks, asked) = mpsc::channel(ASKS);
        tokio::spawn(Reader::new(source, asked, buffered).run());
        Self { asks }
    }

    /// Collects the changes of a collection from now on. `None` if the user has no right to the
    /// stream.
    ///
    /// # Errors
    /// When the stream can't be opened.
    pub(crate) async fn join(&self, watched: Watched) -> StoreResult<Option<Share>> {
        let (answer, answered) = oneshot::channel();
        let ended = || StoreError::unexpected("the reader of the shared change stream ended");
        self.asks.send(Ask { watched, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

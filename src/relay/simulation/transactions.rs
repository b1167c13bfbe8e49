//! The scheduled events in memory, and the transactions that hold some of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::row::Row;

/// How long the server keeps a transaction whose client is gone.
const LIFETIME: Duration = Duration::from_secs(60);

/// An event as the collection of the scheduled ones has it.
#[derive(Debug, Clone)]
pub(super) struct Later {
    pub(super) row: Row,
    pub(super) due_ms: i64,
    /// It changes with each write: a transaction that began before can't write it.
    pub(super) version: u64,
    /// The transaction that has deleted it, and has not ended.
    pub(super) held: Option<u64>,
    /// `deliverAt` is no date.
    pub(super) undated: bool,
    /// The outbox never takes it.
    pub(super) refused: bool,
}

/// A transaction that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// Until when the server keeps it.
    pub(super) until: Instant,
    /// The newest version that it sees.
    pub(super) version: u64,
    /// The server's clock when it read.
    pub(super) now_ms: i64,
}

/// The scheduled events and what is under way with them.
#[derive(Debug, Default)]
pub(super) struct Scheduled {
    pub(super) later: BTreeMap<u32, Later>,
    pub(super) open: BTreeMap<u64, Open>,
    pub(super) transactions: u64,
    pub(super) versions: u64,
    /// The due times that were written, in their order.
    pub(super) rung: Vec<i64>,
    /// The transaction of the newest mover.
    pub(super) newest: Option<u64>,
    /// By how much the server's clock has been set.
    pub(super) clock_ms: i64,
    /// Those that were taken back, which nothing may move after that.
    pub(super) cancelled: BTreeSet<u32>,
}

impl Scheduled {
    pub(super) fn version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Ends a transaction, and what the server keeps no longer.
    pub(super) fn end(&mut self, transaction: u64) {
        let now = Instant::now();
        self.open.retain(|number, open| *number != transaction && open.until > now);
        let open = &self.open;
        for later in self.later.values_mut() {
            later.held = later.held.filter(|by| open.contains_key(by));
        }
    }

    pub(super) fn is_open(&self, transaction: u64) -> bool {
        self.open.get(&transaction).is_some_and(|open| open.until > Instant::now())
    }

    /// Begins a transaction of whoever.
    pub(super) fn begin(&mut self, now_ms: i64) -> u64 {
        self.transactions += 1;
        let open = Open { until: Instant::now() + LIFETIME, version: self.versions, now_ms };
        self.open.insert(self.transactions, open);
        self.transactions
    }

    /// Whether another transaction than this one holds the event.
    pub(super) fn is_held(&self, number: u32, by: Option<u64>) -> bool {
        let held = self.later.get(&number).and_then(|later| later.held);
        held.is_some_and(|held| Some(held) != by && self.is_open(held))
    }
}

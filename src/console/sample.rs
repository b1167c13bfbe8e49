//! What was last seen of an outbox and its relay, for every page that shows them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokio::time::Instant;

use crate::finding::Finding;
use crate::operator::flow::Flow;
use crate::operator::groups::Remedied;
use crate::operator::look::Look;

/// What was last seen of an outbox.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// How many samples were taken before.
    pub(super) number: u64,
    pub(super) taken: Option<Instant>,
    /// Time of day in UTC of `look`.
    pub(super) at: String,
    /// What MongoDB last answered; older than the sample if there is a `problem`.
    pub(super) look: Option<Look>,
    /// Why MongoDB did not answer this time.
    pub(super) problem: Option<String>,
    /// What the relay reports about itself, or why nothing is known of that.
    pub(super) flow: Option<Result<Flow, String>>,
    /// The relay's answer to `/readyz`.
    pub(super) ready: Option<Value>,
    /// What the last check found.
    pub(super) findings: Option<Arc<[Finding]>>,
    pub(super) history: VecDeque<Arc<Point>>,
    /// This sample as a part of a page, made once however many watch.
    pub(super) card: OnceLock<Arc<str>>,
    /// With buttons, and without them for viewers.
    pub(super) groups: [OnceLock<Arc<str>>; 2],
}

/// One sample in the charts.
#[derive(Debug, Default)]
pub(super) struct Point {
    /// Events a second.
    pub(super) published: f64,
    /// Seconds from commit to ack, 99th percentile.
    pub(super) latency: f64,
    pub(super) backlog: f64,
    /// Events of each group, by its id.
    pub(super) groups: HashMap<String, u64>,
}

impl Live {
    /// This sample in the charts.
    pub(super) fn point(&self) -> Point {
        let flow = self.flow.as_ref().and_then(|flow| flow.as_ref().ok());
        let groups = self.look.iter().flat_map(|look| &look.groups);
        Point {
            published: flow.and_then(|flow| flow.published).unwrap_or(0.0),
            latency: flow.and_then(|flow| flow.latency).map_or(0.0, |(_, p99)| p99),
            backlog: self.look.as_ref().map_or(0.0, |look| look.stats.backlog as f64),
            groups: groups.map(|Remedied { group, .. }| (group.id.clone(), group.events)).collect(),
        }
    }

    /// How bad it is, for the order of the outboxes: the larger, the worse.
    pub(super) fn badness(&self) -> u64 {
        let Some(Look { stats, .. }) = self.look.as_ref().filter(|_| self.problem.is_none()) else {
            return u64::MAX;
        };

        let is_led = stats.lease.as_ref().is_some_and(|lease| lease.expires_in_seconds >= 0);
        let unled = if is_led { 0 } else { 1 << 60 };
        let stuck = (stats.dead + stats.failed + stats.parked).min(1 << 40) << 16;
        unled + stuck + stats.oldest_seconds.unwrap_or(0).min(1 << 15)
    }
}

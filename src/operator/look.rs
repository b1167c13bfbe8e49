//! A look at an outbox for whoever watches it: the numbers and the groups, or why there are none.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::groups::Remedied;
use crate::duration::for_people;
use crate::error::{Error, MongodbContext, Result};
use crate::mongodb::inspect::{Holder, Inspect};
use crate::mongodb::selection::Selection;
use crate::mongodb::stats::Stats;

/// Longest wait for MongoDB before it is reported that it does not answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How old the groups may be while the numbers of stuck events stay the same, and none fails again.
const GROUPED: Duration = Duration::from_secs(60);

/// What MongoDB answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    pub(crate) stats: Stats,
    pub(crate) groups: Vec<Remedied>,
    /// Events in smaller groups than those.
    pub(crate) left_out: u64,
    /// When the groups were read.
    pub(crate) grouped: Option<Instant>,
}

impl Look {
    /// Whether the groups are those of an outbox with these numbers, too.
    fn has_groups_of(&self, stats: &Stats) -> bool {
        let numbers = |stats: &Stats| (stats.failed, stats.parked, stats.dead, stats.failed_at);
        let is_young = self.grouped.is_some_and(|grouped| grouped.elapsed() < GROUPED);
        is_young && numbers(&self.stats) == numbers(stats)
    }
}

/// Asks MongoDB for the numbers, and for the groups unless those of `before` are right still; the
/// error is one sentence.
pub(crate) async fn look(inspect: &Inspect, before: Option<&Look>) -> Result<Look, String> {
    // In a task of its own: a command whose future is dropped costs its connection.
    let (inspect, before) = (inspect.clone(), before.cloned());
    let answer = tokio::spawn(async move {
        let stats = inspect.stats().await.during("reading the outbox")?;
        if let Some(before) = before.filter(|before| before.has_groups_of(&stats)) {
            return Ok(Look { stats, ..before });
        }

        let grouped = Some(Instant::now());
        let (groups, left_out) = match stats.failed + stats.dead {
            0 => (Vec::new(), 0),
            _ => Remedied::read(&inspect, &Selection::default(), stats.parked > 0).await?,
        };
        Ok::<_, Error>(Look { stats, groups, left_out, grouped })
    });

    match timeout(PATIENCE, answer).await {
        Ok(Ok(Ok(look))) => Ok(look),
        Ok(Ok(Err(error))) => Err(error.report().to_string()),
        Ok(Err(_)) | Err(_) => Err("MongoDB does not answer".to_owned()),
    }
}

/// Which relay leads; as an error when none does.
pub(crate) fn relayed_by(lease: Option<&Holder>) -> Result<String, String> {
    let Some(lease) = lease else {
        return Err("NO RELAY has ever run on this outbox; start `outboxd run`".to_owned());
    };

    let Holder { holder, term, expires_in_seconds } = lease;
    let apart = for_people(Duration::from_secs(expires_in_seconds.unsigned_abs()));
    match expires_in_seconds {
        _ if !lease.is_a_relays() => Err(format!(
            "NO RELAY is known to lead: the lease of {holder} ends in {apart}, longer than any \
             relay's; a running relay takes it over"
        )),
        0.. => Ok(format!("relayed by {holder}, term {term}")),
        _ => Err(format!("NO RELAY: the lease of {holder} ended {apart} ago; start `outboxd run`")),
    }
}

//! The outbox in numbers, as an operator sees it.

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use serde::Serialize;

use super::bounded::{QUERY_TIME, small};
use super::chosen::last_tried_of_document;
use super::clock;
use super::inspect::{Holder, Inspect, TOO_LARGE, count};
use super::later::Later;
use super::selection::Selection;
use crate::document::state::{self, State};
use crate::document::written::written_at_of_document;
use crate::printable::printable;

/// Most subjects in [`Stats`].
const SUBJECTS: usize = 20;
/// Characters shown of a subject.
const MAX_SHOWN_SUBJECT: usize = 255;

/// The outbox in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Stats {
    /// Everything in it; from the collection's metadata.
    pub(crate) backlog: u64,
    pub(crate) locked: u64,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    /// Age of the oldest event that is not dead; see [`BacklogStore::oldest`].
    pub(crate) oldest_seconds: Option<u64>,
    /// When an event was last marked with a failure; not for people.
    #[serde(skip)]
    pub(crate) failed_at: Option<DateTime>,
    /// Stuck events by subject, those with the most failures first.
    pub(crate) stuck_by_subject: Vec<Stuck>,
    /// `None` where the user may not read the scheduled events.
    pub(crate) scheduled: Option<Later>,
    pub(crate) lease: Option<Holder>,
}

/// The stuck events of a subject.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stuck {
    pub(crate) subject: String,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    /// For how long events of this subject have been stuck: since the first of those counted here,
    /// dead ones included. `None` when the age of none is known.
    pub(crate) oldest_seconds: Option<u64>,
}

impl Inspect {
    /// The outbox in numbers. Reads what is unlocked, and a few documents of the rest.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let now = clock::now(&self.database).await?;
        let mut stats = Stats::default();

        let (each, by_subject) = self.stuck_by_subject();
        let stuck = Selection::default();
        let groups = self.find(&stuck, now, |_| vec![each.clone()], &by_subject, QUERY_TIME);
        let mut groups = groups.await?;
        while let Some(group) = groups.try_next().await? {
            stats.failed_at = stats.failed_at.max(group.get_datetime("failedAt").ok().copied());
            let stuck = Stuck::read(&group, now);
            stats.failed += stuck.failed;
            stats.parked += stuck.parked;
            stats.dead += stuck.dead;

            if stats.stuck_by_subject.len() < SUBJECTS {
                stats.stuck_by_subject.push(stuck);
            }
        }

        stats.oldest_seconds = self.backlog.oldest(now).await?.and_then(|old| old.age_seconds);
        stats.backlog = self.backlog.size().await?;
        stats.scheduled = self.later.numbers(now).await?;
        let elsewhere = stats.scheduled.as_ref().map_or(0, |scheduled| scheduled.dead);
        let unlocked = stats.failed + stats.parked + stats.dead.saturating_sub(elsewhere);
        stats.locked = stats.backlog.saturating_sub(unlocked);
        stats.lease = self.holder(now).await?;

        Ok(stats)
    }

    /// Stages that count the stuck events of each subject by their state: one for each event, and
    /// what follows.
    fn stuck_by_subject(&self) -> (Document, [Document; 2]) {
        let count = |state: State| {
            let is = doc! { "$eq": ["$state", state.word()] };
            doc! { "$sum": { "$cond": [is, 1_i64, 0_i64] } }
        };

        let each = doc! { "$project": {
            "subject": small(self.layout.subject_of_document(), TOO_LARGE),
            "since": written_at_of_document(),
            "state": state::word_of_document(),
            "failedAt": last_tried_of_document(),
        } };
        let by_subject = [
            doc! { "$group": {
                "_id": "$subject",
                "failed": count(State::Failed),
                "parked": count(State::Parked),
                "dead": count(State::Dead),
                "oldest": { "$min": "$since" },
                "failedAt": { "$max": "$failedAt" },
            } },
            doc! { "$sort": { "failed": -1, "dead": -1, "parked": -1, "_id": 1 } },
        ];
        (each, by_subject)
    }
}

impl Stuck {
    fn read(group: &Document, now: DateTime) -> Self {
        let subject = group.get_str("_id").unwrap_or("(not a text)");
        let oldest = match group.get("oldest") {
            Some(Bson::Double(seconds)) => Some(*seconds as i64),
            other => other.and_then(Bson::as_i64),
        };

        Self {
            subject: printable(&subject.chars().take(MAX_SHOWN_SUBJECT).collect::<String>()),
            failed: count(group, "failed"),
            parked: count(group, "parked"),
            dead: count(group, "dead"),
            oldest_seconds: clock::age(oldest, now),
        }
    }
}

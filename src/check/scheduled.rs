//! The scheduled events: how many wait, and whether the relay moves them in time.

use std::time::Duration;

use mongodb::Database;

use super::ask::{ask, unknown};
use crate::config::Config;
use crate::duration::for_people;
use crate::finding::Finding;
use crate::mongodb::later::{Later, LaterStore};

const CHECK: &str = "outbox.scheduled";
/// What is due for longer than this isn't moved by any relay. A relay moves it within a second.
const LATE: Duration = Duration::from_secs(60);

/// What is found of them; nothing where the index is gone, which is a finding of its own.
pub(super) async fn look(
    config: &Config,
    database: &Database,
    at: &str,
    timeout: Duration,
) -> Option<Finding> {
    let (collection, layout) = (&config.mongodb.collection, config.event.layout.clone());
    let later = LaterStore::new(database, collection, layout);
    match ask(timeout, later.numbers_now()).await {
        Ok(Some(later)) if later.lacks_index => None,
        Ok(Some(later)) => Some(judge(&later, config.scheduled.enabled, at)),
        Ok(None) => {
            Some(Finding::ok(CHECK, at, "not checked: the user has no permission to read them"))
        }
        Err(no_answer) => Some(unknown(CHECK, at, &no_answer)),
    }
}

fn judge(later: &Later, is_enabled: bool, at: &str) -> Finding {
    let Later { events, dead, overdue, overdue_seconds, next_due_in_seconds, .. } = later;
    if *events > 0 && !is_enabled {
        let found = format!(
            "{events} events are scheduled, and no relay delivers them: scheduled.enabled is false"
        );
        return Finding::warn(CHECK, at, found, "environment: OUTBOXD_SCHEDULED__ENABLED=true");
    }

    let seconds = |seconds: u64| for_people(Duration::from_secs(seconds));
    if *overdue > 0 && *overdue_seconds > LATE.as_secs() {
        let first = later.most_overdue.as_deref().unwrap_or("(unreadable)");
        let found = format!(
            "{overdue} scheduled events are due, and no relay has moved them into the outbox; the \
             first, {first}, has been due for {}",
            seconds(*overdue_seconds)
        );
        return Finding::warn(CHECK, at, found, "$ outboxd stats   # whether a relay leads");
    }

    let next = next_due_in_seconds.map(|next| format!(", the next is due in {}", seconds(next)));
    let dead = match dead {
        0 => String::new(),
        dead => format!("; {dead} are dead: outboxd list --dead"),
    };
    Finding::ok(CHECK, at, format!("{events} wait{}{dead}", next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn lateness_and_a_setting_that_delivers_nothing_are_warned_of() {
        let later = |events, overdue, overdue_seconds| Later {
            events,
            overdue,
            overdue_seconds,
            ..Later::default()
        };
        for (later, is_enabled, level) in [
            (later(0, 0, 0), true, Level::Ok),
            (later(0, 0, 0), false, Level::Ok),
            (later(3, 0, 0), true, Level::Ok),
            (later(3, 1, 60), true, Level::Ok),
            (later(3, 1, 61), true, Level::Warn),
            (later(3, 0, 0), false, Level::Warn),
        ] {
            assert_eq!(judge(&later, is_enabled, "outbox").level, level, "{later:?}");
        }
    }
}

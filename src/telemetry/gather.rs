//! Alerts gather by group before they are posted: one post for each group and interval, with the
//! number of alerts.
//!
//! A group has one kind, one code and one normalised reason. Its first alert waits for [`GATHER`],
//! because events that fail alike fail together. `stuck` and `recovered` are one group, and so are
//! `overdue` and `on-time`: a post of theirs holds the newest, so what is posted last is true.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::alert::{Alert, Kind, Post};
use crate::group;

/// How long the first alert of a group waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Groups that are told apart. Alerts of further groups share one group for each kind: a hostile
/// writer can make each event fail for another reason.
const MOST: usize = 128;
/// The id of the group that further groups share.
const OTHERS: &str = "others";

/// What a post is about.
type Key = (Kind, String);

/// The posts that gather alerts.
#[derive(Debug)]
pub(super) struct Gathering {
    interval: Duration,
    groups: HashMap<Key, Group>,
}

#[derive(Debug, Default)]
struct Group {
    posted: Option<Instant>,
    next: Option<(Instant, Post)>,
}

impl Gathering {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, groups: HashMap::new() }
    }

    /// Adds an alert and its line in the alert log.
    pub(super) fn add(&mut self, alert: &Alert, line: &str, now: Instant) {
        let kind = alert.kind();
        let mut key = (family(kind), id(alert));
        if !self.groups.contains_key(&key) && self.is_full(now) {
            key.1 = OTHERS.to_owned();
        }

        let group = self.groups.entry(key.clone()).or_default();
        if let Some((_, post)) = &mut group.next {
            post.events += alert.events();
            if [Kind::Stuck, Kind::Overdue].contains(&key.0) {
                (post.kind, post.events, post.alert) = (kind, 1, parsed(line));
            }
            return;
        }

        let allowed = group.posted.map(|posted| posted + self.interval);
        let due = allowed.map_or(now + GATHER, |allowed| allowed.max(now + GATHER));
        let post = Post { kind, group: key.1, events: alert.events(), alert: parsed(line) };
        group.next = Some((due, post));
    }

    /// When the next post is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| Some(group.next.as_ref()?.0)).min()
    }

    /// The posts that are due, the oldest first.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Post> {
        self.take_if(now, |due| due <= now)
    }

    /// All posts, the oldest first: nothing gathers any more.
    pub(super) fn rest(&mut self) -> Vec<Post> {
        self.take_if(Instant::now(), |_| true)
    }

    fn take_if(&mut self, now: Instant, is_due: impl Fn(Instant) -> bool) -> Vec<Post> {
        let mut posts = Vec::new();
        for group in self.groups.values_mut() {
            if let Some(next) = group.next.take_if(|(due, _)| is_due(*due)) {
                group.posted = Some(now);
                posts.push(next);
            }
        }

        posts.sort_by_key(|(due, _)| *due);
        posts.into_iter().map(|(_, post)| post).collect()
    }

    /// Whether there is no room for another group. Forgets groups that may post again at once.
    fn is_full(&mut self, now: Instant) -> bool {
        if self.groups.len() >= MOST {
            let interval = self.interval;
            let is_recent = |posted: Instant| now.duration_since(posted) < interval;
            self.groups
                .retain(|_, group| group.next.is_some() || group.posted.is_some_and(is_recent));
        }
        self.groups.len() >= MOST
    }
}

fn family(kind: Kind) -> Kind {
    kind.ends().unwrap_or(kind)
}

/// The group's id: that of `outboxd groups` for an event that failed.
fn id(alert: &Alert) -> String {
    match alert {
        Alert::Failing(event) | Alert::Dead(event) => {
            group::id(&event.code, &group::reason(&event.error, event.key.as_deref()))
        }
        Alert::Unwritable { write, error, .. } => group::id(write, &group::reason(error, None)),
        Alert::Unsound { fault } => group::id(Kind::Unsound.as_str(), &group::reason(fault, None)),
        _ => group::id(family(alert.kind()).as_str(), ""),
    }
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| line.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::alert::RefusedEvent;

    fn dead(id: usize, error: &str) -> Alert {
        Alert::Dead(RefusedEvent {
            id: id.to_string(),
            subject: None,
            key: Some(format!("key{id}")),
            attempts: 1,
            class: "poison",
            code: "malformed".to_owned(),
            error: error.to_owned(),
            remedy: "correct it",
        })
    }

    fn add(gathering: &mut Gathering, alert: &Alert, now: Instant) {
        gathering.add(alert, &format!("{{\"kind\":{:?}}}", alert.kind().as_str()), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_posts_once_in_an_interval_with_the_number_of_its_alerts() {
        let (interval, begin) = (Duration::from_secs(60), Instant::now());
        let mut gathering = Gathering::new(interval);
        for id in 0..150 {
            add(&mut gathering, &dead(id, &format!("item {id} of key{id} is NaN")), begin);
        }
        add(&mut gathering, &dead(0, "no subject"), begin);
        assert!(gathering.take(begin).is_empty(), "they gather first");

        let first = begin + GATHER;
        assert_eq!(gathering.due(), Some(first));
        let mut posts = gathering.take(first);
        posts.sort_by_key(|post| post.events);
        assert_eq!(posts.iter().map(|post| post.events).collect::<Vec<_>>(), [1, 150]);
        assert_ne!(posts[0].group, posts[1].group);

        add(&mut gathering, &dead(7, "item 7 of key7 is NaN"), first);
        assert_eq!(gathering.due(), Some(first + interval));
        assert_eq!(gathering.rest().len(), 1, "nothing is left behind at the end");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_on_stuck_events_is_posted_last() {
        let now = Instant::now();
        let mut gathering = Gathering::new(Duration::from_secs(60));
        let stuck = || Alert::Stuck {
            oldest: crate::telemetry::alert::StuckEvent {
                id: "e".to_owned(),
                subject: None,
                key: None,
                attempts: 0,
                error: None,
            },
            oldest_seconds: 9,
            events: 3,
        };
        for alert in [stuck(), Alert::Recovered, stuck(), Alert::Recovered] {
            add(&mut gathering, &alert, now);
        }
        let posts = gathering.rest();
        assert_eq!(posts.len(), 1);
        assert_eq!(
            (posts[0].kind, &posts[0].alert["kind"]),
            (Kind::Recovered, &"recovered".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_without_end_take_bounded_memory_and_every_alert_is_counted() {
        let mut gathering = Gathering::new(Duration::from_secs(60));
        for id in 0..5000 {
            let letters: String =
                format!("{id}").bytes().map(|digit| char::from(digit + 49)).collect();
            add(&mut gathering, &dead(id, &letters), Instant::now());
        }
        let posts = gathering.rest();
        assert_eq!(posts.len(), MOST + 1);
        assert_eq!(posts.iter().map(|post| post.events).sum::<u64>(), 5000);

        // Groups that posted long ago make room for others.
        tokio::time::advance(Duration::from_secs(61)).await;
        add(&mut gathering, &dead(1, "another"), Instant::now());
        assert_ne!(gathering.rest()[0].group, OTHERS);
    }
}

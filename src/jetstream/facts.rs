//! What is known of a stream when it is judged: its configuration, what it holds, and the limits of
//! the server and the cluster around it.

use std::time::Duration;

use async_nats::jetstream::stream::{Config as Found, DiscardPolicy, Info, RetentionPolicy};

use crate::config::Config;
use crate::pattern::{any_covers, overlap};

/// A stream as found, with the settings that it has to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(super) found: &'a Found,
    pub(super) config: &'a Config,
    /// Messages in the stream.
    pub(super) messages: u64,
    /// Bytes of those messages.
    pub(super) bytes: u64,
    /// Whether the server is one of a cluster.
    pub(super) is_clustered: bool,
    /// The server's `max_payload`, in bytes.
    pub(super) max_payload: usize,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(info: &'a Info, config: &'a Config, max_payload: usize) -> Self {
        Self {
            found: &info.config,
            config,
            messages: info.state.messages,
            bytes: info.state.bytes,
            is_clustered: info.cluster.as_ref().is_some_and(|cluster| cluster.name.is_some()),
            max_payload,
        }
    }

    /// Subjects of `stream.subjects` that the stream does not take.
    pub(super) fn uncovered(&self) -> Vec<String> {
        let wanted = &self.config.stream.subjects;
        let is_uncovered = |subject: &&String| !any_covers(&self.found.subjects, subject);
        wanted.iter().filter(is_uncovered).cloned().collect()
    }

    /// Whether the whole stream has a limit of messages or bytes.
    pub(super) fn is_limited(&self) -> bool {
        self.found.max_messages > 0 || self.found.max_bytes > 0
    }

    /// Whether a full stream deletes old messages.
    pub(super) fn evicts_when_full(&self) -> bool {
        self.is_limited() && self.found.discard == DiscardPolicy::Old
    }

    /// Whether the limit of one subject deletes old messages: even with `discard: new`, unless
    /// `discard_new_per_subject` is set too.
    pub(super) fn evicts_per_subject(&self) -> bool {
        self.found.max_messages_per_subject > 0 && !self.refuses_per_subject()
    }

    pub(super) fn refuses_per_subject(&self) -> bool {
        let Found { max_messages_per_subject, discard, discard_new_per_subject, .. } = *self.found;
        max_messages_per_subject > 0 && discard == DiscardPolicy::New && discard_new_per_subject
    }

    /// Whether a stream with `discard: new` has no room for one more message of average size.
    pub(super) fn is_full(&self) -> bool {
        let reached = |limit: i64, needed: u64| {
            u64::try_from(limit).is_ok_and(|limit| limit > 0 && needed > limit)
        };
        let average = self.bytes / self.messages.max(1);
        self.found.discard == DiscardPolicy::New
            && (reached(self.found.max_messages, self.messages.saturating_add(1))
                || reached(self.found.max_bytes, self.bytes.saturating_add(average)))
    }

    /// A subject that begins with a wildcard, so that anybody's messages match it.
    pub(super) fn open_subject(&self) -> Option<&str> {
        let is_open = |subject: &&String| subject.starts_with(['*', '>']);
        self.found.subjects.iter().find(is_open).map(String::as_str)
    }

    /// A subject that takes replies, or what clients of NATS ask each other: the first with what it
    /// takes. Those of a bucket are its own.
    pub(super) fn taken_subject(&self) -> Option<(&str, &str)> {
        let inbox = format!("{}.>", self.config.nats.inbox_prefix);
        let taken = |subject: &str| {
            let overlaps = |other: &str| overlap(subject, other);
            if overlaps("_INBOX.>") || overlaps(&inbox) {
                Some("replies to everybody's requests")
            } else if overlaps("$SRV.>") {
                Some("the requests by which services are found")
            } else if subject.starts_with('$') && !self.is_bucket() {
                Some("subjects of NATS itself")
            } else {
                None
            }
        };

        // What begins with a wildcard has a row of its own.
        let named = self.found.subjects.iter().filter(|subject| !subject.starts_with(['*', '>']));
        named.map(String::as_str).find_map(|subject| Some((subject, taken(subject)?)))
    }

    /// The subjects that the settings name, for a line to paste.
    pub(super) fn wanted_subjects(&self) -> String {
        match self.config.stream.subjects.is_empty() {
            true => "<subject>,<subject>".to_owned(),
            false => self.config.stream.subjects.join(","),
        }
    }

    /// Whether the stream belongs to a key-value bucket or an object store.
    pub(super) fn is_bucket(&self) -> bool {
        self.found.name.starts_with("KV_") || self.found.name.starts_with("OBJ_")
    }

    /// The limits on messages and bytes, for people; empty when there are none.
    pub(super) fn limits(&self) -> String {
        let limits = [
            ("max_msgs", self.found.max_messages),
            ("max_bytes", self.found.max_bytes),
            ("max_msgs_per_subject", self.found.max_messages_per_subject),
        ];
        let limits = limits.into_iter().filter(|(_, limit)| *limit > 0);
        limits.map(|(name, limit)| format!("{name} {limit}")).collect::<Vec<_>>().join(", ")
    }

    /// How long an event without an answer may be sent again: the grace, then the wait of a relay
    /// that takes over, then one more try.
    pub(super) fn span(&self) -> Duration {
        span(self.config)
    }

    /// How long it must remember message ids.
    pub(super) fn needed_window(&self) -> Duration {
        needed_window(self.config)
    }

    /// The window that the remedies set.
    pub(super) fn wanted_window(&self) -> Duration {
        self.config.stream.duplicate_window.max(needed_window(self.config))
    }
}

fn span(config: &Config) -> Duration {
    config.retry.outage_grace + config.lease.ttl + config.nats.ack_timeout
}

/// How long a stream must remember message ids.
pub(crate) fn needed_window(config: &Config) -> Duration {
    span(config).max(config.retry.max_delay)
}

/// Whether the stream removes messages by itself soon after it has stored them.
pub(super) fn removes(config: &Found) -> bool {
    let is_new = config.discard == DiscardPolicy::New;
    let is_limited = config.max_messages > 0 || config.max_bytes > 0;
    let is_limited_per_subject = config.max_messages_per_subject > 0;

    config.retention != RetentionPolicy::Limits
        || is_limited && !is_new
        || is_limited_per_subject && !(is_new && config.discard_new_per_subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_removes_messages_by_itself() {
        let config = Found { max_messages: 1, ..Found::default() };
        let new = Found { discard: DiscardPolicy::New, ..config.clone() };
        let queue = Found { retention: RetentionPolicy::WorkQueue, ..Found::default() };
        let newest = Found { max_messages_per_subject: 1, ..new.clone() };
        let refuses = Found { discard_new_per_subject: true, ..newest.clone() };
        assert_eq!(
            [Found::default(), config, new, queue, newest, refuses].map(|config| removes(&config)),
            [false, true, false, true, true, false]
        );
    }
}

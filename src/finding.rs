//! A finding of `outboxd check`: what was checked, its state, and the lines that fix it.

use serde::Serialize;

/// The names of all checks. They don't change between releases.
pub const CHECKS: [&str; 41] = [
    "clock.mongodb",
    "clock.nats",
    "mongodb.auth",
    "mongodb.members",
    "mongodb.oplog",
    "mongodb.privileges",
    "mongodb.reachable",
    "mongodb.tls",
    "mongodb.topology",
    "mongodb.version",
    "mongodb.writes",
    "nats.auth",
    "nats.jetstream",
    "nats.privileges",
    "nats.reachable",
    "nats.replies",
    "nats.tls",
    "nats.version",
    "outbox.biggest_event",
    "outbox.collection",
    "outbox.expiry",
    "outbox.index",
    "outbox.kept",
    "outbox.migrations",
    "outbox.other_indexes",
    "outbox.sample",
    "outbox.scheduled",
    "outbox.subjects",
    "outbox.validators",
    "stream.accepts",
    "stream.as_configured",
    "stream.bursts",
    "stream.contents",
    "stream.dedupe",
    "stream.exists",
    "stream.leader",
    "stream.limits",
    "stream.replicas",
    "stream.retention",
    "stream.storage",
    "stream.subjects",
];

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// The relay works, at the risk of lost events, duplicates or unauthorized access.
    Warn,
    /// The relay does not work, or loses events.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// One of [`CHECKS`].
    pub(crate) check: &'static str,
    /// The server, outbox or stream that was checked.
    pub(crate) looked_at: String,
    /// The state that was found, as a sentence.
    pub(crate) found: String,
    /// Lines that fix it: for the shell (`$`), for mongosh (`mongosh>`) or for a file (`name:`).
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, looked_at: &str, found: impl Into<String>) -> Self {
        debug_assert!(CHECKS.contains(&check), "{check} is missing in CHECKS");

        Self {
            level: Level::Ok,
            check,
            looked_at: looked_at.to_owned(),
            found: found.into(),
            remedy: None,
        }
    }

    fn bad(
        level: Level,
        check: &'static str,
        at: &str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        debug_assert!(CHECKS.contains(&check), "{check} is missing in CHECKS");

        Self {
            level,
            check,
            looked_at: at.to_owned(),
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub(crate) fn warn(
        check: &'static str,
        looked_at: &str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(Level::Warn, check, looked_at, found, remedy)
    }

    pub(crate) fn fail(
        check: &'static str,
        looked_at: &str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(Level::Fail, check, looked_at, found, remedy)
    }
}

/// Quotes a word for a shell. Subjects come from documents, so they may hold any character.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A word in the place of an operand: behind `--` if a program would take it for an option.
pub(crate) fn operand(word: &str) -> String {
    match word.starts_with('-') {
        true => format!("-- {}", shell(word)),
        false => shell(word),
    }
}

/// An option with a value, in one word if a program would take the value for another option.
pub(crate) fn option(name: &str, value: &str) -> String {
    match value.starts_with('-') {
        true => format!("{name}={}", shell(value)),
        false => format!("{name} {}", shell(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_with_any_subject_can_be_pasted_into_a_shell() {
        assert_eq!(shell("a.b,ticket:made"), "a.b,ticket:made");
        assert_eq!(shell("a.>"), "'a.>'");
        assert_eq!((operand("a b").as_str(), operand("--all").as_str()), ("'a b'", "-- --all"));
        assert_eq!(option("--code", "--all"), "--code=--all");
        assert_eq!(option("--code", "$(x)"), "--code '$(x)'");
        assert_eq!(shell("a';reboot;'"), r"'a'\'';reboot;'\'''");
    }
}

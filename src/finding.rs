//! A finding: what was looked at, how it is, and the lines that fix it.

use std::time::Duration;

use serde::Serialize;

/// The names of all checks. They don't change between releases.
pub const CHECKS: [&str; 31] = [
    "clock.mongodb",
    "clock.nats",
    "mongodb.auth",
    "mongodb.oplog",
    "mongodb.privileges",
    "mongodb.reachable",
    "mongodb.tls",
    "mongodb.topology",
    "mongodb.version",
    "mongodb.writes",
    "nats.auth",
    "nats.jetstream",
    "nats.reachable",
    "nats.tls",
    "nats.version",
    "outbox.biggest_event",
    "outbox.index",
    "outbox.migrations",
    "outbox.sample",
    "outbox.subjects",
    "outbox.validators",
    "stream.accepts",
    "stream.as_configured",
    "stream.dedupe",
    "stream.exists",
    "stream.leader",
    "stream.limits",
    "stream.replicas",
    "stream.retention",
    "stream.storage",
    "stream.subjects",
];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// The relay works, but something may cost events, duplicates or safety.
    Warn,
    /// The relay doesn't work, or loses events.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// Its name, one of [`CHECKS`].
    pub(crate) check: &'static str,
    /// The server, outbox or stream that was looked at.
    pub(crate) looked_at: String,
    /// What was found, in words.
    pub(crate) found: String,
    /// What mends it: lines for the shell (`$`), mongosh (`mongosh>`) or a file (`name:`).
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

/// One word for a shell, whatever is in it: a subject is anybody's text.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A duration as the `nats` command takes it.
pub(crate) fn go_duration(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (secs, 0) if secs % 3600 == 0 && secs > 0 => format!("{}h", secs / 3600),
        (secs, 0) if secs % 60 == 0 && secs > 0 => format!("{}m", secs / 60),
        (secs, 0) => format!("{secs}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_can_be_pasted_whatever_a_subject_is() {
        assert_eq!(shell("a.b,ticket:made"), "a.b,ticket:made");
        assert_eq!(shell("a.>"), "'a.>'");
        assert_eq!(shell("a';reboot;'"), r"'a'\'';reboot;'\'''");
        assert_eq!(go_duration(Duration::from_secs(86_400)), "24h");
        assert_eq!(go_duration(Duration::from_secs(90)), "90s");
        assert_eq!(go_duration(Duration::from_millis(1500)), "1500ms");
    }
}

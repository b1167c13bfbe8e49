//! Whether the version of nats-server is supported, and what it lacks.

use crate::finding::Finding;

/// A cluster of older servers loses messages that it has acknowledged.
const OLDEST: (u64, u64, u64) = (2, 10, 0);
/// The first version of each maintained line with the latest security fixes.
const FIXED: [(u64, u64, u64); 2] = [(2, 11, 15), (2, 12, 6)];
/// The first version whose copies write several messages to disk at once.
const FAST_SYNC: (u64, u64, u64) = (2, 15, 0);
/// The remedy for an older version.
const UPGRADE: &str = "install: nats-server 2.11.15, 2.12.6 or later";

/// Judges the version of the server.
pub(super) fn look(at: &str, version: &str) -> Finding {
    const CHECK: &str = "nats.version";
    let found = parse(version);
    let fixed = if found >= (2, 12, 0) { FIXED[1] } else { FIXED[0] };

    if found < OLDEST {
        Finding::fail(
            CHECK,
            at,
            format!("{version} is too old: outboxd needs NATS 2.10 or newer"),
            UPGRADE,
        )
    } else if found < fixed {
        Finding::warn(
            CHECK,
            at,
            format!("{version} lacks security fixes of 2.11.15 and 2.12.6"),
            UPGRADE,
        )
    } else if found < FAST_SYNC {
        let found =
            format!("{version}; with sync_interval: always, NATS 2.15 is many times as fast");
        Finding::ok(CHECK, at, found)
    } else {
        Finding::ok(CHECK, at, version)
    }
}

fn parse(version: &str) -> (u64, u64, u64) {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part(), part(), part())
}

#[cfg(test)]
mod tests {
    use super::look;
    use crate::finding::Level;

    #[test]
    fn a_version_is_compared_with_the_fixes_of_its_line() {
        for (found, level) in [
            ("2.9.25", Level::Fail),
            ("2.10.26", Level::Warn),
            ("2.11.14", Level::Warn),
            ("2.11.15", Level::Ok),
            ("2.12.0", Level::Warn),
            ("2.12.6-RC.1", Level::Ok),
            ("2.15.2", Level::Ok),
        ] {
            assert_eq!(look("nats-server", found).level, level, "{found}");
        }
    }

    #[test]
    fn what_writing_to_disk_costs_is_said_of_versions_that_are_slow_at_it() {
        for (found, is_slow) in [("2.12.8", true), ("2.14.6", true), ("2.15.0", false)] {
            let said = look("nats-server", found).found.contains("sync_interval: always");
            assert_eq!(said, is_slow, "{found}");
        }
    }
}

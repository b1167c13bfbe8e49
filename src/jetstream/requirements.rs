//! Whether a stream can serve an outbox. `run`, `migrate` and `check` share these findings.

use std::time::Duration;

use async_nats::jetstream::stream::{Config as Found, DiscardPolicy, RetentionPolicy, StorageType};

use crate::config::Config;
use crate::duration::for_nats;
use crate::finding::{Finding, shell};

/// Checks whose failure prevents `run` from starting: the stream could store no event.
pub(crate) const REFUSED: [&str; 2] = ["stream.accepts", "stream.subjects"];

/// Checks everything in a stream's configuration that matters to an outbox.
pub(crate) fn review(found: &Found, config: &Config) -> Vec<Finding> {
    let at = format!("stream {}", found.name);
    let edit = |flags: String| format!("$ nats stream edit {} {flags}", shell(&found.name));
    vec![
        accepts(&at, found, &edit),
        subjects(&at, found, config, &edit),
        duplicate_window(&at, found, config, &edit),
        retention(&at, found, &edit),
        limits(&at, found, &edit),
        storage(&at, found),
        as_configured(&at, found, config, &edit),
    ]
}

fn accepts(at: &str, found: &Found, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.accepts";
    if found.no_ack {
        let text = "acknowledges no publish (no_ack), so no event could ever be deleted";
        return Finding::fail(CHECK, at, text, edit("--ack".to_owned()));
    }

    if found.sealed {
        let text = "is sealed for good and accepts no messages; name another stream";
        return Finding::fail(CHECK, at, text, "$ NATS_CLUSTER_ID=<another> outboxd migrate");
    }

    if let Some(origin) = &found.mirror {
        let remedy = format!("environment: NATS_CLUSTER_ID={}", shell(&origin.name));
        return Finding::fail(
            CHECK,
            at,
            "is a mirror and accepts no messages; name its origin",
            remedy,
        );
    }

    Finding::ok(CHECK, at, "accepts and acknowledges publishes")
}

fn subjects(at: &str, found: &Found, config: &Config, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.subjects";
    let wanted = config.stream.subjects.set().map_or(&[][..], Vec::as_slice);
    let uncovered: Vec<_> =
        wanted.iter().filter(|subject| !any_covers(&found.subjects, subject)).cloned().collect();

    match uncovered.first() {
        None => Finding::ok(CHECK, at, format!("accepts {}", found.subjects.join(", "))),
        Some(first) => {
            let text = format!(
                "has subjects {:?}, none of which covers {first:?} of stream.subjects; add it to \
                 the stream",
                found.subjects
            );

            // A kept subject must not overlap with a new one, as `a.b` would with `a.*`.
            let kept = found.subjects.iter().filter(|subject| !any_covers(&uncovered, subject));
            let all: Vec<_> = kept.chain(&uncovered).map(String::as_str).collect();
            Finding::fail(CHECK, at, text, edit(format!("--subjects {}", shell(&all.join(",")))))
        }
    }
}

/// How long an event without an answer may be sent again: the grace, then the wait of a relay that
/// takes over, then one more try.
fn span(config: &Config) -> Duration {
    config.retry.outage_grace + config.lease.ttl + config.nats.ack_timeout
}

/// How long a stream must remember message ids.
pub(crate) fn needed_window(config: &Config) -> Duration {
    span(config).max(config.retry.max_delay)
}

fn duplicate_window(
    at: &str,
    found: &Found,
    config: &Config,
    edit: &impl Fn(String) -> String,
) -> Finding {
    const CHECK: &str = "stream.dedupe";
    let window = found.duplicate_window;
    let shown = for_nats(window);
    let (ack, span) = (config.nats.ack_timeout, span(config));
    let wanted = config.stream.duplicate_window.max(needed_window(config));

    let mut flags = format!("--dupe-window {}", for_nats(wanted));
    if !found.max_age.is_zero() && found.max_age < wanted {
        flags.push_str(&format!(" --max-age {}", for_nats(wanted)));
    }

    if window < ack {
        let text = format!(
            "duplicate_window {shown} is shorter than nats.ack_timeout ({}): the first retry is \
             stored twice",
            for_nats(ack)
        );
        Finding::fail(CHECK, at, text, edit(flags))
    } else if window < span {
        let text = format!(
            "duplicate_window {shown} is shorter than retry.outage_grace, lease.ttl and \
             nats.ack_timeout together ({}): a retry after an outage may be stored twice",
            for_nats(span)
        );
        Finding::warn(CHECK, at, text, edit(flags))
    } else if window < config.retry.max_delay {
        let text = format!(
            "duplicate_window {shown} is shorter than retry.max_delay ({}): an event that was \
             stored and not acknowledged may be stored again",
            for_nats(config.retry.max_delay)
        );
        Finding::warn(CHECK, at, text, edit(flags))
    } else if !found.max_age.is_zero() && found.max_age < window {
        let text = format!(
            "max_age {} is shorter than duplicate_window {shown}: messages expire before the \
             window ends",
            for_nats(found.max_age)
        );
        Finding::warn(CHECK, at, text, edit(format!("--max-age {shown}")))
    } else {
        Finding::ok(CHECK, at, format!("duplicate_window {shown} outlasts every retry"))
    }
}

fn retention(at: &str, found: &Found, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.retention";
    match found.retention {
        RetentionPolicy::Limits => {
            Finding::ok(CHECK, at, "limits: messages stay for every consumer")
        }
        RetentionPolicy::Interest => {
            let text =
                "interest: an event that no consumer asks for yet is acked and dropped unseen";
            Finding::fail(CHECK, at, text, edit("--retention limits".to_owned()))
        }
        RetentionPolicy::WorkQueue => {
            let text = "workqueue: one consumer per subject gets an event, which is then deleted; \
                        retention can't be edited";
            Finding::warn(CHECK, at, text, recreate(found))
        }
    }
}

fn limits(at: &str, found: &Found, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.limits";
    let mut limits = Vec::new();
    for (name, limit) in [
        ("max_msgs", found.max_messages),
        ("max_bytes", found.max_bytes),
        ("max_msgs_per_subject", found.max_messages_per_subject),
    ] {
        if limit > 0 {
            limits.push(format!("{name} {limit}"));
        }
    }

    let limits = limits.join(", ");

    match found.discard {
        _ if limits.is_empty() => Finding::ok(CHECK, at, "no limit on messages or bytes"),
        DiscardPolicy::New => Finding::ok(
            CHECK,
            at,
            format!("{limits}, discard new: events wait in MongoDB when the stream is full"),
        ),
        DiscardPolicy::Old => {
            let text = format!(
                "{limits}, discard old: the oldest messages are deleted, even if a consumer hasn't \
                 read them"
            );
            Finding::warn(CHECK, at, text, edit("--discard new".to_owned()))
        }
    }
}

fn storage(at: &str, found: &Found) -> Finding {
    const CHECK: &str = "stream.storage";
    match found.storage {
        StorageType::File => Finding::ok(CHECK, at, "file"),
        StorageType::Memory => {
            let text =
                "memory: stored events are lost when the server restarts; storage can't be edited";
            Finding::warn(CHECK, at, text, recreate(found))
        }
    }
}

/// The remedy for a setting that can't be edited. The backup keeps the messages; consumers must be
/// recreated.
fn recreate(found: &Found) -> String {
    let name = shell(&found.name);
    format!("$ nats stream backup {name} backup-{name} && nats stream rm {name} && outboxd migrate")
}

/// Settings that are weaker than configured. A longer window or another copy does no harm.
fn as_configured(
    at: &str,
    found: &Found,
    config: &Config,
    edit: &impl Fn(String) -> String,
) -> Finding {
    const CHECK: &str = "stream.as_configured";
    let wanted = &config.stream;
    let (mut weak, mut flags) = (Vec::new(), Vec::new());
    let mut weaker = |name: &str, flag: &str, found: String, wanted: String| {
        weak.push(format!("{name} is {found}, but {wanted} is configured"));
        flags.push(format!("--{flag} {wanted}"));
    };

    if found.duplicate_window < wanted.duplicate_window {
        let (found, wanted) = (for_nats(found.duplicate_window), for_nats(wanted.duplicate_window));
        weaker("duplicate_window", "dupe-window", found, wanted);
    }

    if found.num_replicas < wanted.replicas {
        weaker("replicas", "replicas", found.num_replicas.to_string(), wanted.replicas.to_string());
    }

    if !found.max_age.is_zero() && (wanted.max_age.is_zero() || found.max_age < wanted.max_age) {
        weaker("max_age", "max-age", for_nats(found.max_age), for_nats(wanted.max_age));
    }

    match weak.is_empty() {
        true => Finding::ok(CHECK, at, "no weaker than configured"),
        false => Finding::warn(CHECK, at, weak.join("; "), edit(flags.join(" "))),
    }
}

/// Whether one of the patterns matches every subject that `subject` matches.
pub(crate) fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Whether `pattern` matches every subject that `subject`, which may have wildcards, matches.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }

    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_pattern_covers_the_subjects_that_the_server_would_route_to_it() {
        for (pattern, subject) in [
            ("*", "ticket:created"),
            (">", "a"),
            (">", "a.b.>"),
            ("a.*", "a.b"),
            ("a.>", "a.b.c"),
            ("a.b", "a.b"),
            ("a.*", "a.*"),
        ] {
            assert!(covers(pattern, subject), "{pattern} covers {subject}");
        }
        for (pattern, subject) in [
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a.>"),
            ("a.b", "a.*"),
            ("a.b", "a"),
            ("a", "a.b"),
            ("*", ">"),
            ("a.*", "b.c"),
        ] {
            assert!(!covers(pattern, subject), "{pattern} doesn't cover {subject}");
        }
    }
}

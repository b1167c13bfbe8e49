//! Whether a stream can serve an outbox: the one judgement that `run`, `migrate` and `check` share.

use std::time::Duration;

use async_nats::jetstream::stream::{Config as Found, DiscardPolicy, RetentionPolicy, StorageType};

use crate::config::Config;
use crate::finding::{Finding, go_duration, shell};

/// Findings that keep `run` from starting when they fail: with such a stream no event could be
/// delivered.
pub(crate) const REFUSED: [&str; 2] = ["stream.accepts", "stream.subjects"];

/// Looks at everything of a stream's configuration that matters to an outbox.
pub(crate) fn judge(found: &Found, config: &Config) -> Vec<Finding> {
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
        let said = "answers no publish (no_ack), so no event could ever be deleted";
        return Finding::fail(CHECK, at, said, edit("--ack".to_owned()));
    }
    if found.sealed {
        let said = "is sealed and takes no messages, which can't be undone; name another stream";
        return Finding::fail(CHECK, at, said, "$ NATS_CLUSTER_ID=<another> outboxd migrate");
    }
    if let Some(origin) = &found.mirror {
        let remedy = format!("environment: NATS_CLUSTER_ID={}", shell(&origin.name));
        return Finding::fail(
            CHECK,
            at,
            "is a mirror and takes no messages; name its origin",
            remedy,
        );
    }
    Finding::ok(CHECK, at, "takes publishes and acknowledges them")
}

fn subjects(at: &str, found: &Found, config: &Config, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.subjects";
    let wanted = config.stream.subjects.set().map_or(&[][..], Vec::as_slice);
    let uncovered: Vec<_> =
        wanted.iter().filter(|subject| !any_covers(&found.subjects, subject)).cloned().collect();
    match uncovered.first() {
        None => Finding::ok(CHECK, at, format!("takes {}", found.subjects.join(", "))),
        Some(first) => {
            let said = format!(
                "has subjects {:?}, none of which covers {first:?} of stream.subjects; add it to the stream",
                found.subjects
            );
            // What it covers partly, such as `a.b` of `a.*`, would overlap with it.
            let kept = found.subjects.iter().filter(|subject| !any_covers(&uncovered, subject));
            let all: Vec<_> = kept.chain(&uncovered).map(String::as_str).collect();
            Finding::fail(CHECK, at, said, edit(format!("--subjects {}", shell(&all.join(",")))))
        }
    }
}

/// An event may be sent again for as long as its fate is unknown: the grace, and what a relay that
/// takes over waits for.
fn span(config: &Config) -> Duration {
    config.retry.outage_grace + config.lease.ttl + config.nats.ack_timeout
}

/// How long a stream has to remember message ids.
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
    let shown = go_duration(window);
    let (ack, span) = (config.nats.ack_timeout, span(config));
    let wanted = config.stream.duplicate_window.max(needed_window(config));
    let mut flags = format!("--dupe-window {}", go_duration(wanted));
    if !found.max_age.is_zero() && found.max_age < wanted {
        flags.push_str(&format!(" --max-age {}", go_duration(wanted)));
    }
    if window < ack {
        let said = format!(
            "duplicate_window {shown} is shorter than nats.ack_timeout ({}): the first retry is stored twice",
            go_duration(ack)
        );
        Finding::fail(CHECK, at, said, edit(flags))
    } else if window < span {
        let said = format!(
            "duplicate_window {shown} is shorter than retry.outage_grace, lease.ttl and nats.ack_timeout together ({}): \
             a retry after an outage may be stored twice",
            go_duration(span)
        );
        Finding::warn(CHECK, at, said, edit(flags))
    } else if window < config.retry.max_delay {
        let said = format!(
            "duplicate_window {shown} is shorter than retry.max_delay ({}): an event that was stored and not \
             acknowledged may be stored again",
            go_duration(config.retry.max_delay)
        );
        Finding::warn(CHECK, at, said, edit(flags))
    } else if !found.max_age.is_zero() && found.max_age < window {
        let said = format!(
            "max_age {} is shorter than duplicate_window {shown}: messages are gone before the window is over",
            go_duration(found.max_age)
        );
        Finding::warn(CHECK, at, said, edit(format!("--max-age {shown}")))
    } else {
        Finding::ok(
            CHECK,
            at,
            format!("duplicate_window {shown} is longer than every retry's span"),
        )
    }
}

fn retention(at: &str, found: &Found, edit: &impl Fn(String) -> String) -> Finding {
    const CHECK: &str = "stream.retention";
    match found.retention {
        RetentionPolicy::Limits => {
            Finding::ok(CHECK, at, "limits: messages stay for every consumer")
        }
        RetentionPolicy::Interest => {
            let said = "interest: an event that no consumer wants yet is acked and dropped unseen";
            Finding::fail(CHECK, at, said, edit("--retention limits".to_owned()))
        }
        RetentionPolicy::WorkQueue => {
            let said = "workqueue: only one consumer per subject sees an event, and it is gone then; it can't be edited";
            Finding::warn(CHECK, at, said, anew(found))
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
            let said = format!(
                "{limits}, discard old: the oldest messages are thrown away, whoever hasn't read them"
            );
            Finding::warn(CHECK, at, said, edit("--discard new".to_owned()))
        }
    }
}

fn storage(at: &str, found: &Found) -> Finding {
    const CHECK: &str = "stream.storage";
    match found.storage {
        StorageType::File => Finding::ok(CHECK, at, "file"),
        StorageType::Memory => {
            let said =
                "memory: delivered events are lost when the server restarts; it can't be edited";
            Finding::warn(CHECK, at, said, anew(found))
        }
    }
}

/// For what an edit can't change. The backup is for the messages; consumers have to be made again.
fn anew(found: &Found) -> String {
    let name = shell(&found.name);
    format!("$ nats stream backup {name} backup-{name} && nats stream rm {name} && outboxd migrate")
}

/// What is weaker than the configuration says; a longer window or another copy harms nobody.
fn as_configured(
    at: &str,
    found: &Found,
    config: &Config,
    edit: &impl Fn(String) -> String,
) -> Finding {
    const CHECK: &str = "stream.as_configured";
    let wanted = &config.stream;
    let (mut said, mut flags) = (Vec::new(), Vec::new());
    let mut weaker = |name: &str, flag: &str, found: String, wanted: String| {
        said.push(format!("{name} is {found}, the configuration says {wanted}"));
        flags.push(format!("--{flag} {wanted}"));
    };
    if found.duplicate_window < wanted.duplicate_window {
        let (found, wanted) =
            (go_duration(found.duplicate_window), go_duration(wanted.duplicate_window));
        weaker("duplicate_window", "dupe-window", found, wanted);
    }
    if found.num_replicas < wanted.replicas {
        weaker("replicas", "replicas", found.num_replicas.to_string(), wanted.replicas.to_string());
    }
    if !found.max_age.is_zero() && (wanted.max_age.is_zero() || found.max_age < wanted.max_age) {
        weaker("max_age", "max-age", go_duration(found.max_age), go_duration(wanted.max_age));
    }
    match said.is_empty() {
        true => Finding::ok(CHECK, at, "no weaker than the configuration says"),
        false => Finding::warn(CHECK, at, said.join("; "), edit(flags.join(" "))),
    }
}

/// Whether one of the patterns stands for every subject that `subject` stands for.
pub(crate) fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Whether every subject that `subject` stands for is one that `pattern` stands for.
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
    fn a_pattern_covers_what_the_server_would_route_to_it() {
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

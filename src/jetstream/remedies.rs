//! The lines that fix a stream.
//!
//! None of them makes a stream that the table refuses or warns of for another reason, and none
//! deletes what consumers have not read. Where the server lets nobody edit a setting, the line
//! makes another stream.

use super::facts::Facts;
use crate::duration::for_nats;
use crate::finding::shell;
use crate::pattern::any_covers;

pub(super) fn cover(stream: &Facts<'_>) -> String {
    // A kept subject must not overlap with a new one, as `a.b` would with `a.*`.
    let uncovered = stream.uncovered();
    let kept = stream.found.subjects.iter().filter(|subject| !any_covers(&uncovered, subject));

    let all: Vec<_> = kept.chain(&uncovered).map(String::as_str).collect();
    edit(stream, &format!("--subjects {}", shell(&all.join(","))))
}

/// The subjects of its events, instead of those of everybody.
pub(super) fn narrower(stream: &Facts<'_>) -> String {
    let name = shell(&stream.found.name);
    format!(
        "$ nats stream subjects {name}   # lists what it holds; then edit it with --subjects, and \
         set stream.subjects to the same"
    )
}

/// The server rejects a window longer than `max_age`.
pub(super) fn widen(stream: &Facts<'_>) -> String {
    let wanted = stream.wanted_window();
    let mut flags = format!("--dupe-window {}", for_nats(wanted));

    if !stream.found.max_age.is_zero() && stream.found.max_age < wanted {
        flags.push_str(&format!(" --max-age {}", for_nats(wanted)));
    }

    edit(stream, &flags)
}

pub(super) fn edit(stream: &Facts<'_>, flags: &str) -> String {
    format!("$ nats stream edit {} {flags}", shell(&stream.found.name))
}

/// Makes it acknowledge. The server rejects that for a stream of every subject or of its own API.
pub(super) fn acked(stream: &Facts<'_>) -> String {
    let is_too_wide = |subject: &String| subject == ">" || subject.starts_with('$');
    match stream.found.subjects.iter().any(is_too_wide) {
        false => "--ack".to_owned(),
        true => {
            format!("--ack --subjects {}", shell(&stream.wanted_subjects()))
        }
    }
}

/// Keeps every message. `discard new` alone does not: the limit of one subject would delete on.
pub(super) fn keeping(stream: &Facts<'_>) -> String {
    let mut flags = Vec::new();
    if stream.evicts_when_full() {
        // The server allows these no `discard new`.
        let found = stream.found;
        flags.push(match found.allow_message_schedules || found.allow_message_counter {
            true => "--max-msgs=-1 --max-bytes=-1",
            false => "--discard new",
        });
    }

    if stream.evicts_per_subject() && !stream.is_bucket() {
        flags.push("--max-msgs-per-subject=-1");
    }

    flags.join(" ")
}

pub(super) fn doubled(stream: &Facts<'_>) -> String {
    let limits = [("max-msgs", stream.found.max_messages), ("max-bytes", stream.found.max_bytes)];
    let limits = limits.into_iter().filter(|(_, limit)| *limit > 0);
    let doubled = limits.map(|(name, limit)| format!("--{name}={}", limit.saturating_mul(2)));
    doubled.collect::<Vec<_>>().join(" ")
}

pub(super) fn no_rollup(stream: &Facts<'_>) -> String {
    // The server sets it again where something else depends on it.
    if stream.is_bucket() || stream.found.allow_message_schedules {
        return "$ outboxd privileges --role relay   # prints the relay's user; let nobody else \
                publish to the stream's subjects"
            .to_owned();
    }

    match stream.found.subject_delete_marker_ttl.is_some_and(|ttl| !ttl.is_zero()) {
        true => edit(stream, "--subject-del-markers-ttl=0s --no-allow-rollup"),
        false => edit(stream, "--no-allow-rollup"),
    }
}

/// The remedy for a setting that can't be edited. Events that come between the backup and the new
/// stream would be acked and in neither, so no relay may run.
pub(super) fn recreate(stream: &Facts<'_>) -> String {
    let name = shell(&stream.found.name);
    let subjects = match stream.config.stream.subjects.is_empty() {
        true => format!("OUTBOXD_STREAM__SUBJECTS={} ", shell(&stream.found.subjects.join(","))),
        false => String::new(),
    };
    format!(
        "$ nats stream backup {name} backup-{name} && nats stream rm {name} && {subjects}outboxd \
         migrate   # stop the relays first, and recreate the consumers"
    )
}

/// Another stream beside this one.
pub(super) fn another(stream: &Facts<'_>) -> String {
    let name = format!("{}-EVENTS", stream.found.name);
    format!(
        "$ NATS_CLUSTER_ID={} outboxd migrate   # with stream.subjects that no other stream has; \
         then run the relay with this name",
        shell(&name)
    )
}

/// Another stream, for the subjects that this one has: they are given up first.
pub(super) fn instead(stream: &Facts<'_>, kept: &[String]) -> String {
    let migrate = another(stream);
    format!(
        "{} && {}",
        edit(stream, &format!("--subjects {}", shell(&kept.join(",")))),
        migrate.trim_start_matches("$ ")
    )
}

/// A bucket without its limit would no longer be one, so events go to another stream. Its own
/// subjects begin with `$`.
pub(super) fn outside_the_bucket(stream: &Facts<'_>) -> String {
    let subjects = &stream.found.subjects;
    let own: Vec<_> = subjects.iter().filter(|name| name.starts_with('$')).cloned().collect();

    match own.is_empty() || own.len() == subjects.len() {
        true => another(stream),
        false => instead(stream, &own),
    }
}

/// No flag takes a source away.
pub(super) fn without_sources(stream: &Facts<'_>) -> String {
    let name = shell(&stream.found.name);
    format!(
        "$ nats stream info {name} --json | jq '.config | del(.sources)' > {name}.json && nats \
         stream edit {name} --config {name}.json"
    )
}

//! The table by which a stream is judged: each row is one way in which a stream drops, refuses or
//! changes events, with what it costs and the line that fixes it.
//!
//! Not in the table, because no event is dropped, refused or changed: `republish` (the server
//! rejects one that forms a cycle), `deny_delete`, `deny_purge`, `allow_direct`, `mirror_direct`,
//! `compression`, `first_seq`, `placement`, `max_consumers`, `consumer_limits`, `allow_atomic`,
//! `allow_batched`, `allow_msg_schedules`, `allow_msg_ttl` (the event contract refuses headers that
//! begin with `Nats-`), `description` and `metadata`.

use async_nats::jetstream::stream::{PersistenceMode, RetentionPolicy, StorageType};

use super::facts::Facts;
use super::remedies::{
    acked, another, cover, doubled, edit, instead, keeping, narrower, no_rollup,
    outside_the_bucket, recreate, widen, without_sources,
};
use crate::config::Storage;
use crate::duration::for_nats;
use crate::finding::{Level, shell};
use crate::pattern::any_covers;

pub(super) const ACCEPTS: &str = "stream.accepts";
pub(super) const SUBJECTS: &str = "stream.subjects";
pub(super) const DEDUPE: &str = "stream.dedupe";
pub(super) const RETENTION: &str = "stream.retention";
pub(super) const LIMITS: &str = "stream.limits";
pub(super) const STORAGE: &str = "stream.storage";
pub(super) const CONTENTS: &str = "stream.contents";
pub(super) const AS_CONFIGURED: &str = "stream.as_configured";
pub(super) const REPLICAS: &str = "stream.replicas";

/// One way in which a stream harms events.
pub(super) struct Row {
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What it means for events, when the stream is like that.
    pub(super) harm: fn(&Facts<'_>) -> Option<String>,
    pub(super) remedy: fn(&Facts<'_>) -> String,
}

const fn fail(
    check: &'static str,
    harm: fn(&Facts<'_>) -> Option<String>,
    remedy: fn(&Facts<'_>) -> String,
) -> Row {
    Row { check, level: Level::Fail, harm, remedy }
}

const fn warn(
    check: &'static str,
    harm: fn(&Facts<'_>) -> Option<String>,
    remedy: fn(&Facts<'_>) -> String,
) -> Row {
    Row { check, level: Level::Warn, harm, remedy }
}

/// Every row. Of one check, the worst comes first.
pub(super) const ROWS: &[Row] = &[
    fail(
        ACCEPTS,
        |stream| {
            let text = "acknowledges no publish (no_ack), so no event could ever be deleted";
            stream.found.no_ack.then(|| text.to_owned())
        },
        |stream| edit(stream, &acked(stream)),
    ),
    fail(
        ACCEPTS,
        |stream| {
            let text = "is sealed for good and accepts no messages; name another stream";
            stream.found.sealed.then(|| text.to_owned())
        },
        |stream| instead(stream, &[format!("outboxd-sealed.{}", stream.found.name)]),
    ),
    fail(
        ACCEPTS,
        |stream| {
            let text = "is a mirror and accepts no messages; name its origin";
            stream.found.mirror.is_some().then(|| text.to_owned())
        },
        |stream| {
            let origin = stream.found.mirror.as_ref().map_or("", |origin| &origin.name);
            format!("environment: NATS_CLUSTER_ID={}", shell(origin))
        },
    ),
    fail(
        ACCEPTS,
        |stream| {
            let is_closed = stream.found.mirror.is_none() && stream.found.subjects.is_empty();
            is_closed.then(|| "has no subjects, so no event reaches it".to_owned())
        },
        |stream| edit(stream, &format!("--subjects {}", shell(&stream.wanted_subjects()))),
    ),
    fail(
        ACCEPTS,
        |stream| {
            let text = "is a counter (allow_msg_counter): it refuses everything except \
                        increments, so every event; name another stream";
            stream.found.allow_message_counter.then(|| text.to_owned())
        },
        another,
    ),
    warn(SUBJECTS, uncovered, cover),
    fail(SUBJECTS, takes_alerts, |_| {
        "environment: OUTBOXD_ALERTS__SUBJECT=<subject>   # one that the stream does not take"
            .to_owned()
    }),
    fail(
        DEDUPE,
        |stream| {
            let (window, ack) = (stream.found.duplicate_window, stream.config.nats.ack_timeout);
            (window < ack).then(|| {
                format!(
                    "duplicate_window {} is shorter than nats.ack_timeout ({}): the first retry \
                     is stored twice",
                    for_nats(window),
                    for_nats(ack)
                )
            })
        },
        widen,
    ),
    warn(DEDUPE, short_of_span, widen),
    warn(
        DEDUPE,
        |stream| {
            let (window, delay) = (stream.found.duplicate_window, stream.config.retry.max_delay);
            (window >= stream.span() && window < delay).then(|| {
                format!(
                    "duplicate_window {} is shorter than retry.max_delay ({}): an event that was \
                     stored and not acknowledged may be stored again",
                    for_nats(window),
                    for_nats(delay)
                )
            })
        },
        widen,
    ),
    fail(
        RETENTION,
        |stream| {
            let text =
                "interest: an event that no consumer asks for yet is acked and dropped unseen";
            let is_so = stream.found.retention == RetentionPolicy::Interest;
            is_so.then(|| text.to_owned())
        },
        |stream| edit(stream, "--retention limits"),
    ),
    warn(
        RETENTION,
        |stream| {
            let text = "workqueue: one consumer per subject gets an event, which is then deleted, \
                        and its message id is forgotten when the server restarts; retention can't \
                        be edited";
            let is_so = stream.found.retention == RetentionPolicy::WorkQueue;
            is_so.then(|| text.to_owned())
        },
        recreate,
    ),
    fail(
        LIMITS,
        |stream| {
            let text = |limits| format!("{limits}, discard new: it is full and accepts no event");
            stream.is_full().then(|| text(stream.limits()))
        },
        |stream| edit(stream, &doubled(stream)),
    ),
    warn(
        LIMITS,
        |stream| {
            stream.evicts_when_full().then(|| {
                format!(
                    "{}, discard old: the oldest messages are deleted, even if a consumer hasn't \
                     read them",
                    stream.limits()
                )
            })
        },
        |stream| edit(stream, &keeping(stream)),
    ),
    warn(
        LIMITS,
        |stream| {
            let most = stream.found.max_messages_per_subject;
            stream.evicts_per_subject().then(|| {
                format!(
                    "max_msgs_per_subject {most} without discard_new_per_subject: all but the \
                     newest {most} messages of each subject are deleted, even if a consumer \
                     hasn't read them"
                )
            })
        },
        |stream| match stream.is_bucket() {
            true => outside_the_bucket(stream),
            false => edit(stream, &keeping(stream)),
        },
    ),
    warn(
        LIMITS,
        |stream| {
            let most = stream.found.max_messages_per_subject;
            stream.refuses_per_subject().then(|| {
                format!(
                    "max_msgs_per_subject {most}, discard_new_per_subject: while the stream holds \
                     {most} messages of a subject, it refuses every event of that subject"
                )
            })
        },
        |stream| match stream.is_bucket() {
            true => outside_the_bucket(stream),
            false => {
                edit(stream, "--max-msgs-per-subject=-1 --no-discard-per-subject --discard new")
            }
        },
    ),
    warn(
        LIMITS,
        |stream| {
            let (age, wanted) = (stream.found.max_age, stream.config.stream.max_age);
            let is_shorter = !age.is_zero() && (wanted.is_zero() || age < wanted);
            is_shorter.then(|| {
                let wanted = match wanted.is_zero() {
                    true => "stream.max_age keeps them without a time limit".to_owned(),
                    false => format!("stream.max_age is {}", for_nats(wanted)),
                };
                format!(
                    "max_age {}: older messages are deleted, even if a consumer hasn't read them; \
                     {wanted}",
                    for_nats(age)
                )
            })
        },
        |stream| {
            let wanted = stream.config.stream.max_age;
            edit(stream, &format!("--max-age={}", for_nats(wanted)))
        },
    ),
    warn(LIMITS, too_few_bytes, |stream| edit(stream, "--max-bytes=-1")),
    warn(
        LIMITS,
        |stream| {
            let most = usize::try_from(stream.found.max_message_size).unwrap_or(0);
            (most > 0 && most < stream.max_payload).then(|| {
                format!(
                    "max_msg_size {most} is below the server's max_payload ({}): a larger event \
                     is refused and is dead",
                    stream.max_payload
                )
            })
        },
        |stream| edit(stream, "--max-msg-size=-1"),
    ),
    warn(
        STORAGE,
        |stream| {
            let text = "memory: the stream and its events are lost when the server restarts; storage can't \
                 be edited";
            let is_wanted = stream.config.stream.storage == Storage::Memory;
            (stream.found.storage == StorageType::Memory && !is_wanted).then(|| text.to_owned())
        },
        recreate,
    ),
    warn(
        STORAGE,
        |stream| {
            let text = "persist_mode async: events are acked before they are written, and lost \
                        when the server is killed; the mode can't be edited";
            let is_async = stream.found.persist_mode == Some(PersistenceMode::Async);
            is_async.then(|| text.to_owned())
        },
        recreate,
    ),
    warn(
        CONTENTS,
        |stream| {
            let sources = stream.found.sources.as_deref().unwrap_or_default();
            let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
            (!names.is_empty()).then(|| {
                format!(
                    "sources {}: it stores their messages too, and treats an event with the \
                     message id of one of them as a duplicate, which it does not store",
                    names.join(", ")
                )
            })
        },
        without_sources,
    ),
    warn(
        CONTENTS,
        |stream| {
            stream.open_subject().map(|subject| {
                format!(
                    "subject {subject} also takes what others publish: it stores that, answers \
                     their requests with its ack, and treats an event with the same message id as \
                     a duplicate"
                )
            })
        },
        narrower,
    ),
    warn(
        CONTENTS,
        |stream| {
            stream.taken_subject().map(|(subject, what)| {
                format!("subject {subject} takes {what}: it stores them, too, for as long as it keeps events")
            })
        },
        narrower,
    ),
    warn(
        CONTENTS,
        |stream| {
            stream.found.subject_transform.as_ref().map(|transform| {
                format!(
                    "subject_transform {} to {}: events are stored under other subjects than \
                     their writers gave them",
                    transform.source, transform.destination
                )
            })
        },
        |stream| edit(stream, "--no-transform"),
    ),
    warn(
        CONTENTS,
        |stream| {
            stream.found.subject_delete_marker_ttl.filter(|ttl| !ttl.is_zero()).map(|ttl| {
                format!(
                    "subject_delete_marker_ttl {}: when the last message of a subject expires, \
                     the server stores an empty message that removes what that subject got in the \
                     meantime",
                    for_nats(ttl)
                )
            })
        },
        |stream| edit(stream, "--subject-del-markers-ttl=0s"),
    ),
    warn(
        CONTENTS,
        |stream| {
            let text = "allow_rollup_hdrs: every user that may publish to its subjects can delete \
                        events with the header `Nats-Rollup`";
            stream.found.allow_rollup.then(|| text.to_owned())
        },
        no_rollup,
    ),
    warn(
        AS_CONFIGURED,
        |stream| {
            let (found, wanted) =
                (stream.found.duplicate_window, stream.config.stream.duplicate_window);
            // One that is too short has a row of its own, with the same remedy.
            let is_long_enough = found >= stream.needed_window();
            (is_long_enough && found < wanted).then(|| {
                let (found, wanted) = (for_nats(found), for_nats(wanted));
                format!("duplicate_window is {found}, but {wanted} is configured")
            })
        },
        widen,
    ),
    warn(AS_CONFIGURED, smaller, |stream| {
        let wanted = stream.config.stream.max_bytes.unwrap_or(0);
        edit(stream, &format!("--max-bytes={wanted}"))
    }),
    warn(
        AS_CONFIGURED,
        |stream| {
            let (found, wanted) = (stream.found.num_replicas, stream.config.stream.replicas);
            (found < wanted).then(|| format!("replicas is {found}, but {wanted} is configured"))
        },
        |stream| edit(stream, &format!("--replicas {}", stream.config.stream.replicas)),
    ),
    warn(
        REPLICAS,
        |stream| {
            let is_single = stream.found.num_replicas == 1 && stream.is_clustered;
            is_single.then(|| "1 copy in a cluster: it is lost with its server".to_owned())
        },
        |stream| edit(stream, "--replicas 3"),
    ),
    warn(
        REPLICAS,
        |stream| {
            let text = "2 copies: while either server is away, it accepts no event";
            (stream.found.num_replicas == 2).then(|| text.to_owned())
        },
        |stream| edit(stream, "--replicas 3"),
    ),
];

fn uncovered(stream: &Facts<'_>) -> Option<String> {
    let uncovered = stream.uncovered();
    let first = uncovered.first()?;
    Some(format!(
        "has subjects {:?}, none of which covers {first:?} of stream.subjects: unless a mapping of \
         the account renames it, its events are marked as failed",
        stream.found.subjects
    ))
}

fn takes_alerts(stream: &Facts<'_>) -> Option<String> {
    let subject = stream.config.alerts.subject.as_ref()?;
    any_covers(&stream.found.subjects, subject).then(|| {
        format!(
            "takes alerts.subject {subject}: each alert is stored as if it were an event, and \
             reaches the consumers of the events"
        )
    })
}

fn short_of_span(stream: &Facts<'_>) -> Option<String> {
    let (window, span) = (stream.found.duplicate_window, stream.span());
    (window >= stream.config.nats.ack_timeout && window < span).then(|| {
        format!(
            "duplicate_window {} is shorter than retry.outage_grace, lease.ttl and \
             nats.ack_timeout together ({}): a retry after an outage may be stored twice",
            for_nats(window),
            for_nats(span)
        )
    })
}

fn smaller(stream: &Facts<'_>) -> Option<String> {
    let found = u64::try_from(stream.found.max_bytes).ok().filter(|found| *found > 0)?;
    let wanted = stream.config.stream.max_bytes.filter(|wanted| *wanted > found)?;
    Some(format!("max_bytes is {found}, but {wanted} is configured"))
}

fn too_few_bytes(stream: &Facts<'_>) -> Option<String> {
    let most = usize::try_from(stream.found.max_bytes).unwrap_or(0);
    (most > 0 && most < stream.max_payload).then(|| {
        format!(
            "max_bytes {most} is below the server's max_payload ({}): an event that is larger is \
             never stored, or acked and deleted at once",
            stream.max_payload
        )
    })
}

//! Whether a stream can serve an outbox. `run`, `migrate` and `check` share these findings.

use async_nats::jetstream::stream::{DiscardPolicy, StorageType};

use super::facts::Facts;
use super::rows::{
    ACCEPTS, AS_CONFIGURED, CONTENTS, DEDUPE, LIMITS, REPLICAS, RETENTION, ROWS, STORAGE, SUBJECTS,
};
use crate::duration::for_nats;
use crate::finding::{Finding, Level};

/// Checks whose failure prevents `run` from starting: the stream could store no event.
pub(crate) const REFUSED: [&str; 1] = [ACCEPTS];

/// What is found when no row of the table applies.
type AllIsWell = fn(&Facts<'_>) -> String;

/// Every check of a stream.
const CHECKS: [(&str, AllIsWell); 9] = [
    (ACCEPTS, |_| "accepts and acknowledges publishes".to_owned()),
    (SUBJECTS, |stream| format!("accepts {}", stream.found.subjects.join(", "))),
    (DEDUPE, |stream| {
        format!("duplicate_window {} outlasts every retry", for_nats(stream.found.duplicate_window))
    }),
    (RETENTION, |_| "limits: messages stay for every consumer".to_owned()),
    (LIMITS, limits),
    (STORAGE, |stream| match stream.found.storage {
        StorageType::File => {
            "file: on disk within two minutes of the ack, or before it with sync_interval: always"
                .to_owned()
        }
        StorageType::Memory => "memory, as configured: a restart of the server loses it".to_owned(),
    }),
    (CONTENTS, |_| "stores what is published, unchanged".to_owned()),
    (AS_CONFIGURED, |_| "no weaker than configured".to_owned()),
    (REPLICAS, |stream| match stream.found.num_replicas {
        1 => "1 copy on a single server".to_owned(),
        copies => format!("{copies} copies"),
    }),
];

/// Judges a stream by the table: a finding for each row that applies, and one for each check of
/// which no row does.
pub(crate) fn review(stream: &Facts<'_>) -> Vec<Finding> {
    let at = format!("stream {}", stream.found.name);
    let mut findings = Vec::new();
    for (check, all_is_well) in CHECKS {
        let before = findings.len();
        for row in ROWS.iter().filter(|row| row.check == check) {
            let Some(found) = (row.harm)(stream) else { continue };
            let make = match row.level {
                Level::Fail => Finding::fail,
                Level::Warn | Level::Ok => Finding::warn,
            };
            findings.push(make(check, &at, found, (row.remedy)(stream)));
        }

        if findings.len() == before {
            findings.push(Finding::ok(check, &at, all_is_well(stream)));
        }
    }

    findings
}

fn limits(stream: &Facts<'_>) -> String {
    let mut limits = match (stream.limits(), stream.found.discard) {
        (limits, _) if limits.is_empty() => "no limit on messages or bytes".to_owned(),
        (limits, DiscardPolicy::New) => {
            format!("{limits}, discard new: events wait in MongoDB when the stream is full")
        }
        (limits, DiscardPolicy::Old) => limits,
    };

    if !stream.found.max_age.is_zero() {
        let age = for_nats(stream.found.max_age);
        limits.push_str(&format!("; messages expire after {age}, as configured"));
    }

    limits
}

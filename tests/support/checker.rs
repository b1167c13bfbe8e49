//! Compares what was committed with what came out, knowing nothing of the relay's code.
//!
//! [`judge`] and [`Report::look_back`] are the whole of it, over plain values: the ledger of the
//! writers, the stream, the outbox, its history, and how often each fault really happened.
//! [`check`] reads them from the servers first.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::UNIX_EPOCH;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bson::{Bson, Document, doc};
use futures_util::StreamExt;

use super::oplog::{self, History};
use super::writers::{Ledger, Outcome, Transaction};
use super::{Scene, until};

/// Offending events that a failed check names, of each kind.
const NAMED: usize = 5;

/// A message of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    /// The event's id: the message id without the outbox's name.
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) number: u32,
    /// When the server stored it, in nanoseconds since 1970.
    pub(crate) at: i128,
}

/// An event that is still in the outbox, or beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Left {
    pub(crate) id: String,
    pub(crate) locked: bool,
    pub(crate) dead: bool,
    /// It is among the scheduled events.
    pub(crate) scheduled: bool,
    pub(crate) attempts: u64,
    pub(crate) failures: usize,
}

/// What a check found. The lists name the events.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) committed: usize,
    pub(crate) aborted: usize,
    pub(crate) unknown: usize,
    pub(crate) in_stream: usize,
    /// Messages beyond the first of their event.
    pub(crate) copies: Vec<String>,
    /// Committed, and neither in the stream nor in the outbox.
    pub(crate) lost: Vec<String>,
    /// In the stream, and rolled back or never written.
    pub(crate) phantom: Vec<String>,
    /// In the stream, and cancelled before that.
    pub(crate) cancelled: Vec<String>,
    /// In the stream before they were due.
    pub(crate) premature: Vec<String>,
    /// First came after a later event of their key.
    pub(crate) reordered: Vec<String>,
    pub(crate) locked: Vec<String>,
    pub(crate) unlocked: Vec<String>,
    pub(crate) dead: Vec<String>,
    /// Neither dead nor moved yet.
    pub(crate) scheduled: Vec<String>,
    /// Left with a failure.
    pub(crate) failed: usize,
    /// Counted attempts.
    pub(crate) burned: u64,
    /// Of the outbox's history, when it was looked at.
    pub(crate) past: Option<Past>,
    /// Each fault, and how often it happened.
    pub(crate) faults: Vec<(String, u64)>,
}

/// What the oplog tells of an outbox.
#[derive(Debug)]
pub(crate) struct Past {
    /// Whether it tells everything.
    pub(crate) whole: bool,
    pub(crate) deletes: usize,
    pub(crate) marks: usize,
    pub(crate) parks: usize,
    /// Left the outbox before the stream had them, or without that.
    pub(crate) early: Vec<String>,
    pub(crate) locked_again: Vec<String>,
    /// Inserted, and not by a writer's transaction that may have been committed.
    pub(crate) made_up: Vec<String>,
}

/// Reads the scene's stream, outbox and oplog, and judges.
pub(crate) async fn check(scene: &Scene, ledger: &Ledger, faults: &[(&str, u64)]) -> Report {
    // The outbox first: an event that goes out in between is then found in both, rather than in
    // neither.
    let left = left(scene).await;
    let stream = stream(scene).await;
    let mut report = judge(ledger, &stream, &left, faults);
    report.look_back(ledger, &stream, &oplog::history(scene).await);
    report
}

/// The whole stream, in its order.
pub(crate) async fn stream(scene: &Scene) -> Vec<Published> {
    // The connection may not be back yet.
    let stream =
        until("the stream answers", async || scene.context.get_stream(&scene.stream).await.ok())
            .await;
    let state = &stream.cached_info().state;
    let (count, last) = (state.messages, state.last_sequence);
    let mut published = Vec::new();
    if count == 0 {
        return published;
    }
    let config = pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    // A cluster that lost a member may take a while.
    let consumer =
        until("there is a consumer", async || stream.create_consumer(config.clone()).await.ok())
            .await;
    let mut messages =
        consumer.stream().max_messages_per_batch(2000).messages().await.expect("its messages");
    while let Some(message) = messages.next().await {
        let message = message.expect("a message");
        let info = message.info().expect("a message of a stream");
        published.push(read(
            &scene.name,
            &message,
            info.stream_sequence,
            info.published.unix_timestamp_nanos(),
        ));
        if info.stream_sequence >= last {
            break;
        }
    }
    published
}

/// What a message of this scene says.
pub(crate) fn read(
    scene: &str,
    message: &async_nats::Message,
    sequence: u64,
    at: i128,
) -> Published {
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Msg-Id"))
        .map_or("", |id| id.as_str());
    let id = id.strip_prefix(&format!("{scene}.outbox.")).unwrap_or(id).to_owned();
    let payload: serde_json::Value =
        serde_json::from_slice(&message.payload).expect("a JSON payload");
    let number = payload["number"].as_u64().and_then(|number| u32::try_from(number).ok());
    let number = number.expect("the event's number");
    let key = payload["key"].as_str().expect("the event's key").to_owned();
    Published { sequence, subject: message.subject.to_string(), id, key, number, at }
}

/// Everything in the outbox and among the scheduled events. Those first: an event that is moved in
/// between is then found in both.
pub(crate) async fn left(scene: &Scene) -> Vec<Left> {
    let scheduled = scene.database.collection("outbox_scheduled");
    let mut left = Vec::new();
    for (events, scheduled) in [(&scheduled, true), (&scene.events, false)] {
        let mut cursor = events.find(doc! {}).await.expect("the events are read");
        while cursor.advance().await.expect("the events are read") {
            let event: Document = cursor.deserialize_current().expect("a document");
            left.push(Left {
                id: match event.get("_id") {
                    Some(Bson::String(id)) => id.clone(),
                    Some(Bson::ObjectId(id)) => id.to_hex(),
                    other => format!("{other:?}"),
                },
                locked: event.get_bool("isLocked").unwrap_or_default(),
                dead: event.contains_key("deadAt"),
                scheduled,
                attempts: event.get_i64("attempts").unwrap_or_default().unsigned_abs(),
                failures: event.get_array("failures").map(Vec::len).unwrap_or_default(),
            });
        }
    }
    left
}

/// What becomes of every event of the ledger and every message of the stream.
pub(crate) fn judge(
    ledger: &Ledger,
    stream: &[Published],
    left: &[Left],
    faults: &[(&str, u64)],
) -> Report {
    let written: HashMap<_, _> =
        ledger.transactions.iter().map(|written| (written.id.as_str(), written)).collect();
    let count =
        |outcome| ledger.transactions.iter().filter(|written| written.outcome == outcome).count();
    let (mut copies, mut phantom, mut reordered) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cancelled, mut premature) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut latest = HashMap::new();
    for message in stream {
        let shown = || {
            format!("{} ({} {} at {})", message.id, message.key, message.number, message.sequence)
        };
        let as_written = |written: &&Transaction| {
            written.outcome != Outcome::Aborted
                && written.key == message.key
                && written.number == message.number
        };
        let written = written.get(message.id.as_str()).filter(|written| as_written(written));
        let due = written.and_then(|written| written.due_ms);
        if due.is_some_and(|due_ms| message.at < i128::from(due_ms) * 1_000_000) {
            premature.push(shown());
        }
        if written.is_none() {
            phantom.push(shown());
        } else if written.is_some_and(|written| written.outcome == Outcome::Cancelled) {
            cancelled.push(shown());
        } else if !seen.insert(message.id.as_str()) {
            copies.push(shown());
        } else {
            let latest = latest.entry(message.key.as_str()).or_insert(0);
            if message.number <= *latest {
                reordered.push(shown());
            }
            *latest = message.number.max(*latest);
        }
    }
    let kept: HashSet<_> = left.iter().map(|left| left.id.as_str()).collect();
    let gone = ledger
        .committed()
        .filter(|event| ![&seen, &kept].iter().any(|there| there.contains(event.id.as_str())));
    let those =
        |which: fn(&&Left) -> bool| left.iter().filter(which).map(|left| left.id.clone()).collect();
    Report {
        committed: count(Outcome::Committed),
        aborted: count(Outcome::Aborted),
        unknown: count(Outcome::Unknown),
        in_stream: stream.len(),
        copies,
        lost: gone.map(|event| format!("{} ({} {})", event.id, event.key, event.number)).collect(),
        phantom,
        cancelled,
        premature,
        reordered,
        locked: those(|left| left.locked && !left.dead && !left.scheduled),
        unlocked: those(|left| !left.locked && !left.dead && !left.scheduled),
        dead: those(|left| left.dead),
        scheduled: those(|left| left.scheduled && !left.dead),
        failed: left.iter().filter(|left| left.failures > 0).count(),
        burned: ledger.burned + left.iter().map(|left| left.attempts).sum::<u64>(),
        past: None,
        faults: faults.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect(),
    }
}

/// Of every committed event that is in the stream, how long after its commit the server stored it:
/// in milliseconds, the shortest first. Below zero when the relay was faster than the answer to the
/// commit.
pub(crate) fn delays(ledger: &Ledger, stream: &[Published]) -> Vec<f64> {
    let stored: HashMap<_, _> =
        stream.iter().rev().map(|message| (message.id.as_str(), message.at)).collect();
    let delay = |event: &Transaction| {
        let committed = event.at.duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos();
        Some((stored.get(event.id.as_str())? - committed.cast_signed()) as f64 / 1e6)
    };
    let mut delays: Vec<_> = ledger.committed().filter_map(delay).collect();
    delays.sort_by(f64::total_cmp);
    delays
}

impl Report {
    /// Judges the outbox's history too. The clocks are one machine's, and the oplog's goes by whole
    /// milliseconds.
    pub(crate) fn look_back(&mut self, ledger: &Ledger, stream: &[Published], history: &History) {
        let stored: HashMap<_, _> =
            stream.iter().rev().map(|message| (message.id.as_str(), message.at)).collect();
        let is_early = |(id, at): &(&String, &i64)| {
            stored.get(id.as_str()).is_none_or(|stored| *stored >= i128::from(**at + 1) * 1_000_000)
        };
        let written: HashSet<_> = ledger
            .transactions
            .iter()
            .filter(|event| event.outcome != Outcome::Aborted)
            .map(|event| event.id.as_str())
            .collect();
        self.past = Some(Past {
            whole: history.whole,
            deletes: history.deleted.len(),
            marks: history.marks,
            parks: history.parks,
            early: history.deleted.iter().filter(is_early).map(|(id, _)| id.clone()).collect(),
            locked_again: history.locked_again.clone(),
            made_up: history
                .inserted
                .iter()
                .filter(|id| !written.contains(id.as_str()))
                .cloned()
                .collect(),
        });
    }

    /// Each committed event is in the stream, once and in the order of its key, nothing else is,
    /// and the outbox is empty.
    pub(crate) fn assert_all_delivered(&self) {
        self.assert(true);
    }

    /// The same, though events may still wait in the outbox.
    pub(crate) fn assert_nothing_lost(&self) {
        self.assert(false);
    }

    fn assert(&self, drained: bool) {
        let mut wrong = vec![
            ("copies", &self.copies),
            ("lost", &self.lost),
            ("phantom", &self.phantom),
            ("cancelled", &self.cancelled),
            ("premature", &self.premature),
            ("reordered", &self.reordered),
        ];
        if drained {
            wrong.extend([
                ("locked", &self.locked),
                ("unlocked", &self.unlocked),
                ("dead", &self.dead),
                ("scheduled", &self.scheduled),
            ]);
        }
        if let Some(Past { early, locked_again, made_up, .. }) = &self.past {
            wrong.extend([
                ("deleted early", early),
                ("locked again", locked_again),
                ("made up", made_up),
            ]);
        }
        wrong.retain(|(_, events)| !events.is_empty());
        let named: String = wrong
            .iter()
            .map(|(what, events)| {
                format!("\n{what}: {}", events[..events.len().min(NAMED)].join(", "))
            })
            .collect();
        let idle = self.faults.iter().filter(|(_, times)| *times == 0);
        let idle: String =
            idle.map(|(name, _)| format!("\nthe fault {name:?} never happened")).collect();
        assert!(named.is_empty() && idle.is_empty(), "\n{self}{named}{idle}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("transactions committed", self.committed),
            ("  aborted", self.aborted),
            ("  unknown", self.unknown),
            ("messages in the stream", self.in_stream),
            ("  copies beyond the first", self.copies.len()),
            ("  phantom", self.phantom.len()),
            ("  cancelled", self.cancelled.len()),
            ("  before they were due", self.premature.len()),
            ("  reordered", self.reordered.len()),
            ("events lost", self.lost.len()),
            ("left in the outbox, locked", self.locked.len()),
            ("  unlocked", self.unlocked.len()),
            ("  dead", self.dead.len()),
            ("  scheduled", self.scheduled.len()),
            ("  with a failure", self.failed),
        ];
        for (what, count) in lines {
            writeln!(f, "  {what:<32}{count:>8}")?;
        }
        writeln!(f, "  {:<32}{:>8}", "counted attempts burned", self.burned)?;
        if let Some(past) = &self.past {
            let whole = if past.whole { "all of it" } else { "its end" };
            writeln!(f, "  {:<32}{whole:>9}", "seen of the outbox's history")?;
            let lines = [
                ("  deletes", past.deletes),
                ("  deleted before the stream had it", past.early.len()),
                ("  marked as failed", past.marks),
                ("  parked behind a failed one", past.parks),
                ("  locked again", past.locked_again.len()),
                ("  inserted by nobody", past.made_up.len()),
            ];
            for (what, count) in lines {
                writeln!(f, "  {what:<34}{count:>6}")?;
            }
        }
        for (name, times) in &self.faults {
            writeln!(f, "  {:<32}{times:>8}", format!("fault: {name}"))?;
        }
        Ok(())
    }
}

//! What can be wrong before and while a relay runs, looked at on both sides at once, with what
//! mends it.
//!
//! The sides are asked independently: what one doesn't answer keeps nothing from being said about
//! the other. Nothing is written anywhere.

mod mongodb;
mod nats;
mod outbox;
mod privileges;

use std::time::{Duration, SystemTime};

use async_nats::jetstream::stream::Config as StreamFound;

use self::outbox::Sample;
use crate::config::Config;
use crate::finding::{Finding, shell};
use crate::jetstream::judge;

/// Clocks further apart than this make times in logs and alerts misleading.
const MAX_SKEW: Duration = Duration::from_secs(1);
/// What an event's headers take of the largest message, besides its payload: names, message id and
/// expected stream.
const HEADERS: usize = 512;
/// Subjects named in a finding.
const NAMED: usize = 3;

/// Everything that can be found out; each question waits no longer than `timeout`.
pub(crate) async fn look(config: &Config, timeout: Duration) -> Vec<Finding> {
    let (mongodb, nats) = tokio::join!(mongodb::look(config, timeout), nats::look(config, timeout));
    let (mut findings, clock, sample) = (mongodb.findings, mongodb.clock, mongodb.sample);
    findings.extend(nats.findings);
    let (mongodb, stream) = (&config.mongodb, &config.stream.name);
    let outbox = format!("outbox {}.{}, stream {stream}", mongodb.database, mongodb.collection);
    if let (Some(sample), Some(max_payload)) = (&sample, nats.max_payload) {
        findings.extend(nats.stream.as_ref().map(|stream| subjects(&outbox, sample, stream)));
        findings.push(size(&outbox, sample, max_payload, nats.stream.as_ref()));
    }
    findings.extend(clock.map(|clock| skew("clock.mongodb", "mongod", clock)));
    findings.extend(nats.clock.map(|clock| skew("clock.nats", "nats-server", clock)));
    findings
}

/// Whether what waits can be published at all.
fn subjects(outbox: &str, sample: &Sample, stream: &StreamFound) -> Finding {
    const CHECK: &str = "outbox.subjects";
    let uncovered: Vec<_> = sample
        .subjects
        .iter()
        .filter(|subject| !judge::any_covers(&stream.subjects, subject))
        .collect();
    let events = sample.events;
    if uncovered.is_empty() {
        let looked = match events {
            0 => "no event waits".to_owned(),
            _ => format!(
                "stream {} covers all {} in {events} events",
                stream.name,
                count(&sample.subjects, "subject")
            ),
        };
        return Finding::ok(CHECK, outbox, looked);
    }
    let named: Vec<_> = uncovered.iter().take(NAMED).map(|subject| subject.as_str()).collect();
    let more = uncovered.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let found = format!(
        "stream {} does not cover {}{more}, of which events wait",
        stream.name,
        named.join(", ")
    );
    let all: Vec<_> = stream.subjects.iter().chain(uncovered).map(String::as_str).collect();
    let remedy =
        format!("$ nats stream edit {} --subjects {}", shell(&stream.name), shell(&all.join(",")));
    Finding::fail(CHECK, outbox, found, remedy)
}

/// Whether the biggest event that waits is one the server takes.
fn size(
    outbox: &str,
    sample: &Sample,
    max_payload: usize,
    stream: Option<&StreamFound>,
) -> Finding {
    const CHECK: &str = "outbox.biggest_event";
    let of_stream = stream
        .and_then(|stream| usize::try_from(stream.max_message_size).ok().filter(|size| *size > 0));
    let (limit, whose) = match of_stream {
        Some(size) if size < max_payload => (size, "the stream's max_msg_size"),
        _ => (max_payload, "the server's max_payload"),
    };
    let limit_said = format!("{whose} is {limit} bytes");
    let Some((id, bytes)) = &sample.biggest else {
        let none = if sample.events == 0 {
            "no event waits"
        } else {
            "the biggest event is malformed and won't be sent"
        };
        return Finding::ok(CHECK, outbox, format!("{none}; {limit_said}"));
    };
    let found =
        format!("event {id} is the biggest of {} with {bytes} bytes; {limit_said}", sample.events);
    if bytes + HEADERS <= limit {
        return Finding::ok(CHECK, outbox, found);
    }
    let wanted = (bytes + HEADERS).next_power_of_two();
    let remedy = match stream {
        Some(stream) if whose.contains("max_msg_size") => {
            format!("$ nats stream edit {} --max-msg-size {wanted}", shell(&stream.name))
        }
        _ => format!("nats-server.conf: max_payload: {wanted}\n$ nats-server --signal reload"),
    };
    Finding::fail(CHECK, outbox, format!("{found}, so it is dead on arrival"), remedy)
}

/// How far a server's clock is ahead of this machine's, in milliseconds, and how long the answer
/// took.
#[derive(Debug, Clone, Copy)]
struct Clock {
    ahead_ms: i64,
    took: Duration,
}

impl Clock {
    /// `asked` is when the question was sent; the server looked at its clock somewhere between then
    /// and now.
    fn new(server_ms: i64, asked: SystemTime) -> Self {
        let took = asked.elapsed().unwrap_or_default();
        let middle = (asked + took / 2).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { ahead_ms: server_ms - i64::try_from(middle.as_millis()).unwrap_or(i64::MAX), took }
    }
}

fn skew(check: &'static str, server: &str, clock: Clock) -> Finding {
    let looked_at = "clocks";
    let apart = Duration::from_millis(clock.ahead_ms.unsigned_abs());
    if apart <= MAX_SKEW + clock.took / 2 {
        return Finding::ok(
            check,
            looked_at,
            format!("{server}'s and this machine's agree within a second"),
        );
    }
    let way = if clock.ahead_ms > 0 { "ahead of" } else { "behind" };
    let found = format!("{server}'s clock is {:.1} s {way} this machine's", apart.as_secs_f64());
    Finding::warn(
        check,
        looked_at,
        found,
        "$ timedatectl set-ntp true   # on the machine whose clock is wrong",
    )
}

/// Waits for a remote answer, but not for ever.
async fn within<T>(timeout: Duration, question: impl Future<Output = T>) -> Result<T, String> {
    let shown = humantime::format_duration(timeout);
    tokio::time::timeout(timeout, question).await.map_err(|_| format!("no answer within {shown}"))
}

/// `3 subjects`.
fn count<T>(things: &[T], noun: &str) -> String {
    format!("{} {noun}{}", things.len(), if things.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_question() {
        let now = SystemTime::now();
        let ms =
            i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
        for (ahead, level) in
            [(0, Level::Ok), (900, Level::Ok), (5000, Level::Warn), (-5000, Level::Warn)]
        {
            assert_eq!(
                skew("clock.nats", "nats-server", Clock::new(ms + ahead, now)).level,
                level,
                "{ahead}"
            );
        }
    }
}

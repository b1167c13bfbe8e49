//! `outboxd check`: what can be wrong before and while a relay runs, with the lines that fix it.
//!
//! | file | checks |
//! | --- | --- |
//! | `ask` | asks one question within its time, and compares a server's clock |
//! | `hosts` | every host of MongoDB, and the deployment that they form |
//! | `privileges` | the relay's user in MongoDB |
//! | `outbox` | migrations, validators, indexes, and a sample of the waiting events |
//! | `kept` | the acked events that are kept |
//! | `scheduled` | the events that are published later |
//! | `deployment` | MongoDB as the relay's user sees it: version, write concern, oplog |
//! | `mongodb` | all of MongoDB, in this order |
//! | `bursts` | whether a key leaves in bursts |
//! | `nats` | nats-server, JetStream and the stream |
//!
//! MongoDB and NATS are checked independently: a fault of one hides no finding of the other. What
//! needs both is compared here, at the end. A check writes nothing.

mod ask;
mod bursts;
mod deployment;
mod hosts;
mod kept;
mod mongodb;
mod nats;
mod outbox;
mod privileges;
mod scheduled;
mod version;

use std::time::Duration;

use async_nats::jetstream::stream::Config as StreamFound;

use self::ask::Clock;
use self::outbox::Sample;
use crate::config::Config;
use crate::duration::for_people;
use crate::finding::{Finding, shell};
use crate::mongodb::subjects::Subjects;
use crate::pattern::any_covers;

/// Bytes of a message for the headers that the relay adds: names, message id and expected stream.
const HEADERS: usize = 512;
/// Subjects that a finding names.
const NAMED: usize = 3;

/// Runs every check; each question to a server waits for at most `timeout`.
pub(crate) async fn look(config: &Config, timeout: Duration) -> Vec<Finding> {
    let (mongodb, nats) = tokio::join!(mongodb::look(config, timeout), nats::look(config, timeout));
    let mut findings = mongodb.findings;
    findings.extend(nats.findings);

    let waiting = mongodb.sample.as_ref().map_or(&[][..], |sample| &sample.subjects.all);
    findings.extend(nats.absent.map(|absent| {
        let at = format!("stream {}", config.stream.name);
        Finding::fail("stream.exists", &at, absent.found(), absent.remedy(config, waiting))
    }));

    let (database, collection) = (&config.mongodb.database, &config.mongodb.collection);
    let outbox = format!("outbox {database}.{collection}, stream {}", config.stream.name);
    if let (Some(sample), Some(max_payload)) = (&mongodb.sample, nats.max_payload) {
        findings.extend(nats.stream.as_ref().map(|stream| subjects(&outbox, sample, stream)));
        findings.push(size(&outbox, sample, max_payload, nats.stream.as_ref()));
    }

    findings.extend(clocks(mongodb.clock, nats.clock));
    findings
}

/// Compares the servers' clocks with this machine's. Where both servers agree with each other, it is
/// this machine's that is wrong.
fn clocks(mongod: Option<(String, Clock)>, nats: Option<Clock>) -> Vec<Finding> {
    let odd = mongod.as_ref().zip(nats).is_some_and(|((_, mongod), nats)| {
        mongod.is_off() && nats.is_off() && !mongod.differs_from(nats)
    });
    let where_set = match odd {
        true => "on this machine: mongod and nats-server agree with each other",
        false => "on the machine whose clock is wrong",
    };

    let mongod = mongod.map(|(host, clock)| {
        let server = if clock.is_off() { format!("mongod {host}") } else { "mongod".to_owned() };
        skew("clock.mongodb", &server, clock, where_set)
    });
    let nats = nats.map(|clock| skew("clock.nats", "nats-server", clock, where_set));

    mongod.into_iter().chain(nats).collect()
}

/// Whether the stream covers the subjects of the waiting events. An event that failed for that
/// proves that it doesn't; until then, a mapping of the account may rename them.
fn subjects(outbox: &str, sample: &Sample, stream: &StreamFound) -> Finding {
    const CHECK: &str = "outbox.subjects";
    let Subjects { events, all, refused, denied } = &sample.subjects;
    let is_uncovered = |subject: &&String| !any_covers(&stream.subjects, subject);
    let uncovered: Vec<_> = all.iter().filter(is_uncovered).collect();

    if let (true, Some(first)) = (uncovered.is_empty(), denied.first()) {
        let more = count_more(denied.len() - 1);
        let found =
            format!("NATS denied the last publishes to {first}{more}, for which events wait");
        let remedy = "$ outboxd privileges --role relay   # prints what the relay's user needs; then\n\
                      $ outboxd retry-now --all --code no-permission";
        return Finding::fail(CHECK, outbox, found, remedy);
    }

    if uncovered.is_empty() {
        let found = match events {
            0 => "no event waits".to_owned(),
            events => {
                let subjects = count(all, "subject");
                format!("stream {} covers all {subjects} in {events} events", stream.name)
            }
        };
        return Finding::ok(CHECK, outbox, found);
    }

    let named: Vec<_> = uncovered.iter().take(NAMED).map(|subject| subject.as_str()).collect();
    let more = count_more(uncovered.len().saturating_sub(NAMED));
    let found = format!(
        "stream {} does not cover {}{more}, for which events wait",
        stream.name,
        named.join(", ")
    );

    let all: Vec<_> =
        stream.subjects.iter().chain(uncovered.iter().copied()).map(String::as_str).collect();
    let remedy =
        format!("$ nats stream edit {} --subjects {}", shell(&stream.name), shell(&all.join(",")));

    match refused.iter().any(|subject| uncovered.contains(&subject)) {
        true => Finding::fail(CHECK, outbox, found, remedy),
        false => {
            let found = format!(
                "{found}: unless a mapping of the account renames them, the relay marks them as \
                 failed"
            );
            Finding::warn(CHECK, outbox, found, remedy)
        }
    }
}

/// What follows the names that are shown.
fn count_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// Whether NATS accepts the biggest waiting event.
fn size(
    outbox: &str,
    sample: &Sample,
    max_payload: usize,
    stream: Option<&StreamFound>,
) -> Finding {
    const CHECK: &str = "outbox.biggest_event";
    // The stream with a limit of its own that is below the server's.
    let limiting = stream.and_then(|stream| {
        let size = usize::try_from(stream.max_message_size).ok()?;
        (size > 0 && size < max_payload).then_some((stream, size))
    });

    let (limit, limit_text) = match limiting {
        Some((_, size)) => (size, format!("the stream's max_msg_size is {size} bytes")),
        None => (max_payload, format!("the server's max_payload is {max_payload} bytes")),
    };

    let Some((id, bytes)) = &sample.biggest else {
        let found = match sample.subjects.events {
            0 => "no event waits",
            _ => "the biggest event is malformed and will not be published",
        };
        return Finding::ok(CHECK, outbox, format!("{found}; {limit_text}"));
    };

    let found = format!(
        "event {id} is the biggest of {} with {bytes} bytes; {limit_text}",
        sample.subjects.events
    );
    if bytes + HEADERS <= limit {
        return Finding::ok(CHECK, outbox, found);
    }

    let wanted = (bytes + HEADERS).next_power_of_two();
    let remedy = match limiting {
        Some((stream, _)) => {
            format!("$ nats stream edit {} --max-msg-size {wanted}", shell(&stream.name))
        }
        None => format!("nats-server.conf: max_payload: {wanted}\n$ nats-server --signal reload"),
    };

    Finding::fail(CHECK, outbox, format!("{found}, so the relay will mark it as dead"), remedy)
}

fn skew(check: &'static str, server: &str, clock: Clock, where_set: &str) -> Finding {
    const CLOCKS: &str = "clocks";
    if !clock.is_off() {
        let found = format!("the clocks of {server} and this machine agree within a second");
        return Finding::ok(check, CLOCKS, found);
    }

    let apart = match Duration::from_millis(clock.ahead_ms.unsigned_abs()) {
        long if long >= Duration::from_secs(60) => {
            for_people(Duration::from_secs(long.as_secs_f64().round() as u64))
        }
        short => format!("{:.1} s", short.as_secs_f64()),
    };
    let direction = if clock.ahead_ms > 0 { "ahead of" } else { "behind" };
    let found = format!(
        "the clock of {server} is {apart} {direction} this machine's, so times in logs, alerts \
         and audits are misleading; the relay itself uses mongod's clock"
    );
    let remedy = format!("$ timedatectl set-ntp true   # {where_set}");

    Finding::warn(check, CLOCKS, found, remedy)
}

/// `3 subjects`.
fn count<T>(things: &[T], noun: &str) -> String {
    format!("{} {noun}{}", things.len(), if things.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::finding::Level;

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_question() {
        let now = SystemTime::now();
        let ms = i64::try_from(
            now.duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_millis(),
        )
        .expect("a time that fits");

        for (ahead, level) in
            [(0, Level::Ok), (900, Level::Ok), (5000, Level::Warn), (-5000, Level::Warn)]
        {
            let clock = Clock::new(ms + ahead, now);
            assert_eq!(skew("clock.nats", "nats-server", clock, "").level, level, "{ahead}");
        }
    }

    #[test]
    fn two_servers_that_agree_leave_this_machine_as_the_odd_one() {
        let clock = |ahead_ms| Clock { ahead_ms, took: Duration::ZERO };
        let remedies = |mongod, nats| {
            let found = clocks(Some(("a:1".to_owned(), clock(mongod))), Some(clock(nats)));
            found.into_iter().filter_map(|found| found.remedy).collect::<Vec<_>>()
        };
        assert!(remedies(3_600_000, 3_600_500).iter().all(|line| line.contains("this machine:")));
        assert_eq!(remedies(3_600_000, 3_600_500).len(), 2);
        assert_eq!(remedies(5_000, 0).len(), 1);
        assert!(remedies(5_000, -5_000)[0].contains("whose clock is wrong"));

        let found = clocks(Some(("a:1".to_owned(), clock(-3_600_000))), None);
        assert!(found[0].found.contains("mongod a:1 is 1h"), "{}", found[0].found);
    }
}

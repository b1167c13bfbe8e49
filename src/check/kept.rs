//! The kept events: whether they are kept for long enough, what they cost, and whether the relay
//! removes them in time.

use std::time::Duration;

use mongodb::Database;

use super::ask::{Why, ask, unknown};
use crate::config::{Config, KeepConfig};
use crate::duration::for_people;
use crate::finding::Finding;
use crate::mongodb::collections::published;
use crate::mongodb::kept::KeptNumbers;

const CHECK: &str = "outbox.kept";
/// How often nats-server flushes its files unless its configuration says otherwise.
const FLUSH: Duration = Duration::from_secs(120);
/// An event that is kept for so much longer than `keep.for` shows that more are kept than removed. A
/// relay that leads looks every five seconds.
const LATE: Duration = Duration::from_secs(300);

/// What is found of them; nothing where none are kept, and none were.
pub(super) async fn look(
    config: &Config,
    database: &Database,
    at: &str,
    timeout: Duration,
) -> Option<Finding> {
    let outbox = &config.mongodb.collection;
    let window = config.stream.duplicate_window;
    match ask(timeout, KeptNumbers::now(database, outbox)).await {
        Ok(kept) if !config.keep.is_on() => (kept.events > 0).then(|| left(&kept, outbox, at)),
        Ok(kept) => Some(judge(&kept, &config.keep, window, at)),
        // The role has the right to read them only while they are kept.
        Err(no_answer) if no_answer.why == Why::Denied && !config.keep.is_on() => None,
        Err(no_answer) => Some(unknown(CHECK, at, &no_answer)),
    }
}

fn left(kept: &KeptNumbers, outbox: &str, at: &str) -> Finding {
    let found = format!(
        "{} were kept earlier, and no relay removes them, because keep.for is 0s",
        size(kept)
    );
    let remedy = format!("mongosh> db.{}.deleteMany({{}})", published(outbox));
    Finding::warn(CHECK, at, found, remedy)
}

fn judge(kept: &KeptNumbers, keep: &KeepConfig, window: Duration, at: &str) -> Finding {
    let lasts = for_people(keep.lasts);
    let short = [
        (FLUSH, "the 2m after which nats-server flushes its files by default".to_owned()),
        (window, format!("stream.duplicate_window, {}", for_people(window))),
    ];
    let short = short.into_iter().filter(|(least, _)| keep.lasts < *least);
    if let Some((least, what)) = short.max_by_key(|(least, _)| *least) {
        let found = format!("keep.for is {lasts}, shorter than {what}: a loss may be larger");
        let remedy = format!("environment: OUTBOXD_KEEP__FOR={}s", least.as_secs());
        return Finding::warn(CHECK, at, found, remedy);
    }

    let oldest = kept.oldest_seconds.map(Duration::from_secs);
    if let Some(oldest) = oldest.filter(|oldest| *oldest > keep.lasts + LATE) {
        let found = format!(
            "{} are kept, the oldest for {}, and keep.for is {lasts}: more are kept than removed",
            size(kept),
            for_people(oldest)
        );
        let remedy = "$ outboxd stats   # whether a relay leads; if so, MongoDB is too slow";
        return Finding::warn(CHECK, at, found, remedy);
    }

    Finding::ok(CHECK, at, format!("{} are kept, for {lasts}", size(kept)))
}

/// What they are and cost.
fn size(kept: &KeptNumbers) -> String {
    let KeptNumbers { events, bytes, .. } = kept;
    let mebibytes = bytes.div_ceil(1 << 20);
    format!("{events} events of about {mebibytes} MiB, before compression,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Repair;
    use crate::finding::Level;

    #[test]
    fn what_is_kept_too_short_or_not_removed_is_warned_of() {
        let hour = Duration::from_secs(3600);
        let keep = |lasts| KeepConfig { lasts, repair: Repair::Auto, rate: 1 };
        let kept = |oldest| KeptNumbers { events: 5, bytes: 1 << 21, oldest_seconds: oldest };

        for (lasts, oldest, level, text) in [
            (hour, None, Level::Ok, "5 events of about 2 MiB"),
            (hour, Some(3600 + 300), Level::Ok, "for 1h"),
            (hour, Some(3600 + 301), Level::Warn, "more are kept than removed"),
            (Duration::from_secs(60), None, Level::Warn, "stream.duplicate_window, 30m"),
            (hour / 3, None, Level::Warn, "OUTBOXD_KEEP__FOR=1800s"),
        ] {
            let finding = judge(&kept(oldest), &keep(lasts), hour / 2, "outbox");
            let said = format!("{} {}", finding.found, finding.remedy.unwrap_or_default());
            assert_eq!((finding.level, said.contains(text)), (level, true), "{said}");
        }

        let flushed = judge(&kept(None), &keep(hour / 60), hour / 3600, "outbox");
        assert!(flushed.found.contains("flushes its files"), "{}", flushed.found);
    }
}

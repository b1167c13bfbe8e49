//! `[retry]`: what happens to a failed event.

use std::time::Duration;

use chrono_tz::Tz;
use tokio_cron_scheduler::Job;

use crate::config::reader::Reader;
use crate::config::setting::{millis, secs, to_u32};

/// `[retry]`
#[derive(Debug, Clone)]
pub struct RetryConfig {
    /// When the retrier looks for due events, as a cron expression with seconds.
    pub cron: String,
    /// The time zone of the schedule.
    pub time_zone: Tz,
    /// Wait after the first failure. It doubles with each further failure.
    pub base_delay: Duration,
    /// Longest wait.
    pub max_delay: Duration,
    /// Counted refusals after which an event is dead.
    pub max_attempts: u32,
    /// How long the relay retries a publish without a definite answer in place before it marks the
    /// event as failed.
    pub outage_grace: Duration,
}

impl RetryConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let retry = Self {
            cron: reader
                .setting(
                    "cron",
                    "When the retrier looks for failed events that are due: a cron expression with \
                     seconds. Each time costs one index scan of the failed events only.",
                )
                .or("*/10 * * * * *".to_owned()),
            time_zone: time_zone(reader),
            base_delay: reader
                .setting(
                    "base_delay",
                    "Wait after an event's first failure. It doubles with each further failure. \
                     The retrier looks every 10 s by default, so a shorter wait gains little.",
                )
                .within(secs(5), millis(100)..=secs(3600)),
            max_delay: reader
                .setting(
                    "max_delay",
                    "Longest wait between two attempts. An operator who fixed the cause shouldn't \
                     have to wait longer than this.",
                )
                .within(secs(300), secs(1)..=secs(86_400)),
            max_attempts: to_u32(
                reader
                    .setting(
                        "max_attempts",
                        "Counted refusals after which an event is dead and waits for a person: \
                         with the default delays, after about an hour. Outages don't count.",
                    )
                    .within(20, 1..=10_000),
            ),
            outage_grace: reader
                .setting(
                    "outage_grace",
                    "How long the relay retries a publish without a definite answer in place. Then \
                     it marks the event as failed, so that operators can see it. The default is \
                     longer than a leader election or a rolling restart.",
                )
                .within(secs(30), secs(0)..=secs(3600)),
        };

        if retry.max_delay < retry.base_delay {
            reader.mistake("max_delay", "is shorter than retry.base_delay");
        }

        let job = Job::new_tz(retry.cron.as_str(), retry.time_zone, |_, _| {});
        match job.and_then(|mut job| job.job_data()) {
            Ok(job) if job.next_tick > 0 => {}
            Ok(_) => reader.mistake("cron", "names a time that never comes"),
            Err(_) => reader.mistake(
                "cron",
                "is not a cron expression with seconds, such as \"*/10 * * * * *\" for every ten seconds",
            ),
        }

        retry
    }
}

fn time_zone(reader: &mut Reader<'_>) -> Tz {
    let name = reader
        .setting(
            "time_zone",
            "Time zone of `cron`, by its name in the IANA database. In the hour in which \
             daylight-saving time begins or ends, the retrier may look an hour early or late, or \
             twice. This does no harm.",
        )
        .example("\"Europe/Berlin\"")
        .or("UTC".to_owned());

    name.parse().unwrap_or_else(|_| {
        reader.mistake(
            "time_zone",
            format!("{name:?} is not a time zone such as \"UTC\" or \"Europe/Berlin\""),
        );
        Tz::UTC
    })
}

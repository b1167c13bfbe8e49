//! `[alerts]`: when a person is alerted, and where.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::Reader;
use crate::config::setting::{Given, secs, to_u32};

/// `[alerts]`
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Path of the alert log: JSON lines, rotated. If it is set, it must be writable.
    pub file: Given<PathBuf>,
    /// Counted refusals of one event that raise an alert.
    pub after_failures: u32,
    /// Age of the oldest event that raises an alert.
    pub stuck_after: Duration,
    /// Where each alert is posted, too.
    pub webhook: Option<SecretString>,
}

impl AlertsConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let alerts = Self {
            file: reader
                .setting(
                    "file",
                    "The alert log: one JSON line when an event was rejected often, when it is \
                     dead, and when the oldest event has waited too long or no longer does. Each \
                     is written once, not once per attempt. Over 10 MiB, outboxd renames the file \
                     to `<file>.1`. The path is relative to the working directory. Unless you set \
                     it, a file that can't be written costs only a warning.",
                )
                .given_or("outboxd-alerts.jsonl".to_owned())
                .map(PathBuf::from),
            after_failures: to_u32(
                reader
                    .setting(
                        "after_failures",
                        "Counted refusals of one event that raise an alert: with the default \
                         delays, after about two minutes.",
                    )
                    .within(5, 1..=10_000),
            ),
            stuck_after: reader
                .setting(
                    "stuck_after",
                    "Age of the oldest event that raises an alert, whatever the reason. The \
                     default is far above the milliseconds that an event usually waits, and above \
                     the time of an election or a rolling restart. Dead events don't count; each \
                     had an alert of its own.",
                )
                .within(secs(300), secs(1)..=secs(86_400)),
            webhook: reader
                .setting(
                    "webhook",
                    "Where outboxd also posts each alert as JSON. Its `text` is a sentence for \
                     people; chat services show that.",
                )
                .example("\"https://host/path\"")
                .secret(),
        };

        let is_url = |url: &SecretString| {
            reqwest::Url::parse(url.expose_secret())
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
        };
        if alerts.webhook.as_ref().is_some_and(|url| !is_url(url)) {
            reader.mistake("webhook", "is not a URL such as https://host/path");
        }

        alerts
    }
}

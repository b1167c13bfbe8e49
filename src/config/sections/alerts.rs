//! `[alerts]`: when a person is alerted, and where.

use std::path::PathBuf;
use std::time::Duration;

use outboxd_client::Subject;
use secrecy::{ExposeSecret, SecretString};

use super::stream::StreamConfig;
use crate::config::reader::Reader;
use crate::config::setting::{Given, secs, to_u32};
use crate::pattern::any_covers;

/// `[alerts]`
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Path of the alert log: JSON lines, rotated. If it is set, it must be writable.
    pub file: Given<PathBuf>,
    /// Counted refusals of one event that raise an alert.
    pub after_failures: u32,
    /// Age of the oldest event that raises an alert.
    pub stuck_after: Duration,
    /// The least time between two posts of alerts that are alike.
    pub interval: Duration,
    /// Where alerts are posted, too.
    pub webhook: Option<SecretString>,
    /// What the webhook takes.
    pub webhook_format: WebhookFormat,
    /// The key that PagerDuty wants in each post.
    pub webhook_key: Option<SecretString>,
    /// The NATS subject to which alerts are published, too.
    pub subject: Option<String>,
}

/// `alerts.webhook_format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    /// outboxd's own.
    Json,
    /// An incoming webhook of Slack, or of what is compatible.
    Slack,
    /// A webhook of Discord.
    Discord,
    /// An Adaptive Card for a workflow of Microsoft Teams.
    Teams,
    /// PagerDuty's Events API v2.
    Pagerduty,
}

impl AlertsConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, stream: &StreamConfig) -> Self {
        let alerts = Self {
            file: reader
                .setting(
                    "file",
                    "The alert log: one JSON line when an event was refused often, when it is \
                     dead, and when the oldest event has waited too long or no longer does. \
                     outboxd writes each line once, not once per attempt. If the file is over 10 \
                     MiB, outboxd renames it to `<file>.1`. The path is relative to the working \
                     directory. If you do not set it, a file that can't be written causes only a \
                     warning.",
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
                     had an alert of its own. A scheduled event that has been due for so long and \
                     is not in the outbox yet raises one, too.",
                )
                .within(secs(300), secs(1)..=secs(86_400)),
            interval: reader
                .setting(
                    "interval",
                    "The least time between two posts about one group, to the webhook and to the \
                     subject. A group has one kind, one code and one reason; `outboxd groups` \
                     shows the same groups. Its first alerts gather for a second. A post holds \
                     their number. The alert log has a line for each alert.",
                )
                .within(secs(60), secs(1)..=secs(86_400)),
            webhook: reader
                .setting(
                    "webhook",
                    "Where outboxd also posts alerts, one post for each group and interval.",
                )
                .example("\"https://host/path\"")
                .secret(),
            webhook_format: webhook_format(reader),
            webhook_key: reader
                .setting(
                    "webhook_key",
                    "The integration key of a service in PagerDuty (its `routing_key`).",
                )
                .example("\"…\"")
                .secret(),
            subject: reader
                .setting(
                    "subject",
                    "NATS subject to which outboxd also publishes the posts, as `json` and without \
                     an ack. The stream of the events must not take it. \
                     `outboxd privileges` prints the right to publish to it.",
                )
                .example("\"ops.outboxd.alerts\"")
                .read(),
        };

        let is_url = |url: &SecretString| {
            reqwest::Url::parse(url.expose_secret())
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
        };
        if alerts.webhook.as_ref().is_some_and(|url| !is_url(url)) {
            reader.mistake("webhook", "is not a URL such as https://host/path");
        }

        let needs_key = alerts.webhook_format == WebhookFormat::Pagerduty;
        if needs_key && alerts.webhook.is_some() && alerts.webhook_key.is_none() {
            reader.mistake("webhook_key", "is not set, and \"pagerduty\" needs one");
        }

        if let Some(subject) = &alerts.subject {
            if let Err(error) = Subject::new(subject.as_str()) {
                reader.mistake("subject", error);
            } else if any_covers(&stream.subjects, subject) {
                let reason = format!(
                    "{subject} is one of stream.subjects: each alert would be stored as if it were \
                     an event; name a subject that the stream does not take"
                );
                reader.mistake("subject", reason);
            }
        }

        alerts
    }
}

fn webhook_format(reader: &mut Reader<'_>) -> WebhookFormat {
    reader
        .setting(
            "webhook_format",
            "What the webhook takes. \"json\": the alert as in the alert log, with `group` and \
             `events`. \"slack\" and \"discord\": a message. \"teams\": an Adaptive Card, for the \
             workflow that posts to a channel when a webhook request is received. \"pagerduty\": \
             an event of the Events API v2 for https://events.pagerduty.com/v2/enqueue; \
             `recovered` resolves what `stuck` opened, `on-time` what `overdue` opened.",
        )
        .one_of(&[
            ("json", WebhookFormat::Json),
            ("slack", WebhookFormat::Slack),
            ("discord", WebhookFormat::Discord),
            ("teams", WebhookFormat::Teams),
            ("pagerduty", WebhookFormat::Pagerduty),
        ])
}

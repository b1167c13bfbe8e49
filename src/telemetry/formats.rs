//! A post as a service expects it: outboxd's own JSON, or the form of Slack, Discord, Microsoft
//! Teams or PagerDuty.
//!
//! Errors come from anyone who writes events. So no text is markup: it mentions nobody and makes no
//! link.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::alert::{Kind, Post};
use crate::config::WebhookFormat;
use crate::group;
use crate::printable::{printable, printable_json};

/// Longest text in a message of a chat, in bytes. Discord takes 2,000 characters.
const CHAT: usize = 1500;
/// Longest summary that PagerDuty takes, in characters.
const SUMMARY: usize = 1024;

/// The body of a post. `dropped` is the number of alerts before this one that were not posted.
pub(super) fn body(
    format: WebhookFormat,
    key: Option<&SecretString>,
    post: &Post,
    dropped: u64,
) -> String {
    let body = match format {
        WebhookFormat::Json => own(post, dropped),
        WebhookFormat::Slack => json!({ "text": for_slack(&chat(post, dropped)) }),
        WebhookFormat::Discord => json!({
            "content": for_discord(&chat(post, dropped)),
            "allowed_mentions": { "parse": [] },
        }),
        WebhookFormat::Teams => for_teams(&chat(post, dropped)),
        WebhookFormat::Pagerduty => {
            let key = key.map(ExposeSecret::expose_secret).unwrap_or_default();
            for_pagerduty(key, post, dropped)
        }
    };

    printable_json(&body.to_string())
}

/// The alert's line in the alert log, and what the post is about.
fn own(post: &Post, dropped: u64) -> Value {
    let mut body = post.alert.clone();
    if let Value::Object(fields) = &mut body {
        fields.insert("text".to_owned(), sentence(post, dropped).into());
        fields.insert("group".to_owned(), post.group.as_str().into());
        fields.insert("events".to_owned(), post.events.into());
        if dropped > 0 {
            fields.insert("dropped".to_owned(), dropped.into());
        }
    }
    body
}

fn text<'a>(post: &'a Post, name: &str) -> &'a str {
    post.alert[name].as_str().unwrap_or_default()
}

fn sentence(post: &Post, dropped: u64) -> String {
    let (events, group) = (post.events, &post.group);
    let mut sentence = text(post, "text").to_owned();
    if events > 1 && post.kind != Kind::FalseDuplicate && post.kind != Kind::Unwritable {
        sentence = format!("{events} alerts of group {group}; the first: {sentence}");
    }
    if dropped > 0 {
        let before = format!("{dropped} alerts before this one were not posted; see alerts.file");
        sentence = format!("{sentence} ({before})");
    }
    sentence
}

fn chat(post: &Post, dropped: u64) -> String {
    let (outbox, kind) = (text(post, "outbox"), post.kind.as_str());
    let line = printable(&format!("{outbox}: {kind}: {}", sentence(post, dropped)));
    cut(&line, CHAT).to_owned()
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Slack reads `<…>` as mentions and links.
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Discord reads Markdown. What is escaped may be longer than the message may be.
fn for_discord(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\*_~`|>[]()#-<:@".contains(c) {
            escaped.push('\\');
        }
        if escaped.len() > CHAT + 400 {
            escaped.pop();
            break;
        }
        escaped.push(c);
    }
    escaped
}

/// An Adaptive Card, as a workflow of Teams takes it. A text run is no Markdown.
fn for_teams(text: &str) -> Value {
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [{
                    "type": "RichTextBlock",
                    "inlines": [{ "type": "TextRun", "text": text }],
                }],
            },
        }],
    })
}

/// An event of the Events API v2. `recovered` resolves the incident that `stuck` opened, and
/// `on-time` that of `overdue`.
fn for_pagerduty(key: &str, post: &Post, dropped: u64) -> Value {
    let outbox = text(post, "outbox");
    let (action, about) = match post.kind.ends() {
        Some(opened) => ("resolve", opened),
        None => ("trigger", post.kind),
    };
    let severity = match post.kind {
        Kind::Recovered | Kind::OnTime => "info",
        Kind::Failing | Kind::FalseDuplicate => "warning",
        Kind::Dead | Kind::Stuck | Kind::Overdue | Kind::Unwritable => "error",
        Kind::Rewound | Kind::ForgedAck | Kind::Unsound => "critical",
    };
    let line = printable(&format!("{outbox}: {}", sentence(post, dropped)));

    json!({
        "routing_key": key,
        "event_action": action,
        // It takes 255 characters; a name of an outbox may have as many.
        "dedup_key": format!(
            "outboxd-{}-{}-{}", group::id("", outbox), about.as_str(), post.group
        ),
        "payload": {
            "summary": line.chars().take(SUMMARY).collect::<String>(),
            "source": outbox,
            "severity": severity,
            "timestamp": text(post, "at"),
            "component": text(post, "relay"),
            "group": post.group,
            "class": post.kind.as_str(),
            "custom_details": own(post, dropped),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(kind: Kind, said: &str, events: u64) -> Post {
        let alert = json!({ "at": "2026", "outbox": "shop.outbox", "relay": "r1", "text": said });
        Post { kind, group: "0a1b2c3d".to_owned(), events, alert }
    }

    fn read(format: WebhookFormat, post: &Post, dropped: u64) -> Value {
        let key = SecretString::from("routing".to_owned());
        serde_json::from_str(&body(format, Some(&key), post, dropped)).expect("it is JSON")
    }

    #[test]
    fn no_text_of_an_event_mentions_anybody_or_makes_a_link() {
        let hostile = "<!channel> <https://x|y> @everyone [a](http://b) **b** \u{202e}&amp;";
        let post = post(Kind::Dead, hostile, 1);
        let slack = read(WebhookFormat::Slack, &post, 0);
        let text = slack["text"].as_str().expect("a text");
        assert!(text.contains("&lt;!channel&gt;") && !text.contains('<'), "{text}");
        assert!(!text.contains('\u{202e}'), "{text}");

        let discord = read(WebhookFormat::Discord, &post, 0);
        assert_eq!(discord["allowed_mentions"]["parse"], json!([]));
        let text = discord["content"].as_str().expect("a text");
        assert!(text.contains(r"\[a\]\(http\:") && text.contains(r"\@everyone"), "{text}");

        let teams = read(WebhookFormat::Teams, &post, 0);
        let body = &teams["attachments"][0]["content"]["body"][0];
        assert_eq!(
            (&body["type"], &body["inlines"][0]["type"]),
            (&"RichTextBlock".into(), &"TextRun".into())
        );
    }

    #[test]
    fn each_text_is_as_short_as_the_service_takes_it() {
        for said in ["*".repeat(9000), "\u{20ac}".repeat(9000), "x".repeat(100_000)] {
            let post = post(Kind::Dead, &said, 3);
            let discord = read(WebhookFormat::Discord, &post, 0);
            assert!(discord["content"].as_str().expect("a text").chars().count() <= 2000);
            let slack = read(WebhookFormat::Slack, &post, 0);
            assert!(slack["text"].as_str().expect("a text").len() < 4000);
            let pager = read(WebhookFormat::Pagerduty, &post, 0);
            let summary = pager["payload"]["summary"].as_str().expect("a summary");
            assert!(summary.chars().count() <= SUMMARY);
        }
    }

    #[test]
    fn counts_are_in_every_form_and_recovered_resolves_what_stuck_opened() {
        let many = post(Kind::Dead, "event e1 is dead", 150);
        for format in [WebhookFormat::Json, WebhookFormat::Slack, WebhookFormat::Teams] {
            let said = read(format, &many, 7).to_string();
            assert!(said.contains("150 alerts of group 0a1b2c3d; the first"), "{said}");
            assert!(said.contains("7 alerts before this one were not posted"), "{said}");
        }
        let own = read(WebhookFormat::Json, &many, 7);
        assert_eq!((&own["events"], &own["dropped"]), (&150.into(), &7.into()));

        let stuck = read(WebhookFormat::Pagerduty, &post(Kind::Stuck, "", 1), 0);
        let recovered = read(WebhookFormat::Pagerduty, &post(Kind::Recovered, "", 1), 0);
        assert_eq!(stuck["routing_key"], "routing");
        assert_eq!(
            (&stuck["event_action"], &recovered["event_action"]),
            (&"trigger".into(), &"resolve".into())
        );
        assert_eq!(stuck["dedup_key"], recovered["dedup_key"]);
    }
}

//! The rules and the dashboard of `deploy/monitoring` query metrics that a relay exports, and name
//! verbs that exist.

use std::collections::BTreeSet;

use bson::doc;
use clap::Parser;
use outboxd::cli::Cli;
use serde_json::Value;

use crate::support::{Relay, Scene, until};

const RULES: &str = include_str!("../deploy/monitoring/rules.yaml");
const RULES_TEST: &str = include_str!("../deploy/monitoring/rules.test.yaml");
const DASHBOARD: &str = include_str!("../deploy/monitoring/dashboard.json");
const README: &str = include_str!("../deploy/monitoring/README.md");

/// Words of PromQL that are neither a function nor a metric.
const OPERATORS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
/// Words that a list of labels in parentheses follows.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// The series that Prometheus itself makes from the rules.
const PROMETHEUS_OWN: &str = "ALERTS";

/// The metrics that an expression reads: its names that are no function, operator or label.
fn metrics_of(expr: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut metrics, mut rest, mut labels_follow) = (Vec::new(), expr, false);
    while let Some(first) = rest.chars().next() {
        match first {
            '{' => rest = behind(rest, '}'),
            '[' => rest = behind(rest, ']'),
            '"' => rest = behind(rest, '"'),
            '(' if labels_follow => (rest, labels_follow) = (behind(rest, ')'), false),
            _ if is_name(first) => {
                let (word, then) =
                    rest.split_at(rest.find(|c: char| !is_name(c)).unwrap_or(rest.len()));
                rest = then;
                let next = then.trim_start();
                labels_follow = BEFORE_LABELS.contains(&word);
                let is_number = first.is_ascii_digit();
                let is_function = next.starts_with('(')
                    || next.starts_with("by ")
                    || next.starts_with("without ");
                if !is_number && !is_function && !labels_follow && !OPERATORS.contains(&word) {
                    metrics.push(word);
                }
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    metrics
}

/// What follows the next `end` after the first character.
fn behind(text: &str, end: char) -> &str {
    text[1..].split_once(end).map_or("", |(_, rest)| rest)
}

/// The names that follow `- alert:` at the start of a line.
fn alerts() -> Vec<&'static str> {
    RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// The expressions of the rules; each is a block of its own.
fn exprs_of_rules() -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let (mut exprs, mut lines) = (Vec::new(), RULES.lines().peekable());
    while let Some(line) = lines.next() {
        if line.trim() == "expr: |" {
            let block = std::iter::from_fn(|| lines.next_if(|next| indent(next) > indent(line)));
            exprs.push(block.collect::<Vec<_>>().join("\n"));
        }
    }
    assert_eq!(
        exprs.len(),
        RULES.matches("expr:").count(),
        "an expression is not written as a block"
    );
    exprs
}

/// The expressions of panels and annotations, and the metrics whose labels the variables show.
fn exprs_of_dashboard(part: &Value, exprs: &mut Vec<String>) {
    match part {
        Value::Array(parts) => parts.iter().for_each(|part| exprs_of_dashboard(part, exprs)),
        Value::Object(fields) => {
            for (name, part) in fields {
                match part.as_str() {
                    Some(expr) if name == "expr" => exprs.push(expr.to_owned()),
                    Some(text) => {
                        let asked = text
                            .strip_prefix("label_values(")
                            .and_then(|asked| asked.rsplit_once(','));
                        exprs.extend(asked.map(|(metric, _)| metric.to_owned()));
                    }
                    None => exprs_of_dashboard(part, exprs),
                }
            }
        }
        _ => {}
    }
}

/// The commands in a text: `outboxd …` between backticks.
fn commands(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2).filter(|command| {
        let mut words = command.split_whitespace();
        words.next() == Some("outboxd") && words.next().is_some()
    })
}

/// The page of the metrics is what a relay exports; `OUTBOXD_WRITE_DOCS=1` writes it.
fn generated(exported: &str) {
    const PAGE: &str = "docs/metrics.md";
    let mut page =
        "# Metrics\n\nWhat `/metrics` exports, with the help texts of the program. Every \
                    metric about an outbox carries\nthe label `outbox`, such as `shop.outbox`. \
                    [Monitoring](../deploy/monitoring/README.md) has rules for those to \
                    alert\non. This page is generated; `OUTBOXD_WRITE_DOCS=1 cargo test \
                    --workspace --features crash-points --test main \
                    monitoring::`\nwrites it.\n\n| metric | type | labels \
                    | meaning |\n| --- | --- | --- | --- |\n"
            .to_owned();
    let help = |line: &str| -> Option<(String, String)> {
        let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        Some((name.to_owned(), help.to_owned()))
    };
    let metrics: std::collections::BTreeMap<_, _> = exported.lines().filter_map(help).collect();
    for (name, help) in metrics {
        let is_type = |line: &&str| line.starts_with(&format!("# TYPE {name} "));
        let kind = exported.lines().find(is_type).and_then(|line| line.split(' ').next_back());
        let mut labels = BTreeSet::new();
        let is_sample = |line: &&str| {
            line.strip_prefix(name.as_str()).is_some_and(|rest| {
                rest.starts_with('{') || rest.starts_with("_bucket{") || rest.starts_with("_sum{")
            })
        };
        for line in exported.lines().filter(is_sample) {
            let inside = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            let named = inside.map_or("", |(inside, _)| inside).split("\",");
            labels.extend(named.filter_map(|label| Some(label.split_once('=')?.0)));
        }
        labels.remove("le");
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, help) = (kind.unwrap_or_default(), help.replace('|', "\\|"));
        page += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }

    if std::env::var_os("OUTBOXD_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let found = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(page == found, "{PAGE} is out of date; OUTBOXD_WRITE_DOCS=1 writes it:\n{page}");
}

#[tokio::test]
async fn every_metric_of_a_rule_or_a_panel_is_one_that_a_relay_exports() {
    let mut exprs = Vec::new();
    exprs_of_dashboard(
        &serde_json::from_str(DASHBOARD).expect("the dashboard is JSON"),
        &mut exprs,
    );
    assert!(exprs.len() > 10, "{exprs:?}");
    exprs.extend(exprs_of_rules());
    let asked: BTreeSet<_> = exprs.iter().flat_map(|expr| metrics_of(expr)).collect();

    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[("OUTBOXD_ALERTS__STUCK_AFTER", "1s")]).await;
    // One event is delivered, one raises an alert, and the change stream ends: then everything has
    // been counted.
    scene.commit([scene.event("k", 1)]).await;
    let bad = doc! { "_id": "bad", "subject": "a b", "payload": "secret", "isLocked": true };
    scene.events.insert_one(bad).bypass_document_validation(true).await.expect("a malformed event");
    until("it is dead", async || scene.one(doc! { "deadAt": { "$ne": null } }).await).await;
    until("the other is out", async || {
        (scene.events.count_documents(doc! {}).await.unwrap() == 1).then_some(())
    })
    .await;
    scene.events.drop().await.expect("the outbox is dropped");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exported = until("the relay has counted everything", async || {
        let answer = reqwest::get(format!("http://{}/metrics", relay.admin().await))
            .await
            .expect("an answer");
        let metrics = answer.text().await.expect("its text");
        let late = [
            "outboxd_oldest_event_age_seconds",
            "outboxd_stream_restarts_total",
            "outboxd_alerts_total",
        ];
        late.iter().all(|late| metrics.contains(late)).then_some(metrics)
    })
    .await;
    generated(&exported);
    let samples = exported.lines().filter(|line| !line.starts_with('#'));
    let exported: BTreeSet<_> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let missing: Vec<_> =
        asked.iter().filter(|&&name| name != PROMETHEUS_OWN && !exported.contains(name)).collect();
    assert!(missing.is_empty(), "no relay exports {missing:?}; it exports {exported:#?}");
}

#[test]
fn metrics_are_distinguished_from_functions_labels_and_numbers() {
    for (expr, metrics) in [
        (
            r#"sum by (job, le) (rate(a_total{class=~"b|c", d="e"}[$__rate_interval])) > 0.5"#,
            "a_total",
        ),
        ("group by (job) (last_over_time(a[1h])) unless on (job) sum by (job) (b) > 0", "a b"),
        ("a_bucket and on (job) b == 1 or c:d:rate5m offset 1h * 1e3", "a_bucket b c:d:rate5m"),
        ("max(a) / ignoring (x) group_left (y) b + on (x) group_left c", "a b c"),
    ] {
        assert_eq!(metrics_of(expr).join(" "), metrics, "{expr}");
    }
}

#[test]
fn every_alert_is_explained_and_tested_and_names_only_verbs_that_exist() {
    assert!(alerts().len() > 5, "{:?}", alerts());
    for alert in alerts() {
        assert!(README.contains(&format!("`{alert}`")), "README.md does not explain {alert}");
        let fires = format!("alertname=\"{alert}\",alertstate=\"firing\"");
        assert!(RULES_TEST.contains(&fires), "{alert} fires in no test");
    }
    let commands: Vec<_> = commands(RULES).chain(commands(README)).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let words = command.split_whitespace();
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

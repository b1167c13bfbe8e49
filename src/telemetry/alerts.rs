//! Alerts: what an operator should look at, once per event and state.
//!
//! Each alert is counted, appended to the alert log and posted to the webhook. Raising an alert
//! never waits: alerts pass through a bounded queue to a task that writes them, and from there to
//! the webhook at its own pace. An alert that finds the queue full is counted and logged. The
//! caller logs a line of its own for each alert it raises.
//!
//! Each outbox opens its own [`Alerts`]. They may share a file; see `alert_file`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::alert::{Alert, Kind, Origin};
use super::alert_file::{AlertFile, newest_kind};
use super::metrics::{Counters, Metrics};
use super::seldom::Seldom;
use super::webhook::{self, Webhook};
use crate::config::AlertsConfig;
use crate::error::{Error, ErrorKind, Result};

/// Alerts on their way to the file: a burst of failing events fits, in a few hundred bytes each.
const QUEUE: usize = 4096;
/// Lines written at once.
const BATCH: usize = 256;
/// How long the last alerts may take to be written and posted when the relay stops.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Where alerts of one outbox are raised.
#[derive(Debug, Clone)]
pub(crate) struct Alerts {
    queue: mpsc::Sender<Alert>,
    omitted: Arc<AtomicU64>,
    raised: Counters<Kind>,
    /// Counted refusals of one event that raise an alert.
    pub(crate) after_failures: u32,
}

/// The task behind [`Alerts`], and what it found in the file.
#[derive(Debug)]
pub(crate) struct AlertLog {
    writing: JoinHandle<()>,
    /// Whether events were stuck when the file was last written: a relay that starts again does not
    /// repeat the alert.
    pub(crate) was_stuck: bool,
}

impl Alerts {
    /// Opens the alert log of an outbox. A default path that cannot be opened only costs the file:
    /// the webhook still gets the alerts.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a path from the settings cannot be written, or the webhook cannot
    /// be used.
    pub(crate) fn open(
        config: &AlertsConfig,
        outbox: &str,
        relay: &str,
        metrics: &Metrics,
    ) -> Result<(Self, AlertLog)> {
        let opened = was_stuck(config, outbox)
            .and_then(|was_stuck| Ok((Some(AlertFile::open(config.file.get())?), was_stuck)));
        let (file, was_stuck) = match opened {
            Ok(opened) => opened,
            Err(error) if config.file.set().is_some() => {
                return Err(cannot_write(config, error));
            }
            Err(error) => {
                let file = config.file.get().display();
                warn!(%error, %file, "no alert log; set alerts.file to a path that can be written");
                (None, false)
            }
        };

        let webhook =
            config.webhook.as_ref().map(|url| webhook::start(url.expose_secret())).transpose()?;

        let (queue, inbox) = mpsc::channel(QUEUE);
        let omitted = Arc::new(AtomicU64::new(0));
        let origin = Origin { outbox: outbox.to_owned(), relay: relay.to_owned() };
        let (crowded, unwritten) = (Seldom::default(), Seldom::default());
        let (file, counted) = (file.map(Arc::new), omitted.clone());
        let writer = Writer { origin, file, webhook, omitted: counted, crowded, unwritten };
        let writing = tokio::spawn(writer.run(inbox));

        let raised = raised(metrics);
        let alerts = Self { queue, omitted, raised, after_failures: config.after_failures };
        Ok((alerts, AlertLog { writing, was_stuck }))
    }

    /// Alerts that go nowhere.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let (queue, raised) = (mpsc::channel(1).0, raised(&Metrics::none()));
        Self { queue, omitted: Arc::default(), raised, after_failures: 1 }
    }

    pub(crate) fn raise(&self, alert: Alert) {
        self.raised.add(alert.kind());
        if self.queue.try_send(alert).is_err() {
            self.omitted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn raised(metrics: &Metrics) -> Counters<Kind> {
    metrics.alerts(Kind::ALL.map(|kind| (kind, kind.as_str())))
}

/// Opens the alert log as the next alert will, so that the file is there again after it was renamed
/// or removed. Alerts themselves need no such call.
///
/// # Errors
/// [`ErrorKind::Config`] when a path from the settings cannot be written.
pub(crate) async fn reopen(config: &AlertsConfig) -> Result<()> {
    let path = config.file.get().clone();
    // A slow disk holds up this task and no other.
    let opened = tokio::task::spawn_blocking(move || AlertFile::open(&path).map(drop)).await;
    match opened {
        Ok(Err(error)) if config.file.set().is_some() => Err(cannot_write(config, error)),
        _ => Ok(()),
    }
}

fn cannot_write(config: &AlertsConfig, error: std::io::Error) -> Error {
    let file = config.file.get().display();
    let message = format!("alerts.file {file} can't be written; name one that can");
    Error::with_source(ErrorKind::Config, message, error)
}

/// Whether the newest line about this outbox that says so says that events are stuck.
fn was_stuck(config: &AlertsConfig, outbox: &str) -> std::io::Result<bool> {
    let (stuck, recovered) = (Kind::Stuck.as_str(), Kind::Recovered.as_str());
    Ok(newest_kind(config.file.get(), outbox, &[stuck, recovered])? == Some(stuck))
}

impl AlertLog {
    /// Waits for the raised alerts. Call it when nothing can raise any more.
    pub(crate) async fn close(self) {
        if tokio::time::timeout(CLOSE_TIME, self.writing).await.is_err() {
            warn!("the last alerts could not be posted in time");
        }
    }
}

/// The task that writes alerts.
struct Writer {
    origin: Origin,
    file: Option<Arc<AlertFile>>,
    webhook: Option<Webhook>,
    omitted: Arc<AtomicU64>,
    /// Alerts that found the queue full.
    crowded: Seldom,
    /// Alerts that could not be written.
    unwritten: Seldom,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Alert>) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            let lines: Vec<String> =
                batch.drain(..).filter_map(|alert| self.origin.render(&alert)).collect();

            self.append(&lines).await;

            if let Some(webhook) = &mut self.webhook {
                lines.into_iter().for_each(|line| webhook.post(line));
            }

            let omitted = self.omitted.swap(0, Ordering::Relaxed);
            if let Some(alerts) = self.crowded.count(omitted) {
                warn!(
                    alerts,
                    "too many alerts at once: some are not in the alert log; \
                     `outboxd groups` shows what failed"
                );
            }
        }

        if let Some(webhook) = self.webhook {
            webhook.close().await;
        }
    }

    async fn append(&mut self, lines: &[String]) {
        let Some(file) = self.file.clone() else { return };
        let (text, alerts) = (lines.join("\n") + "\n", lines.len());

        // A slow disk holds up this task and no other.
        let appended = tokio::task::spawn_blocking(move || file.append(&text)).await;
        match appended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if let Some(alerts) = self.unwritten.count(alerts as u64) {
                    warn!(%error, alerts, "cannot write alerts to alerts.file");
                }
            }
            Err(error) => warn!(%error, alerts, "writing alerts to alerts.file panicked"),
        }
    }
}

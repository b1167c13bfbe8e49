//! Alerts: what an operator should look at, once per event and state.
//!
//! Each alert is counted and appended to the alert log. Alerts that are alike gather, and are posted
//! to the webhook and to a NATS subject as one; see `gather`. Raising an alert never waits: alerts
//! pass through a bounded queue to a task that writes them, and from there to the webhook at its own
//! pace. An alert that finds the queue full is counted and logged. The caller logs a line of its own
//! for each alert it raises.
//!
//! Each outbox opens its own [`Alerts`]. They may share a file; see `alert_file`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::alert::{Alert, Kind, Origin, Outlet, Post};
use super::alert_file::{AlertFile, newest_kind};
use super::formats;
use super::gather::Gathering;
use super::metrics::{Counters, Metrics};
use super::seldom::Seldom;
use super::webhook::{self, Counts, Webhook};
use crate::config::{AlertsConfig, WebhookFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::task;

/// Alerts on their way to the file: a burst of failing events fits, in a few hundred bytes each.
const QUEUE: usize = 4096;
/// Lines written at once.
const BATCH: usize = 256;
/// Posts on their way to NATS: as many as wait for a webhook.
const POSTS: usize = 256;
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
    /// Posts for `alerts.subject`, until the relay is connected.
    posts: Option<mpsc::Receiver<Published>>,
    publishing: Option<JoinHandle<()>>,
    posted: Option<Arc<Counts>>,
    /// Alerts that did not get there.
    pub(crate) dropped: Counters<Outlet>,
    pub(crate) before: Before,
}

/// What the newest alerts of an outbox said when the file was last written: a relay that starts
/// again does not repeat them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    /// Events were stuck.
    pub(crate) was_stuck: bool,
    /// Scheduled events were overdue.
    pub(crate) was_overdue: bool,
}

/// A post for `alerts.subject`.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) body: String,
    /// How many alerts it stands for.
    pub(crate) alerts: u64,
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
        let opened = Before::read(config, outbox)
            .and_then(|before| Ok((Some(AlertFile::open(config.file.get())?), before)));
        let (file, before) = match opened {
            Ok(opened) => opened,
            Err(error) if config.file.set().is_some() => {
                return Err(cannot_write(config, error));
            }
            Err(error) => {
                let file = config.file.get().display();
                warn!(%error, %file, "no alert log; set alerts.file to a path that can be written");
                (None, Before::default())
            }
        };

        let dropped = metrics.alerts_dropped(Outlet::ALL);
        let webhook = webhook::start(config, &dropped)?;
        let posted = webhook.as_ref().map(Webhook::counts);
        let (to_nats, posts) = config.subject.as_ref().map(|_| mpsc::channel(POSTS)).unzip();

        let (queue, inbox) = mpsc::channel(QUEUE);
        let omitted = Arc::new(AtomicU64::new(0));
        let origin = Origin { outbox: outbox.to_owned(), relay: relay.to_owned() };
        let (crowded, unwritten) = (Seldom::default(), Seldom::default());
        let (file, counted) = (file.map(Arc::new), omitted.clone());
        let outlets = Outlets {
            gathering: Gathering::new(config.interval),
            webhook,
            to_nats,
            unpublished: Seldom::default(),
            dropped: dropped.clone(),
        };
        let writer = Writer { origin, file, outlets, omitted: counted, crowded, unwritten };
        let writing = task::spawn(writer.run(inbox));

        let raised = raised(metrics);
        let alerts = Self { queue, omitted, raised, after_failures: config.after_failures };
        Ok((alerts, AlertLog { writing, posts, publishing: None, posted, dropped, before }))
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
    let message = format!("alerts.file {file} can't be written; set a path that can be written");
    Error::with_source(ErrorKind::Config, message, error)
}

impl Before {
    /// From the newest lines about this outbox that say so.
    fn read(config: &AlertsConfig, outbox: &str) -> std::io::Result<Self> {
        let is_open = |begins: Kind, ends: Kind| {
            let kinds = [begins.as_str(), ends.as_str()];
            let newest = newest_kind(config.file.get(), outbox, &kinds)?;
            std::io::Result::Ok(newest == Some(kinds[0]))
        };
        Ok(Self {
            was_stuck: is_open(Kind::Stuck, Kind::Recovered)?,
            was_overdue: is_open(Kind::Overdue, Kind::OnTime)?,
        })
    }
}

impl AlertLog {
    /// The posts for NATS, once.
    pub(crate) fn posts(&mut self) -> Option<mpsc::Receiver<Published>> {
        self.posts.take()
    }

    /// Waits for this task, too, when it closes.
    pub(crate) fn published_by(&mut self, publishing: JoinHandle<()>) {
        self.publishing = Some(publishing);
    }

    /// Waits for the raised alerts. Call it when nothing can raise any more.
    pub(crate) async fn close(self) {
        let ended = async {
            drop(self.writing.await);
            if let Some(publishing) = self.publishing {
                drop(publishing.await);
            }
        };
        if tokio::time::timeout(CLOSE_TIME, ended).await.is_err() {
            let alerts = self.posted.map_or(0, |counts| counts.give_up());
            warn!(alerts, "the last alerts could not be posted in time");
        }
    }
}

/// The task that writes alerts.
struct Writer {
    origin: Origin,
    file: Option<Arc<AlertFile>>,
    outlets: Outlets,
    omitted: Arc<AtomicU64>,
    /// Alerts that found the queue full.
    crowded: Seldom,
    /// Alerts that could not be written.
    unwritten: Seldom,
}

/// Where gathered alerts go.
struct Outlets {
    gathering: Gathering,
    webhook: Option<Webhook>,
    to_nats: Option<mpsc::Sender<Published>>,
    /// Alerts that found no room on their way to NATS.
    unpublished: Seldom,
    dropped: Counters<Outlet>,
}

impl Outlets {
    fn add(&mut self, alert: &Alert, line: &str) {
        if self.webhook.is_some() || self.to_nats.is_some() {
            self.gathering.add(alert, line, Instant::now());
        }
    }

    /// Ends when the next post is due.
    async fn due(&self) {
        match self.gathering.due() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn post(&mut self, posts: Vec<Post>) {
        for post in posts {
            if let Some(to_nats) = &self.to_nats {
                let body = formats::body(WebhookFormat::Json, None, &post, 0);
                let published = Published { body, alerts: post.events };
                let missed = if to_nats.try_send(published).is_err() { post.events } else { 0 };
                self.dropped.add_many(Outlet::Subject, missed);
                if let Some(alerts) = self.unpublished.count(missed) {
                    warn!(alerts, "NATS is too slow: alerts.subject did not get these alerts");
                }
            }
            if let Some(webhook) = &mut self.webhook {
                webhook.post(post);
            }
        }
    }

    /// Counts alerts that found the queue full: they get nowhere.
    fn omitted(&self, alerts: u64) {
        self.dropped.add_many(Outlet::File, alerts);
        if let Some(webhook) = &self.webhook {
            webhook.counts().dropped(alerts);
        }
        if self.to_nats.is_some() {
            self.dropped.add_many(Outlet::Subject, alerts);
        }
    }

    async fn close(mut self) {
        let rest = self.gathering.rest();
        self.post(rest);
        if let Some(alerts) = self.unpublished.rest() {
            warn!(alerts, "NATS is too slow: alerts.subject did not get these alerts");
        }

        drop(self.to_nats);
        if let Some(webhook) = self.webhook {
            webhook.close().await;
        }
    }
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Alert>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = tokio::select! {
                received = inbox.recv_many(&mut batch, BATCH) => received,
                () = self.outlets.due() => {
                    let due = self.outlets.gathering.take(Instant::now());
                    self.outlets.post(due);
                    continue;
                }
            };
            if received == 0 {
                break;
            }

            let mut lines = Vec::with_capacity(received);
            for alert in batch.drain(..) {
                if let Some(line) = self.origin.render(&alert) {
                    self.outlets.add(&alert, &line);
                    lines.push(line);
                }
            }
            self.append(&lines).await;

            let omitted = self.omitted.swap(0, Ordering::Relaxed);
            self.outlets.omitted(omitted);
            if let Some(alerts) = self.crowded.count(omitted) {
                warn!(
                    alerts,
                    "too many alerts at once: some are not in the alert log; \
                     `outboxd groups` shows what failed"
                );
            }
        }

        self.outlets.close().await;
    }

    async fn append(&mut self, lines: &[String]) {
        let Some(file) = self.file.clone() else { return };
        let (text, alerts) = (lines.join("\n") + "\n", lines.len());

        // A slow disk holds up this task and no other.
        let appended = tokio::task::spawn_blocking(move || file.append(&text)).await;
        if !matches!(appended, Ok(Ok(()))) {
            self.outlets.dropped.add_many(Outlet::File, alerts as u64);
        }

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

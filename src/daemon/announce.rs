//! Publishes alerts to `alerts.subject`: plain messages, without an ack.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::config::AlertsConfig;
use crate::jetstream::connection::Nats;
use crate::task;
use crate::telemetry::alert::Outlet;
use crate::telemetry::alerts::{AlertLog, Published};
use crate::telemetry::metrics::Counters;
use crate::telemetry::seldom::Seldom;

/// How long a client that isn't connected may keep an alert waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Within this time the server reports that it denied a publish.
const DENIAL: Duration = Duration::from_millis(500);

/// The task that publishes.
struct Announcer {
    nats: Nats,
    subject: String,
    dropped: Counters<Outlet>,
    failed: Seldom,
    /// Alerts that left since then. The server may still report that it denied them.
    left: Option<(Instant, u64)>,
}

/// Starts to publish the posts of this alert log, if `alerts.subject` is set.
pub(super) fn start(nats: &Nats, config: &AlertsConfig, alert_log: &mut AlertLog) {
    let (Some(subject), Some(posts)) = (&config.subject, alert_log.posts()) else { return };
    let publishing = publish(nats.clone(), subject.clone(), posts, alert_log.dropped.clone());
    alert_log.published_by(task::spawn(publishing));
}

/// Publishes each post, until no more can come.
async fn publish(
    nats: Nats,
    subject: String,
    mut posts: mpsc::Receiver<Published>,
    dropped: Counters<Outlet>,
) {
    let mut announcer = Announcer { nats, subject, dropped, failed: Seldom::default(), left: None };
    loop {
        let wait = if announcer.left.is_some() { DENIAL } else { Duration::MAX };
        match timeout(wait, posts.recv()).await {
            Ok(Some(post)) => announcer.publish(post).await,
            Ok(None) => break,
            Err(_) => announcer.look_for_denial(),
        }
    }

    if announcer.left.is_some() {
        sleep(DENIAL).await;
        announcer.look_for_denial();
    }
    if let Some(alerts) = announcer.failed.rest() {
        let subject = announcer.subject;
        warn!(subject, alerts, "could not publish alerts to alerts.subject");
    }
}

impl Announcer {
    async fn publish(&mut self, Published { body, alerts }: Published) {
        // The relay replaces its client from time to time.
        let client = self.nats.context().client();
        let subject = self.subject.clone();
        let began = Instant::now();
        let published = timeout(PATIENCE, async {
            client.publish(subject, body.into()).await.map_err(|error| error.to_string())?;
            client.flush().await.map_err(|error| error.to_string())
        });

        match published.await {
            Ok(Ok(())) => self.left.get_or_insert((began, 0)).1 += alerts,
            Ok(Err(error)) => self.failed(&error, alerts),
            Err(_) => self.failed("NATS does not accept it", alerts),
        }
    }

    fn look_for_denial(&mut self) {
        let Some((since, alerts)) = self.left.take() else { return };
        if self.nats.denied.since(&self.subject, since) {
            let error = "NATS denies publishing to alerts.subject: \
                         run `outboxd privileges --role relay` and grant what it prints";
            self.failed(error, alerts);
        }
    }

    fn failed(&mut self, error: &str, alerts: u64) {
        self.dropped.add_many(Outlet::Subject, alerts);
        if let Some(alerts) = self.failed.count(alerts) {
            let subject = &self.subject;
            warn!(error, subject, alerts, "could not publish alerts to alerts.subject");
        }
    }
}

//! Posts alerts to a URL, one at a time, each in a few attempts. The rest of the relay never waits
//! for it.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::choose_tls;
use super::seldom::Seldom;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result, with_causes};

/// Alerts that wait to be posted; more than a person would read.
const QUEUE: usize = 256;
/// How long one post may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to post one alert.
const TRIES: u32 = 4;
/// Waits between the tries.
const WAITS: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));

/// Where alerts are posted.
#[derive(Debug)]
pub(super) struct Webhook {
    queue: mpsc::Sender<String>,
    posting: JoinHandle<()>,
    missed: Seldom,
}

/// Starts the task that posts to this URL.
///
/// # Errors
/// [`ErrorKind::Config`] when no HTTP client can be made.
pub(super) fn start(url: &str) -> Result<Webhook> {
    choose_tls();
    let agent = concat!("outboxd/", env!("CARGO_PKG_VERSION"));
    let client = Client::builder().timeout(TIMEOUT).user_agent(agent).build();
    // The error may name the URL, which is a secret.
    let client = client.map_err(|error| {
        Error::with_source(ErrorKind::Config, "alerts.webhook can't be used", error.without_url())
    })?;

    let (queue, mut inbox) = mpsc::channel::<String>(QUEUE);
    let url = url.to_owned();
    let posting = tokio::spawn(async move {
        let mut failed = Seldom::default();
        while let Some(alert) = inbox.recv().await {
            post(&client, &url, alert, &mut failed).await;
        }
    });

    Ok(Webhook { queue, posting, missed: Seldom::default() })
}

impl Webhook {
    /// Queues an alert.
    pub(super) fn post(&mut self, alert: String) {
        let is_missed = self.queue.try_send(alert).is_err();
        report(self.missed.count(is_missed.into()));
    }

    /// Waits until each queued alert is posted or given up.
    pub(super) async fn close(mut self) {
        report(self.missed.rest());
        drop(self.queue);
        if let Err(error) = self.posting.await {
            warn!(%error, "posting alerts panicked");
        }
    }
}

fn report(missed: Option<u64>) {
    if let Some(alerts) = missed {
        warn!(alerts, "the webhook is behind: these alerts are only in alerts.file");
    }
}

async fn post(client: &Client, url: &str, alert: String, failed: &mut Seldom) {
    let mut backoff = WAITS;
    for attempt in 1..=TRIES {
        let sent = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(alert.clone())
            .send()
            .await;

        match sent.and_then(reqwest::Response::error_for_status) {
            Ok(_) => return,
            Err(error) => {
                let error = error.without_url();
                if let Some(attempts) = failed.count(1) {
                    let error = with_causes(&error);
                    warn!(error, attempts, "could not post an alert");
                }
            }
        }

        if attempt < TRIES {
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

//! Posts alerts to a URL, one at a time, each in a few attempts. The rest of the relay never waits
//! for it.
//!
//! What a repetition can't change (most of 4xx) is not repeated, and `Retry-After` is waited for. A
//! redirection that keeps method and body (307, 308) is followed, from HTTPS to HTTPS only. Others
//! would become a GET without the alert. What is not posted is counted, logged, and named in the
//! next post.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::alert::{Outlet, Post};
use super::choose_tls;
use super::formats;
use super::metrics::Counters;
use super::seldom::Seldom;
use crate::backoff::Backoff;
use crate::config::{AlertsConfig, WebhookFormat};
use crate::error::{Error, ErrorKind, Result, with_causes};
use crate::task;

/// Posts that wait; more than a person would read.
const QUEUE: usize = 256;
/// How long one post may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to post one alert.
const TRIES: u32 = 4;
/// Waits between the tries.
const WAITS: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));
/// Longest wait that a server may ask for. Later alerts wait as well.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// Redirections of one post that are followed.
const REDIRECTIONS: usize = 5;

/// Where alerts are posted.
#[derive(Debug)]
pub(super) struct Webhook {
    queue: mpsc::Sender<Post>,
    posting: JoinHandle<()>,
    counts: Arc<Counts>,
    missed: Seldom,
}

/// Alerts that are not posted.
#[derive(Debug)]
pub(super) struct Counts {
    /// They wait for their post.
    waiting: AtomicU64,
    /// They were given up since the last post.
    dropped: AtomicU64,
    /// All that were given up.
    total: Counters<Outlet>,
}

impl Counts {
    /// Counts alerts that are given up.
    pub(super) fn dropped(&self, alerts: u64) {
        self.dropped.fetch_add(alerts, Ordering::Relaxed);
        self.total.add_many(Outlet::Webhook, alerts);
    }

    /// Alerts wait no longer. Returns false if they were given up in the meantime.
    fn arrived(&self, alerts: u64) -> bool {
        let less = |waiting: u64| waiting.checked_sub(alerts);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Gives up what still waits, and returns how many that is.
    pub(super) fn give_up(&self) -> u64 {
        let alerts = self.waiting.swap(0, Ordering::Relaxed);
        self.dropped(alerts);
        alerts
    }
}

/// The task that posts.
struct Poster {
    client: Client,
    url: SecretString,
    format: WebhookFormat,
    key: Option<SecretString>,
    failed: Seldom,
    lost: Seldom,
    counts: Arc<Counts>,
}

/// Why an attempt failed.
struct Failed {
    error: String,
    is_final: bool,
    wait: Option<Duration>,
}

/// Starts the task that posts to the webhook of the settings, if there is one.
///
/// # Errors
/// [`ErrorKind::Config`] when no HTTP client can be made.
pub(super) fn start(config: &AlertsConfig, total: &Counters<Outlet>) -> Result<Option<Webhook>> {
    let Some(url) = &config.webhook else { return Ok(None) };
    choose_tls();
    let agent = concat!("outboxd/", env!("CARGO_PKG_VERSION"));
    // A Referer would show the URL, which is a secret, to the target of a redirection.
    let client = Client::builder()
        .timeout(TIMEOUT)
        .user_agent(agent)
        .referer(false)
        .redirect(Policy::custom(redirect))
        .build();
    // The error may name the URL.
    let client = client.map_err(|error| {
        Error::with_source(ErrorKind::Config, "alerts.webhook can't be used", error.without_url())
    })?;

    let (queue, mut inbox) = mpsc::channel::<Post>(QUEUE);
    let (waiting, dropped) = (AtomicU64::default(), AtomicU64::default());
    let counts = Arc::new(Counts { waiting, dropped, total: total.clone() });
    let mut poster = Poster {
        client,
        url: url.clone(),
        format: config.webhook_format,
        key: config.webhook_key.clone(),
        failed: Seldom::default(),
        lost: Seldom::default(),
        counts: counts.clone(),
    };
    let posting = task::spawn(async move {
        while let Some(post) = inbox.recv().await {
            poster.post(&post).await;
        }
        report_lost(poster.lost.rest());
    });

    Ok(Some(Webhook { queue, posting, counts, missed: Seldom::default() }))
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let keeps_body =
        matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    let previous = attempt.previous();
    let is_safe = attempt.url().scheme() == "https"
        || previous.last().is_some_and(|previous| previous.scheme() == "http");
    if keeps_body && is_safe && previous.len() <= REDIRECTIONS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

impl Webhook {
    /// Queues a post.
    pub(super) fn post(&mut self, post: Post) {
        let events = post.events;
        self.counts.waiting.fetch_add(events, Ordering::Relaxed);
        let mut missed = 0;
        if self.queue.try_send(post).is_err() {
            self.counts.waiting.fetch_sub(events, Ordering::Relaxed);
            self.counts.dropped(events);
            missed = events;
        }
        report_missed(self.missed.count(missed));
    }

    /// Alerts on their way and dropped, for a last word when the time is up.
    pub(super) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Waits until each queued alert is posted or given up.
    pub(super) async fn close(mut self) {
        report_missed(self.missed.rest());
        drop(self.queue);
        if let Err(error) = self.posting.await {
            warn!(%error, "posting alerts panicked");
        }
    }
}

fn report_missed(missed: Option<u64>) {
    if let Some(alerts) = missed {
        warn!(alerts, "the webhook is too slow: these alerts are only in alerts.file");
    }
}

fn report_lost(lost: Option<u64>) {
    if let Some(alerts) = lost {
        warn!(alerts, "the webhook did not accept these alerts: they are only in alerts.file");
    }
}

impl Poster {
    async fn post(&mut self, post: &Post) {
        let dropped = self.counts.dropped.swap(0, Ordering::Relaxed);
        let body = formats::body(self.format, self.key.as_ref(), post, dropped);

        let mut backoff = WAITS;
        let mut is_posted = false;
        for attempt in 1..=TRIES {
            let Failed { error, is_final, wait } = match self.attempt(&body).await {
                Ok(()) => {
                    is_posted = true;
                    break;
                }
                Err(failed) => failed,
            };
            if let Some(attempts) = self.failed.count(1) {
                warn!(%error, attempts, "could not post an alert");
            }
            if is_final || (attempt == TRIES && wait.is_none()) {
                break;
            }

            // The server's wait holds for the next post, too.
            let own = backoff.next_wait();
            tokio::time::sleep(wait.map_or(own, |wait| wait.max(own))).await;
        }

        let is_given_up = !self.counts.arrived(post.events);
        if !is_posted {
            self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
            if !is_given_up {
                self.counts.dropped(post.events);
            }
            report_lost(self.lost.count(post.events));
        }
    }

    async fn attempt(&self, body: &str) -> std::result::Result<(), Failed> {
        let request = self.client.post(self.url.expose_secret());
        let request = request.header(CONTENT_TYPE, "application/json").body(body.to_owned());
        let response = request.send().await.map_err(|error| Failed {
            error: with_causes(&error.without_url()),
            is_final: false,
            wait: None,
        })?;

        let status = response.status();
        if status.is_success() {
            return Ok(());
        }

        let is_final = is_final(status);
        let mut error = format!("the webhook answers {status}");
        if status.is_redirection() {
            error += "; only 307 and 308 are followed, five times at most and never from https \
                      to http: set alerts.webhook to the address it redirects to";
        } else if is_final {
            error += "; a retry would not help: check alerts.webhook and \
                      alerts.webhook_format";
        }
        Err(Failed { error, is_final, wait: retry_after(response.headers(), SystemTime::now()) })
    }
}

/// Whether a repetition would be answered in the same way.
fn is_final(status: StatusCode) -> bool {
    let passes =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_redirection() || (status.is_client_error() && !passes.contains(&status))
}

/// The wait that a server asks for: in seconds, with a fraction as Discord gives it, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_a_server_asks_for_is_read_in_each_form_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (text, seconds) in [
            ("7", Some(7.0)),
            (" 0.5 ", Some(0.5)),
            ("0", Some(0.0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7.0)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0.0)),
            ("99999999999", Some(900.0)),
            ("-1", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
            let wait = retry_after(&headers, now).map(|wait| wait.as_secs_f64());
            assert_eq!(wait, seconds, "{text}");
        }
    }

    #[test]
    fn what_a_repetition_can_change_is_repeated() {
        for (status, is_so) in [
            (301, true),
            (304, true),
            (400, true),
            (401, true),
            (404, true),
            (410, true),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_final(status), is_so, "{status}");
        }
    }
}

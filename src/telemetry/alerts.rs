//! What a person should look at: one line in the alert log, a count, and a post to the webhook,
//! once per event and state.
//!
//! Raising an alert never waits: lines go through a bounded queue to a task that appends them, and
//! from there to the webhook at its own pace. What finds a queue full is counted and said; whatever
//! raises an alert also logs a line.
//!
//! The file holds JSON lines. Over 10 MiB it is renamed to `<file>.1`, over the one before, and
//! begun anew.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::DateTime;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::metrics::{Counters, Metrics};
use super::webhook::{self, Webhook};
use crate::config::AlertsConfig;
use crate::error::{Error, ErrorKind, Result};

/// Alerts on their way to the file: a burst of failing events fits, in a few hundred bytes each.
const QUEUE: usize = 4096;
/// Lines written at once.
const BATCH: usize = 256;
/// Size from which the file is rotated.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// How long the last alerts may take to be written and posted when the relay stops.
const LAST: Duration = Duration::from_secs(2);

/// Which state an event, or the outbox, has come into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// An event was refused `alerts.after_failures` times.
    Failing,
    /// An event is dead.
    Dead,
    /// The oldest event is older than `alerts.stuck_after`.
    Stuck,
    /// It no longer is.
    Recovered,
    /// The stream has lost messages that it had acked.
    Rewound,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Failing, Self::Dead, Self::Stuck, Self::Recovered, Self::Rewound];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Dead => "dead",
            Self::Stuck => "stuck",
            Self::Recovered => "recovered",
            Self::Rewound => "rewound",
        }
    }
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Alert {
    pub(crate) kind: Kind,
    /// The whole of it in one sentence; what chat webhooks show.
    pub(crate) text: String,
    /// The event it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<About>,
    /// Of [`Kind::Stuck`]: how old the oldest event is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oldest_seconds: Option<u64>,
}

/// An event, as far as an alert tells: never its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct About {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<&'static str>,
}

/// Where alerts are raised.
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
    /// Whether the last word on this outbox was [`Kind::Stuck`].
    pub(crate) was_stuck: bool,
}

impl Alerts {
    /// Opens the alert log of an outbox. A file that nobody asked for may fail to open: alerts then
    /// go elsewhere only.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the file that was asked for can't be written, or the webhook
    /// can't be used.
    pub(crate) fn open(
        config: &AlertsConfig,
        outbox: &str,
        relay: &str,
        metrics: &Metrics,
    ) -> Result<(Self, AlertLog)> {
        let (file, was_stuck) = match was_stuck(&config.file, outbox)
            .and_then(|was| Ok((Lines::open(&config.file)?, was)))
        {
            Ok((file, was_stuck)) => (Some(file), was_stuck),
            Err(error) if config.file_given => {
                let message = format!(
                    "alerts.file {} can't be written; name one that can",
                    config.file.display()
                );
                return Err(Error::with_source(ErrorKind::Config, message, error));
            }
            Err(error) => {
                let file = config.file.display();
                warn!(%error, %file, "there is no alert log; set alerts.file to a path that can be written");
                (None, false)
            }
        };
        let webhook =
            config.webhook.as_ref().map(|url| webhook::start(url.expose_secret())).transpose()?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let omitted = Arc::new(AtomicU64::new(0));
        let from = From { outbox: outbox.to_owned(), relay: relay.to_owned() };
        let writing = tokio::spawn(write(from, file, inbox, webhook, omitted.clone()));
        Ok((
            Self { queue, omitted, raised: raised(metrics), after_failures: config.after_failures },
            AlertLog { writing, was_stuck },
        ))
    }

    /// Those that nobody hears.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self {
            queue: mpsc::channel(1).0,
            omitted: Arc::default(),
            raised: raised(&Metrics::none()),
            after_failures: 1,
        }
    }

    /// Raises an alert.
    pub(crate) fn raise(&self, alert: Alert) {
        self.raised.add(alert.kind);
        if self.queue.try_send(alert).is_err() {
            self.omitted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn raised(metrics: &Metrics) -> Counters<Kind> {
    metrics.alerts(Kind::ALL.map(|kind| (kind, kind.as_str())))
}

impl AlertLog {
    /// Waits for what was raised. Call it when nobody can raise any more.
    pub(crate) async fn close(self) {
        if tokio::time::timeout(LAST, self.writing).await.is_err() {
            warn!("the last alerts could not be posted in time");
        }
    }
}

async fn write(
    from: From,
    mut file: Option<Lines>,
    mut inbox: mpsc::Receiver<Alert>,
    webhook: Option<Webhook>,
    omitted: Arc<AtomicU64>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        let lines: Vec<String> = batch.drain(..).filter_map(|alert| from.render(&alert)).collect();
        if let Some(mut lines_file) = file.take() {
            // A slow disk holds up this task and no other.
            let text = lines.join("\n") + "\n";
            let appended = tokio::task::spawn_blocking(move || {
                let result = lines_file.append(&text);
                (lines_file, result)
            });
            match appended.await {
                Ok((lines_file, result)) => {
                    file = Some(lines_file);
                    if let Err(error) = result {
                        warn!(%error, alerts = lines.len(), "alerts could not be written to alerts.file");
                    }
                }
                Err(error) => warn!(%error, "the alert log has ended"),
            }
        }
        if let Some(webhook) = &webhook {
            lines.into_iter().for_each(|line| webhook.post(line));
        }
        match omitted.swap(0, Ordering::Relaxed) {
            0 => {}
            alerts => {
                warn!(
                    alerts,
                    "too many alerts at once for the log of alerts; `outboxd groups` shows what failed"
                )
            }
        }
    }
    if let Some(webhook) = webhook {
        webhook.close().await;
    }
}

/// Who raises them.
#[derive(Debug)]
struct From {
    outbox: String,
    relay: String,
}

impl From {
    fn render(&self, alert: &Alert) -> Option<String> {
        #[derive(Serialize)]
        struct Line<'a> {
            at: String,
            outbox: &'a str,
            relay: &'a str,
            #[serde(flatten)]
            alert: &'a Alert,
        }
        let at = DateTime::now().try_to_rfc3339_string().unwrap_or_default();
        let line = Line { at, outbox: &self.outbox, relay: &self.relay, alert };
        serde_json::to_string(&line)
            .inspect_err(|error| warn!(%error, "an alert can't be written as JSON"))
            .ok()
    }
}

/// The alert log.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Lines {
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let bytes = file.metadata()?.len();
        // A line that a crash cut off must not take the next one with it.
        let mut last = [b'\n'];
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    fn append(&mut self, text: &str) -> std::io::Result<()> {
        if self.bytes >= MAX_FILE_BYTES {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            let file = self.path.display();
            match std::fs::rename(&self.path, older).and_then(|()| Self::open(&self.path)) {
                Ok(anew) => {
                    info!(%file, "rotated the alert log");
                    *self = anew;
                }
                // Mounted by itself, say: it grows on.
                Err(error) => warn!(%error, %file, "the alert log can't be rotated"),
            }
        }
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Whether the newest line about this outbox being stuck or not says that it is.
fn was_stuck(path: &Path, outbox: &str) -> std::io::Result<bool> {
    #[derive(Deserialize)]
    struct Known<'a> {
        #[serde(borrow)]
        outbox: std::borrow::Cow<'a, str>,
        kind: Kind,
    }
    let mut older = path.to_owned().into_os_string();
    older.push(".1");
    let mut lines = Vec::new();
    for path in [Path::new(&older), path] {
        match File::open(path) {
            Ok(file) => lines.push(BufReader::new(file).split(b'\n')),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut stuck = false;
    for line in lines.into_iter().flatten() {
        // A line cut off by a crash, or somebody else's, says nothing.
        if let Ok(known) = serde_json::from_slice::<Known<'_>>(&line?)
            && known.outbox == outbox
            && matches!(known.kind, Kind::Stuck | Kind::Recovered)
        {
            stuck = known.kind == Kind::Stuck;
        }
    }
    Ok(stuck)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(kind: Kind) -> Alert {
        Alert {
            kind,
            text: "one \"sentence\"\nover two lines".to_owned(),
            event: None,
            oldest_seconds: None,
        }
    }

    #[test]
    fn the_file_is_rotated_and_remembers_what_was_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let from = From { outbox: "shop.outbox".to_owned(), relay: "r1".to_owned() };
        assert!(!was_stuck(&path, "shop.outbox").unwrap());
        let mut lines = Lines::open(&path).unwrap();
        let stuck = from.render(&alert(Kind::Stuck)).unwrap();
        lines.append(&format!("{stuck}\n{{cut off\n")).unwrap();
        assert!(was_stuck(&path, "shop.outbox").unwrap());
        assert!(
            !was_stuck(&path, "other.outbox").unwrap(),
            "another outbox's line is not this one's"
        );
        lines.bytes = MAX_FILE_BYTES;
        let recovered = from.render(&alert(Kind::Recovered)).unwrap();
        lines.append(&recovered).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), recovered);
        assert!(
            std::fs::read_to_string(folder.path().join("alerts.jsonl.1"))
                .unwrap()
                .starts_with(&stuck)
        );
        assert!(!was_stuck(&path, "shop.outbox").unwrap());
        assert_eq!(Lines::open(&path).unwrap().bytes, recovered.len() as u64);
    }
}

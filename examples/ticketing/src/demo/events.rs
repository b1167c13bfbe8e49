//! The events as any consumer gets them: when each arrives, and what the whole stream holds.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use bson::oid::ObjectId;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use ticketing::failure::Failure;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::commits::{Commit, Version};

/// How long the stream may take to give the next message.
const NEXT_TIME: Duration = Duration::from_secs(10);

/// What the stream holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Messages.
    pub(crate) events: u64,
    /// Messages whose id appeared before.
    pub(crate) duplicates: u64,
    /// Messages that came after one of the same record with a higher version.
    pub(crate) reordered: u64,
    /// Messages that no service wrote.
    pub(crate) foreign: u64,
    /// Versions of records that have an event.
    versions: HashSet<Version>,
}

impl Held {
    /// How many of the events that the records' versions stand for are not there: one for each
    /// version from 0.
    pub(crate) fn missing(&self, records: &HashMap<ObjectId, i64>) -> usize {
        let versions = records
            .iter()
            .flat_map(|(id, last)| (0..=*last).map(|version| Version { id: *id, version }));
        versions.filter(|version| !self.versions.contains(version)).count()
    }

    fn take(
        &mut self,
        message: &async_nats::Message,
        seen: &mut HashSet<String>,
        last: &mut HashMap<ObjectId, i64>,
    ) {
        self.events += 1;
        let id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));

        let Ok(event) = serde_json::from_slice::<Version>(&message.payload) else {
            self.foreign += 1;
            return;
        };

        if let Some(id) = id
            && !seen.insert(id.to_string())
        {
            self.duplicates += 1;
            return;
        }

        if last.insert(event.id, event.version).is_some_and(|before| before >= event.version) {
            self.reordered += 1;
        }

        self.versions.insert(event);
    }
}

/// Reads the whole stream.
pub(crate) async fn read(nats: &Context, stream: &str) -> Result<Held, Failure> {
    let mut held = Held::default();
    if nats.get_stream(stream).await?.cached_info().state.messages == 0 {
        return Ok(held);
    }

    let (mut seen, mut last) = (HashSet::new(), HashMap::new());
    let mut messages = consumer(nats, stream, DeliverPolicy::All).await?;

    loop {
        let next = timeout(NEXT_TIME, messages.next())
            .await
            .map_err(|_| "the stream stopped giving messages")?;
        let message = next.ok_or("the stream ended")??;
        held.take(&message, &mut seen, &mut last);

        if message.info()?.pending == 0 {
            return Ok(held);
        }
    }
}

/// A consumer that notes when each event reaches it.
pub(crate) struct Watch {
    received: Arc<Mutex<HashMap<Version, u64>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Watches from now on.
    pub(crate) async fn start(nats: &Context, stream: &str) -> Result<Self, Failure> {
        let mut messages = consumer(nats, stream, DeliverPolicy::New).await?;
        let received: Arc<Mutex<HashMap<Version, u64>>> = Arc::default();
        let noted = Arc::clone(&received);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let now = micros();
                let Ok(message) = message else { continue };

                if let Ok(event) = serde_json::from_slice(&message.payload) {
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry(event)
                        .or_insert(now);
                }
            }
        });

        Ok(Self { received, task })
    }

    /// From commit to here, in microseconds, for each of these commits whose event arrived.
    pub(crate) fn latency<'c>(
        &self,
        commits: impl IntoIterator<Item = &'c Commit>,
    ) -> Result<Histogram<u64>, Failure> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latency = Histogram::new(3)?;
        for Commit { version, at } in commits {
            if let Some(arrived) = received.get(version) {
                let at = u64::try_from(at.timestamp_millis())?.saturating_mul(1000);
                latency.record(arrived.saturating_sub(at))?;
            }
        }

        Ok(latency)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consumer(nats: &Context, stream: &str, from: DeliverPolicy) -> Result<Ordered, Failure> {
    let config = OrderedConfig {
        deliver_policy: from,
        replay_policy: ReplayPolicy::Instant,
        ..OrderedConfig::default()
    };
    Ok(nats.get_stream_no_info(stream).await?.create_consumer(config).await?.messages().await?)
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

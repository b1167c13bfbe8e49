//! Publishes to the stream: turns the core's messages into the client's, and errors into the codes
//! of the failure table.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;

use super::bursts;
use super::connection::Nats;
use super::facts::removes;
use super::message::{self, part};
use super::stored::{self, transforms};
use super::stream;
use super::waiting::NoAck;
use crate::failure::{CONNECTION_LOST, NO_BATCHES, NO_REPLIES, Rejection, TIMEOUT};
use crate::pattern::any_covers;
use crate::relay::ports::{Ack, Burst, EventBus, Forged, Message};
use crate::relay::publish::outcome::Held;
use crate::relay::watermark::{Compared, Found, How, Rewound, Watermark};

/// How old the known configuration of the stream may be when a publish has no ack or a false one.
const CONFIG_AGE: Duration = Duration::from_secs(1);
/// Stored messages that are read at once. A thousand, after a crash, take 16 round trips, and the
/// server's queue of API requests, which the account shares, holds thousands.
const MAX_READS: usize = 64;
/// Looks again before the stream counts as behind its own acks, and the wait before each.
const LATE_LOOKS: u32 = 4;
const LATE_LOOK: Duration = Duration::from_millis(250);
/// Bytes of a payload that count as one read of those at once, so that they take 16 MB at most
/// together, or the largest message alone.
const READ_BYTES: usize = 64 << 10;

/// The stream as the relay publishes to it.
#[derive(Debug, Clone)]
pub(crate) struct JetStream {
    pub(super) nats: Nats,
    pub(super) name: String,
    known: Arc<Mutex<Option<Known>>>,
    takes: Arc<Takes>,
    /// The last sequence that the stream has shown; 0 after it has gone back.
    pub(super) reached: Arc<AtomicU64>,
    /// When its last message was stored then, in ms since 1970 by its own clock.
    pub(super) reached_at: Arc<AtomicI64>,
    /// Whether it was seen to have lost messages, and nobody has looked at it since.
    pub(super) is_hurt: Arc<AtomicBool>,
    /// How the stream keeps the order of bursts.
    bursts: Arc<std::sync::Mutex<Option<Burst>>>,
    /// When the stream was created, in ms since 1970; 0 if it is not known.
    pub(super) created: Arc<AtomicI64>,
    /// When it last described itself.
    answered: Arc<std::sync::Mutex<Option<Instant>>>,
    /// How it has gone back, until somebody asks.
    pub(super) back: Arc<std::sync::Mutex<Option<Rewound>>>,
    reads: Arc<Semaphore>,
}

/// The stream when it was last asked, or `None` if it did not answer.
#[derive(Debug)]
struct Known {
    asked: Instant,
    seen: Option<Seen>,
}

/// The stream as it described itself.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) config: Arc<Config>,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) created_ms: i64,
    /// When the last message was stored, in ms since 1970.
    pub(super) last_ms: i64,
}

impl Seen {
    pub(super) fn covers(&self, subject: &str) -> bool {
        any_covers(&self.config.subjects, subject)
    }

    /// Whether the sequence of an ack may have been given out since the stream had shown `reached`.
    pub(super) fn may_have_had(&self, ack: Ack, reached: u64) -> bool {
        let is_new = ack.sequence > reached || self.last_sequence < reached;
        is_new && ack.sequence <= self.last_sequence
    }
}

/// The subjects of the stream when it was last seen, for a look at every ack.
#[derive(Debug, Default)]
struct Takes(RwLock<Vec<String>>);

impl Takes {
    fn set(&self, subjects: &[String]) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if *known != subjects {
            *known = subjects.to_vec();
        }
    }

    fn covers(&self, subject: &str) -> bool {
        any_covers(&self.0.read().unwrap_or_else(PoisonError::into_inner), subject)
    }
}

impl JetStream {
    pub(crate) fn new(nats: Nats, name: &str) -> Self {
        let reads = Arc::new(Semaphore::new(MAX_READS));
        Self {
            nats,
            name: name.to_owned(),
            known: Arc::default(),
            takes: Arc::default(),
            reached: Arc::default(),
            reached_at: Arc::default(),
            is_hurt: Arc::default(),
            bursts: Arc::default(),
            created: Arc::default(),
            answered: Arc::default(),
            back: Arc::default(),
            reads,
        }
    }

    fn keep_bursts(&self, by: Option<Burst>) {
        *self.bursts.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    async fn config(&self) -> Option<Arc<Config>> {
        let now = Instant::now();
        Some(self.look(now.checked_sub(CONFIG_AGE).unwrap_or(now)).await?.config)
    }

    /// The stream as it is, or was when it was asked after `since`. Asks once for everybody who
    /// waits. A question that failed counts as asked, so it isn't repeated sooner either.
    pub(super) async fn look(&self, since: Instant) -> Option<Seen> {
        let mut known = self.known.lock().await;

        if known.as_ref().is_none_or(|known| known.asked < since) {
            let asked = Instant::now();
            let info = stream::of(&self.nats, &self.name).await.ok().flatten();
            let seen = info.map(|info| {
                self.takes.set(&info.config.subjects);
                self.keep_bursts(bursts::kept_by(&info).ok());
                *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
                let ms = |ns: i128| i64::try_from(ns / 1_000_000).unwrap_or(0);

                Seen {
                    first_sequence: info.state.first_sequence,
                    last_sequence: info.state.last_sequence,
                    created_ms: ms(info.created.unix_timestamp_nanos()),
                    last_ms: ms(info.state.last_timestamp.unix_timestamp_nanos()),
                    config: Arc::new(info.config),
                }
            });
            *known = Some(Known { asked, seen });
        }

        known.as_ref()?.seen.clone()
    }

    /// The stream, looked at a few times if its last sequence is lower than this: a new leader may
    /// not have stored yet what the one before it has acked.
    pub(super) async fn look_until(&self, newest: u64) -> Option<Seen> {
        let mut left = LATE_LOOKS;
        loop {
            let seen = self.look(Instant::now()).await?;
            if seen.last_sequence >= newest || left == 0 {
                return Some(seen);
            }
            left -= 1;

            tokio::time::sleep(LATE_LOOK).await;
        }
    }

    /// Whether the stream answered a question within this time.
    pub(super) fn answered_within(&self, age: Duration) -> bool {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|answered| answered.elapsed() <= age)
    }

    /// The last sequence that the stream itself has shown.
    pub(super) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    /// The stream has gone back: it has lost messages that it had acked. Reported once for each
    /// loss.
    fn gone_back(&self, from: u64, to: u64, now: u64, how: How) {
        let is_first =
            self.reached.compare_exchange(from, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first {
            let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
            let created_ms = self.created.load(Ordering::Relaxed);
            *back = Some(Rewound { from, to, how, created_ms });
            // Also once somebody has asked for that.
            self.is_hurt.store(true, Ordering::Relaxed);
            // Nothing more leaves until the stream was compared.
            self.nats.begin_anew();
        }
    }

    /// Whether the message at this sequence was stored by then, in ms since 1970 by the clock of the
    /// stream.
    async fn was_stored_by(&self, at_ms: i64, sequence: u64) -> bool {
        stored::time_ms(&self.nats, &self.name, sequence).await.is_ok_and(|stored| stored <= at_ms)
    }

    /// What the stream has at this sequence, which it may have stored under another subject.
    pub(super) async fn held(
        &self,
        sequence: u64,
        message: &Message<'_>,
    ) -> Result<Held, Rejection> {
        // A reply is a third larger than its message, and large ones are read one after the other.
        let share = 1 + message.payload.len() / READ_BYTES;
        let share = u32::try_from(share.min(MAX_READS)).unwrap_or(1);
        // The semaphore is never closed.
        let _permit = self.reads.acquire_many(share).await.ok();

        match stored::held(&self.nats, &self.name, sequence, message).await? {
            Held::OtherSubject(stored) => match self.config().await {
                Some(config) if transforms(&config, message.subject.as_str(), &stored) => {
                    Ok(Held::This)
                }
                Some(_) => Ok(Held::OtherSubject(stored)),
                None => Err(Rejection::new(TIMEOUT, "the stream did not describe itself in time")),
            },
            held => Ok(held),
        }
    }
}

impl EventBus for JetStream {
    async fn publish(&self, message: Message<'_>) -> Result<Ack, Rejection> {
        let (part, subject) = (part(&message)?, message.subject.as_str());
        let (acks, reached) = (self.nats.acks(), self.reached());
        let reached_at = self.reached_at.load(Ordering::Relaxed);

        // The rest is boxed to keep the future of an ordinary publish small.
        let ack = match acks.publish(part).await {
            Err(NoAck::Unsure(unsure)) => Box::pin(self.examine(unsure, &message)).await?,
            Err(NoAck::TimedOut) => {
                self.nats.doubt();
                return Err(classify(NoAck::TimedOut));
            }
            answer => answer.map_err(classify)?,
        };

        let is_plausible = ack.sequence > reached && self.takes.covers(subject);
        if ack.duplicate || is_plausible {
            return Ok(ack);
        }

        // What leaves before that is looked into may come to a stream that has lost older events.
        if ack.sequence <= reached && !self.nats.expected.forgeries.must_verify() {
            self.nats.begin_anew();
        }

        let ack = match ack.seen {
            true => ack,
            false => Box::pin(self.implausible(ack, reached, &message)).await?,
        };
        // It was sent after the stream had shown a higher sequence. Somebody else may only have named
        // what the stream had stored at an earlier try.
        if ack.seen
            && ack.sequence <= reached
            && !Box::pin(self.was_stored_by(reached_at, ack.sequence)).await
        {
            self.gone_back(reached, ack.sequence, 0, How::WentBack);
        }
        Ok(ack)
    }

    async fn holds(&self, sequence: u64, message: Message<'_>) -> Result<Held, Rejection> {
        self.held(sequence, &message).await
    }

    async fn bears_out(&self, newest: u64) -> Option<bool> {
        let seen = self.look_until(newest).await?;
        // It has lost messages: no forger has a part in this.
        let is_back = self.back.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_back || self.is_hurt.load(Ordering::Relaxed) {
            return Some(false);
        }

        let forgeries = &self.nats.expected.forgeries;
        // The stream itself shows that it has gone back: no forger has a part in this.
        let reached = self.reached();
        let created_ms = self.created.swap(seen.created_ms, Ordering::Relaxed);
        let is_recreated = created_ms != 0 && created_ms != seen.created_ms;
        if seen.last_sequence < reached || is_recreated {
            let how = if is_recreated { How::Recreated } else { How::WentBack };
            self.gone_back(reached, seen.last_sequence, seen.last_sequence, how);
            self.reached_at.store(seen.last_ms, Ordering::Relaxed);
            return Some(false);
        }
        if seen.last_sequence < newest {
            forgeries.sign(|| {
                let last = seen.last_sequence;
                format!("an ack named sequence {newest}, and the last of the stream is {last}")
            });
            return Some(false);
        }

        self.nats.acks().confirm(seen.last_sequence);
        self.reached_at.fetch_max(seen.last_ms, Ordering::Relaxed);
        self.reached.fetch_max(seen.last_sequence, Ordering::Relaxed);
        // Nothing was seen of these acks' messages, unless the stream has removed them already.
        Some(!forgeries.must_verify() || removes(&seen.config))
    }

    fn bursts(&self) -> Option<Burst> {
        let kept_by = *self.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        kept_by.filter(|_| !self.nats.expected.forgeries.must_verify())
    }

    async fn publish_batch(&self, messages: &[Message<'_>]) -> Result<Ack, Rejection> {
        let parts = messages.iter().map(part).collect::<Result<_, _>>()?;
        let (acks, reached) = (self.nats.acks(), self.reached());

        let ack = match acks.publish_batch(parts).await {
            Err(NoAck::Unsure(unsure)) => Err(unsure.without_rest()),
            Err(NoAck::TimedOut) => {
                self.nats.doubt();
                Err(classify(NoAck::TimedOut))
            }
            answer => answer.map_err(classify),
        };
        // Nothing leaves in batches until the stream has described itself again.
        if ack.as_ref().is_err_and(|rejection| rejection.code == NO_BATCHES) {
            self.keep_bursts(None);
        }

        let ack = ack?;
        let covers = |message: &Message<'_>| self.takes.covers(message.subject.as_str());
        if !ack.duplicate && ack.sequence > reached && messages.iter().all(covers) {
            return Ok(ack);
        }
        // Each of the messages, published again alone, shows what the stream has.
        Err(Rejection::new(TIMEOUT, "the ack of a batch doesn't fit what is known of the stream"))
    }

    fn connection(&self) -> u64 {
        self.nats.connection()
    }

    async fn compare(&self, watermark: Option<&Watermark>) -> Result<Compared, Rejection> {
        self.compare_with(watermark).await
    }

    fn set_hurt(&self, is_hurt: bool) {
        self.is_hurt.store(is_hurt, Ordering::Relaxed);
    }

    async fn found(&self, sequence: u64) -> Result<Found, Rejection> {
        self.found_at(sequence).await
    }

    fn watermark(&self, sequence: u64, message_id: &str) -> Option<Watermark> {
        self.watermark_of(sequence, message_id)
    }

    fn rewound(&self) -> Option<Rewound> {
        self.back.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn forged(&self) -> Option<Forged> {
        self.nats.expected.forgeries.news()
    }

    fn max_payload(&self) -> usize {
        self.nats.max_payload()
    }

    async fn fits(&self, message: Message<'_>) -> Option<bool> {
        let stored = message::stored_size(&message)?;
        let config = self.config().await?;
        let Ok(max_bytes) = usize::try_from(config.max_bytes) else { return Some(true) };

        Some(max_bytes == 0 || stored <= max_bytes)
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.nats.connected
    }

    fn unheard(&self) -> Option<Rejection> {
        self.nats.why_deaf().map(|why| Rejection::new(NO_REPLIES, why))
    }

    fn denied(&self, subject: &str, since: Instant) -> bool {
        self.nats.denied.since(subject, since)
    }

    async fn covers(&self, subject: &str) -> Option<bool> {
        let config = self.config().await?;
        Some(any_covers(&config.subjects, subject))
    }
}

/// The failure table's code for a publish without an ack.
pub(super) fn classify(no_ack: NoAck) -> Rejection {
    match no_ack {
        NoAck::TimedOut => Rejection::new(TIMEOUT, "no ack came in time"),
        NoAck::ConnectionLost => {
            Rejection::new(CONNECTION_LOST, "the connection to NATS broke before the ack came")
        }
        NoAck::TooLarge(error) => Rejection::new("max-payload", error.to_string()),
        // Unreachable: the wait for the answer comes first.
        NoAck::Unsure(_) => Rejection::new(TIMEOUT, "no answer came in time"),
        NoAck::Other(error) => Rejection::new("other", error),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::client::{PublishError, PublishErrorKind};

    use super::*;
    use crate::failure::look_up;

    #[test]
    fn the_codes_of_a_missing_ack_are_in_the_failure_table() {
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        for no_ack in [NoAck::TimedOut, NoAck::ConnectionLost, NoAck::TooLarge(too_large)] {
            let rejection = classify(no_ack);
            assert!(look_up(&rejection.code).is_some(), "{rejection:?}");
        }
    }
}

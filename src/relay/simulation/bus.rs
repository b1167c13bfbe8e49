//! A stream in memory, behind a network that loses messages and acks, and delivers some long after
//! their sender has given up.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::world::{World, number};
use crate::relay::world::EventBus;

/// How long a publish waits for its ack.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_millis(500);
/// Name of the stream.
pub(super) const STREAM: &str = "shop";

/// A connection of one life of a relay to the stream.
#[derive(Clone)]
pub(super) struct Bus {
    pub(super) world: World,
    pub(super) life: usize,
    pub(super) holder: String,
    pub(super) connected: watch::Receiver<bool>,
}

/// What becomes of a publish.
enum Fate {
    Acked,
    Refused(PublishError),
    Lost,
    AckLost,
    /// It reaches the stream when its sender has given up.
    Late(Duration),
}

/// What JetStream says in its reply.
fn refused(code: u64, said: &str) -> Fate {
    let error = format!(r#"{{"code": 400, "err_code": {code}, "description": "{said}"}}"#);
    let error: async_nats::jetstream::Error = serde_json::from_str(&error).expect("an error");
    Fate::Refused(PublishError::with_source(PublishErrorKind::Other, error))
}

fn subject_number(subject: &str) -> u8 {
    subject.trim_start_matches("made.s").parse().expect("subjects are made.s and a number")
}

impl Bus {
    fn fate(&self, subject: u8) -> Fate {
        let mut state = self.world.lock();
        let now = Instant::now();
        if !*self.connected.borrow() {
            state.count("publishes without a connection");
            return Fate::Refused(PublishError::new(PublishErrorKind::BrokenPipe));
        }
        if state.weather.no_leader > now || state.weather.uncovered == Some(subject) {
            state.count("publishes nobody answered");
            return Fate::Refused(PublishError::new(PublishErrorKind::StreamNotFound));
        }
        if state.weather.full > now {
            state.count("publishes to a full stream");
            return refused(10077, "maximum bytes exceeded");
        }
        if state.weather.too_large == Some(subject) {
            state.count("publishes too large");
            return refused(10054, "message size exceeds maximum allowed");
        }
        let lossy = if state.weather.lossy > now { 0.15 } else { 0.003 };
        if !state.chance(lossy) {
            return Fate::Acked;
        }
        match state.random.random_range(0..3) {
            0 => {
                state.count("publishes lost");
                Fate::Lost
            }
            1 => {
                state.count("acks lost");
                Fate::AckLost
            }
            _ => {
                state.count("publishes that came late");
                Fate::Late(Duration::from_millis(state.random.random_range(1..9000)))
            }
        }
    }

    /// Whoever begins to publish must hold the lease, by the server's clock.
    fn check_lease(&self) {
        let mut state = self.world.lock();
        let mine = state
            .lease
            .as_ref()
            .is_some_and(|lease| lease.holder == self.holder && lease.until > Instant::now());
        if !mine {
            state.wrong.push(format!("{} publishes without the lease", self.holder));
        }
    }
}

impl EventBus for Bus {
    async fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        _payload: Bytes,
    ) -> Result<PublishAck, PublishError> {
        let Self { world, life, .. } = self;
        self.check_lease();
        world.alive(*life).await;
        let message_id = headers
            .get(NATS_MESSAGE_ID)
            .expect("every publish has a message id")
            .as_str()
            .to_owned();
        let event = number(message_id.rsplit('.').next().expect("an id"));
        world.lock().note(&format!("publish {message_id}"), *life);
        world.travel().await;
        let fate = self.fate(subject_number(subject));
        let acked = match fate {
            Fate::Acked => {
                let mut state = world.lock();
                let duplicate = state.arrive(&message_id, event);
                let sequence = state.stream.values().map(|times| u64::from(*times)).sum();
                Some(PublishAck {
                    stream: STREAM.to_owned(),
                    sequence,
                    duplicate,
                    ..PublishAck::default()
                })
            }
            Fate::AckLost => {
                world.lock().arrive(&message_id, event);
                None
            }
            Fate::Lost => None,
            Fate::Late(by) => {
                let world = world.clone();
                tokio::spawn(async move {
                    sleep(ACK_TIMEOUT + by).await;
                    world.lock().arrive(&message_id, event);
                });
                None
            }
            Fate::Refused(error) => {
                world.travel().await;
                world.alive(*life).await;
                return Err(error);
            }
        };
        match acked {
            Some(ack) => {
                world.travel().await;
                world.alive(*life).await;
                Ok(ack)
            }
            None => {
                sleep(ACK_TIMEOUT).await;
                world.alive(*life).await;
                Err(PublishError::new(PublishErrorKind::TimedOut))
            }
        }
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.connected
    }

    fn denied(&self, _subject: &str, _since: Instant) -> bool {
        false
    }

    async fn covers(&self, subject: &str) -> Option<bool> {
        self.world.travel().await;
        let state = self.world.lock();
        let knows = state.weather.no_leader <= Instant::now() && *self.connected.borrow();
        knows.then(|| state.weather.uncovered != Some(subject_number(subject)))
    }
}

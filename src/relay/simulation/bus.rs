//! A stream in memory, behind a network that loses messages and acks, and delivers some long after
//! their sender has given up.

use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::row::number;
use super::world::{Arriving, State, World};
use crate::failure::{CONNECTION_LOST, NO_RESPONDERS, NOT_BEHIND, Rejection, TIMEOUT};
use crate::relay::ports::{Ack, Burst, EventBus, Forged, Message};
use crate::relay::publish::outcome::Held;
use crate::relay::watermark::{Compared, Found, Rewound, Watermark};

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
    Refused(Rejection),
    Lost,
    AckLost,
    /// It reaches the stream when its sender has given up.
    Late(Duration),
    /// The stream doesn't get it, and somebody acks it.
    Forged,
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
            return Fate::Refused(Rejection::new(CONNECTION_LOST, "broken pipe"));
        }

        if state.weather.no_leader > now || state.weather.uncovered == Some(subject) {
            state.count("publishes nobody answered");
            return Fate::Refused(Rejection::new(NO_RESPONDERS, "no responders"));
        }

        if state.weather.full > now {
            state.count("publishes to a full stream");
            return Fate::Refused(Rejection::new("10077", "maximum bytes exceeded"));
        }

        if state.weather.too_large == Some(subject) {
            state.count("publishes too large");
            return Fate::Refused(Rejection::new("10054", "message size exceeds maximum allowed"));
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

    /// What a neighbour that answers publishes makes of this. A relay that has found one out believes
    /// none.
    fn forge(&self, fate: Fate, event: u32) -> Fate {
        let mut state = self.world.lock();
        let is_stored = !matches!(fate, Fate::Refused(_) | Fate::Lost);
        let is_out = state.suspicious.contains(&self.life) || !*self.connected.borrow();
        if is_stored || is_out || state.weather.forger <= Instant::now() {
            return fate;
        }

        state.count("acks forged");
        state.forged.insert(event);
        state.deceived.insert(self.life);
        Fate::Forged
    }

    /// What the relay hears of it. The stream makes of it what `arrive` returns.
    async fn answer(
        &self,
        fate: Fate,
        arrive: impl FnOnce(&mut State) -> Option<Ack> + Send + 'static,
    ) -> Result<Option<Ack>, Rejection> {
        let Self { world, life, .. } = self;
        let answer = match fate {
            Fate::Acked => Some(Ok(arrive(&mut world.lock()))),
            Fate::AckLost => {
                arrive(&mut world.lock());
                None
            }
            Fate::Lost => None,
            Fate::Forged => Some(Ok(Some(Ack::new(world.lock().newest + 1, false)))),
            Fate::Late(by) => {
                let world = world.clone();
                tokio::spawn(async move {
                    sleep(ACK_TIMEOUT + by).await;
                    arrive(&mut world.lock());
                });
                None
            }
            Fate::Refused(error) => Some(Err(error)),
        };

        match answer {
            Some(_) => world.travel().await,
            None => sleep(ACK_TIMEOUT).await,
        }
        world.alive(*life).await;
        answer.unwrap_or_else(|| Err(Rejection::new(TIMEOUT, "timed out")))
    }

    /// The relay knows that the stream has an event.
    fn saw_stored(&self, term: i64, event: u32) {
        let mut state = self.world.lock();
        state.acked.insert((term, event));
        state.seen_stored.insert((self.life, event));
    }

    /// A relay that begins to publish must hold the lease, by the server's clock, and must not have
    /// seen the event's ack in this term. Returns the term.
    fn check_lease(&self, event: u32) -> i64 {
        let mut state = self.world.lock();
        let mine = state
            .lease
            .as_ref()
            .is_some_and(|lease| lease.holder == self.holder && lease.until > Instant::now());
        if !mine {
            state.wrong.push(format!("{} publishes without the lease", self.holder));
        }

        let term = state.lease.as_ref().map_or(0, |lease| lease.term);
        // A repair that was interrupted publishes what it had not written down once more.
        let is_kept = state.kept.values().any(|kept| kept.number == event);
        if state.acked.contains(&(term, event)) && !is_kept {
            state.wrong.push(format!("e{event} is published again after its ack"));
        }

        term
    }
}

/// A publish under way. There is one of a key, or there are those of a burst.
struct Publishing {
    world: World,
    of: Option<(usize, u8)>,
}

impl Publishing {
    fn begin(world: &World, life: usize, event: u32, is_behind: bool) -> Self {
        let mut state = world.lock();
        let key = state.committed.get(&event).and_then(|event| event.key);
        let of = key.map(|key| (life, key));

        if let Some(of) = of {
            let under_way = state.publishing.entry(of).or_default();
            *under_way += 1;
            if *under_way > 1 && !is_behind {
                state.wrong.push(format!("e{event} is published beside another of its key"));
            }
        }

        drop(state);
        Self { world: world.clone(), of }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            let mut state = self.world.lock();
            if let Some(under_way) = state.publishing.get_mut(of) {
                *under_way -= 1;
            }
        }
    }
}

impl EventBus for Bus {
    fn max_payload(&self) -> usize {
        usize::MAX
    }

    async fn publish(&self, message: Message<'_>) -> Result<Ack, Rejection> {
        let Self { world, life, .. } = self;
        let message_id = message.id.to_owned();
        let event = number(message_id.rsplit('.').next().expect("an id"));
        let term = self.check_lease(event);
        let is_behind = message.behind.is_some();
        let _publishing = Publishing::begin(world, *life, event, is_behind);

        world.alive(*life).await;

        world.lock().note(&format!("publish {message_id}"), *life);
        world.travel_to_stream(*life, is_behind).await;

        let subject = subject_number(message.subject.as_str());
        let behind = message.behind.map(str::to_owned);
        let arriving = Arriving { message_id, behind, number: event, subject };
        let fate = self.forge(self.fate(subject), event);
        let is_forged = matches!(fate, Fate::Forged);
        let answer = self.answer(fate, move |state| state.arrive(&arriving)).await?;
        let Some(ack) = answer else {
            return Err(Rejection::new(NOT_BEHIND, "wrong last message id"));
        };

        if !ack.duplicate && !is_forged {
            self.saw_stored(term, event);
        }
        let seen = !ack.duplicate && !is_forged && world.lock().suspicious.contains(life);
        Ok(Ack { seen, ..ack })
    }

    async fn publish_batch(&self, messages: &[Message<'_>]) -> Result<Ack, Rejection> {
        let Self { world, life, .. } = self;
        let mut batch = Vec::with_capacity(messages.len());
        let (mut publishing, mut term, mut fate) = (Vec::new(), 0, Fate::Acked);
        for message in messages {
            let number = number(message.id.rsplit('.').next().expect("an id"));
            let subject = subject_number(message.subject.as_str());
            term = self.check_lease(number);
            publishing.push(Publishing::begin(world, *life, number, !batch.is_empty()));
            batch.push(Arriving {
                message_id: message.id.to_owned(),
                behind: None,
                number,
                subject,
            });
        }

        world.alive(*life).await;
        world.lock().note(&format!("publish a batch from {} on", messages[0].id), *life);
        world.travel().await;

        // What becomes of one of them becomes of all.
        for arriving in &batch {
            if let Fate::Acked = fate {
                fate = self.fate(arriving.subject);
            }
        }
        let events: Vec<_> = batch.iter().map(|arriving| arriving.number).collect();
        let answer = self.answer(fate, move |state| state.arrive_together(&batch)).await?;
        let refused = || Rejection::new("10201", "atomic publish batch contains a duplicate");
        let ack = answer.ok_or_else(refused)?;
        events.into_iter().for_each(|event| self.saw_stored(term, event));
        Ok(ack)
    }

    async fn holds(&self, sequence: u64, message: Message<'_>) -> Result<Held, Rejection> {
        let Self { world, life, .. } = self;
        world.alive(*life).await;
        world.travel().await;

        let is_lost = {
            let mut state = world.lock();
            let lossy = if state.weather.lossy > Instant::now() { 0.15 } else { 0.003 };
            state.chance(lossy) || !*self.connected.borrow()
        };
        if is_lost {
            sleep(ACK_TIMEOUT).await;
            world.alive(*life).await;
            return Err(Rejection::new(TIMEOUT, "timed out"));
        }

        let event = number(message.id.rsplit('.').next().expect("an id"));
        let (held, term) = {
            let mut state = world.lock();
            let held = match state.log.get(&sequence) {
                None => Held::Nothing,
                Some((id, _)) if id != message.id => Held::OtherId,
                Some((_, stored)) if *stored != event => Held::OtherPayload,
                Some(_) => Held::This,
            };
            match held {
                Held::This => state.count("duplicates confirmed"),
                Held::Nothing => state.count("duplicates of nothing"),
                _ => state.count("duplicates of another event"),
            }
            (held, state.lease.as_ref().map_or(0, |lease| lease.term))
        };

        world.travel().await;
        world.alive(*life).await;

        if held == Held::This {
            self.saw_stored(term, event);
        }
        Ok(held)
    }

    async fn fits(&self, _message: Message<'_>) -> Option<bool> {
        Some(true)
    }

    async fn bears_out(&self, newest: u64) -> Option<bool> {
        self.world.alive(self.life).await;
        self.world.travel().await;
        let answer = {
            let mut state = self.world.lock();
            let now = Instant::now();
            let lossy = if state.weather.lossy > now { 0.15 } else { 0.003 };
            let is_lost =
                state.chance(lossy) || state.weather.no_leader > now || !*self.connected.borrow();
            let is_borne_out = newest <= state.newest && !state.deceived.contains(&self.life);
            if !is_lost && !is_borne_out {
                state.count("forged acks found out");
                state.suspicious.insert(self.life);
            }
            (!is_lost).then_some(is_borne_out)
        };

        self.world.travel().await;
        self.world.alive(self.life).await;
        answer
    }

    fn bursts(&self) -> Option<Burst> {
        let state = self.world.lock();
        (!state.suspicious.contains(&self.life)).then_some(state.burst)
    }

    fn connection(&self) -> u64 {
        let cuts = self.world.lock().lives[self.life].cuts;
        if *self.connected.borrow() { cuts + 1 } else { 0 }
    }

    async fn compare(&self, watermark: Option<&Watermark>) -> Result<Compared, Rejection> {
        self.world.alive(self.life).await;
        self.world.travel().await;
        let compared = {
            let mut state = self.world.lock();
            let now = Instant::now();
            let lossy = if state.weather.lossy > now { 0.15 } else { 0.003 };
            let is_lost =
                state.chance(lossy) || state.weather.no_leader > now || !*self.connected.borrow();
            let now = state.watermark(state.newest, None);
            let loss = watermark.and_then(|mark| {
                let found = state.log.get(&mark.sequence).map(|(id, _)| id.clone());
                mark.loss(&now, &found.map_or(Found::Nothing, |id| Found::Message(Some(id))))
            });
            (!is_lost).then_some(Compared { loss, now })
        };

        self.world.travel().await;
        self.world.alive(self.life).await;
        compared.ok_or_else(|| Rejection::new(TIMEOUT, "timed out"))
    }

    fn set_hurt(&self, _is_hurt: bool) {}

    async fn found(&self, sequence: u64) -> Result<Found, Rejection> {
        self.world.alive(self.life).await;
        self.world.travel().await;
        let found = {
            let mut state = self.world.lock();
            let now = Instant::now();
            let lossy = if state.weather.lossy > now { 0.15 } else { 0.003 };
            let is_lost =
                state.chance(lossy) || state.weather.no_leader > now || !*self.connected.borrow();
            let found = state.log.get(&sequence).map(|(id, _)| Found::Message(Some(id.clone())));
            (!is_lost).then_some(found.unwrap_or(Found::Nothing))
        };

        self.world.travel().await;
        self.world.alive(self.life).await;
        found.ok_or_else(|| Rejection::new(TIMEOUT, "timed out"))
    }

    fn watermark(&self, sequence: u64, message_id: &str) -> Option<Watermark> {
        Some(self.world.lock().watermark(sequence, Some(message_id)))
    }

    fn rewound(&self) -> Option<Rewound> {
        None
    }

    fn forged(&self) -> Option<Forged> {
        None
    }

    fn connected(&self) -> &watch::Receiver<bool> {
        &self.connected
    }

    fn unheard(&self) -> Option<Rejection> {
        None
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

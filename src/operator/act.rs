//! What an operator does to events: batch by batch, each recorded in the audit before it is done.
//!
//! The events are read once, shown, and acted on by their ids: what a person confirmed is what
//! happens, and nothing that came later.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::discard::Discard;
use super::events;
use crate::config::Config;
use crate::document::state::{DISCARD_HOLDS, State};
use crate::duration;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::act::{Act, AuditEntry, Done, FieldEdits, Place};
use crate::mongodb::bounded::parts;
use crate::mongodb::chosen::Chosen;
use crate::mongodb::inspect::Inspect;
use crate::mongodb::lease::LeaseDocument;
use crate::mongodb::selection::Selection;
use crate::mongodb::write::is_refusal;
use crate::relay::lease::Lease;

/// Events acted on at once.
const BATCH: usize = 500;
/// More events than this are made due at [`STAGGERED`] a second, unless another rate was given.
const MANY: u64 = 1000;
/// Fast enough for any outbox, and slow enough for consumers to see a stream and no flood.
const STAGGERED: u32 = 1000;
/// Longest wait for MongoDB after the action was stopped.
const STOPPING: Duration = Duration::from_secs(10);

/// What is done to events.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    RetryNow,
    Discard,
    Edit(Box<Edit>),
}

/// New content of one dead event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edit {
    pub(crate) dead_at: DateTime,
    pub(crate) edits: FieldEdits,
    /// What is replaced, for the audit.
    pub(crate) before: Document,
}

impl Action {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RetryNow => "retry-now",
            Self::Discard => "discard",
            Self::Edit(_) => "edit",
        }
    }

    /// How many events a second are acted on, unless another rate was given.
    pub(crate) fn rate(&self, events: u64) -> Option<u32> {
        (*self == Self::RetryNow && events > MANY).then_some(STAGGERED)
    }

    pub(crate) fn done(&self) -> &'static str {
        match self {
            Self::RetryNow => "due now",
            Self::Discard => "discarded",
            Self::Edit(_) => "edited and due now",
        }
    }
}

/// An outbox whose events are acted on.
pub(crate) struct Outbox {
    pub(crate) config: Config,
    pub(crate) inspect: Inspect,
    act: Act,
    client: mongodb::Client,
    who: String,
}

/// How events are acted on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How<'a> {
    /// The filter as it was given, for the audit.
    pub(crate) selection: &'a str,
    /// For the audit.
    pub(crate) reason: Option<&'a str>,
    /// Most events a second.
    pub(crate) rate: Option<u32>,
}

impl Outbox {
    /// The outbox that `inspect` reads, through this client; `who` acts.
    pub(crate) fn new(
        config: Config,
        inspect: Inspect,
        client: mongodb::Client,
        who: String,
    ) -> Self {
        let (mongodb, layout) = (&config.mongodb, &config.event.layout);
        let act = Act::new(client.database(&mongodb.database), &mongodb.collection, layout.clone());
        Self { config, inspect, act, client, who }
    }

    /// Acts on these events until all are done or `stop`. Returns what was done, and why it ended
    /// early; `told` hears after every batch what was done so far.
    pub(crate) async fn act(
        &self,
        action: &Action,
        chosen: [(Place, &[Bson]); 2],
        How { selection, reason, rate }: How<'_>,
        stop: &CancellationToken,
        told: &(dyn Fn(&Done) + Sync),
    ) -> (Done, Result<()>) {
        let entry = AuditEntry { who: &self.who, action: action.name(), selection, reason };
        let holder = format!("outboxd {} of {}", action.name(), self.who);
        let (database, collection) =
            (&self.config.mongodb.database, &self.config.mongodb.collection);
        let document = LeaseDocument::new(&self.client, database, collection, holder);
        let lease = Arc::new(Lease::new(document, self.config.lease.ttl));

        let acting = Acting { act: &self.act, lease: &lease, stop, entry, action, rate, told };
        acting.on(chosen).await
    }

    /// Has the relay look for what waits.
    pub(crate) async fn wake_relay(&self) -> Result<()> {
        self.act.wake_relay().await.during("waking the relay")
    }
}

/// How many healthy events the same filter would select, which a discard leaves alone.
pub(crate) async fn left_alone(inspect: &Inspect, selection: &Selection) -> Result<u64> {
    let may = selection.class.is_none() && selection.code.is_none() && selection.group.is_none();
    if !may || selection.state.is_some() {
        return Ok(0);
    }

    let parked =
        Selection { state: Some(State::Parked), without_parked: false, ..selection.clone() };
    inspect.count(&parked).await.during("reading the outbox")
}

/// The error when something was not done. Whoever waits for the outcome is told of each event.
pub(crate) fn all_done(chosen: &Chosen, done: &Done, is_told: bool) -> Result<()> {
    if !done.refused.is_empty() {
        let message = format!(
            "MongoDB refuses to update {}: an index or a validator that is not outboxd's does not \
             allow it; `outboxd check` names such an index; repair or remove the event in mongosh",
            events(done.refused.len() as u64)
        );

        return Err(Error::new(ErrorKind::Mongodb, message));
    }

    match chosen.events().saturating_sub(done.events) {
        0 => Ok(()),
        _ if is_told => Ok(()),
        left => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{left} were published or changed in the meantime, or the relay is still publishing them; \
                 outboxd leaves them alone"
            ),
        )),
    }
}

/// An action under way.
struct Acting<'a> {
    act: &'a Act,
    lease: &'a Arc<Lease<LeaseDocument>>,
    stop: &'a CancellationToken,
    entry: AuditEntry<'a>,
    action: &'a Action,
    rate: Option<u32>,
    told: &'a (dyn Fn(&Done) + Sync),
}

impl Acting<'_> {
    /// Acts on these events, batch by batch. Returns what was done, and why it ended early.
    async fn on(&self, chosen: [(Place, &[Bson]); 2]) -> (Done, Result<()>) {
        let mut done = Done::default();
        let acted = tokio::select! {
            acted = self.on_batches(chosen, &mut done) => acted,
            () = self.given_up() => Err(Error::new(
                ErrorKind::Interrupted,
                format!(
                    "interrupted, and MongoDB does not answer; a request to discard lapses {} after it was made",
                    duration::for_people(DISCARD_HOLDS)
                ),
            )),
        };

        (done, acted)
    }

    async fn on_batches(&self, chosen: [(Place, &[Bson]); 2], done: &mut Done) -> Result<()> {
        let mut next = Instant::now();
        let most = self.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));

        for (place, ids) in chosen {
            for batch in parts(ids, most) {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.stop.cancelled() => {}
                }
                if self.stop.is_cancelled() {
                    return Ok(());
                }

                let second = Duration::from_secs(1);
                next = Instant::now()
                    + self.rate.map_or(Duration::ZERO, |rate| second * batch.len() as u32 / rate);
                let of_batch = self.on_batch(place, batch).await?;
                done.events += of_batch.events;
                done.refused.extend(of_batch.refused);
                (self.told)(done);
            }
        }

        Ok(())
    }

    /// Nothing is done that is not recorded before.
    async fn on_batch(&self, place: Place, batch: &[Bson]) -> Result<Done> {
        let before = match self.action {
            Action::Edit(edit) => Some(edit.before.clone()),
            Action::RetryNow | Action::Discard => None,
        };

        let request = self
            .act
            .record_request(&self.entry, (batch, batch.len() as u64), before)
            .await
            .map_err(|error| {
                if !is_refusal(&error) {
                    let message =
                        "MongoDB: recording the request in outboxd_audit; nothing is done";
                    return Error::with_source(ErrorKind::Mongodb, message, error);
                }

                let message = format!(
                    "outboxd_audit does not accept the audit record, so nothing is done; check \
                 the collection's validator and the role that `outboxd privileges --role \
                 operator` prints, then repeat the {}",
                    self.action.name()
                );
                Error::with_source(ErrorKind::Mongodb, message, error)
            })?;

        let acted = match self.action {
            Action::RetryNow => {
                self.act.retry_now(place, batch).await.during("making events due")?
            }

            Action::Discard if place == Place::Scheduled => {
                self.act.discard_scheduled(batch).await.during("discarding scheduled events")?
            }

            Action::Discard => {
                let discard = Discard { act: self.act, lease: self.lease, stop: self.stop };
                discard.remove(batch).await?
            }
            Action::Edit(edit) => match batch.first() {
                Some(id) => {
                    let edited = self.act.edit((place, id), edit.dead_at, &edit.edits).await;
                    edited.during("editing the event")?
                }
                None => Done::default(),
            },
        };

        let outcome = self.act.record_outcome(&self.entry, request, acted.events).await;
        outcome.map_err(|error| {
            let message = format!(
                "{} {}, but outboxd_audit has no record of the outcome; it has only the request",
                events(acted.events),
                self.action.done()
            );
            Error::with_source(ErrorKind::Mongodb, message, error)
        })?;

        Ok(acted)
    }

    /// Some time after the command was asked to stop.
    async fn given_up(&self) {
        self.stop.cancelled().await;
        sleep(STOPPING).await;
    }
}

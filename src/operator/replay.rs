//! Publishing kept events again on purpose, for a consumer that has lost its data.
//!
//! A replayed message has a message id and a header of its own: the stream takes it for no duplicate,
//! and a consumer can tell it from the first one. Events of a key are replayed in the order of the
//! stream. What is kept after the filter was made is not replayed.

use std::time::{Duration, SystemTime};

use bson::{Bson, Document};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::events;
use super::kept::Outbox;
use crate::config::MongodbConfig;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::jetstream::bus::JetStream;
use crate::mongodb::act::{Act, AuditEntry};
use crate::relay::again::{PAGE, Sent, publish_again};
use crate::relay::kept::Kept;
use crate::relay::ports::{EventBus as _, Room};
use crate::relay::publish::Publisher;
use crate::relay::publish::outcome::Outcome;

/// The header that names the replay.
pub(crate) const HEADER: &str = "Outboxd-Replay";
/// Events a second unless another rate was given: consumers see a stream and no flood.
pub(crate) const RATE: u32 = 1000;

/// What is replayed, and in whose name.
pub(crate) struct Replay<'a> {
    pub(crate) outbox: &'a Outbox,
    pub(crate) who: &'a str,
    /// The selection as it was given, for the audit.
    pub(crate) selection: &'a str,
    /// The ids that were given.
    pub(crate) ids: &'a [Bson],
    pub(crate) filter: &'a Document,
    /// How many events the filter selects.
    pub(crate) events: u64,
    /// Most events a second.
    pub(crate) rate: u32,
    pub(crate) reason: Option<&'a str>,
}

/// What is told while it is under way.
pub(crate) enum Told {
    /// So many events were read.
    Read(u64),
    /// The stream refuses an event.
    Refused { id: String, error: String },
}

/// What was replayed.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// Each replay has another, so that the stream drops none of its messages.
    pub(crate) number: u64,
    pub(crate) published: u64,
    pub(crate) refused: u64,
}

/// A replay under way.
struct Replaying<'a, F> {
    outbox: &'a Outbox,
    publisher: Publisher<JetStream>,
    number: u64,
    rate: u32,
    done: Done,
    told: F,
}

#[derive(Debug, Default)]
struct Done {
    read: u64,
    published: u64,
    refused: u64,
}

impl Replay<'_> {
    /// Replays until all are published or `stop`. Returns what was replayed, and why that ended
    /// early. An error of `told` ends it, too.
    ///
    /// # Errors
    /// When nothing could be published: no connection to the stream, or no record in the audit.
    pub(crate) async fn run(
        &self,
        stop: &CancellationToken,
        told: impl FnMut(Told) -> Result<()>,
    ) -> Result<(Replayed, Result<()>)> {
        let outbox = self.outbox;
        let publisher = outbox.stream(stop.clone()).await?;
        let number = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let number = number.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));

        let MongodbConfig { database, collection, .. } = &outbox.config.mongodb;
        let layout = outbox.config.event.layout.clone();
        let act = Act::new(outbox.client.database(database), collection, layout);
        let selection = format!("replay {number}: {}", self.selection);
        let (who, reason) = (self.who, self.reason);
        let entry = AuditEntry { who, action: "replay", selection: &selection, reason };

        let request = act.record_request(&entry, (self.ids, self.events), None).await;
        let request =
            request.during("recording the replay in outboxd_audit; nothing is published")?;

        let (rate, done) = (self.rate, Done::default());
        let mut replaying = Replaying { outbox, publisher, number, rate, done, told };
        let ended = replaying.all(self.filter, stop).await;

        let Done { published, refused, .. } = replaying.done;
        let recorded = act.record_outcome(&entry, request, published).await;
        recorded.during("recording what was replayed")?;

        Ok((Replayed { number, published, refused }, ended))
    }
}

impl<F: FnMut(Told) -> Result<()>> Replaying<'_, F> {
    /// Replays page by page, until `stop`.
    async fn all(&mut self, filter: &Document, stop: &CancellationToken) -> Result<()> {
        let (mut behind, began) = (None, Instant::now());
        let room = PAGE.at_most(usize::try_from(self.rate).unwrap_or(usize::MAX));

        loop {
            if stop.is_cancelled() {
                return Err(interrupted(&self.done));
            }

            let page = self.page(filter, behind, room).await?;
            let Some(last) = page.last() else { return Ok(()) };
            behind = Some(last.place);
            self.done.read += page.len() as u64;

            self.publish(page).await?;
            (self.told)(Told::Read(self.done.read))?;

            let due = self.done.read.saturating_mul(1_000_000) / u64::from(self.rate);
            tokio::select! {
                () = sleep_until(began + Duration::from_micros(due)) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// The next events, with the header that names the replay.
    async fn page(&self, filter: &Document, behind: Option<i64>, room: Room) -> Result<Vec<Kept>> {
        let page = self.outbox.store.matching(filter, behind, room).await;
        let mut page = page.during("reading kept events")?;

        for event in page.iter_mut().filter_map(|kept| kept.event.as_mut().ok()) {
            let added = event.headers.insert_made(HEADER, &self.number.to_string());
            added.map_err(|error| {
                let message = format!("event {} can't be replayed: {error}", event.id);
                Error::new(ErrorKind::Usage, message)
            })?;
        }
        Ok(page)
    }

    async fn publish(&mut self, page: Vec<Kept>) -> Result<()> {
        let Self { publisher, number, done, told, .. } = self;
        // The client may have connected again.
        publisher.clearance.grant(publisher.bus.connection());

        publish_again(publisher, page, Some(*number), |Sent { id, outcome, .. }| match outcome {
            Outcome::Acked(_) => {
                done.published += 1;
                Ok(())
            }
            Outcome::Rejected(rejection) if rejection.is_definite() => {
                done.refused += 1;
                let id = id.map_or_else(|| "a document".to_owned(), |id| id.to_string());
                told(Told::Refused { id, error: rejection.error })
            }
            Outcome::Rejected(rejection) => Err(Error::new(ErrorKind::Nats, rejection.error)),
            Outcome::Abandoned => Err(interrupted(done)),
        })
        .await
    }
}

fn interrupted(done: &Done) -> Error {
    let message = format!(
        "interrupted after {}; --since and --until of a further replay take the rest",
        events(done.published)
    );
    Error::new(ErrorKind::Interrupted, message)
}

//! Comparing the kept events with the stream, message by message, and publishing what the stream lacks
//! if that is wanted.
//!
//! Kept events are read in pages, so memory is bounded however many there are. What the stream lacks
//! is named as it is found. A message before the stream's first one was removed by a purge or a limit,
//! which is no loss; so may be any other where the stream removes messages by itself.

use std::fmt;

use bson::Document;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use outboxd_client::EventId;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::events;
use super::kept::Outbox;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::jetstream::bus::JetStream;
use crate::jetstream::compare::Extent;
use crate::mongodb::lease::LeaseDocument;
use crate::relay::again::{PAGE, Sent, publish_again};
use crate::relay::kept::{Kept, KeptStore as _, Republished, place};
use crate::relay::ports::EventBus as _;
use crate::relay::publish::Publisher;
use crate::relay::publish::outcome::Outcome;
use crate::relay::watermark::{Epoch, Found};

/// Messages that are read at once.
const READS: usize = 64;

/// What is compared, and what is done about it.
pub(crate) struct Verify<'a> {
    pub(crate) outbox: &'a Outbox,
    /// Selects the kept events.
    pub(crate) filter: &'a Document,
    /// Publishes what is missing.
    pub(crate) repair: Option<Repair<'a>>,
}

/// For the audit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repair<'a> {
    pub(crate) who: &'a str,
    /// What was selected, as words of a command line.
    pub(crate) what: &'a str,
}

/// What is told while it is under way.
pub(crate) enum Told<'a> {
    /// A page was compared; this was found so far.
    Checked(&'a Verified),
    Missing(Missing),
}

/// What a comparison found, in events.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Verified {
    pub(crate) stream: String,
    pub(crate) checked: u64,
    pub(crate) there: u64,
    pub(crate) missing: u64,
    /// Missing ones that the stream has now.
    pub(crate) repaired: u64,
    /// Removed by a purge or by a limit of the stream.
    pub(crate) removed: u64,
    /// Published to another stream.
    pub(crate) elsewhere: u64,
}

/// A kept event that the stream lacks.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) id: Option<String>,
    pub(crate) seq: Option<u64>,
    pub(crate) subject: Option<String>,
    pub(crate) found: String,
    /// Whether the stream has it now.
    pub(crate) repaired: bool,
}

/// What the stream has in the place of a kept event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lack {
    /// The stream ends before.
    End(u64),
    Nothing,
    /// Another message, with this id.
    Other(Option<String>),
    /// A repair could not publish it.
    Refused,
    /// The kept document is no event any more.
    Damaged(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(last) => write!(f, "the stream ends at {last}"),
            Self::Nothing => write!(f, "the stream has nothing there"),
            Self::Other(Some(id)) => write!(f, "the stream has {id} there"),
            Self::Other(None) => write!(f, "the stream has another message there"),
            Self::Refused => write!(f, "the stream refused it in a repair"),
            Self::Damaged(reason) => write!(f, "the kept document is no event: {reason}"),
        }
    }
}

/// A kept event, and how the stream has it.
enum Seen {
    There,
    Removed,
    Elsewhere,
    Lacks(Box<Kept>, Lack),
}

/// A comparison under way.
struct Verifying<'a, F> {
    outbox: &'a Outbox,
    publisher: Publisher<JetStream>,
    /// In which repaired events stand; `None` to publish nothing.
    epoch: Option<Epoch>,
    verified: Verified,
    told: F,
}

impl Verify<'_> {
    /// Compares until all are seen or `stop`. Returns what was found, and why that ended early. An
    /// error of `told` ends it, too.
    ///
    /// # Errors
    /// When nothing could be compared, or a repair could not be recorded in the audit.
    pub(crate) async fn run(
        &self,
        stop: &CancellationToken,
        told: impl FnMut(Told<'_>) -> Result<()>,
    ) -> Result<(Verified, Result<()>)> {
        let Self { outbox, filter, repair } = *self;
        let publisher = outbox.stream(stop.clone()).await?;
        let epoch = match repair {
            Some(_) => Some(epoch(outbox, &publisher).await?),
            None => None,
        };

        let stream = outbox.config.stream.name.clone();
        let verified = Verified { stream, ..Verified::default() };
        let mut verifying = Verifying { outbox, publisher, epoch, verified, told };
        let ended = verifying.all(filter, stop).await;

        let verified = verifying.verified;
        if let Some(Repair { who, what }) = repair.filter(|_| verified.repaired > 0) {
            let recorded = outbox.store.record_repair(who, verified.repaired, what.to_owned());
            recorded.await.during("recording the repair in outboxd_audit")?;
        }
        Ok((verified, ended))
    }
}

/// The epoch of what is published now.
///
/// # Errors
/// When the stream has gone back and no relay has seen it yet: its repair comes first, in the order of
/// the stream.
async fn epoch(outbox: &Outbox, publisher: &Publisher<JetStream>) -> Result<Epoch> {
    let mongodb = &outbox.config.mongodb;
    let (database, collection) = (&mongodb.database, &mongodb.collection);
    let lease = LeaseDocument::new(&outbox.client, database, collection, String::new());
    let Some(mark) = lease.watermark().await.during("reading the watermark")? else {
        return Ok(Epoch::default());
    };

    let compared = publisher.bus.compare(Some(&mark)).await;
    let compared = compared.map_err(|no| Error::new(ErrorKind::Nats, no.error))?;
    match compared.loss {
        None => Ok(mark.epoch),
        Some(loss) => {
            let message = format!(
                "the stream {} has gone back from sequence {} to {}, and no relay has seen that: \
                 start or restart the relay, which repairs it with keep.repair = \"auto\"; then \
                 run `outboxd verify --repair` for what is left",
                mark.stream, loss.from, loss.to
            );
            Err(Error::new(ErrorKind::Stream, message))
        }
    }
}

impl<F: FnMut(Told<'_>) -> Result<()>> Verifying<'_, F> {
    /// Compares page by page, until `stop`.
    async fn all(&mut self, filter: &bson::Document, stop: &CancellationToken) -> Result<()> {
        let mut behind = None;
        loop {
            let page = self.outbox.store.matching(filter, behind, PAGE).await;
            let page = page.during("reading kept events")?;
            let Some(last) = page.last() else { return Ok(()) };
            behind = Some(last.place);

            // What was acked before the page was read is in the stream by now.
            let newest = page.iter().filter_map(|kept| kept.sequence).max().unwrap_or(0);
            let bus = &self.publisher.bus;
            let extent = bus.extent(newest).await.map_err(no_answer)?;

            let count = page.len() as u64;
            let looks = page.into_iter().map(|kept| look(&self.publisher, kept, &extent));
            let seen: Vec<_> = stream::iter(looks).buffered(READS).try_collect().await?;
            self.take(seen).await?;

            self.verified.checked += count;
            (self.told)(Told::Checked(&self.verified))?;
            if stop.is_cancelled() {
                let message = format!("interrupted after {}", events(self.verified.checked));
                return Err(Error::new(ErrorKind::Interrupted, message));
            }
        }
    }

    /// Counts a page, and names and publishes what it lacks.
    async fn take(&mut self, page: Vec<Seen>) -> Result<()> {
        let mut lacking = Vec::new();
        for seen in page {
            match seen {
                Seen::There => self.verified.there += 1,
                Seen::Removed => self.verified.removed += 1,
                Seen::Elsewhere => self.verified.elsewhere += 1,
                Seen::Lacks(kept, lack) => lacking.push((*kept, lack)),
            }
        }

        if lacking.is_empty() {
            return Ok(());
        }

        let mut named: Vec<_> = lacking.iter().map(|(kept, lack)| name(kept, lack)).collect();
        let id = |kept: &Kept| kept.event.as_ref().ok().map(|event| event.id.clone());
        let ids: Vec<_> = lacking.iter().map(|(kept, _)| id(kept)).collect();
        let page: Vec<_> = lacking.into_iter().map(|(kept, _)| kept).collect();
        let page: Vec<_> = page.into_iter().filter(|kept| kept.event.is_ok()).collect();
        let repaired = match self.epoch {
            Some(epoch) => self.repair(page, epoch).await?,
            None => Vec::new(),
        };

        for (missing, id) in named.iter_mut().zip(ids) {
            missing.repaired = id.is_some_and(|id| repaired.contains(&id));
        }

        self.verified.missing += named.len() as u64;
        self.verified.repaired += repaired.len() as u64;
        named.into_iter().try_for_each(|missing| (self.told)(Told::Missing(missing)))
    }

    /// Publishes these again. Returns those that the stream has now.
    async fn repair(&self, page: Vec<Kept>, epoch: Epoch) -> Result<Vec<EventId>> {
        // The client may have connected again.
        self.publisher.clearance.grant(self.publisher.bus.connection());

        let (mut acked, mut unseen) = (Vec::with_capacity(page.len()), None);
        let published = publish_again(&self.publisher, page, None, |sent| {
            let Sent { place: at, id, outcome } = sent;
            match (id, outcome) {
                (Some(id), Outcome::Acked(one)) => {
                    if !one.seen {
                        unseen = unseen.max(Some(one.sequence));
                    }
                    let to = Some((place(epoch, one.sequence), one.sequence));
                    let message_id = one.is_renamed.then_some(one.message_id);
                    acked.push(Republished { id, place: at, to, message_id });
                    Ok(())
                }
                (_, Outcome::Rejected(rejection)) if rejection.is_definite() => Ok(()),
                (_, Outcome::Rejected(rejection)) => Err(no_answer(rejection)),
                (_, Outcome::Abandoned) => {
                    Err(Error::new(ErrorKind::Interrupted, "interrupted during the repair"))
                }
                (None, Outcome::Acked(_)) => Ok(()),
            }
        });

        let published = published.await;

        // What was acked counts, whatever came then, if the stream itself bears it out.
        if let Some(newest) = unseen
            && self.publisher.bus.bears_out(newest).await != Some(true)
        {
            let message = "the stream lacks messages that seemed to be acked; run `outboxd check`";
            return Err(Error::new(ErrorKind::Stream, message));
        }

        self.outbox.store.republished(&acked).await.during("recording what was published")?;
        published?;
        Ok(acked.into_iter().map(|event| event.id).collect())
    }
}

/// How the stream has a kept event.
async fn look(publisher: &Publisher<JetStream>, kept: Kept, extent: &Extent) -> Result<Seen> {
    if *kept.stream != *publisher.stream {
        return Ok(Seen::Elsewhere);
    }

    let event = match &kept.event {
        Ok(event) => event,
        Err(malformed) => {
            let damaged = Lack::Damaged(malformed.reason.clone());
            return Ok(Seen::Lacks(Box::new(kept), damaged));
        }
    };

    let Some(sequence) = kept.sequence else {
        return Ok(Seen::Lacks(Box::new(kept), Lack::Refused));
    };

    if sequence > extent.last {
        return Ok(Seen::Lacks(Box::new(kept), Lack::End(extent.last)));
    }

    if sequence < extent.first {
        return Ok(Seen::Removed);
    }

    let id = kept.message_id.clone().unwrap_or_else(|| publisher.message_id(&event.id));
    match publisher.bus.found(sequence).await.map_err(no_answer)? {
        Found::Message(found) if found.as_deref() == Some(&id) => Ok(Seen::There),
        Found::Message(found) => Ok(Seen::Lacks(Box::new(kept), Lack::Other(found))),
        Found::Nothing if extent.removes => Ok(Seen::Removed),
        Found::Nothing => Ok(Seen::Lacks(Box::new(kept), Lack::Nothing)),
        Found::Unreadable => {
            let message = "NATS denies reading messages of the stream; run `outboxd privileges \
                           --role relay` and grant what it prints";
            Err(Error::new(ErrorKind::Nats, message))
        }
    }
}

fn name(kept: &Kept, lack: &Lack) -> Missing {
    let event = kept.event.as_ref();
    Missing {
        id: event.ok().map(|event| event.id.to_string()),
        seq: kept.sequence,
        subject: event.ok().map(|event| event.subject.as_str().to_owned()),
        found: lack.to_string(),
        repaired: false,
    }
}

fn no_answer(rejection: crate::failure::Rejection) -> Error {
    Error::new(ErrorKind::Nats, format!("{}; run `outboxd check`", rejection.error))
}

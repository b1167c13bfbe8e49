//! Actions: what somebody was shown before, and what is under way.
//!
//! A preview keeps the ids of the events that were counted. Whoever confirms it acts on those and on
//! no other. An action goes on when its page is closed, and ends with the console.

mod progress;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::Document;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::progress::{Came, Progress};
use super::access::{Person, random};
use super::outbox::Outbox;
use super::text::{encoded, events as count, number};
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::act::{Place, RefusedEvent};
use crate::mongodb::chosen::Chosen;
use crate::operator::act::{Action, How, all_done};
use crate::operator::outcomes::Outcomes;
use crate::operator::replay::{self, RATE, Replay};
use crate::operator::verify::{self, Missing, Verified, Verify};

/// How long what was shown can be confirmed.
const PREVIEW_LASTS: Duration = Duration::from_secs(600);
/// Most previews, and most events in all of them, and in all actions under way: about 30 MB of ids for
/// each of both.
const MAX_PREVIEWS: usize = 64;
const MAX_EVENTS: u64 = 200_000;
/// Most previews that are counted at once.
const MAX_COUNTING: usize = 1;
/// How long an action looks for what came of its events.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most actions that are remembered; the oldest are forgotten.
const MAX_JOBS: usize = 100;
/// The name of a comparison.
const VERIFY: &str = "verify";
/// What somebody was shown and may confirm.
#[derive(Debug)]
pub(super) struct Preview {
    pub(super) outbox: String,
    pub(super) what: What,
    /// The selection for the audit.
    pub(super) selection: String,
    /// Whose session it was.
    session: [u8; 32],
    at: Instant,
}

/// What is done to which events.
#[derive(Debug)]
pub(super) enum What {
    Act(Action, Box<Chosen>),
    /// Publishes so many kept events again, those that this filter selects.
    Replay(Document, u64),
    /// Compares them with the stream.
    Verify(Document, u64),
}

/// An action, under way or over.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) outbox: String,
    pub(super) action: &'static str,
    pub(super) selection: String,
    pub(super) who: String,
    pub(super) events: u64,
    /// How many ids it has in memory.
    held: u64,
    pub(super) progress: watch::Sender<Progress>,
}

#[derive(Debug)]
pub(super) struct Jobs {
    previews: Mutex<HashMap<String, Preview>>,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    /// Whoever counts events for a preview holds a place.
    counting: Semaphore,
    stop: CancellationToken,
}

impl Jobs {
    pub(super) fn new(stop: CancellationToken) -> Self {
        let counting = Semaphore::new(MAX_COUNTING);
        Self { previews: Mutex::default(), jobs: Mutex::default(), counting, stop }
    }

    /// Waits for a place to count events.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.counting.acquire().await.ok()
    }

    /// Keeps what somebody was shown. Returns its name in the form.
    pub(super) fn show(&self, preview: Preview) -> String {
        let name = random();

        let mut previews = lock(&self.previews);
        previews.insert(name.clone(), preview);
        previews.retain(|_, preview| preview.at.elapsed() < PREVIEW_LASTS);
        let too_many = |previews: &HashMap<String, Preview>| {
            let events: u64 = previews.values().map(|preview| preview.what.held()).sum();
            previews.len() > MAX_PREVIEWS || previews.len() > 1 && events > MAX_EVENTS
        };

        while too_many(&previews) {
            let oldest = previews.iter().min_by_key(|(_, preview)| preview.at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            previews.remove(&oldest);
        }

        name
    }

    /// How many events this person was shown, if that can still be confirmed, and whether that takes
    /// the number typed.
    pub(super) fn shown(&self, person: &Person, name: &str) -> Option<(u64, bool)> {
        let previews = lock(&self.previews);
        let preview = previews.get(name).filter(|preview| preview.is_of(person))?;
        let must_type = matches!(preview.what, What::Act(Action::Discard, _));

        Some((preview.what.events(), must_type))
    }

    /// Takes what this person was shown: it can be confirmed once.
    pub(super) fn take(&self, person: &Person, name: &str) -> Option<Preview> {
        let mut previews = lock(&self.previews);
        previews.get(name).filter(|preview| preview.is_of(person))?;
        previews.remove(name)
    }

    pub(super) fn job(&self, number: u64) -> Option<Arc<Job>> {
        lock(&self.jobs).get(&number).cloned()
    }

    /// Whether the actions under way have as many events as is allowed.
    pub(super) fn is_full(&self) -> bool {
        let jobs = lock(&self.jobs);
        let running = jobs.values().filter(|job| job.progress.borrow().ended.is_none());
        running.map(|job| job.held).sum::<u64>() >= MAX_EVENTS
    }

    /// The comparison of this outbox that is under way.
    pub(super) fn verifying(&self, outbox: &str) -> Option<Arc<Job>> {
        let jobs = lock(&self.jobs);
        let mut verifying =
            jobs.values().filter(|job| job.outbox == outbox && job.action == VERIFY);
        verifying.find(|job| job.progress.borrow().ended.is_none()).cloned()
    }

    /// Starts an action that was confirmed.
    pub(super) fn start(
        &self,
        outbox: &Arc<Outbox>,
        person: &Person,
        preview: Preview,
        (reason, rate): (Option<String>, Option<u32>),
    ) -> Arc<Job> {
        let mut jobs = lock(&self.jobs);
        let number = jobs.last_key_value().map_or(1, |(last, _)| last + 1);
        let job = Arc::new(Job {
            number,
            outbox: preview.outbox.clone(),
            action: preview.what.name(),
            selection: preview.selection.clone(),
            who: person.who(),
            events: preview.what.events(),
            held: preview.what.held(),
            progress: watch::Sender::default(),
        });

        jobs.insert(number, job.clone());

        while jobs.len() > MAX_JOBS {
            jobs.pop_first();
        }

        let (outbox, running, stop) = (outbox.clone(), job.clone(), self.stop.clone());
        tokio::spawn(async move {
            let ended = run(&outbox, &running, &preview, (reason.as_deref(), rate), &stop).await;
            let ended = ended.map_err(|error| error.report().to_string());
            running.progress.send_modify(|progress| progress.ended = Some(ended));
            outbox.look();
        });

        job
    }
}

impl Job {
    /// The address of its page.
    pub(super) fn path(&self) -> String {
        format!("/o/{}/jobs/{}", encoded(&self.outbox), self.number)
    }
}

impl What {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Act(action, _) => action.name(),
            Self::Replay(..) => "replay",
            Self::Verify(..) => VERIFY,
        }
    }

    pub(super) fn events(&self) -> u64 {
        match self {
            Self::Act(_, chosen) => chosen.events(),
            Self::Replay(_, events) | Self::Verify(_, events) => *events,
        }
    }

    /// How many ids are in memory.
    fn held(&self) -> u64 {
        match self {
            Self::Act(_, chosen) => chosen.events(),
            Self::Replay(..) | Self::Verify(..) => 0,
        }
    }
}

impl Preview {
    pub(super) fn new(person: &Person, outbox: &str, what: What, selection: String) -> Self {
        let (session, outbox, at) = (person.session, outbox.to_owned(), Instant::now());
        Self { outbox, what, selection, session, at }
    }

    fn is_of(&self, person: &Person) -> bool {
        self.session == person.session && self.at.elapsed() < PREVIEW_LASTS
    }
}

/// Does what was confirmed.
async fn run(
    outbox: &Outbox,
    job: &Job,
    Preview { what, selection, .. }: &Preview,
    (reason, rate): (Option<&str>, Option<u32>),
    stop: &CancellationToken,
) -> Result<()> {
    match what {
        What::Act(action, chosen) => {
            let rate = rate.or_else(|| action.rate(chosen.events()));
            act(outbox, job, (action, chosen), How { selection, reason, rate }, stop).await
        }
        What::Replay(filter, events) => {
            let how = How { selection, reason, rate };
            replay(outbox, job, (filter, *events), how, stop).await
        }
        What::Verify(filter, _) => verify(outbox, job, filter, stop).await,
    }
}

/// Acts, and of a retry looks for what comes of it.
async fn act(
    outbox: &Outbox,
    job: &Job,
    (action, chosen): (&Action, &Chosen),
    how: How<'_>,
    stop: &CancellationToken,
) -> Result<()> {
    let connection = outbox.connection();
    let acting = connection.acted_on_by(job.who.clone());
    let ids = [(Place::Outbox, &*chosen.ids), (Place::Scheduled, &*chosen.scheduled)];
    let (done, acted) = acting
        .act(action, ids, how, stop, &|done| {
            job.progress.send_modify(|progress| {
                progress.done = done.events;
                if !done.refused.is_empty() {
                    progress.count("refused by MongoDB", "dead", done.refused.len() as u64);
                }
            });
        })
        .await;
    job.progress.send_modify(|progress| {
        for RefusedEvent { id, error } in &done.refused {
            progress.name(id, format!("refused by MongoDB: {error}"));
        }
    });
    acted?;

    if *action != Action::RetryNow {
        return all_done(chosen, &done, false);
    }

    let mut outcomes = Outcomes::of(chosen, &done);
    let told = |outcomes: &Outcomes| {
        job.progress.send_modify(|progress| {
            progress.count("delivered", "", outcomes.delivered());
            if outcomes.gone() > 0 {
                progress.count("left before", "parked", outcomes.gone());
            }
            progress.count("refused", "failed", outcomes.refused.len() as u64);
            progress.count("still held", "parked", outcomes.pending() as u64);
        });
    };

    told(&outcomes);
    let is_relayed = outcomes.wait(&connection.inspect, PATIENCE, stop, &told).await?;

    told(&outcomes);
    job.progress.send_modify(|progress| progress.name_all(&outcomes));
    all_done(chosen, &done, false)?;
    outcomes.verdict(is_relayed)
}

async fn replay(
    outbox: &Outbox,
    job: &Job,
    (filter, events): (&Document, u64),
    How { selection, reason, rate }: How<'_>,
    stop: &CancellationToken,
) -> Result<()> {
    let kept = outbox.connection().kept();
    let replay = Replay {
        outbox: &kept,
        who: &job.who,
        selection,
        ids: &[],
        filter,
        events,
        rate: rate.unwrap_or(RATE),
        reason,
    };

    let (replayed, ended) = replay
        .run(stop, |told| {
            job.progress.send_modify(|progress| match told {
                replay::Told::Read(read) => progress.done = read,
                replay::Told::Refused { id, error } => progress.name(&id, error),
            });
            Ok(())
        })
        .await?;

    job.progress.send_modify(|progress| {
        progress.count("delivered", "", replayed.published);
        progress.count("refused", "failed", replayed.refused);
    });

    ended?;
    match replayed.refused {
        0 => Ok(()),
        refused => {
            let message = format!("the stream refuses {}", count(refused));
            Err(Error::new(ErrorKind::Findings, message))
        }
    }
}

/// Compares kept events with the stream, and changes nothing.
async fn verify(
    outbox: &Outbox,
    job: &Job,
    filter: &Document,
    stop: &CancellationToken,
) -> Result<()> {
    let kept = outbox.connection().kept();
    let verify = Verify { outbox: &kept, filter, repair: None };
    let counted = |progress: &mut Progress, verified: &Verified| {
        progress.done = verified.checked;
        progress.count("in the stream", "", verified.there);
        progress.count("missing", "dead", verified.missing);
        progress.count("removed by a purge or a limit", "", verified.removed);
        progress.count("in another stream", "", verified.elsewhere);
    };

    let (verified, ended) = verify
        .run(stop, |told| {
            job.progress.send_modify(|progress| match told {
                verify::Told::Checked(verified) => counted(progress, verified),
                verify::Told::Missing(Missing { id, seq, found, .. }) => {
                    let place = seq.map(|seq| format!("sequence {}: ", number(seq)));
                    let id = id.unwrap_or_else(|| "a document".to_owned());
                    progress.name(&id, format!("{}{found}", place.unwrap_or_default()));
                }
            });
            Ok(())
        })
        .await?;

    job.progress.send_modify(|progress| counted(progress, &verified));
    ended?;
    match verified.missing {
        0 => Ok(()),
        missing => {
            let message = format!(
                "the stream lacks {}; `outboxd verify --repair` publishes them again",
                count(missing)
            );
            Err(Error::new(ErrorKind::Findings, message))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

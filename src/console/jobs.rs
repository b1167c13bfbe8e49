//! Actions: what somebody was shown before, and what is under way.
//!
//! A preview keeps the ids of the events that were counted. Whoever confirms it acts on those and on
//! no other. An action goes on when its page is closed, and ends with the console.

mod previews;
mod progress;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bson::Document;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::previews::{MAX_EVENTS, Places, Previews, VERIFY, lock};
pub(super) use self::previews::{Place as CountingPlace, Preview, What};
pub(super) use self::progress::{Came, Progress};
use super::access::{Person, random};
use super::outbox::Outbox;
use super::text::{encoded, events as count, in_console, number};
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::act::{Done, Place, RefusedEvent};
use crate::mongodb::chosen::Chosen;
use crate::operator::act::{Action, How, all_done};
use crate::operator::outcomes::Outcomes;
use crate::operator::replay::{self, RATE, Replay};
use crate::operator::verify::{self, Missing, Verified, Verify};

/// How long an action looks for what came of its events.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most actions that are remembered; the oldest that have ended are forgotten. Half of them may be
/// under way.
const MAX_JOBS: usize = 100;
/// How long the console waits for actions when it stops: they need at most ten seconds to end.
const ENDING: Duration = Duration::from_secs(12);

/// An action, under way or over.
#[derive(Debug)]
pub(super) struct Job {
    /// Random: it is in the address of its page.
    pub(super) id: String,
    pub(super) outbox: String,
    pub(super) action: &'static str,
    pub(super) selection: String,
    pub(super) who: String,
    pub(super) events: u64,
    /// How many ids it has in memory.
    held: u64,
    pub(super) progress: watch::Sender<Progress>,
    stop: CancellationToken,
    /// Who stopped it.
    stopped_by: OnceLock<String>,
}

#[derive(Debug)]
pub(super) struct Jobs {
    /// What people were shown and can confirm.
    pub(super) previews: Previews,
    /// The newest last.
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Whoever counts events for a preview holds one.
    places: Places,
    stop: CancellationToken,
}

impl Jobs {
    pub(super) fn new(stop: CancellationToken) -> Self {
        let places = Places::new();
        Self { previews: Previews::default(), jobs: Mutex::default(), places, stop }
    }

    /// Waits for a place to count events.
    pub(super) async fn place(&self, person: &Person) -> Option<CountingPlace> {
        self.places.wait(person).await
    }

    pub(super) fn job(&self, id: &str) -> Option<Arc<Job>> {
        lock(&self.jobs).iter().find(|job| job.id == id).cloned()
    }

    /// The actions on an outbox that are remembered, the newest first.
    pub(super) fn of(&self, outbox: &str) -> Vec<Arc<Job>> {
        lock(&self.jobs).iter().rev().filter(|job| job.outbox == outbox).cloned().collect()
    }

    /// Whether as many actions are under way as is allowed, or they have as many events.
    pub(super) fn is_full(&self) -> bool {
        let jobs = lock(&self.jobs);
        let running = jobs.iter().filter(|job| job.is_running());
        let (count, held) = running.fold((0, 0), |(count, held), job| (count + 1, held + job.held));
        count >= MAX_JOBS / 2 || held >= MAX_EVENTS
    }

    /// Waits until the actions have ended, once the console was asked to stop: each finishes what it
    /// has begun.
    pub(super) async fn ended(&self) {
        let jobs: Vec<_> = lock(&self.jobs).iter().cloned().collect();
        let all = jobs.iter().map(|job| async move {
            let mut progress = job.progress.subscribe();
            // The job holds the sender.
            let _ = progress.wait_for(|progress| progress.ended.is_some()).await;
        });

        if timeout(ENDING, join_all(all)).await.is_err() {
            warn!("an action of the console did not end; the audit has what it was asked for");
        }
    }

    /// The comparison of this outbox that is under way.
    pub(super) fn verifying(&self, outbox: &str) -> Option<Arc<Job>> {
        let jobs = lock(&self.jobs);
        let mut verifying = jobs.iter().filter(|job| job.outbox == outbox && job.action == VERIFY);
        verifying.find(|job| job.is_running()).cloned()
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
        let job = Arc::new(Job {
            id: random(),
            outbox: preview.outbox.clone(),
            action: preview.what.name(),
            selection: preview.selection.clone(),
            who: person.who(),
            events: preview.what.events(),
            held: preview.what.held(),
            progress: watch::Sender::default(),
            stop: self.stop.child_token(),
            stopped_by: OnceLock::new(),
        });

        if jobs.len() >= MAX_JOBS {
            let oldest = jobs.iter().position(|job| !job.is_running());
            oldest.and_then(|oldest| jobs.remove(oldest));
        }

        jobs.push_back(job.clone());
        let (outbox, running) = (outbox.clone(), job.clone());
        tokio::spawn(async move {
            let ended = run(&outbox, &running, &preview, (reason.as_deref(), rate)).await;
            let ended = ended.map_err(|error| in_console(&error.report().to_string()));
            running.progress.send_modify(|progress| progress.ended = Some(ended));
            outbox.look();
        });

        job
    }
}

impl Job {
    /// The address of its page.
    pub(super) fn path(&self) -> String {
        format!("/o/{}/jobs/{}", encoded(&self.outbox), self.id)
    }

    pub(super) fn is_running(&self) -> bool {
        self.progress.borrow().ended.is_none()
    }

    /// Has it end behind what it has begun.
    pub(super) fn stop(&self, person: &Person) {
        let _ = self.stopped_by.set(person.who());
        self.stop.cancel();
    }

    /// The error when not everything was done.
    fn all_done(&self, chosen: &Chosen, done: &Done) -> Result<()> {
        let left = chosen.events().saturating_sub(done.events + done.refused.len() as u64);
        if !self.stop.is_cancelled() || left == 0 {
            return all_done(chosen, done, false);
        }

        let by = match self.stopped_by.get() {
            Some(who) => format!("by {who}"),
            None => "when the console stopped".to_owned(),
        };
        let message = format!("stopped {by}; {} left as they were", count(left));
        Err(Error::new(ErrorKind::Interrupted, message))
    }
}

/// Does what was confirmed.
async fn run(
    outbox: &Outbox,
    job: &Job,
    Preview { what, selection, .. }: &Preview,
    (reason, rate): (Option<&str>, Option<u32>),
) -> Result<()> {
    match what {
        What::Act(action, chosen) => {
            let rate = rate.or_else(|| action.rate(chosen.events()));
            act(outbox, job, (action, chosen), How { selection, reason, rate }).await
        }
        What::Replay(filter, events) => {
            let how = How { selection, reason, rate };
            replay(outbox, job, (filter, *events), how).await
        }
        What::Verify(filter, _) => verify(outbox, job, filter).await,
    }
}

/// Acts, and of a retry looks for what comes of it.
async fn act(
    outbox: &Outbox,
    job: &Job,
    (action, chosen): (&Action, &Chosen),
    how: How<'_>,
) -> Result<()> {
    let connection = outbox.connection();
    let acting = connection.acted_on_by(job.who.clone());
    let ids = [(Place::Outbox, &*chosen.ids), (Place::Scheduled, &*chosen.scheduled)];
    let (done, acted) = acting
        .act(action, ids, how, &job.stop, &|done| {
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
        return job.all_done(chosen, &done);
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
    let is_relayed = outcomes.wait(&connection.inspect, PATIENCE, &job.stop, &told).await?;

    told(&outcomes);
    job.progress.send_modify(|progress| progress.name_all(&outcomes));
    job.all_done(chosen, &done)?;
    outcomes.verdict(is_relayed)
}

async fn replay(
    outbox: &Outbox,
    job: &Job,
    (filter, events): (&Document, u64),
    How { selection, reason, rate }: How<'_>,
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
        .run(&job.stop, |told| {
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
async fn verify(outbox: &Outbox, job: &Job, filter: &Document) -> Result<()> {
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
        .run(&job.stop, |told| {
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

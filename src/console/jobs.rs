//! Actions: what somebody was shown before, and what is under way.
//!
//! A preview keeps the ids of the events that were counted. Whoever confirms it acts on those and on
//! no other. An action goes on when its page is closed, and ends with the console.

mod previews;
mod progress;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::Document;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::previews::{MAX_EVENTS, Places, Previews, VERIFY, lock};
pub(super) use self::previews::{Place as CountingPlace, Preview, What};
pub(super) use self::progress::{Came, Progress};
use super::access::Person;
use super::outbox::Outbox;
use super::text::{encoded, events as count, number};
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::act::{Place, RefusedEvent};
use crate::mongodb::chosen::Chosen;
use crate::operator::act::{Action, How, all_done};
use crate::operator::outcomes::Outcomes;
use crate::operator::replay::{self, RATE, Replay};
use crate::operator::verify::{self, Missing, Verified, Verify};

/// How long an action looks for what came of its events.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most actions that are remembered; the oldest are forgotten.
const MAX_JOBS: usize = 100;

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
    previews: Previews,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
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

    /// Keeps what somebody was shown. Returns its name in the form.
    pub(super) fn show(&self, preview: Preview) -> String {
        self.previews.keep(preview)
    }

    /// How many events this person was shown, if that can still be confirmed, and whether that takes
    /// the number typed.
    pub(super) fn shown(&self, person: &Person, name: &str) -> Option<(u64, bool)> {
        self.previews.look(person, name, |Preview { what, .. }| {
            (what.events(), matches!(what, What::Act(Action::Discard, _)))
        })
    }

    /// Takes what this person was shown: it can be confirmed once.
    pub(super) fn take(&self, person: &Person, name: &str) -> Option<Preview> {
        self.previews.take(person, name)
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

//! What an action does, and what it tells of that meanwhile.

use std::time::Duration;

use bson::Document;
use tokio_util::sync::CancellationToken;

use super::{Job, Preview, Progress, What};
use crate::console::outbox::Outbox;
use crate::console::text::{events as count, number};
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::act::{Place, RefusedEvent};
use crate::mongodb::chosen::Chosen;
use crate::mongodb::inspect::Entry;
use crate::operator::act::{Action, How, all_done};
use crate::operator::outcomes::Outcomes;
use crate::operator::replay::{self, RATE, Replay};
use crate::operator::verify::{self, Missing, Verified, Verify};

/// How long an action looks for what came of its events.
const PATIENCE: Duration = Duration::from_secs(120);

/// Does what was confirmed.
pub(super) async fn run(
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
    job.progress.send_modify(|progress| name(progress, &outcomes));
    all_done(chosen, &done, false)?;
    outcomes.verdict(is_relayed)
}

/// Names the events that were refused, and those that others hold.
fn name(progress: &mut Progress, outcomes: &Outcomes) {
    for Entry { id, code, error, .. } in &outcomes.refused {
        let why = [code.as_deref(), error.as_deref()].map(Option::unwrap_or_default).join(" ");
        progress.name(id, format!("refused again: {}", why.trim()));
    }

    for (Entry { id, .. }, head) in &outcomes.held {
        progress.name(
            id,
            match head {
                Some(head) => format!("waits behind {} ({})", head.id, head.state.word()),
                None => "the relay has not tried it yet".to_owned(),
            },
        );
    }
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

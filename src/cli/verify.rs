//! `outboxd verify`: compares the kept events with the stream, and publishes what the stream lacks if
//! that is wanted.

use clap::Args as ClapArgs;
use serde::Serialize;

use super::act::{STOPS, who};
use super::output::{Output, events, print, show};
use super::progress::Progress;
use super::selection::kept;
use crate::config::Sources;
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::kept::{KeptSelection, Time};
use crate::operator::kept::{Outbox, shown, time};
use crate::operator::verify::{Missing, Repair, Told, Verified, Verify};
use crate::printable::printable;
use crate::shutdown::on_signals;

/// Most missing events that the JSON document names.
const NAMED: usize = 10_000;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Only events published since then: 1h for an hour ago, or a time such as 2026-11-26T09:30:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Time>,
    /// Publish what is missing, with the message ids it had
    #[arg(long)]
    repair: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The JSON document.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    verified: &'a Verified,
    /// The first [`NAMED`] of those that are missing.
    events: Vec<Missing>,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let outbox = kept(sources).await?;
    let selection = KeptSelection { since: args.since, ..KeptSelection::default() };
    let (filter, total) = outbox.select(&selection).await?;

    let stop = on_signals(&STOPS)?;
    let since = args.since.map(|since| format!(" --since {}", shown(since)));
    let (who, what) = (who(sources), format!("verify --repair{}", since.unwrap_or_default()));
    let repair = args.repair.then_some(Repair { who: &who, what: &what });

    let (mut progress, mut missing) = (Progress::new(total), Vec::new());
    let verify = Verify { outbox: &outbox, filter: &filter, repair };
    let (verified, ended) = verify
        .run(&stop, |told| {
            match told {
                Told::Checked(verified) => progress.at(verified.checked),
                Told::Missing(one) if args.output == Output::Json => {
                    if missing.len() < NAMED {
                        missing.push(one);
                    }
                }
                Told::Missing(one) => {
                    progress.clear();
                    tell(one)?;
                }
            }
            Ok(())
        })
        .await?;
    progress.clear();
    ended?;

    let report = Report { verified: &verified, events: missing };
    show(args.output, &report, || people(&outbox, &verified))?;
    match verified.missing - verified.repaired {
        0 => Ok(()),
        missing => {
            Err(Error::new(ErrorKind::Findings, format!("the stream lacks {}", events(missing))))
        }
    }
}

/// Names what is missing.
fn tell(Missing { id, seq, subject, found, repaired }: Missing) -> Result<()> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let seq = dash(seq.map(|seq| seq.to_string()));
    let word = if repaired { "published again" } else { "missing" };
    let line = format!("{word}: {} ({}, seq {seq}): {found}", dash(id), dash(subject));
    print(&format!("{}\n", printable(&line)))
}

fn people(outbox: &Outbox, verified: &Verified) -> String {
    let Verified { stream, checked, there, missing, repaired, removed, elsewhere, .. } = verified;
    if *checked == 0 {
        return outbox.why_none() + "\n";
    }

    let mut parts = vec![format!("{there} there"), format!("{missing} missing")];
    let further = [
        (*repaired, "of those published again"),
        (*removed, "removed by a purge or a limit of the stream"),
        (*elsewhere, "published to another stream"),
    ];
    parts.extend(further.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));

    let remedy = match missing - repaired {
        0 => "",
        _ if *repaired > 0 => "",
        _ => "publish them again: $ outboxd verify --repair\n",
    };

    format!("{} compared with stream {stream}: {}\n{remedy}", events(*checked), parts.join(", "))
}

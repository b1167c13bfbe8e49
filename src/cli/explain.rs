//! `outboxd explain`: what a failure code means and what to do.

use std::fmt::Write as _;

use clap::Args as ClapArgs;

use super::output::print;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{Rule, TABLE, meanings};
use crate::jetstream::creation::{Refusal, all, refusals};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The code of a failure, such as 10077 or timeout; without it, the whole table
    code: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.code {
        None => print(&table()),
        Some(code) => {
            let of_events = meanings(code).map(explain);
            let explained: Vec<_> = of_events.chain(refusals(code).map(refused)).collect();
            if explained.is_empty() {
                let message = format!(
                    "{code} is not in the table; `outboxd explain` lists it. The relay retries an unlisted error, then marks and counts it"
                );
                return Err(Error::new(ErrorKind::NotFound, message));
            }

            print(&explained.join("\n"))
        }
    }
}

/// Every code: first those of events, then those of the stream's creation.
fn table() -> String {
    let mut table = format!("{:<24} {:<10} MEANING\n", "CODE", "CLASS");
    for rule in TABLE {
        let (class, meaning) = (rule.class.as_str(), rule.meaning);
        let _ = writeln!(table, "{:<24} {class:<10} {meaning}", rule.code);
    }

    table.push_str("\nwhen `outboxd migrate` creates the stream:\n");
    for refusal in all() {
        let _ = writeln!(table, "{:<24} {:<10} {}", refusal.code, "", refusal.meaning);
    }

    table
}

fn explain(rule: &Rule) -> String {
    format!(
        "{} ({})\n  what happened   {}\n  what happens    {}\n  what to do      {}\n",
        rule.code,
        rule.class.as_str(),
        rule.meaning,
        rule.class.treatment(),
        rule.remedy
    )
}

/// A refusal of the stream's creation.
fn refused(refusal: &Refusal) -> String {
    let lines: Vec<_> = refusal.remedy.lines().collect();
    format!(
        "{} (`outboxd migrate` creates the stream)\n  what happened   {}\n  what happens    no stream \
         is created; nothing is lost\n  what to do      {}\n",
        refusal.code,
        refusal.meaning,
        lines.join("\n                  ")
    )
}

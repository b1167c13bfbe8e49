//! `outboxd explain`: what a failure code means and what to do.

use std::fmt::Write as _;

use clap::Args as ClapArgs;

use super::output::print;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{Rule, TABLE, meanings};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The code of a failure, such as 10077 or timeout; without it, the whole table
    code: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.code {
        None => print(&TABLE.iter().fold(
            format!("{:<24} {:<10} MEANING\n", "CODE", "CLASS"),
            |mut table, rule| {
                let _ = writeln!(
                    table,
                    "{:<24} {:<10} {}",
                    rule.code,
                    rule.class.as_str(),
                    rule.meaning
                );
                table
            },
        )),
        Some(code) => {
            let explained: Vec<_> = meanings(code).map(explain).collect();
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

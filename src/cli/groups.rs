//! `outboxd groups`: similar failures as groups, each with what to do.

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Output, events, printable, show, width, wrap};
use super::selection::{Filter, inspect};
use crate::config::Sources;
use crate::error::{MongodbContext, Result};
use crate::failure::Rejection;
use crate::finding::shell;
use crate::mongodb::inspect::Group;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    group: Group,
    remedy: &'static str,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let (_, inspect) = inspect(sources).await?;
    let groups = inspect.groups(&args.filter.selection(&[])).await.during("reading the outbox")?;
    let shown: Vec<Shown> = groups
        .into_iter()
        .map(|group| Shown { remedy: Rejection::new(group.code.clone(), "").remedy(), group })
        .collect();

    show(args.output, &shown, || people(&shown))
}

fn people(groups: &[Shown]) -> String {
    if groups.is_empty() {
        return "no event has failed\n".to_owned();
    }

    let width = width();
    groups.iter().fold(String::new(), |mut out, Shown { group, remedy }| {
        if !out.is_empty() {
            out.push('\n');
        }
        let such_as = if group.error == group.example { "" } else { "such as: " };
        let error = format!("{such_as}{}", group.example);
        let [error, code, sample] =
            [&error, &group.code, &group.sample].map(|text| printable(text));
        let [shell_code, sample] = [shell(&code), shell(&sample)];
        let seconds = |at: &Option<String>| {
            at.as_deref().map_or("-", |at| at.get(..19).unwrap_or(at)).replace('T', " ")
        };
        let dead =
            if group.dead > 0 { format!(", {} of them dead", group.dead) } else { String::new() };
        let _ =
            writeln!(out, "{code} ({}): {}{dead}", printable(&group.class), events(group.events));
        let _ = writeln!(out, "  {}", wrap(&error, width, 2));
        let (first, last) = (seconds(&group.first), seconds(&group.last));
        let from = if first == last { String::new() } else { format!("{first} to ") };
        let _ = writeln!(out, "  last failed   {from}{last} UTC");
        let _ = writeln!(out, "  what to do    {}", wrap(remedy, width, 16));
        // No command takes an id that is too long to be shown whole.
        let look = match group.sample.ends_with('…') {
            true => format!("list --code {shell_code}"),
            false => format!("show {sample}"),
        };
        let _ = writeln!(out, "  look at one   outboxd {look}");
        let _ = writeln!(out, "  then          outboxd retry-now --all --code {shell_code}");
        let _ = writeln!(
            out,
            "  or            outboxd discard --all --code {shell_code}   # for good, unpublished"
        );
        out
    })
}

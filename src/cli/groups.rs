//! `outboxd groups`: similar failures as groups, each with what to do.

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Output, events, show, width, wrap};
use super::selection::{Filter, inspect};
use crate::config::Sources;
use crate::error::{MongodbContext, Result};
use crate::failure::Rejection;
use crate::finding::{operand, option};
use crate::mongodb::groups::{Group, Groups};
use crate::printable::printable;

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
    let Groups { shown, left_out } = groups;
    let shown: Vec<Shown> = shown
        .into_iter()
        .map(|group| Shown { remedy: Rejection::new(group.code.clone(), "").remedy(), group })
        .collect();

    show(args.output, &shown, || people(&shown))?;
    if left_out > 0 {
        // Not in the output, which is a list of groups for whatever reads the JSON.
        eprintln!(
            "outboxd: {} in smaller groups left out; select fewer events, such as with --code or --older-than",
            events(left_out)
        );
    }
    Ok(())
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
        let [error, code] = [&error, &group.code].map(|text| printable(text));
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
        commands(&mut out, group, &code);
        out
    })
}

/// What can be pasted. No command takes a text that can't be shown as it is.
fn commands(out: &mut String, group: &Group, code: &str) {
    let by_code = (code == group.code && !code.is_empty()).then(|| option("--code", code));
    let is_whole = !group.sample.is_empty() && !group.sample.ends_with('…');
    let show = is_whole.then(|| format!("show {}", operand(&group.sample)));

    if let Some(look) = show.or_else(|| Some(format!("list {}", by_code.as_ref()?))) {
        let _ = writeln!(out, "  look at one   outboxd {look}");
    }

    if let Some(by_code) = by_code {
        let _ = writeln!(out, "  then          outboxd retry-now --all {by_code}");
        let _ = writeln!(
            out,
            "  or            outboxd discard --all {by_code}   # for good, unpublished"
        );
    }
}

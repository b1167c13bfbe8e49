//! `outboxd check`: problems on both sides, each with the lines that fix it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args as ClapArgs;

use super::admin::Admin;
use super::config::load;
use super::output::{Output, show, wrap};
use crate::check;
use crate::config::Sources;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, Level};
use crate::printable::printable;

/// Widest line of the table. Only commands may be longer, because they are meant to be pasted.
const WIDTH: usize = 80;
/// Column where the text of a finding begins, after its level and name.
const INDENT: usize = 30;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// A table for people, or an array of objects for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also exit with 1 on a warning
    #[arg(long)]
    strict: bool,
    /// Only ask the admin endpoint whether the relay beside it is alive
    #[arg(long, conflicts_with_all = ["strict", "output", "timeout"])]
    live: bool,
    /// Longest wait for each answer of a server
    #[arg(long, default_value = "5s", value_parser = timeout, value_name = "DURATION")]
    timeout: Duration,
}

fn timeout(text: &str) -> std::result::Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration)
            if duration >= Duration::from_millis(10) && duration <= Duration::from_secs(600) =>
        {
            Ok(duration)
        }
        _ => Err("give a duration from 10ms to 10m, such as 5s".to_owned()),
    }
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let config = load(sources)?;
    if args.live {
        let admin = Admin::new(&config.admin, None)?;
        let not =
            |why| Error::new(ErrorKind::NotFound, format!("the relay at {} {why}", admin.url()));
        return admin.get("/livez").await.map(|_| ()).map_err(not);
    }

    let findings = check::look(&config, args.timeout).await;
    let plain = sources.env.iter().any(|(name, _)| name == "NO_COLOR") || !stdout().is_terminal();
    show(args.output, &findings, || table(&findings, !plain))?;

    let bad = |finding: &Finding| {
        finding.level == Level::Fail || args.strict && finding.level == Level::Warn
    };

    match findings.iter().any(bad) {
        true => Err(Error::new(ErrorKind::Findings, "a check failed")),
        false => Ok(()),
    }
}

fn table(findings: &[Finding], colour: bool) -> String {
    let mut table = String::new();
    let mut under = "";
    for Finding { level, check, looked_at, found, remedy } in findings {
        if under != looked_at {
            let gap = if under.is_empty() { "" } else { "\n" };
            let _ = writeln!(table, "{gap}{}", printable(looked_at));
            under = looked_at;
        }

        let (level, code) = match level {
            Level::Ok => ("ok  ", 32),
            Level::Warn => ("warn", 33),
            Level::Fail => ("FAIL", 31),
        };

        let level = if colour { format!("\x1b[{code}m{level}\x1b[0m") } else { level.to_owned() };
        let _ = write!(table, "  {level}  {check:<22}");
        let _ = writeln!(table, "{}", wrap(&printable(found), WIDTH, INDENT));

        for line in remedy.iter().flat_map(|remedy| remedy.lines()) {
            let _ = writeln!(table, "        {}", printable(line));
        }
    }

    let of = |level| findings.iter().filter(move |finding| finding.level == level);
    let named = |level| match of(level).map(|finding| finding.check).collect::<Vec<_>>().join(", ")
    {
        names if names.is_empty() => names,
        names => format!(" ({names})"),
    };

    let (warn, fail) = (of(Level::Warn).count(), of(Level::Fail).count());
    let total = format!(
        "{} ok, {warn} warn{}, {fail} fail{}",
        of(Level::Ok).count(),
        named(Level::Warn),
        named(Level::Fail)
    );

    let _ = writeln!(table, "\n{}", wrap(&total, WIDTH, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_to_its_width_and_to_what_a_terminal_shows() {
        let finding = Finding {
            level: Level::Warn,
            check: "outbox.subjects",
            looked_at: "outbox shop.outbox".to_owned(),
            found: "many words \x1b[2J ".repeat(20),
            remedy: Some("$ one\n$ two".to_owned()),
        };

        let shown = table(&[finding], false);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert!(!shown.contains('\x1b') && shown.contains("\n        $ two\n"), "{shown}");
    }
}

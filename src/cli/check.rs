//! `outboxd check`: problems on both sides, each with the lines that fix it.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::config::load_all;
use super::output::{Colour, Output, Screen, show};
use super::table::{hang, wrap};
use crate::check;
use crate::config::Sources;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, Level};
use crate::operator::endpoint::Admin;
use crate::printable::printable;

/// Column where the text of a finding begins, after its level and name.
const INDENT: usize = 30;
/// Column where the names of what is in order begin.
const FOLDED: usize = 8;
/// What is always shown, in this order.
const BAD: [Level; 2] = [Level::Fail, Level::Warn];

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// A table for people, or an array of objects for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also show the checks that passed, with what they found
    #[arg(long, short, conflicts_with = "live")]
    verbose: bool,
    /// Also exit with 1 on a warning
    #[arg(long)]
    strict: bool,
    /// Only ask the local admin endpoint whether the relay is alive
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
    let fleet = load_all(sources)?;
    if args.live {
        // All outboxes share the endpoint.
        let admin = Admin::new(&fleet.any().admin, None)?;
        let not =
            |why| Error::new(ErrorKind::NotFound, format!("the relay at {} {why}", admin.url()));
        return admin.get("/livez").await.map(|_| ()).map_err(not);
    }

    let mut findings = Vec::new();
    for config in fleet.outboxes() {
        let found = check::look(config, args.timeout).await;
        // What outboxes share is shown once.
        let new: Vec<_> = found.into_iter().filter(|found| !findings.contains(found)).collect();
        findings.extend(new);
    }
    show(args.output, &findings, || table(Screen::of(sources), &findings, args.verbose))?;

    let bad = |finding: &Finding| {
        finding.level == Level::Fail || args.strict && finding.level == Level::Warn
    };

    match findings.iter().any(bad) {
        true => Err(Error::new(ErrorKind::Findings, "a check failed")),
        false => Ok(()),
    }
}

/// Failures first, then warnings. What is in order is named in a few lines, or shown in full.
/// Only commands may be wider than the screen, because they are meant to be pasted.
fn table(screen: Screen, findings: &[Finding], verbose: bool) -> String {
    let mut table = String::new();
    let shown = if verbose { &[Level::Fail, Level::Warn, Level::Ok][..] } else { &BAD };
    for level in shown {
        let mut under = "";
        for finding in findings.iter().filter(|finding| finding.level == *level) {
            if under != finding.looked_at {
                let gap = if table.is_empty() { "" } else { "\n" };
                let _ = writeln!(table, "{gap}{}", printable(&finding.looked_at));
                under = &finding.looked_at;
            }
            line(&mut table, screen, finding);
        }
    }

    let of = |level| findings.iter().filter(move |finding| finding.level == level);
    let (ok, warn, fail) =
        (of(Level::Ok).count(), of(Level::Warn).count(), of(Level::Fail).count());
    if ok > 0 && !verbose {
        let gap = if table.is_empty() { "" } else { "\n" };
        let mut names: Vec<_> = of(Level::Ok).map(|finding| finding.check).collect();
        // The outbox and its scheduled events are checked alike, one after the other.
        names.dedup();
        let word = screen.paint(Colour::Green, "ok  ");
        let names = wrap(&names.join(", "), screen.width, FOLDED);
        let _ = writeln!(table, "{gap}  {word}  {names}");
    }

    let total = format!("{ok} ok, {warn} warn, {fail} fail");
    let more = if ok > 0 && !verbose { "; --verbose shows what is ok" } else { "" };
    let _ = writeln!(table, "\n{total}{more}");
    table
}

fn line(table: &mut String, screen: Screen, finding: &Finding) {
    let (word, colour) = match finding.level {
        Level::Ok => ("ok  ", Colour::Green),
        Level::Warn => ("warn", Colour::Yellow),
        Level::Fail => ("FAIL", Colour::Red),
    };

    let found = hang(&printable(&finding.found), screen.width, INDENT, FOLDED);
    let word = screen.paint(colour, word);
    let check = match found.starts_with('\n') {
        true => finding.check.to_owned(),
        false => format!("{:<22}", finding.check),
    };
    let _ = writeln!(table, "  {word}  {check}{found}");

    for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
        let _ = writeln!(table, "        {}", printable(line));
    }
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

        for width in [80, 160] {
            let shown = table(Screen::plain(width), std::slice::from_ref(&finding), false);
            assert!(shown.lines().all(|line| line.chars().count() <= width), "{shown}");
            assert!(shown.lines().any(|line| line.chars().count() > width - 20), "{shown}");
            assert!(!shown.contains('\x1b') && shown.contains("\n        $ two\n"), "{shown}");
        }
    }

    #[test]
    fn failures_come_first_and_what_is_ok_is_folded() {
        let findings = [
            Finding::ok("mongodb.reachable", "mongod", "answered"),
            Finding::warn("mongodb.auth", "mongod", "off", "a: b"),
            Finding::ok("outbox.index", "outbox", "there"),
            Finding::fail("stream.exists", "stream", "no", "$ migrate"),
        ];
        let shown = table(Screen::plain(80), &findings, false);
        assert_eq!(
            shown,
            "stream\n  FAIL  stream.exists         no\n        $ migrate\n\nmongod\n  \
             warn  mongodb.auth          off\n        a: b\n\n  \
             ok    mongodb.reachable, outbox.index\n\n2 ok, 1 warn, 1 fail; --verbose shows what is ok\n"
        );
        let shown = table(Screen::plain(80), &findings, true);
        assert!(shown.contains("ok    outbox.index          there\n"), "{shown}");
        assert!(shown.starts_with("stream\n  FAIL"), "{shown}");
    }
}

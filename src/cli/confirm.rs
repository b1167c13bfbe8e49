//! What a person sees before a command acts on many events, and the question.

use std::io::{BufRead, IsTerminal, Write as _};
use std::time::Duration;

use super::groups::tally;
use super::list;
use super::output::{Screen, events, print};
use super::request::Args;
use super::table::{hang, wrap};
use crate::duration;
use crate::error::{Error, ErrorKind, Result};
use crate::mongodb::chosen::Chosen;
use crate::operator::act::Action;
use crate::printable::printable;

/// Column where the text of a summary begins.
const INDENT: usize = 12;

/// What is about to be done.
pub(super) struct Confirm<'a> {
    pub(super) args: &'a Args,
    /// How many events the person expects.
    pub(super) count: Option<u64>,
    pub(super) action: &'a Action,
    pub(super) chosen: &'a Chosen,
    /// Healthy events that match the same filter and are left alone.
    pub(super) parked: u64,
    /// Events that wait behind the chosen ones and leave once those are discarded, if that is known.
    pub(super) let_go: Option<u64>,
    /// How long the stream remembers message ids.
    pub(super) window: Duration,
    pub(super) screen: Screen,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    Yes,
    No,
}

impl Confirm<'_> {
    /// Shows what would be done and asks for confirmation.
    pub(super) fn is_wanted(&self) -> Result<Confirmed> {
        let total = self.chosen.events();
        if total == 0 {
            if self.args.all {
                print(&format!("no {} event matches\n", self.args.filter.kind()))?;
            }
            self.say_parked()?;
            return Ok(Confirmed::No);
        }

        if self.args.all || self.args.dry_run {
            self.summary(total)?;
        }

        if *self.action == Action::RetryNow && self.chosen.may_come_twice > 0 {
            let window = duration::for_people(self.window);
            let warning = format!(
                "WARNING: the last publish of {} of them got no answer. The stream may have stored \
                 them all the same, and its duplicate window ({window}) has passed since: published \
                 again, they would be stored twice",
                self.chosen.may_come_twice
            );
            print(&format!("{}\n", wrap(&warning, self.screen.width, 0)))?;
        }

        if self.args.dry_run {
            return Ok(Confirmed::No);
        }
        self.ask(total)
    }

    /// Five of the events, and what all of them are.
    fn summary(&self, total: u64) -> Result<()> {
        let Chosen { sample, states, codes, subjects, keys, .. } = self.chosen;
        print(&format!("{}\n", list::rows(self.screen, sample)))?;
        print(&format!("{} in all: {}\n", events(total), tally(states)))?;
        for (name, texts) in [("codes", codes), ("subjects", subjects), ("keys", keys)] {
            let texts = hang(&printable(&tally(texts)), self.screen.width, INDENT, 4);
            print(&format!("  {name:<10}{texts}\n"))?;
        }
        match self.let_go {
            Some(events_behind) if *self.action == Action::Discard && events_behind > 0 => {
                print(&format!("  {:<10}{}\n", "lets go", behind(events_behind)))?;
            }
            _ => {}
        }
        self.say_parked()
    }

    fn say_parked(&self) -> Result<()> {
        if self.parked == 0 {
            return Ok(());
        }
        let parked = format!(
            "{} also match, but only wait behind events that failed, and are not included; add \
             --parked to select parked events",
            events(self.parked)
        );
        print(&format!("{}\n", wrap(&parked, self.screen.width, 0)))
    }

    fn ask(&self, total: u64) -> Result<Confirmed> {
        let is_wide =
            *self.action == Action::Discard && self.args.all && !self.args.filter.is_narrow();
        if let Some(expected) = self.count
            && expected != total
        {
            let message = format!(
                "--count {expected} was given, but {} match; nothing is done",
                events(total)
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }

        // A count that was typed in advance is as good as one that is typed now.
        let is_counted = self.count.is_some() || !is_wide;
        if !self.args.all || self.args.yes && is_counted {
            return Ok(Confirmed::Yes);
        }

        if !std::io::stdin().is_terminal() {
            let message = match is_counted {
                true => "standard input is not a terminal; confirm with --yes".to_owned(),
                false => {
                    let (every, filter) = match self.args.filter.scheduled {
                        true => ("scheduled event", "--key"),
                        false => ("event that failed", "--group"),
                    };
                    format!(
                        "without a filter, `discard --all` discards every {every}; give a filter, such \
                         as {filter}, or confirm their number: --count {total} --yes"
                    )
                }
            };
            return Err(Error::new(ErrorKind::Usage, message));
        }

        let question = match is_counted {
            true => format!("{} all of them? [y/N] ", self.action.name()),
            false => format!(
                "There is no filter. To {} all of them, type their number: ",
                self.action.name()
            ),
        };
        print(&question)?;
        std::io::stdout().flush().map_err(cannot_ask)?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(cannot_ask)?;

        let answer = answer.trim().to_lowercase();
        let is_yes = match is_counted {
            true => ["y", "yes"].contains(&answer.as_str()),
            false => answer == total.to_string(),
        };
        if !is_yes {
            print("nothing is done\n")?;
        }
        Ok(if is_yes { Confirmed::Yes } else { Confirmed::No })
    }
}

/// What leaves once the chosen events are gone.
pub(super) fn behind(count: u64) -> String {
    format!("{} of their keys that waited behind them", events(count))
}

fn cannot_ask(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Os, "the terminal can't be read; confirm with --yes", error)
}

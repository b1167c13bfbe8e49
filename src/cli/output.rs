//! How the operator's verbs print: tables for people, JSON for machines.

use std::io::{ErrorKind as IoErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::config::Sources;
use crate::document::state::State;
use crate::duration::for_people;
use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::operator::events;
use crate::printable::printable_json;

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// Columns when neither a terminal nor `COLUMNS` says how many there are.
const WIDTH: usize = 120;
/// Fewest columns: a narrower terminal breaks lines itself.
const MIN_WIDTH: usize = 40;

/// What the output is shown on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    pub(super) width: usize,
    is_coloured: bool,
    /// Whether a person looks on.
    pub(super) is_terminal: bool,
}

/// A colour of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    None = 0,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// How long a command reads before it says so.
const SLOW: Duration = Duration::from_secs(5);

/// Waits for a read, and says so when it takes long: an operator with a slow server should know what
/// the command does.
pub(super) async fn patiently<T>(read: impl Future<Output = T>) -> T {
    let mut read = std::pin::pin!(read);
    match tokio::time::timeout(SLOW, &mut read).await {
        Ok(done) => done,
        Err(_) => {
            eprintln!(
                "outboxd: still reading the outbox; many events or a slow server take a while"
            );
            read.await
        }
    }
}

impl Screen {
    /// Standard output. `NO_COLOR` turns colours off, `COLUMNS` is the width without a terminal.
    pub(super) fn of(sources: &Sources) -> Self {
        let env = |wanted: &str| {
            let found = sources.env.iter().find(|(name, text)| name == wanted && !text.is_empty());
            found.map(|(_, text)| text)
        };

        let is_terminal = std::io::stdout().is_terminal();
        let terminal =
            is_terminal.then(crossterm::terminal::size).and_then(std::result::Result::ok);
        let columns = || env("COLUMNS").and_then(|columns| columns.parse().ok());
        let width = terminal.map(|(width, _)| width.into()).filter(|width| *width > 0);

        Self {
            width: width.or_else(columns).unwrap_or(WIDTH).max(MIN_WIDTH),
            is_coloured: is_terminal && env("NO_COLOR").is_none(),
            is_terminal,
        }
    }

    /// The text in this colour, if there are colours.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        match colour {
            Colour::None => text.to_owned(),
            _ if !self.is_coloured || text.is_empty() => text.to_owned(),
            colour => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
        }
    }

    #[cfg(test)]
    pub(super) fn plain(width: usize) -> Self {
        Self { width, is_coloured: false, is_terminal: false }
    }
}

/// The colour of a state: the same everywhere.
pub(super) fn colour_of(state: State) -> Colour {
    match state {
        State::Scheduled | State::Locked => Colour::None,
        State::Failed => Colour::Yellow,
        State::Parked => Colour::Cyan,
        State::Dead => Colour::Red,
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<()> {
    write(text).map(|_| ())
}

/// Writes to standard output and returns whether anyone still reads it.
pub(super) fn write(text: &str) -> Result<bool> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Error::with_source(ErrorKind::Os, "standard output can't be written", error))
        }
    }
}

/// Prints `value` as JSON, or the text of `people`.
pub(super) fn show(
    output: Output,
    value: &impl Serialize,
    people: impl FnOnce() -> String,
) -> Result<()> {
    match output {
        Output::Table => print(&people()),
        Output::Json => {
            let text = serde_json::to_string_pretty(value).map_err(|error| {
                Error::with_source(ErrorKind::Internal, "could not be written as JSON", error)
            })?;
            print(&(printable_json(&text) + "\n"))
        }
    }
}

/// When a scheduled event is due: `in 3h 20m`, `2m ago`.
pub(super) fn due(in_seconds: i64) -> String {
    match in_seconds {
        0 => "now".to_owned(),
        ahead @ 1.. => format!("in {}", age(ahead.unsigned_abs())),
        past => format!("{} ago", age(past.unsigned_abs())),
    }
}

/// The two largest units: `3h 20m`.
pub(super) fn age(seconds: u64) -> String {
    for_people(Duration::from_secs(seconds))
}

//! How the operator's verbs print: tables for people, JSON for machines.

use std::fmt::Write as _;
use std::io::{ErrorKind as IoErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::duration::for_people;
use crate::error::{Error, ErrorKind, Result};
use crate::printable::{printable, printable_json};

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// Width of a table when standard output is no terminal.
const WIDTH: u16 = 120;
/// Longest first column that isn't broken: a UUID's.
const LONGEST_ID: u16 = 36;

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

/// Columns without lines, as wide as the terminal. The first, usually an id, is never broken, so
/// that it can be copied.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);

    if !table.is_tty() {
        table.set_width(WIDTH);
    }

    table.add_rows(
        rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>()),
    );
    let last = header.len().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i < last { 2 } else { 0 }));
    }

    let first = table.column_max_content_widths().first().copied().unwrap_or(0);
    if first <= LONGEST_ID
        && let Some(first) = table.column_mut(0)
    {
        first.set_constraint(ColumnConstraint::ContentWidth);
    }

    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// Breaks text between words into lines of at most `width` columns; all but the first are indented
/// by `indent`. A longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut column = indent;
    for word in words(text) {
        let length = word.chars().count();
        if column > indent && column + 1 + length > width {
            let _ = write!(wrapped, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }

        wrapped.push_str(&word);
        column += length;
    }

    wrapped
}

/// Words of a text. A command in backticks is one word, so that it can be copied.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(open) if open.matches('`').count() % 2 == 1 => {
                open.push(' ');
                open.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }

    words
}

/// Columns of the terminal, or [`WIDTH`].
pub(super) fn width() -> usize {
    let terminal = std::io::stdout().is_terminal().then(crossterm::terminal::size);
    terminal.and_then(std::result::Result::ok).map_or(WIDTH.into(), |(width, _)| width.into())
}

/// `1 event`, `2 events`.
pub(super) fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

/// The two largest units: `3h 20m`.
pub(super) fn age(seconds: u64) -> String {
    for_people(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn a_command_is_never_broken() {
        assert_eq!(
            wrap("say `a b c d` now or never", 10, 2),
            "say\n  `a b c d`\n  now or\n  never"
        );
        assert_eq!(wrap("an open ` one", 6, 0), "an\nopen\n` one");
    }
}

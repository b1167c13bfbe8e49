//! How the operator's verbs print: tables for people, JSON for machines.

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::print;
use crate::error::{Error, ErrorKind, Result};

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

/// Prints as JSON or, for people, what `people` says.
pub(super) fn show(output: Output, value: &impl Serialize, people: impl FnOnce() -> String) -> Result<()> {
    match output {
        Output::Table => print(&people()),
        Output::Json => {
            let text = serde_json::to_string_pretty(value)
                .map_err(|error| Error::with_source(ErrorKind::Internal, "could not be written as JSON", error))?;
            print(&(text + "\n"))
        }
    }
}

/// Columns without lines, as wide as the terminal.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    if !table.is_tty() {
        table.set_width(WIDTH);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// `1 event`, `2 events`.
pub(super) fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

/// The two largest units: `3h 20m`.
pub(super) fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(largest) = units.iter().position(|(size, _)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let mut left = seconds;
    let shown = units[largest..].iter().take(2).filter_map(|(size, unit)| {
        let count = left / size;
        left %= size;
        (count > 0).then(|| format!("{count}{unit}"))
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn an_age_has_its_two_largest_units() {
        for (seconds, said) in [(0, "0s"), (59, "59s"), (60, "1m"), (3725, "1h 2m"), (86_400, "1d"), (90_061, "1d 1h")]
        {
            assert_eq!(age(seconds), said);
        }
    }
}

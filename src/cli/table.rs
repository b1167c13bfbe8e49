//! Text in columns that fits a terminal. No word is ever broken, because people copy ids, subjects
//! and commands. Where a row is too wide, its texts of several words are wrapped; where that is not
//! enough, its last columns move to a line of their own, below the others.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::output::{Colour, Screen};
use crate::printable::printable;

/// Between two columns.
const GAP: usize = 2;
/// A text of at most so many columns is never wrapped: `3h 20m`.
const SHORT: usize = 16;
/// Before the columns that moved to a line of their own.
const INDENT: usize = 2;

/// One text of a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: printable(text.as_ref()), colour: Colour::None }
    }
}

impl Cell {
    pub(super) fn coloured(text: &str, colour: Colour) -> Self {
        Self { text: printable(text), colour }
    }
}

/// A column: where it stands, and how wide it is.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Its longest word.
    least: usize,
    /// Its longest text.
    whole: usize,
    width: usize,
}

/// Columns without lines.
pub(super) fn table(
    screen: Screen,
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<Cell>>,
) -> String {
    let header: Vec<Cell> = header.iter().map(Cell::from).collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(header).chain(rows).collect();

    let columns = rows.first().map_or(0, Vec::len);
    let columns: Vec<Column> = (0..columns)
        .map(|at| {
            let texts = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.as_str());
            let least = |text: &str| match text.width() {
                width if width <= SHORT => Some(width),
                _ => words(text).iter().map(|word| word.width()).max(),
            };
            let least = texts.clone().filter_map(least).max().unwrap_or(0);
            let whole = texts.map(|text| text.width()).max().unwrap_or(0);
            Column { least, whole, width: least }
        })
        .collect();

    let lines = lines(&columns, screen.width);
    let mut out = String::new();
    for row in &rows {
        let mut first = 0;
        for columns in &lines {
            let cells = &row[first.min(row.len())..(first + columns.len()).min(row.len())];
            let indent = if first == 0 { 0 } else { INDENT };
            line(&mut out, screen, cells, columns, indent);
            first += columns.len();
        }
    }
    out
}

/// The columns of each line of a row, as wide as they are shown.
fn lines(columns: &[Column], width: usize) -> Vec<Vec<Column>> {
    let mut lines: Vec<Vec<Column>> = Vec::new();
    for column in columns {
        let indent = if lines.len() > 1 { INDENT } else { 0 };
        match lines.last_mut() {
            Some(line) if indent + taken(line) + GAP + column.least <= width => line.push(*column),
            _ => lines.push(vec![*column]),
        }
    }

    for (number, line) in lines.iter_mut().enumerate() {
        let indent = if number > 0 { INDENT } else { 0 };
        let mut free = width.saturating_sub(indent + taken(line));
        // What needs the least gets it first.
        let mut by_need: Vec<&mut Column> = line.iter_mut().collect();
        by_need.sort_by_key(|column| column.whole - column.least);
        let mut left = by_need.len();
        for column in by_need {
            let more = (column.whole - column.least).min(free / left);
            column.width += more;
            free -= more;
            left -= 1;
        }
    }
    lines
}

fn taken(line: &[Column]) -> usize {
    line.iter().map(|column| column.width + GAP).sum::<usize>().saturating_sub(GAP)
}

/// One line of a row, and more where a text is wrapped.
fn line(out: &mut String, screen: Screen, cells: &[Cell], columns: &[Column], indent: usize) {
    let wrapped: Vec<Vec<String>> = cells
        .iter()
        .zip(columns)
        .map(|(cell, column)| {
            wrap(&cell.text, column.width, 0).lines().map(str::to_owned).collect()
        })
        .collect();

    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    for number in 0..height {
        let mut shown = " ".repeat(indent);
        let mut due = 0;
        for ((cell, column), texts) in cells.iter().zip(columns).zip(&wrapped) {
            let text = texts.get(number).map_or("", String::as_str);
            if !text.is_empty() {
                let _ = write!(shown, "{:due$}{}", "", screen.paint(cell.colour, text));
                due = 0;
            }
            due += column.width.saturating_sub(text.width()) + GAP;
        }
        out.push_str(shown.trim_end());
        out.push('\n');
    }
}

/// Breaks text between words into lines of at most `width` columns; all but the first are indented
/// by `indent`. A longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut column = indent;
    for word in words(text) {
        let length = word.width();
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

/// The same, below the place where it would begin if a word is too long to stand there.
pub(super) fn hang(text: &str, width: usize, indent: usize, below: usize) -> String {
    let longest =
        words(text).iter().filter(|word| !word.contains('`')).map(|word| word.width()).max();
    match longest.is_some_and(|longest| indent + longest > width) {
        true => format!("\n{:below$}{}", "", wrap(text, width, below)),
        false => wrap(text, width, indent),
    }
}

/// The beginning of a text, up to a word's end if there is one, in at most `width` columns.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }

    let mut shown = String::new();
    for c in text.chars() {
        shown.push(c);
        if shown.width() + 1 > width {
            shown.pop();
            break;
        }
    }
    let end = shown.rfind(' ').filter(|end| *end > shown.len() / 2).unwrap_or(shown.len());
    format!("{}…", shown[..end].trim_end())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: usize, rows: &[&[&str]]) -> String {
        let rows = rows.iter().map(|row| row.iter().map(Cell::from).collect());
        table(Screen::plain(width), &["ID", "STATE", "REASON"], rows)
    }

    #[test]
    fn a_command_is_never_broken() {
        assert_eq!(
            wrap("say `a b c d` now or never", 10, 2),
            "say\n  `a b c d`\n  now or\n  never"
        );
        assert_eq!(wrap("an open ` one", 6, 0), "an\nopen\n` one");
    }

    #[test]
    fn a_row_that_fits_is_one_line() {
        assert_eq!(
            shown(30, &[&["a", "dead", "two words"], &["bcd", "failed", ""]]),
            "ID   STATE   REASON\na    dead    two words\nbcd  failed\n"
        );
    }

    #[test]
    fn a_text_is_wrapped_between_its_words() {
        assert_eq!(
            shown(20, &[&["a", "dead", "one two three four"]]),
            "ID  STATE  REASON\na   dead   one two\n           three\n           four\n"
        );
    }

    #[test]
    fn no_word_is_broken_however_long() {
        let long = "x".repeat(300);
        let rows: &[&[&str]] = &[&[&long, "dead", "two words"], &["short", "failed", "one"]];
        for width in [40, 80, 160] {
            let shown = shown(width, rows);
            assert_eq!(shown.lines().filter(|line| *line == long).count(), 1, "{shown}");
            let others = shown.lines().filter(|line| *line != long);
            assert!(others.clone().all(|line| line.width() <= width), "{shown}");
            assert!(others.into_iter().any(|line| line == "  dead    two words"), "{shown}");
        }
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let shown = shown(40, &[&["日本", "dead", "é"], &["a", "dead", "b"]]);
        assert_eq!(shown, "ID    STATE  REASON\n日本  dead   é\na     dead   b\n");
    }

    #[test]
    fn a_long_word_hangs_below() {
        assert_eq!(hang("a bcd", 8, 4, 1), "a\n    bcd");
        assert_eq!(hang("a bcdefg", 8, 4, 1), "\n a\n bcdefg");
    }

    #[test]
    fn a_text_is_cut_at_a_word() {
        assert_eq!(cut("no subject of stream", 20), "no subject of stream");
        assert_eq!(cut("no subject of stream SHOP covers", 20), "no subject of…");
        assert_eq!(cut("xxxxxxxxxx", 5), "xxxx…");
    }
}

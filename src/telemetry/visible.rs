//! Log lines without hidden characters: errors of servers and of events are foreign text.

use std::io::{Result, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::printable::{printable_json, printable_log};

/// Writes lines to another writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visible<W>(pub(super) W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Visible<M> {
    type Writer = Visible<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Visible(self.0.make_writer())
    }
}

impl<W: Write> Write for Visible<W> {
    /// Takes a line as a whole, as the formatter writes it. A line of text begins with its time.
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        if line.is_ascii() {
            return self.0.write(line);
        }

        let text = String::from_utf8_lossy(line);
        let visible =
            if line.starts_with(b"{") { printable_json(&text) } else { printable_log(&text) };
        self.0.write_all(visible.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_it_says() {
        let written = |line: &str| {
            let mut visible = Visible(Vec::new());
            visible.write_all(line.as_bytes()).expect("a vector takes it");
            String::from_utf8(visible.0).expect("text")
        };
        assert_eq!(written("\u{1b}[2mnow\u{1b}[0m plain\n"), "\u{1b}[2mnow\u{1b}[0m plain\n");
        assert_eq!(written("\u{1b}[2mé\u{202e}x\n"), "\u{1b}[2mé\u{fffd}x\n");
        assert_eq!(written("{\"error\":\"é\u{202e}\"}\n"), "{\"error\":\"é\\u202e\"}\n");
    }
}

//! Text in pages. Everything that a template prints passes [`Visible`], so no document can add
//! markup, hide a part of itself or show itself in another order.

use std::fmt::{Result, Write};
use std::time::Duration;

use askama::filters::Escaper;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::duration::for_people;
use crate::printable::printable_lines;

/// What stands for itself in the address of a page.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The escaper of every template; `askama.toml` names it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut fmt: W, string: &str) -> Result {
        for c in printable_lines(string).chars() {
            match c {
                '<' => fmt.write_str("&lt;")?,
                '>' => fmt.write_str("&gt;")?,
                '&' => fmt.write_str("&amp;")?,
                '"' => fmt.write_str("&quot;")?,
                '\'' => fmt.write_str("&#39;")?,
                c => fmt.write_char(c)?,
            }
        }

        Ok(())
    }

    fn write_escaped_char<W: Write>(&self, fmt: W, c: char) -> Result {
        self.write_escaped_str(fmt, c.encode_utf8(&mut [0; 4]))
    }
}

/// Commands, and what stands for them in the console.
const IN_CONSOLE: [(&str, &str); 7] = [
    ("run `outboxd check`", "open the page Check"),
    ("`outboxd check`", "the page Check"),
    ("run `outboxd retry-now`", "use Retry now"),
    ("`outboxd retry-now`", "Retry now"),
    ("`outboxd groups`", "the page Groups"),
    ("`outboxd stats`", "the page Overview"),
    ("`outboxd audit`", "the page Audit"),
];

/// A text of the project's own that names pages and buttons in the place of commands.
pub(super) fn in_console(text: &str) -> String {
    IN_CONSOLE.iter().fold(text.to_owned(), |text, (command, page)| text.replace(command, page))
}

/// A text of the project's own, in which backticks are around commands, as markup. What stands in it is
/// escaped like everything else.
pub(super) fn with_code(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 32);
    let text = in_console(text);
    let parts: Vec<_> = text.split('`').collect();
    for (at, part) in parts.iter().enumerate() {
        // A backtick without a partner stands for itself.
        let is_code = at % 2 == 1 && at + 1 < parts.len();
        let [before, after] = if is_code { ["<code>", "</code>"] } else { ["", ""] };
        let lone = if at % 2 == 1 && !is_code { "`" } else { "" };
        shown.push_str(lone);
        shown.push_str(before);
        // Writing to a text does not fail.
        let _ = Visible.write_escaped_str(&mut shown, part);
        shown.push_str(after);
    }

    shown
}

/// A text as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// The two largest units: `3h 20m`.
pub(super) fn age(seconds: u64) -> String {
    for_people(Duration::from_secs(seconds))
}

/// An age that may be unknown.
pub(super) fn age_or_dash(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), age)
}

/// When something is due: `in 3h 20m`, `2m ago`.
pub(super) fn due(in_seconds: i64) -> String {
    match in_seconds {
        0 => "now".to_owned(),
        ahead @ 1.. => format!("in {}", age(ahead.unsigned_abs())),
        past => format!("{} ago", age(past.unsigned_abs())),
    }
}

/// A count with its thousands apart.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);

    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }

        shown.push(digit);
    }

    shown
}

/// `1 event`, `2,000 events`.
pub(super) fn events(count: u64) -> String {
    format!("{} event{}", number(count), if count == 1 { "" } else { "s" })
}

/// A time of the server without its fraction: `2026-11-26 09:30:00`.
pub(super) fn second(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_adds_markup_or_hides() {
        let mut shown = String::new();
        let text = "<script>alert('1')</script>\u{202e}\u{200b}&\"\nnext";
        Visible.write_escaped_str(&mut shown, text).expect("a text");
        assert_eq!(
            shown,
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\u{fffd}\u{fffd}&amp;&quot;\nnext"
        );
    }

    #[test]
    fn commands_stand_out_and_nothing_else_becomes_markup() {
        assert_eq!(with_code("run `outboxd check`, then wait"), "open the page Check, then wait");
        let shown = with_code("run `outboxd check <x>`, or <b>`");
        assert_eq!(shown, "run <code>outboxd check &lt;x&gt;</code>, or &lt;b&gt;`");
        assert_eq!(with_code("`"), "`");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let shown = [0, 7, 999, 1000, 1_234_567].map(number);
        assert_eq!(shown, ["0", "7", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2000].map(events), ["1 event", "2,000 events"]);
        assert_eq!(encoded("a b/ü?&"), "a%20b%2F%C3%BC%3F%26");
    }
}

//! Foreign text for people. The text of an event, an operator or a server must not control a
//! terminal, hide a part of itself or show itself in another order.
//!
//! Whatever prints such text passes it through here: tables, errors, log lines and JSON.

use std::fmt::Write as _;

/// In the place of a character that isn't shown.
const HIDDEN: char = '\u{fffd}';
/// Most combining marks on one character. Scripts need two or three.
const MAX_MARKS: usize = 4;

/// Replaces what is no visible character: controls, bidirectional and other format characters,
/// separators of lines, private, unassigned and zero-width characters, and floods of marks.
pub(crate) fn printable(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }

    let mut marks = 0;
    text.chars()
        .map(|c| {
            marks = if is_mark(c) { marks + 1 } else { 0 };
            if is_hidden(c) || marks > MAX_MARKS { HIDDEN } else { c }
        })
        .collect()
}

/// The same for a text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// The same for a line of the log, which may have colours. The logger escapes those of fields.
pub(crate) fn printable_log(line: &str) -> String {
    line.split_inclusive(['\n', '\t', '\u{1b}'])
        .flat_map(|part| {
            let text = part.trim_end_matches(['\n', '\t', '\u{1b}']);
            [printable(text), part[text.len()..].to_owned()]
        })
        .collect()
}

/// Escapes those characters in a JSON text, which keeps its meaning. Outside of its strings, JSON
/// is visible ASCII and white space.
pub(crate) fn printable_json(json: &str) -> String {
    let mut marks = 0;
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        if matches!(c, '\n' | '\t' | '\r') || !(is_hidden(c) || marks > MAX_MARKS) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }

    escaped
}

/// Whether a terminal would obey the character or show nothing in its place.
fn is_hidden(c: char) -> bool {
    match c {
        ' '..='~' => false,
        // Letters and marks of no width.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => {
            true
        }
        '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}' => true,
        // The standard library escapes what Unicode calls other, format, surrogate, private,
        // unassigned or a separator. Behind a letter it lets marks pass.
        _ => format!("a{c}").escape_debug().count() > 2,
    }
}

/// Whether the character is drawn over the one before it.
fn is_mark(c: char) -> bool {
    !c.is_ascii() && !is_hidden(c) && c.escape_debug().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_visible_stays() {
        for text in ["plain ~!\"'\\", "Größe", "日本語", "naïve e\u{301}", "😀", "שלום", "กำลัง"]
        {
            assert_eq!(printable(text), text);
            assert_eq!(printable_json(text), text);
        }
    }

    #[test]
    fn what_a_terminal_obeys_or_hides_is_replaced() {
        let hidden = "\0\u{7}\n\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\u{202e}\
                      \u{2060}\u{2066}\u{2069}\u{34f}\u{3164}\u{fe0f}\u{feff}\u{fff9}\u{e000}\u{e0041}\u{10ffff}\u{378}\u{a0}";
        for c in hidden.chars() {
            assert_eq!(printable(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
            let json = serde_json::to_string(&format!("a{c}b")).expect("JSON");
            let safe = printable_json(&json);
            assert!(safe.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{safe:?}");
            let read: String = serde_json::from_str(&safe).expect("JSON");
            assert_eq!(read, format!("a{c}b"));
        }
    }

    #[test]
    fn a_flood_of_marks_is_cut() {
        let flood = format!("a{}b", "\u{301}".repeat(50));
        assert_eq!(printable(&flood).matches('\u{301}').count(), 4);
        assert_eq!(printable_lines("a\nb\u{202e}\n"), "a\nb\u{fffd}\n");
    }
}

//! Failures that are alike: one group has one code and one reason.
//!
//! A reason is the error's text without what differs between events of one cause: numbers, ids, and
//! the parts of a subject that have digits or are the event's own key. The id of a group depends on
//! code and reason alone, so it is the same in every command, on every day and for every relay.

use sha2::{Digest, Sha256};

/// In a reason: what differs between events.
const VARIES: &str = "#";
/// Hexadecimal digits of a group's id.
pub(crate) const ID_DIGITS: usize = 8;

/// The id of the group of failures with this code and this [`reason`].
pub(crate) fn id(code: &str, reason: &str) -> String {
    let digest = Sha256::new().chain_update(code).chain_update([0]).chain_update(reason).finalize();
    digest.iter().take(ID_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text may be the id of a group.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The error of an event of this key, with `#` for what differs between events.
pub(crate) fn reason(error: &str, key: Option<&str>) -> String {
    let without_key = match key.filter(|key| !key.is_empty()) {
        Some(key) => without(error, key),
        None => error.to_owned(),
    };

    let mut reason = String::with_capacity(without_key.len());
    let mut rest = without_key.as_str();
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|c| is_word(c) != in_word).unwrap_or(rest.len());
        let (part, others) = rest.split_at(end);
        reason.push_str(if varies(part) { VARIES } else { part });
        rest = others;
    }

    // The rest of a number with a point, of an address, and of a subject with two such parts.
    while reason.contains("#.#") {
        reason = reason.replace("#.#", VARIES);
    }
    reason
}

/// Words of UUIDs have dashes, and so do negative numbers.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

/// A word with a digit, unless it is the version of a subject: `v2`.
fn varies(word: &str) -> bool {
    let is_version = word.strip_prefix('v').is_some_and(|number| {
        (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    word.contains(|c: char| c.is_ascii_digit()) && !is_version
}

/// The text with `#` in each place where the key stands as a whole word.
fn without(text: &str, key: &str) -> String {
    let mut without = String::with_capacity(text.len());
    let mut copied = 0;
    for (at, _) in text.match_indices(key) {
        let (before, after) = (&text[..at], &text[at + key.len()..]);
        if before.ends_with(is_word) || after.starts_with(is_word) {
            continue;
        }
        without.push_str(&text[copied..at]);
        without.push_str(VARIES);
        copied = at + key.len();
    }

    without.push_str(&text[copied..]);
    without
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_events_of_one_cause_is_no_part_of_the_reason() {
        for (error, key, wanted) in [
            ("5 of 10: t5, 7ms a_1 -3.", None, "# of #: #, # # #."),
            ("size 65536 exceeded by 200115", None, "size # exceeded by #"),
            ("no subject covers tickets.4711.moved", None, "no subject covers tickets.#.moved"),
            ("covers t.9f3c2b1e-77aa-4c1d-9d53-0f6f4f0a1b2c.x", None, "covers t.#.x"),
            ("covers orders.6745f0a1b2c3d4e5f6a7b8c9", None, "covers orders.#"),
            ("covers tenants.acme.made", Some("acme"), "covers tenants.#.made"),
            ("covers tenants.acmes.made", Some("acme"), "covers tenants.acmes.made"),
            ("covers orders.v2.made and orders.v2x", None, "covers orders.v2.made and orders.#"),
            ("after 1.5s at 127.0.0.1:4222", None, "after # at #:#"),
            ("`payload.items.3.x` is NaN", None, "`payload.items.#.x` is NaN"),
            ("é5 ١ größe", Some(""), "# ١ größe"),
            ("", Some("k"), ""),
        ] {
            assert_eq!(reason(error, key), wanted, "{error}");
        }
    }

    #[test]
    fn an_id_is_of_code_and_reason_and_stays() {
        let made = id("not-covered", "no subject covers t.#");
        assert!(is_id(&made) && !is_id("6745f0a1b2") && !is_id("not-cove"), "{made}");
        assert_ne!(made, id("malformed", "no subject covers t.#"));
        assert_ne!(id("a", "b"), id("ab", ""));
        // People keep ids in tickets and scripts: they must not change between releases.
        assert_eq!(id("malformed", "`subject` is missing"), "59a93a4f");
    }
}

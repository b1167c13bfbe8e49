//! `[outboxes]`: which outboxes a daemon finds by itself.

use crate::config::reader::Reader;

/// `[outboxes]`
#[derive(Debug, Clone)]
pub struct OutboxesConfig {
    /// Patterns of names, such as `*.outbox`. Empty: it finds none.
    pub discover: Vec<String>,
}

impl OutboxesConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let discover: Vec<String> = reader
            .setting(
                "discover",
                "Patterns of the outboxes that outboxd finds by itself and relays, such as \
                 \"*.outbox\" for every collection `outbox`, or \"*\". Every 10 s it looks for \
                 outboxes that `outboxd migrate` created, and stops relaying those that were \
                 dropped. In `stream.name`, `{database}` and `{collection}` are replaced by those \
                 of the outbox. A table [[outbox]] with the same name overrides the settings.",
            )
            .example("[\"*.outbox\"]")
            .read()
            .unwrap_or_default();

        if discover.iter().any(|pattern| pattern.contains(char::is_whitespace)) {
            reader.mistake(
                "discover",
                "a pattern has no spaces; give a list, such as [\"*.outbox\"]",
            );
        }

        Self { discover }
    }

    /// Of the outboxes that are there, those that a pattern matches, sorted. Those that were known
    /// stay where the database can't be read now.
    pub(crate) fn news(
        &self,
        there: Vec<(String, String)>,
        known: &[(String, String)],
        is_unread: impl Fn(&str) -> bool,
    ) -> Vec<(String, String)> {
        let finds = |(database, collection): &(String, String)| {
            let name = format!("{database}.{collection}");
            self.discover.iter().any(|pattern| matches(pattern, &name))
        };
        let kept = known.iter().filter(|(database, _)| is_unread(database)).cloned();

        let mut found: Vec<_> = there.into_iter().filter(finds).chain(kept).collect();
        found.sort();
        found.dedup();
        found
    }
}

/// Whether the text matches a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(begin) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "shop.outbox", true),
            ("*.outbox", "shop.outbox", true),
            ("*.outbox", "shop.outbox_published", false),
            ("shop-*.*", "shop-eu.events", true),
            ("shop.outbox", "shop.outbox", true),
            ("shop", "shop.outbox", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b", "xbxa", false),
            ("ö*", "österreich.outbox", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}

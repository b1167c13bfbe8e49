//! Failed events, grouped by how they failed last.
//!
//! The server groups by the errors as they are, since most are equal. Numbers are taken out here:
//! the server's own way takes time by the square of a text's length.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use outboxd_client::field;
use serde::Serialize;

use super::bounded::{QUERY_TIME, small};
use super::collation::simple;
use super::inspect::{Inspect, count, date, text};
use crate::document::record::shown_id;
use crate::document::state::{self, State};

/// Most groups that are shown.
const GROUPS: usize = 100;
/// Most groups that are held while they are read, a few kilobytes each.
const MAX_HELD: usize = 2000;
/// In the place of a text that is too large.
const TOO_LARGE: &str = "(too large to be shown here; `outboxd show` has it)";

/// Events that failed alike.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    pub(crate) class: String,
    pub(crate) code: String,
    /// With `#` for numbers.
    pub(crate) error: String,
    /// The error of the sample, as it is.
    pub(crate) example: String,
    pub(crate) events: u64,
    pub(crate) dead: u64,
    pub(crate) first: Option<String>,
    pub(crate) last: Option<String>,
    /// Empty if the id of the sample is too large.
    pub(crate) sample: String,
}

/// Groups, the most events first.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) shown: Vec<Group>,
    /// Events in groups beyond these.
    pub(crate) left_out: u64,
}

impl Inspect {
    /// The selected events that have failed, dead ones included.
    pub(crate) async fn groups(&self, selection: &super::selection::Selection) -> Result<Groups> {
        let mut filter = selection.filter(&self.layout, self.now().await?);
        filter.extend(state::has_failed());

        let groups = self.events.aggregate(pipeline(filter)).max_time(QUERY_TIME);
        let mut found = groups.collation(simple()).await?;
        let (mut groups, mut left_out) = (HashMap::new(), 0);

        while let Some(group) = found.try_next().await? {
            let group = Group::read(&group);
            let full = groups.len() >= MAX_HELD;
            let alike = (group.class.clone(), group.code.clone(), group.error.clone());
            match groups.entry(alike) {
                Entry::Occupied(mut known) => Group::add(known.get_mut(), group),
                Entry::Vacant(_) if full => left_out += group.events,
                Entry::Vacant(new) => drop(new.insert(group)),
            }
        }

        let mut shown: Vec<Group> = groups.into_values().collect();
        shown.sort_by(|a, b| b.events.cmp(&a.events).then_with(|| a.code.cmp(&b.code)));
        left_out += shown.iter().skip(GROUPS).map(|group| group.events).sum::<u64>();
        shown.truncate(GROUPS);
        Ok(Groups { shown, left_out })
    }
}

/// The most events first, so that what is left out is of few.
fn pipeline(filter: Document) -> [Document; 4] {
    let newest = |name: &str| small(format!("$last.{name}"), TOO_LARGE);
    let is_date = doc! { "$eq": [{ "$type": "$last.at" }, "date"] };
    let (is_dead, failures) = (State::Dead.expression(), state::failures());

    [
        doc! { "$match": filter },
        doc! { "$project": { "dead": is_dead, "last": { "$last": failures } } },
        doc! { "$group": {
            "_id": { "class": newest("class"), "code": newest("code"), "error": newest("error") },
            "events": { "$sum": 1_i64 },
            "dead": { "$sum": { "$cond": ["$dead", 1_i64, 0_i64] } },
            "first": { "$min": { "$cond": [&is_date, "$last.at", Bson::Null] } },
            "last": { "$max": { "$cond": [&is_date, "$last.at", Bson::Null] } },
            "sample": { "$max": small(format!("${}", field::ID), Bson::Null) },
        } },
        doc! { "$sort": { "events": -1 } },
    ]
}

impl Group {
    fn read(group: &Document) -> Self {
        let by = group.get_document("_id").cloned().unwrap_or_default();
        let example = text(&by, "error").unwrap_or_default();
        let sample = group.get("sample").filter(|id| **id != Bson::Null);
        Self {
            class: text(&by, "class").unwrap_or_default(),
            code: text(&by, "code").unwrap_or_default(),
            error: without_numbers(&example),
            events: count(group, "events"),
            dead: count(group, "dead"),
            first: date(group, "first"),
            last: date(group, "last"),
            sample: sample.map(shown_id).unwrap_or_default(),
            example,
        }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.dead += other.dead;
        // RFC 3339 in UTC sorts as text.
        self.first = self.first.take().into_iter().chain(other.first).min();
        self.last = self.last.take().max(other.last);
        if self.sample.is_empty() {
            (self.sample, self.example) = (other.sample, other.example);
        }
    }
}

/// The text with `#` for each number that is a word.
fn without_numbers(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut without = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|c| is_word(c) != in_word).unwrap_or(rest.len());
        let (part, others) = rest.split_at(end);
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        without.push_str(if is_number { "#" } else { part });
        rest = others;
    }
    without
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn numbers_that_are_words_are_taken_out() {
        let without = |text| without_numbers(text);
        assert_eq!(without("5 of 10: t5, 7ms a_1 -3."), "# of #: t5, 7ms a_1 -#.");
        assert_eq!(without("é5 ١"), "é# ١");
        assert_eq!(without(""), "");
    }
}

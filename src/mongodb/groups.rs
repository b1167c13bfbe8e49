//! Failed events, grouped by how they failed last: see [`crate::group`].
//!
//! The server groups by the errors as they are, since most are equal. What differs between events of
//! one cause is taken out here: the server's own way takes time by the square of a text's length.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bson::{Bson, Document, doc};
use mongodb::error::Result;
use outboxd_client::field;
use serde::Serialize;

use super::bounded::{READ_ALL_TIME, next, small};
use super::inspect::{Inspect, TOO_LARGE, count, date, text};
use super::selection::Selection;
use crate::document::record::shown_id;
use crate::document::state::{self, State};
use crate::group;

/// Most groups that are shown.
const GROUPS: usize = 100;
/// Most groups that are held while they are read, a few kilobytes each.
const MAX_HELD: usize = 2000;

/// Events that failed alike.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    /// Of code and error; see [`group::id`].
    pub(crate) id: String,
    /// Of most of its events.
    pub(crate) class: String,
    pub(crate) code: String,
    /// With `#` for what differs between its events.
    pub(crate) error: String,
    /// The error of the sample, as it is.
    pub(crate) example: String,
    pub(crate) events: u64,
    /// Those that the relay still retries.
    pub(crate) failed: u64,
    pub(crate) dead: u64,
    /// Events that wait behind these. `None` if the server needs too long to count them.
    pub(crate) held: Option<u64>,
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
    /// The selected events that have failed, dead ones included. What waits behind them is counted
    /// if there may be any.
    pub(crate) async fn groups(&self, selection: &Selection, are_parked: bool) -> Result<Groups> {
        let now = self.now().await?;
        let (each, by_failure) = self.pipeline();
        let found = self.find(selection, now, |_| each.to_vec(), &by_failure, READ_ALL_TIME);
        let mut found = found.await?;
        let (mut groups, mut left_out) = (HashMap::new(), 0);

        while let Some(group) = next(&mut found).await? {
            let group = Group::read(&group);
            if selection.group.as_ref().is_some_and(|wanted| *wanted != group.id) {
                continue;
            }

            let full = groups.len() >= MAX_HELD;
            match groups.entry(group.id.clone()) {
                Entry::Occupied(mut known) => Group::add(known.get_mut(), group),
                Entry::Vacant(_) if full => left_out += group.events,
                Entry::Vacant(new) => drop(new.insert(group)),
            }
        }

        let mut shown: Vec<Group> = groups.into_values().collect();
        shown.sort_by(|a, b| {
            let most_events = b.events.cmp(&a.events);
            most_events.then_with(|| a.code.cmp(&b.code)).then_with(|| a.id.cmp(&b.id))
        });
        left_out += shown.iter().skip(GROUPS).map(|group| group.events).sum::<u64>();
        shown.truncate(GROUPS);

        if !shown.is_empty() {
            let held = match are_parked {
                true => self.held_by_group(selection).await?,
                false => Some(HashMap::new()),
            };
            for group in &mut shown {
                let of_group = |held: &HashMap<String, u64>| held.get(&group.id).copied();
                group.held = held.as_ref().map(|held| of_group(held).unwrap_or(0));
            }
        }
        Ok(Groups { shown, left_out })
    }

    /// The stages for each event, and those that follow. The most events first, so that what is left
    /// out is of few.
    fn pipeline(&self) -> ([Document; 2], [Document; 3]) {
        let newest = |name: &str| small(format!("$last.{name}"), TOO_LARGE);
        let is_date = doc! { "$eq": [{ "$type": "$at" }, "date"] };
        let (is_dead, failures) = (State::Dead.expression(), state::failures());

        // The key, if the error names it: such errors differ anyway.
        let key = small(format!("${}", self.layout.key()), Bson::Null);
        let are_texts = doc! { "$and": [
            { "$eq": [{ "$type": "$key" }, "string"] }, { "$eq": [{ "$type": "$error" }, "string"] },
        ] };
        let is_named = doc! { "$gte": [{ "$indexOfBytes": ["$error", "$key"] }, 0] };
        let is_named = doc! { "$cond": [are_texts, is_named, false] };

        let each = [
            doc! { "$match": state::has_failed() },
            doc! { "$project": { "dead": is_dead, "key": key, "last": { "$last": failures } } },
        ];
        let by_failure = [
            doc! { "$project": {
                "dead": 1, "key": 1, "at": "$last.at",
                "class": newest("class"), "code": newest("code"), "error": newest("error"),
            } },
            doc! { "$group": {
                "_id": {
                    "class": "$class", "code": "$code", "error": "$error",
                    "key": { "$cond": [is_named, "$key", Bson::Null] },
                },
                "events": { "$sum": 1_i64 },
                "dead": { "$sum": { "$cond": ["$dead", 1_i64, 0_i64] } },
                "first": { "$min": { "$cond": [&is_date, "$at", Bson::Null] } },
                "last": { "$max": { "$cond": [&is_date, "$at", Bson::Null] } },
                "sample": { "$max": small(format!("${}", field::ID), Bson::Null) },
            } },
            doc! { "$sort": { "events": -1 } },
        ];
        (each, by_failure)
    }
}

impl Group {
    fn read(group: &Document) -> Self {
        let by = group.get_document("_id").cloned().unwrap_or_default();
        let example = text(&by, "error").unwrap_or_default();
        let sample = group.get("sample").filter(|id| **id != Bson::Null);
        let code = text(&by, "code").unwrap_or_default();
        let error = group::reason(&example, text(&by, "key").as_deref());
        let (events, dead) = (count(group, "events"), count(group, "dead"));

        Self {
            id: group::id(&code, &error),
            class: text(&by, "class").unwrap_or_default(),
            code,
            error,
            events,
            failed: events.saturating_sub(dead),
            dead,
            held: None,
            first: date(group, "first"),
            last: date(group, "last"),
            sample: sample.map(shown_id).unwrap_or_default(),
            example,
        }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.failed += other.failed;
        self.dead += other.dead;
        // RFC 3339 in UTC sorts as text.
        self.first = self.first.take().into_iter().chain(other.first).min();
        self.last = self.last.take().max(other.last);
        if self.sample.is_empty() {
            (self.sample, self.example) = (other.sample, other.example);
        }
    }
}

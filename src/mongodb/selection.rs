//! Which events an operator means.

use std::time::Duration;

use bson::{Bson, DateTime, Document, Timestamp, doc, oid::ObjectId};

use super::inspect::State;
use crate::document::layout::Layout;
use crate::document::record::any_key;
use outboxd_client::field;

/// Which events: all that is given must hold. Nothing given means every stuck one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) ids: Vec<String>,
    /// With `*` for any characters.
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) older_than: Option<Duration>,
    /// Class of the newest failure.
    pub(crate) class: Option<String>,
    /// Code of the newest failure.
    pub(crate) code: Option<String>,
    pub(crate) state: Option<State>,
}

impl Selection {
    /// As a filter. Text from outside is only ever compared, never a query itself.
    pub(crate) fn filter(&self, layout: &Layout, now: DateTime) -> Document {
        let is_locked =
            if self.state == Some(State::Locked) { layout.locked() } else { false.into() };
        let mut filter = doc! { field::IS_LOCKED: is_locked };
        match self.state {
            Some(State::Dead) => drop(filter.insert(field::DEAD_AT, doc! { "$ne": Bson::Null })),
            Some(State::Failed) => {
                filter.insert(field::DEAD_AT, Bson::Null);
                filter.insert("failures.0", doc! { "$exists": true });
            }
            Some(State::Parked) => {
                filter.insert(field::DEAD_AT, Bson::Null);
                filter.insert("failures.0", doc! { "$exists": false });
            }
            Some(State::Locked) | None => {}
        }
        let mut all = Vec::new();
        if !self.ids.is_empty() {
            filter.insert(
                field::ID,
                doc! { "$in": self.ids.iter().flat_map(|id| ids(id)).collect::<Vec<_>>() },
            );
        }
        if let Some(subject) = &self.subject {
            let pattern: Vec<_> = subject.split('*').map(escape).collect();
            all.push(layout.subject_matches(format!("^{}$", pattern.join(".*"))));
        }
        match &self.key {
            Some(key) => drop(filter.insert(layout.key(), layout.of_key(key))),
            None if self.state != Some(State::Locked) => {
                drop(filter.insert(layout.key(), any_key()))
            }
            None => {}
        }
        if let Some(age) = self.older_than {
            let before =
                now.timestamp_millis() / 1000 - i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            let before = Timestamp { time: u32::try_from(before).unwrap_or(0), increment: 0 };
            layout.before(&mut filter, before);
        }
        for (name, wanted) in [("class", &self.class), ("code", &self.code)] {
            if let Some(wanted) = wanted {
                let last =
                    doc! { "$last": { "$cond": [{ "$isArray": "$failures" }, "$failures", []] } };
                let found = doc! { "$getField": { "field": name, "input": last } };
                all.push(doc! { "$expr": { "$eq": [found, { "$literal": wanted }] } });
            }
        }
        if !all.is_empty() {
            filter.insert("$and", all);
        }
        filter
    }
}

/// What an id on a command line may be: an ObjectId, a UUID or a string.
pub(crate) fn ids(id: &str) -> Vec<Bson> {
    let mut ids = vec![Bson::from(id)];
    ids.extend(ObjectId::parse_str(id).ok().map(Bson::from));
    ids.extend(bson::Uuid::parse_str(id).ok().map(Bson::from));
    ids
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if !c.is_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

//! Which events an operator means.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use outboxd_client::{EventId, field};

use super::clock;
use crate::document::layout::Layout;
use crate::document::state::{self, State};

/// Conditions that an event must meet, all of them. Without any, every stuck event does.
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
        let mut filter = match self.state {
            Some(state) => state.filter(layout),
            None => state::filter(State::UNLOCKED, layout),
        };

        if !self.ids.is_empty() {
            let ids: Vec<_> = self.ids.iter().flat_map(|id| ids(id)).collect();
            filter.insert(field::ID, doc! { "$in": ids });
        }

        if let Some(key) = &self.key {
            filter.insert(layout.key(), layout.of_key(key));
        }

        if let Some(age) = self.older_than {
            layout.before(&mut filter, clock::before(now, age));
        }

        let mut all = Vec::new();
        if let Some(subject) = &self.subject {
            let pattern: Vec<_> = subject.split('*').map(escape).collect();
            all.push(layout.subject_matches(format!("^{}$", pattern.join(".*"))));
        }

        for (name, wanted) in [("class", &self.class), ("code", &self.code)] {
            if let Some(wanted) = wanted {
                let newest = doc! { "$last": state::failures() };
                let found = doc! { "$getField": { "field": name, "input": newest } };
                all.push(doc! { "$expr": { "$eq": [found, { "$literal": wanted }] } });
            }
        }

        if !all.is_empty() {
            filter.insert("$and", all);
        }

        // Locked events are in no index.
        match self.state {
            Some(State::Locked) => filter,
            _ => state::by_index(filter, layout),
        }
    }
}

/// What an id on a command line may be: an ObjectId, a UUID or a string. Ids that no event may have
/// are written as [`shown_id`](crate::document::record::shown_id) shows them, in extended JSON.
pub(crate) fn ids(id: &str) -> Vec<Bson> {
    let mut ids = vec![Bson::from(id)];
    ids.extend(ObjectId::parse_str(id).ok().map(Bson::from));
    ids.extend(bson::Uuid::parse_str(id).ok().map(Bson::from));

    match serde_json::from_str(id) {
        Ok(serde_json::Value::String(text)) if EventId::string(&*text).is_err() => {
            ids.push(text.into());
        }
        Ok(json @ serde_json::Value::Object(_)) => ids.extend(Bson::try_from(json)),
        _ => {}
    }
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

//! Which events an operator means.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use outboxd_client::field;

use super::clock;
use crate::document::json;
use crate::document::layout::Layout;
use crate::document::state::{self, State};

/// Conditions that an event must meet, all of them. Without any, every stuck event does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Of the outbox.
    pub(crate) ids: Option<Vec<Bson>>,
    /// Of scheduled events; only with `ids`.
    pub(crate) scheduled_ids: Vec<Bson>,
    /// With the wildcards of NATS, and `*` within a token for any characters.
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) older_than: Option<Duration>,
    /// Class of the newest failure.
    pub(crate) class: Option<String>,
    /// Code of the newest failure.
    pub(crate) code: Option<String>,
    /// Group of the newest failure. No query can have this condition: whoever reads the events
    /// compares, see [`super::chosen`].
    pub(crate) group: Option<String>,
    pub(crate) state: Option<State>,
    /// Healthy events that wait behind others are left out.
    pub(crate) without_parked: bool,
}

impl Selection {
    /// As a filter of the events in the outbox, but for the group; `None` if none of them is
    /// selected. Text from outside is only ever compared, never a query itself.
    pub(crate) fn of_outbox(&self, layout: &Layout, now: DateTime) -> Option<Document> {
        let states = match self.state {
            Some(State::Scheduled) => return None,
            Some(state) => state.filter(layout),
            None => state::filter(State::UNLOCKED, layout),
        };
        let filter = self.within(states, self.ids.as_deref(), layout, now);

        // Locked events are in no index.
        Some(match self.state {
            Some(State::Locked) => filter,
            _ => state::by_index(filter, layout),
        })
    }

    /// The same for the events in the collection of scheduled ones. Those that wait for their time
    /// are healthy: only whoever asks for them or names them means them.
    pub(crate) fn of_scheduled(&self, layout: &Layout, now: DateTime) -> Option<Document> {
        let is_named = self.ids.is_some();
        if is_named && self.scheduled_ids.is_empty() {
            return None;
        }

        let states = match self.state {
            None if is_named => Document::new(),
            None | Some(State::Dead) => State::Dead.filter(layout),
            Some(State::Scheduled) => State::Scheduled.filter(layout),
            Some(State::Locked | State::Failed | State::Parked) => return None,
        };
        let ids = is_named.then_some(self.scheduled_ids.as_slice());
        Some(self.within(states, ids, layout, now))
    }

    /// The same for kept events.
    pub(crate) fn of_kept(&self, layout: &Layout, now: DateTime) -> Document {
        self.within(Document::new(), self.ids.as_deref(), layout, now)
    }

    /// Of the documents in these states, those that meet the other conditions.
    fn within(
        &self,
        states: Document,
        ids: Option<&[Bson]>,
        layout: &Layout,
        now: DateTime,
    ) -> Document {
        let mut filter = states;
        if let Some(ids) = ids {
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
            all.push(layout.subject_matches(pattern(subject)));
        }

        for (name, wanted) in [("class", &self.class), ("code", &self.code)] {
            if let Some(wanted) = wanted {
                // Of any failure: the server looks faster for that than it computes an expression.
                all.push(doc! { format!("{}.{name}", field::FAILURES): wanted });
                let newest = doc! { "$last": state::failures() };
                let found = doc! { "$getField": { "field": name, "input": newest } };
                all.push(doc! { "$expr": { "$eq": [found, { "$literal": wanted }] } });
            }
        }

        if self.without_parked {
            all.push(doc! { "$nor": [State::Parked.filter(layout)] });
        }

        if self.group.is_some() {
            all.push(state::has_failed());
        }

        if !all.is_empty() {
            filter.insert("$and", all);
        }
        filter
    }
}

/// A regular expression for subjects: `*` is one token, a `>` at the end one or more, and `*` within
/// a token any characters.
fn pattern(subject: &str) -> String {
    let tokens: Vec<_> = subject.split('.').collect();
    let last = tokens.len() - 1;
    let tokens = tokens.iter().enumerate().map(|(at, token)| match *token {
        ">" if at == last => ".+".to_owned(),
        "*" => "[^.]+".to_owned(),
        token => token.split('*').map(escape).collect::<Vec<_>>().join(".*"),
    });
    format!("(?s)^{}\\z", tokens.collect::<Vec<_>>().join("\\."))
}

/// What an id on a command line may be: an ObjectId, a UUID or a string. Other ids are written as
/// [`shown_id`](crate::document::record::shown_id) shows them, in extended JSON.
pub(crate) fn ids(id: &str) -> Vec<Bson> {
    let mut ids = vec![Bson::from(id)];
    ids.extend(ObjectId::parse_str(id).ok().map(Bson::from));
    ids.extend(bson::Uuid::parse_str(id).ok().map(Bson::from));

    // A number is a string unless it is written with its type.
    let is_number = id.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    ids.extend(json::read(id).ok().filter(|id| !is_number && can_be_id(id)));
    ids
}

/// Whether a document can have this id. Others are conditions in a query.
fn can_be_id(id: &Bson) -> bool {
    match id {
        Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined => false,
        Bson::Document(id) => !id.keys().any(|name| name.starts_with('$')),
        _ => true,
    }
}

/// A text in a regular expression, standing for itself.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if !c.is_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::record::shown_id;

    #[test]
    fn wildcards_are_those_of_nats() {
        assert_eq!(pattern("tickets.>"), r"(?s)^tickets\..+\z");
        assert_eq!(pattern("tickets.*.made"), r"(?s)^tickets\.[^.]+\.made\z");
        assert_eq!(pattern("ticket:*"), r"(?s)^ticket\:.*\z");
        assert_eq!(pattern("a.>.b"), r"(?s)^a\.\>\.b\z");
        assert_eq!(pattern(">"), r"(?s)^.+\z");
    }

    #[test]
    fn what_is_shown_of_an_id_is_taken_as_that_id() {
        let looks_like = "6745f0a1b2c3d4e5f6a7b8c9";
        let of_all_types = [
            Bson::from(looks_like),
            ObjectId::parse_str(looks_like).expect("an ObjectId").into(),
            "6745f0a1-b2c3-4d4e-8f6a-7b8c9d0e1f2a".into(),
            bson::Uuid::from_bytes([7; 16]).into(),
            "null".into(),
            Bson::Null,
            "true".into(),
            true.into(),
            "{}".into(),
            "\"quoted\"".into(),
            "with space".into(),
            "größe".into(),
            "".into(),
            7_i32.into(),
            7_i64.into(),
            "7".into(),
            7.5.into(),
            f64::NAN.into(),
            DateTime::from_millis(-5).into(),
            doc! { "region": "eu", "number": 7_i64 }.into(),
            Bson::MinKey,
            Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::UuidOld,
                bytes: vec![1; 16],
            }),
            bson::Timestamp { time: 1, increment: 2 }.into(),
            "1.5".parse::<bson::Decimal128>().expect("a decimal").into(),
        ];
        for id in of_all_types {
            let shown = shown_id(&id);
            let taken = ids(&shown);
            let found: Vec<_> = taken.iter().filter(|taken| shown_id(taken) == shown).collect();
            assert!(found.len() == 1 && format!("{:?}", found[0]) == format!("{id:?}"), "{shown}");
        }
    }
}

//! What waits behind failed events: the parked events of their keys.

use std::collections::HashMap;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{Error, ErrorKind, Result};
use outboxd_client::field;

use super::bounded::{QUERY_TIME, next, parts, small};
use super::code;
use super::collation::simple;
use super::inspect::{Inspect, TOO_LARGE, count, text};
use super::selection::Selection;
use crate::document::state::{self, State};
use crate::group;

/// Most events of one command whose keys are looked at together.
const TOGETHER: usize = 20_000;
/// Most events whose keys are looked at before something is done to them.
const MOST: usize = 200_000;

impl Inspect {
    /// How many events wait behind each group, by its id: those of the keys whose oldest unlocked
    /// event is in the group. `None` when the server needs too long for that.
    pub(crate) async fn held_by_group(
        &self,
        selection: &Selection,
    ) -> Result<Option<HashMap<String, u64>>> {
        let mut unlocked = state::filter(State::UNLOCKED, &self.layout);
        unlocked.insert(
            self.layout.key(),
            match &selection.key {
                Some(key) => self.layout.of_key(key),
                None => doc! { "$ne": Bson::Null }.into(),
            },
        );

        let found = self.events.aggregate(self.by_head(unlocked)).max_time(QUERY_TIME);
        let found = found.allow_disk_use(true).collation(simple()).await;
        let mut found = match found {
            Err(error) if is_over(&error) => return Ok(None),
            found => found?,
        };

        let mut held = HashMap::new();

        while let Some(group) = next(&mut found).await? {
            let by = group.get_document("_id").cloned().unwrap_or_default();
            let [code, error] = ["code", "error"].map(|name| text(&by, name).unwrap_or_default());
            let reason = group::reason(&error, text(&by, "key").as_deref());
            *held.entry(group::id(&code, &reason)).or_default() += count(&group, "held");
        }

        Ok(Some(held))
    }

    /// The parked events of each key, added up by how the oldest unlocked event of the key failed.
    fn by_head(&self, unlocked: Document) -> [Document; 6] {
        let key = format!("${}", self.layout.key());
        let newest = |name: &str| small(format!("$last.{name}"), TOO_LARGE);
        let first = |name: &str| doc! { "$first": format!("${name}") };
        let is_parked = doc! { "$cond": [State::Parked.expression(), 1_i64, 0_i64] };

        [
            doc! { "$match": unlocked },
            // The order of the index.
            doc! { "$sort": { self.layout.key(): 1, field::TS: 1, field::ID: 1 } },
            doc! { "$project": {
                "key": small(key, Bson::Null), "parked": is_parked,
                "last": { "$last": state::failures() },
            } },
            doc! { "$group": {
                "_id": "$key",
                "code": { "$first": newest("code") }, "error": { "$first": newest("error") },
                "head": first("parked"), "parked": { "$sum": "$parked" },
            } },
            // A key whose oldest event is parked is on its way.
            doc! { "$match": { "parked": { "$gt": 0 }, "head": 0 } },
            doc! { "$group": {
                "_id": { "code": "$code", "error": "$error", "key": "$_id" },
                "held": { "$sum": "$parked" },
            } },
        ]
    }

    /// How many parked events leave once these are gone: those of the keys that nothing else holds.
    /// `None` when there are too many to tell.
    pub(crate) async fn let_go(&self, ids: &[Bson]) -> Result<Option<u64>> {
        if ids.len() > MOST {
            return Ok(None);
        }

        let mut events = 0;

        for part in parts(ids, TOGETHER) {
            let found = self.events.aggregate(self.behind_all(part)).max_time(QUERY_TIME);
            let found = found.allow_disk_use(true).collation(simple()).await;
            let mut found = match found {
                Err(error) if is_over(&error) => return Ok(None),
                found => found?,
            };
            let sum = found.try_next().await?.unwrap_or_default();
            events += count(&sum, "events");
        }

        Ok(Some(events))
    }

    fn behind_all(&self, ids: &[Bson]) -> [Document; 6] {
        let key = self.layout.key();
        let count_of = |is: Document| doc! { "$sum": { "$cond": [is, 1_i64, 0_i64] } };
        let (parked, holding) = (
            count_of(State::Parked.expression()),
            count_of(doc! { "$not": [State::Parked.expression()] }),
        );
        let of_key = vec![
            doc! { "$match": state::filter(State::UNLOCKED, &self.layout) },
            doc! { "$group": { "_id": Bson::Null, "parked": &parked, "holding": &holding } },
        ];

        [
            doc! { "$match": { field::ID: { "$in": ids }, key: { "$ne": Bson::Null } } },
            doc! { "$group": { "_id": format!("${key}"), "parked": parked, "holding": holding } },
            doc! { "$lookup": {
                "from": self.events.name(), "localField": "_id", "foreignField": key,
                "pipeline": of_key, "as": "all",
            } },
            doc! { "$set": { "all": { "$first": "$all" } } },
            doc! { "$match": { "$expr": { "$lte": ["$all.holding", "$holding"] } } },
            doc! { "$group": {
                "_id": Bson::Null,
                "events": { "$sum": { "$subtract": ["$all.parked", "$parked"] } },
            } },
        ]
    }
}

/// Whether the server ended the query because it took too long.
fn is_over(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == code::MAX_TIME_EXPIRED)
}
